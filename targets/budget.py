"""The limits that a study's candidates must keep: on their latency, and on other figures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from prunetune.spaces.errors import ConfigError, did_you_mean
from prunetune.spaces.named_networks import REFERENCES

LATENCY = "latency"
"""What is limited where nothing else is said."""

MEMORY = "memory_mb"
"""Peak memory of the runtime, in MB of 10^6 bytes. Some targets tell it with the latency."""

FIGURES = ("params", "bytes", "gflops", MEMORY)
"""What can be limited, or minimised, beside latency: parameters, the checkpoint's size, floating-point operations and
peak memory at the deployed input size."""

_UNITS: Mapping[str, Mapping[str, float]] = {
    LATENCY: {"ms": 1.0},
    "params": {"": 1.0, "k": 1e3, "m": 1e6},
    "bytes": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    "gflops": {"": 1.0},
    MEMORY: {"mb": 1.0, "kb": 1e-3, "gb": 1e3, "kib": 2.0**10 / 1e6, "mib": 2.0**20 / 1e6, "gib": 2.0**30 / 1e6},
}
"""What a number is multiplied by, in small letters. The first is the one that a limit is shown in."""

_EXAMPLES = {LATENCY: "1.0 ms", "params": "0.5 M", "bytes": "2 MB", "gflops": "1.2", MEMORY: "50 MB"}

_NUMBER = r"[+-]?(?:nan|inf|infinity|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_LIMIT = re.compile(r"(?:<=|≤)\s*(.*)", re.IGNORECASE | re.DOTALL)
_ABSOLUTE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE)
_RELATIVE = re.compile(rf"(?:({_NUMBER})\s*[x×*]\s*)?([a-z][a-z _-]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A limit: a value, or a share of a control's.

    Raises:
        ConfigError: The factor is not a positive finite number, or the reference is unknown.
    """

    factor: float
    """The limit in ms, parameters, bytes, GFLOPs or MB, or what the reference's value is multiplied by."""
    reference: str | None = None
    """The control that the limit refers to; None for a value."""
    key: str = LATENCY
    """What is limited: `latency`, or one of `FIGURES`."""

    def __post_init__(self) -> None:
        _check(str(self), self.factor, self.reference, self.key)

    @classmethod
    def parse(cls, text: str, key: str = LATENCY) -> Budget:
        """Reads `<= 1.0 ms`, `<= half-width` or `<= 0.5 x dense`. Spaces are free; `×` and `*` mean `x`.

        Args:
            text: The limit.
            key: What is limited. Parameters may be in k or M, bytes and memory are in kB, MB, KiB, ..., GFLOPs have no
                unit.

        Raises:
            ConfigError: The text has another form or unit, an unknown reference, or a limit that is not positive.
        """
        limit = _LIMIT.fullmatch(text.strip())
        if limit is None:
            raise ConfigError(f"budget {text!r}: a limit starts with '<='; {_forms(key)}")
        rest = limit.group(1).strip()
        found, units = _ABSOLUTE.fullmatch(rest), _UNITS[key]
        if found and (unit := found.group(2).lower()) in units:
            factor, reference = float(found.group(1)) * units[unit], None
        elif found := _RELATIVE.fullmatch(rest):
            factor = float(found.group(1) or 1)
            reference = found.group(2).strip().lower()
        else:
            raise ConfigError(f"budget {text!r}: cannot be read as a limit on {key}; {_forms(key)}")
        _check(text, factor, reference, key)
        return cls(factor, reference, key)

    def references_needed(self) -> tuple[str, ...]:
        """The controls whose value must be known before a limit can be computed."""
        return () if self.reference is None else (self.reference,)

    def limit(self, references: Mapping[str, float]) -> float:
        """The limit, in ms, parameters, bytes, GFLOPs or MB.

        Args:
            references: What the controls have of it, by name.

        Raises:
            ConfigError: The control that the budget refers to is not among them.
        """
        if self.reference is None:
            return self.factor
        if self.reference not in references:
            raise ConfigError(
                f"budget '{self}': needs the {self.key} of {self.reference!r}, which was not measured; "
                f"add {self.reference} to controls"
            )
        return self.factor * references[self.reference]

    def __str__(self) -> str:
        if self.reference is None:
            return f"<= {self.factor!r} {next(iter(_UNITS[self.key]))}".rstrip()
        return f"<= {self.reference}" if self.factor == 1 else f"<= {self.factor!r} x {self.reference}"


def _forms(key: str) -> str:
    return (
        f"write '<= {_EXAMPLES[key]}', '<= half-width' or '<= 0.5 x dense' (dense, half-width and quarter-width can be "
        "referred to)"
    )


def _check(text: str, factor: float, reference: str | None, key: str) -> None:
    if reference is not None and reference not in REFERENCES:
        hint = did_you_mean(reference, REFERENCES)
        raise ConfigError(f"budget {text!r}: unknown reference {reference!r} ({hint}); {_forms(key)}")
    if not (math.isfinite(factor) and factor > 0):
        raise ConfigError(f"budget {text!r}: the limit is a positive number, not {factor}; {_forms(key)}")
