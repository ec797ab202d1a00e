"""A convolutional network without its weights: which layer reads which channels, and how much the rest moves.

`read_conv_graph` reads it from an ONNX file. A layer is called by its weight's name without `.weight`, as in the module
that was exported, so that the widths of its layers are all that is needed to describe any other network of the family.
Where a layer's output is split in two, `NAME:0` and `NAME:1` are its halves, which have half of its width each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from prunetune.spaces.errors import TargetError

Operation: TypeAlias = Literal["concat", "resize", "add", "pool"]


@dataclass(frozen=True)
class Channels:
    """Where a tensor's channels come from."""

    layers: tuple[str, ...] = ()
    """The layers, or halves of layers, that write them; a concatenation may bring one several times."""
    constant: int = 0
    """Channels of the image, and of what is computed from channels whose number nothing may change."""

    def width(self, widths: Mapping[str, int]) -> int:
        """How many there are when the layers have these widths."""
        return sum(width_of(name, widths) for name in self.layers) + self.constant

    def are_of(self, names: Collection[str]) -> bool:
        """Whether layers write all of them, each one of these."""
        return bool(self.layers) and not self.constant and all(layer_of(name) in names for name in self.layers)

    def replaced(self, name: str, by: Channels) -> Channels:
        """The same where a layer's channels give way to others."""
        if not (times := self.layers.count(name)):
            return self
        layers = tuple(new for old in self.layers for new in (by.layers if old == name else (old,)))
        return Channels(layers, self.constant + times * by.constant)


@dataclass(frozen=True)
class ConvShape:
    """All that decides how long a convolution takes, save its channels. The fields are those of ONNX."""

    kernel: tuple[int, int]
    """Height and width."""
    strides: tuple[int, int]
    """Down and right, in px."""
    pads: tuple[int, int, int, int]
    """Top, left, bottom, right, in px."""
    size: tuple[int, int]
    """Height and width of what it reads, in px."""
    transposed: bool = False
    """Whether it is a ConvTranspose."""
    activation: Literal["silu", "none"] = "none"
    """What follows at once. Runtimes compute it with the convolution."""
    depthwise: bool = False
    """Whether each channel is read by itself; it writes as many as it reads then."""
    groups: int = 1
    """Equal parts of the channels, each written from its own part of those that are read. Of a depthwise layer, whose
    parts are as many as its channels, 1."""

    def groups_of(self, outputs: int) -> int:
        """The groups that ONNX has for it when it writes so many channels."""
        return outputs if self.depthwise else self.groups

    def sides(self, inputs: int, outputs: int) -> tuple[int, int]:
        """The first two dimensions of its weight."""
        groups = self.groups_of(outputs)
        return (inputs, outputs // groups) if self.transposed else (outputs, inputs // groups)

    def __str__(self) -> str:
        kind = "deconv" if self.transposed else "depthwise" if self.depthwise else "conv"
        kind += f" of {self.groups} groups" if self.groups > 1 else ""
        kernel, size = "x".join(map(str, self.kernel)), "x".join(map(str, self.size))
        return f"{kind} {kernel}, stride {self.strides[0]}, {size} px, {self.activation}"


@dataclass(frozen=True)
class Layer:
    """One convolution."""

    name: str
    shape: ConvShape
    reads: Channels
    width: int
    """Output channels in the network that was read."""
    pixels: int
    """Height times width of its output."""

    def weights(self, widths: Mapping[str, int]) -> int:
        """How many weights it has when the layers have these widths, without its bias."""
        sides = self.shape.sides(self.reads.width(widths), widths[self.name])
        return math.prod(sides) * math.prod(self.shape.kernel)

    @property
    def positions(self) -> int:
        """How often its kernel is applied: for each pixel that it writes, or reads if it is transposed."""
        return math.prod(self.shape.size) if self.shape.transposed else self.pixels


@dataclass(frozen=True)
class Transfer:
    """An operation without weights, whose time goes into moving features."""

    operation: Operation
    parts: tuple[Channels, ...]
    """The channels of each of its inputs."""
    pixels: int
    """Height times width of its output."""


@dataclass(frozen=True)
class ConvGraph:
    """The layers and transfers of a network, in the order of their computation."""

    size: tuple[int, int]
    """Height and width of the image, in px."""
    layers: tuple[Layer, ...]
    transfers: tuple[Transfer, ...]
    groups: tuple[tuple[str, ...], ...]
    """Layers and halves of layers that must have equal widths, because additions tie them, or because they are the two
    halves of a layer. A layer that is tied to none is a group of its own; one whose width nothing may change is in no
    group."""

    @property
    def widths(self) -> dict[str, int]:
        """Output channels of each layer in the network that was read."""
        return {layer.name: layer.width for layer in self.layers}

    def multiply_adds(self, widths: Mapping[str, int]) -> int:
        """Of all convolutions, for one image.

        Args:
            widths: Layer name to output channels, such as a `ChannelConfig`. Residual blocks may be missing.

        Raises:
            TargetError: As of `only`.
        """
        return sum(layer.weights(widths) * layer.positions for layer in self.only(widths).layers)

    def only(self, names: Collection[str]) -> ConvGraph:
        """The graph of the network without some residual blocks, whose inputs take the place of their outputs.

        Args:
            names: The layers that are left. Names of other networks are ignored.

        Raises:
            TargetError: A layer is missing that is no part of a residual block which is missing as a whole.
        """
        missing = frozenset(layer.name for layer in self.layers if layer.name not in names)
        if missing and missing not in self._shortened:
            self._shortened[missing] = _without(self, missing)
        return self._shortened[missing] if missing else self

    @cached_property
    def _shortened(self) -> dict[frozenset[str], ConvGraph]:
        """What `only` found, by what is missing: many networks have equal layers."""
        return {}

    @property
    def free(self) -> frozenset[str]:
        """The layers whose widths may change."""
        return frozenset(layer_of(name) for group in self.groups for name in group)

    def multiple(self, group: Sequence[str]) -> int:
        """What the widths of tied layers must be multiples of, because grouped convolutions write or read them."""
        names = {*group, *map(layer_of, group)}
        return math.lcm(
            *(layer.shape.groups for layer in self.layers if layer.name in names or names & set(layer.reads.layers))
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConvGraph:
        """The graph that `as_dict` wrote."""
        return cls(
            size=tuple(values["size"]),
            layers=tuple(
                Layer(
                    name=item["name"],
                    shape=shape_from_dict(item["shape"]),
                    reads=_channels_from_dict(item["reads"]),
                    width=item["width"],
                    pixels=item["pixels"],
                )
                for item in values["layers"]
            ),
            transfers=tuple(
                Transfer(item["operation"], tuple(map(_channels_from_dict, item["parts"])), item["pixels"])
                for item in values["transfers"]
            ),
            groups=tuple(tuple(group) for group in values["groups"]),
        )


def _without(graph: ConvGraph, missing: frozenset[str]) -> ConvGraph:
    before = graph
    while gone := [
        (place, shortcut, branch)
        for place, shortcut, branch in _blocks(graph)
        if branch.are_of(missing) and not any(layer_of(name) in missing for name in shortcut.layers)
    ]:
        graph = _without_block(graph, *gone[0])
    graph = replace(
        graph,
        layers=tuple(layer for layer in graph.layers if layer.name not in missing),
        transfers=tuple(item for item in graph.transfers if not all(part.are_of(missing) for part in item.parts)),
        groups=tuple(
            left for group in graph.groups if (left := tuple(name for name in group if layer_of(name) not in missing))
        ),
    )
    was_read, is_read = ({layer_of(name) for part in _reads(item) for name in part.layers} for item in (before, graph))
    # A layer of a whole block led to its addition, and to nothing else; all that is left leads where it led.
    torn = [name for name in before.widths if name in missing and (name not in was_read or name in is_read)]
    if not torn and was_read - is_read - missing:
        torn = [name for name in before.widths if name in missing]
    if torn:
        raise TargetError(f"layer {torn[0]}: the network has none of this name, which is of no residual block")
    return graph


def _blocks(graph: ConvGraph) -> Iterator[tuple[int, Channels, Channels]]:
    """The additions: the place, what was there first, so that it may be a shortcut, and what may be a branch."""
    order = {layer.name: number for number, layer in enumerate(graph.layers)}
    for place, item in enumerate(graph.transfers):
        if item.operation == "add" and len(item.parts) == 2:
            shortcut, branch = sorted(
                item.parts, key=lambda part: max((order[layer_of(name)] for name in part.layers), default=-1)
            )
            yield place, shortcut, branch


def _without_block(graph: ConvGraph, place: int, shortcut: Channels, branch: Channels) -> ConvGraph:
    """The graph without one addition, whose result its shortcut is."""
    additions = sum(other == shortcut for _, other, _ in _blocks(graph))

    def passed(channels: Channels) -> Channels:
        return channels.replaced(branch.layers[0], shortcut) if len(branch.layers) == 1 else channels

    def joined(parts: Sequence[Channels]) -> list[Channels]:
        """What a concatenation still brings: of a shortcut that it brings beside each sum with it, one fewer."""
        left = [passed(part) for part in parts]
        if left.count(shortcut) == 1 + additions:
            left.remove(shortcut)
        return left

    def read(channels: Channels) -> Channels:
        parts = joined([Channels((name,)) for name in channels.layers])
        constant = channels.constant + sum(part.constant for part in parts)
        return Channels(tuple(name for part in parts for name in part.layers), constant)

    return replace(
        graph,
        layers=tuple(replace(layer, reads=read(layer.reads)) for layer in graph.layers),
        transfers=tuple(
            replace(item, parts=tuple(joined(item.parts) if item.operation == "concat" else map(passed, item.parts)))
            for number, item in enumerate(graph.transfers)
            if number != place
        ),
    )


def _reads(graph: ConvGraph) -> Iterator[Channels]:
    yield from (layer.reads for layer in graph.layers)
    yield from (part for item in graph.transfers for part in item.parts)


def layer_of(name: str) -> str:
    """The layer that a half of it, or the layer itself, belongs to."""
    return name.partition(":")[0]


def width_of(name: str, widths: Mapping[str, int]) -> int:
    """The width of a layer, or of a half of it."""
    width = widths[layer_of(name)]
    return width // 2 if ":" in name else width


def shape_from_dict(values: Mapping[str, Any]) -> ConvShape:
    """The shape that `dataclasses.asdict` took apart and JSON may have kept."""
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return ConvShape(**plain)


def _channels_from_dict(values: Mapping[str, Any]) -> Channels:
    return Channels(tuple(values["layers"]), values["constant"])
