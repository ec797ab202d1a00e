"""Which layers share their channels, as values: groups of layers that lose channels together, and who reads them.

A layer is called by its module's name. Where a block splits the output of a convolution in two halves, as C2f does,
each half has its own channels: `model.2.cv1.conv:0` is the first half of `model.2.cv1.conv`, `model.2.cv1.conv:1` the
second. These names stay the same when channels go, because both halves keep equally many.

A grouped convolution takes its channels in equal parts, one after another, and so do those that it reads. They have no
names of their own; each part keeps equally many channels, its own ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.spaces.errors import ModelError

LEAST_OF_PART = 2
"""Channels that each part keeps at least. A grouped convolution that read and wrote one to each of its groups would be
a depthwise one, and no longer a layer of the same kind."""


@dataclass(frozen=True)
class Reader:
    """A convolution that reads a group's channels, perhaps from a concatenation, perhaps several times."""

    layer: str
    positions: tuple[int, ...]
    """Input channels of the convolution."""
    channels: tuple[int, ...]
    """For each of them, the group's channel that arrives there."""


@dataclass(frozen=True)
class ChannelGroup:
    """Layers that share their output channels, because additions tie them: they lose channels together."""

    width: int
    layers: tuple[str, ...]
    """Convolutions or halves of them that write the channels, in natural order, and depthwise ones that take them
    over. The first is the group's root and name."""
    norms: tuple[str, ...]
    """BatchNorms of these channels, or halves of them."""
    readers: tuple[Reader, ...]
    scales: tuple[str, ...] = ()
    """Further parameters with one number for each channel."""
    even_with: tuple[str, ...] = ()
    """Roots of the groups that must keep as many channels in each part as this one, whichever: those of the other
    halves, and of what a grouped convolution reads beside this one."""
    whole: bool = False
    """Whether something counts on all of the channels, such as attention, or the output of the network."""
    parts: int = 1
    """Equal runs of the channels, one after another, of which each keeps equally many."""

    @property
    def root(self) -> str:
        """The name of the group: its first convolution."""
        return self.layers[0]

    @property
    def can_shrink(self) -> bool:
        """Whether it can lose channels: it need not be whole, and a BatchNorm judges each of its layers."""
        return not self.whole and len(self.norms) >= len(self.layers)


def tied_roots(group: ChannelGroup) -> tuple[str, ...]:
    """The roots of all groups that keep as many channels in each part as a group, its own first."""
    return (group.root, *group.even_with)


def first_of_parts(group: ChannelGroup, count: int) -> tuple[int, ...]:
    """So many of a group's channels, the first ones of each of its parts.

    Raises:
        ModelError: The parts cannot have equally many.
    """
    if count % group.parts:
        raise ModelError(f"{group.root}: {count} channels are no multiple of the {group.parts} parts of it")
    part, kept = group.width // group.parts, count // group.parts
    return tuple(start + index for start in range(0, group.width, part) for index in range(kept))


def module_of(name: str) -> str:
    """The name of the module that a layer, or a half of one, is in."""
    return name.partition(":")[0]


def first_channel(name: str, width: int) -> int:
    """Where a layer's channels begin among those of its module.

    Args:
        name: A layer, or a half of one.
        width: Its number of channels.
    """
    return int(name.partition(":")[2] or 0) * width


def width_of(name: str, channels: Mapping[str, int]) -> int:
    """Output channels of a layer, or of a half of one.

    Args:
        name: The layer.
        channels: Output channels of every module.
    """
    width = channels[module_of(name)]
    return width // 2 if ":" in name else width


def widths_after(
    dense: ChannelConfig, keep: Mapping[str, Sequence[int]], groups: Iterable[ChannelGroup]
) -> ChannelConfig:
    """Output channels of every layer when groups have lost channels.

    Args:
        dense: Those before.
        keep: Root of each group that loses channels, and those that it keeps.
        groups: The network's groups.
    """
    widths = dense.as_dict()
    for group in groups:
        if group.root in keep:
            for layer in group.layers:
                widths[module_of(layer)] -= group.width - len(keep[group.root])
    return ChannelConfig(widths)
