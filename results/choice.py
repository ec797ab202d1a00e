"""Which trial or network of a study a user means, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from optuna.trial import FrozenTrial

from prunetune.results.entries import outcome, text
from prunetune.results.findings import Findings
from prunetune.spaces.errors import ConfigError


def find_trial(found: Findings, name: int | str, controls: Sequence[str] = ()) -> FrozenTrial:
    """A trial by its number.

    Args:
        found: The study.
        name: The number, also as text.
        controls: The names that would have been taken as well.

    Raises:
        ConfigError: There is none.
    """
    trial = found.trial(int(name)) if str(name).isdecimal() else None
    if trial is None:
        there = f"there are {spans(item.number for item in found.trials)}" if found.trials else "there is none yet"
        other = f", and no control ({', '.join(controls)})" if controls else ""
        raise ConfigError(f"{name}: is no trial of this study ({there}){other}")
    return trial


def no_network(found: Findings, name: int | str) -> ConfigError:
    """What is said of a trial or a control that has no network."""
    trial = None if str(name) in found.controls else found.trial(int(name))
    why = "" if trial is None else f" ({outcome(trial) or trial.state.name})"
    return ConfigError(f"{name}: no network was kept of it{why}; {_kept(found)}")


def spans(numbers: Iterable[int]) -> str:
    """Numbers in few words: `0 to 8, 10`."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), key=lambda item: item[1] - item[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _kept(found: Findings) -> str:
    """The networks that there are, as a sentence."""
    names = [name for name, item in found.controls.items() if item.checkpoint]
    if numbers := spans(trial.number for trial in found.trials if text(trial.user_attrs.get("checkpoint"))):
        names.append(numbers)
    return f"networks were kept of {', '.join(names)}" if names else "no network was kept yet"
