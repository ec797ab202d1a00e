"""The errors that prunetune raises on purpose.

They stand in the lowest room because every room raises them. The command line turns each into one message and
exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PrunetuneError(Exception):
    """Base of every error that a user can cause and mend. Its text names the field or file and the remedy."""


class ConfigError(PrunetuneError):
    """A study's description is wrong. Collects every problem of a file, so that one run shows them all.

    Args:
        problems: One sentence each: field, value, what is allowed, nearest correct name.
        source: The file the description came from, if any.
    """

    def __init__(self, problems: str | Sequence[str], source: str = "") -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        self.source = source
        head = f"{source}: " if source else ""
        if len(self.problems) == 1:
            super().__init__(head + self.problems[0])
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            super().__init__(f"{head}{len(self.problems)} problems{lines}")


class DatasetError(ConfigError):
    """The data set cannot be trained on: missing files, no labels, class index out of range, corrupt image."""


class ModelError(PrunetuneError):
    """A model file is missing, corrupt, or no detector that prunetune can prune."""


class StoreError(PrunetuneError):
    """The study's folder or the stage store cannot be read or written."""


class SpecChangedError(PrunetuneError):
    """A study of this name exists and was started with another description."""


class TargetError(PrunetuneError):
    """A target cannot be used or a network cannot be run on it."""


class MeasurementError(TargetError):
    """A device gave no latency this time, though nothing about the network or its description is wrong."""


class MissingExtraError(PrunetuneError):
    """An optional dependency is not installed.

    Args:
        package: What could not be imported.
        extra: The extra of prunetune that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is not installed; run: pip install 'prunetune[{extra}]'")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """What an error says beside a name that is none of those it could be: the nearest of them, or all."""
    listed = list(names)
    close = difflib.get_close_matches(name, listed, n=1, cutoff=0.7)  # by 0.6 space is cache
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(listed) or 'none'}"
