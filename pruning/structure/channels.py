"""Channels as values: how wide every layer is, and how a number of survivors becomes a width."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from prunetune.spaces.errors import ConfigError, ModelError


class ChannelConfig(Mapping[str, int]):
    """Output channels of every convolution by name, in the natural order of the layers.

    All that hardware sees of a pruned detector: two networks of one family with equal configurations have the
    same latency. Hashable and immutable. The order in which the layers were given does not matter.

    Args:
        widths: Layer name, such as `model.2.cv1.conv`, to output channels.

    Raises:
        ModelError: A width is no positive whole number.
    """

    __slots__ = ("_widths",)

    def __init__(self, widths: Mapping[str, int]) -> None:
        for name, width in widths.items():
            if not isinstance(width, int) or isinstance(width, bool) or width < 1:
                raise ModelError(f"{name}: {width!r} is no number of channels; it must be a whole number above 0")
        self._widths = {name: widths[name] for name in sorted(widths, key=natural_order)}

    @classmethod
    def from_dict(cls, widths: Mapping[str, int]) -> ChannelConfig:
        """The configuration that `as_dict` wrote."""
        return cls(widths)

    def as_dict(self) -> dict[str, int]:
        """Plain values for JSON, in the order of the layers."""
        return dict(self._widths)

    def digest(self) -> str:
        """A name for the configuration: 16 hexadecimal digits, equal for equal configurations."""
        return digest_of(self._widths)

    def removed(self, dense: ChannelConfig) -> float:
        """Fraction of the channels of `dense`, over all layers, that this configuration no longer has.

        Raises:
            ModelError: The two configurations do not have the same layers.
        """
        strangers = sorted(self.keys() ^ dense.keys(), key=natural_order)
        if strangers:
            raise ModelError(
                f"{strangers[0]}: only one of the two detectors has it, and {len(strangers) - 1} more; "
                "compare a pruned detector with the dense one that it came from"
            )
        return 1.0 - sum(self.values()) / sum(dense.values())

    def __getitem__(self, name: str) -> int:
        return self._widths[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)

    def __hash__(self) -> int:
        return hash(tuple(self._widths.items()))

    def __repr__(self) -> str:
        return f"ChannelConfig({self._widths!r})"


def round_channels(survivors: int, width: int, alignment: int) -> int:
    """Channels to keep so that hardware runs no half-empty block.

    Rounded up to a multiple of `alignment`, never below one block, never above the layer's width. More
    survivors never give fewer channels.

    Args:
        survivors: Channels above the threshold.
        width: Channels of the layer now.
        alignment: Channels in a block of the hardware; 1 for no alignment.

    Raises:
        ConfigError: The alignment is below 1.
    """
    if alignment < 1:
        raise ConfigError(f"alignment: {alignment} is below 1; use 1 for no alignment, or the hardware's block size")
    blocks = max(1, -(-survivors // alignment))
    return min(width, blocks * alignment)


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts `model.2` before `model.10`, as the layers run."""
    parts = name.split(".")
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def digest_of(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
