"""The limit on latency that a study's candidates must keep."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from prunetune.spaces.errors import ConfigError, did_you_mean
from prunetune.spaces.references import REFERENCES

_FORMS = (
    "write '<= 1.0 ms', '<= half-width' or '<= 0.5 x dense' (dense, half-width and quarter-width can be referred to)"
)
_NUMBER = r"[+-]?(?:nan|inf|infinity|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_LIMIT = re.compile(r"(?:<=|≤)\s*(.*)", re.IGNORECASE | re.DOTALL)
_MILLISECONDS = re.compile(rf"({_NUMBER})\s*ms", re.IGNORECASE)
_RELATIVE = re.compile(rf"(?:({_NUMBER})\s*[x×*]\s*)?([a-z][a-z _-]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A limit on latency: a time, or a share of a control's latency.

    Raises:
        ConfigError: The factor is not a positive finite number, or the reference is unknown.
    """

    factor: float
    """The limit in ms, or what the reference's latency is multiplied by."""
    reference: str | None = None
    """The control that the limit refers to; None for a limit in ms."""

    def __post_init__(self) -> None:
        _check(str(self), self.factor, self.reference)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads `<= 1.0 ms`, `<= half-width` or `<= 0.5 x dense`. Spaces are free; `×` and `*` mean `x`.

        Raises:
            ConfigError: The text has another form, an unknown reference, or a limit that is not positive.
        """
        limit = _LIMIT.fullmatch(text.strip())
        if limit is None:
            raise ConfigError(f"budget {text!r}: a limit starts with '<='; {_FORMS}")
        rest = limit.group(1).strip()
        if found := _MILLISECONDS.fullmatch(rest):
            factor, reference = float(found.group(1)), None
        elif found := _RELATIVE.fullmatch(rest):
            factor = float(found.group(1) or 1)
            reference = found.group(2).strip().lower()
        else:
            raise ConfigError(f"budget {text!r}: cannot be read; {_FORMS}")
        _check(text, factor, reference)
        return cls(factor, reference)

    def references_needed(self) -> tuple[str, ...]:
        """The controls whose latency must be known before a limit can be computed."""
        return () if self.reference is None else (self.reference,)

    def limit_ms(self, references: Mapping[str, float]) -> float:
        """The limit in ms.

        Args:
            references: Latency of the controls by name, in ms.

        Raises:
            ConfigError: The control that the budget refers to is not among them.
        """
        if self.reference is None:
            return self.factor
        if self.reference not in references:
            raise ConfigError(
                f"budget '{self}': needs the latency of {self.reference!r}, which was not measured; "
                f"add {self.reference} to controls"
            )
        return self.factor * references[self.reference]

    def __str__(self) -> str:
        if self.reference is None:
            return f"<= {self.factor!r} ms"
        return f"<= {self.reference}" if self.factor == 1 else f"<= {self.factor!r} x {self.reference}"


def _check(text: str, factor: float, reference: str | None) -> None:
    if reference is not None and reference not in REFERENCES:
        hint = did_you_mean(reference, REFERENCES)
        raise ConfigError(f"budget {text!r}: unknown reference {reference!r} ({hint}); {_FORMS}")
    if not (math.isfinite(factor) and factor > 0):
        raise ConfigError(f"budget {text!r}: the limit is a positive number, not {factor}; {_FORMS}")
