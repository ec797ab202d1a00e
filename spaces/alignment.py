"""Channel alignment: how many channels a piece of hardware computes together, by the kind of layer.

It stands in the lowest room because targets have it and surgery keeps to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from prunetune.spaces.errors import ConfigError, did_you_mean

LayerKind: TypeAlias = Literal["default", "first", "depthwise"]
"""Layers whose channels hardware may compute in blocks of their own: the first layer, which reads the image;
depthwise ones, which work on each channel alone; and all others. Detect's outputs are none of them: their number
follows from the classes, and they are never pruned."""

_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)
_LARGEST = 1024


@dataclass(frozen=True)
class Alignment:
    """Channels that hardware computes together. Widths are kept in multiples of it; 1 is no alignment.

    Raises:
        ConfigError: A value is no whole number from 1 to 1024.
    """

    default: int
    """Of all layers without a rule of their own."""
    first: int
    """Of the first layer, which reads the image."""
    depthwise: int
    """Of depthwise layers."""

    def __post_init__(self) -> None:
        for kind in _KINDS:
            value = self.of(kind)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
                raise ConfigError(
                    f"alignment: {kind} is a whole number from 1 (no alignment) to {_LARGEST}, not {value!r}; "
                    "`prunetune align-probe` finds what a device prefers"
                )

    @classmethod
    def everywhere(cls, channels: int) -> Alignment:
        """The same for all kinds of layers."""
        return cls(channels, channels, channels)

    @classmethod
    def parse(cls, value: Any) -> Alignment:
        """From a number, which holds everywhere, or from a mapping with `default` and kinds that differ from it.

        Raises:
            ConfigError: It is neither, has an unknown key, or a value is out of range.
        """
        if isinstance(value, Alignment):
            return value
        if not isinstance(value, Mapping):
            return cls.everywhere(value)
        for key in value:
            if key not in _KINDS:
                raise ConfigError(f"alignment: unknown key {key!r}; {did_you_mean(str(key), _KINDS)}")
        if "default" not in value:
            raise ConfigError("alignment: default is missing; write {default: 16, first: 8}, or one number for all")
        return cls(**{kind: value.get(kind, value["default"]) for kind in _KINDS})

    @classmethod
    def common(cls, alignments: Iterable[Alignment]) -> Alignment:
        """The smallest alignment that keeps to all the given ones: their least common multiples.

        Args:
            alignments: At least one.

        Raises:
            ConfigError: A common multiple is above 1024.
        """
        told = list(alignments)
        return cls(**{kind: math.lcm(*(alignment.of(kind) for alignment in told)) for kind in _KINDS})

    def of(self, kind: LayerKind) -> int:
        """Channels in a block of one kind of layer."""
        channels: int = getattr(self, kind)
        return channels

    def as_json(self) -> int | dict[str, int]:
        """One number if all kinds agree, else `default` and the kinds that differ from it. `parse` reads both."""
        apart = {kind: channels for kind, channels in asdict(self).items() if channels != self.default}
        return {"default": self.default, **apart} if apart else self.default

    def __str__(self) -> str:
        apart = [f"{kind}: {self.of(kind)}" for kind in _KINDS if self.of(kind) != self.default]
        return f"{self.default} ({', '.join(apart)})" if apart else str(self.default)
