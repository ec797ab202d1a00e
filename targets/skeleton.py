"""A convolutional network without its weights: which layer reads which channels, and how much the rest moves.

Read once from an ONNX file. A layer is called by its weight's name without `.weight`, as in the module that was
exported, so that the widths of its layers are all that is needed to describe any other network of the family.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from prunetune.spaces.errors import TargetError
from prunetune.targets.onnx_file import load_model

Operation: TypeAlias = Literal["concat", "resize", "add", "pool"]

OPERATIONS: dict[str, Operation] = {"Concat": "concat", "Resize": "resize", "Add": "add", "MaxPool": "pool"}
"""Operations of ONNX that move features without weights."""

_KEEPS_CHANNELS = frozenset({"Sigmoid", "Mul", "Relu", "LeakyRelu", "HardSwish", "Clip", "Identity", *OPERATIONS})


@dataclass(frozen=True)
class Channels:
    """Where a tensor's channels come from."""

    layers: tuple[str, ...] = ()
    """The layers that write them; a concatenation may bring one several times."""
    constant: int = 0
    """Channels of the image."""

    def width(self, widths: Mapping[str, int]) -> int:
        """How many there are when the layers have these widths."""
        return sum(widths[name] for name in self.layers) + self.constant


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

    def __str__(self) -> str:
        kind = "deconv" if self.transposed else "conv"
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
class Skeleton:
    """The layers and transfers of a network, in the order of their computation."""

    size: tuple[int, int]
    """Height and width of the image, in px."""
    layers: tuple[Layer, ...]
    transfers: tuple[Transfer, ...]
    groups: tuple[tuple[str, ...], ...]
    """Layers that must have equal widths, because additions tie them. A layer that is tied to none is a group of
    its own; one whose width nothing may change is in no group."""

    @classmethod
    def read(cls, path: Path) -> Skeleton:
        """Reads an ONNX file of a fixed input size.

        Raises:
            TargetError: The file is missing or corrupt, or is of no fixed size, or has a convolution that
                cannot be followed.
        """
        return _Reader(path).skeleton()

    @property
    def widths(self) -> dict[str, int]:
        """Output channels of each layer in the network that was read."""
        return {layer.name: layer.width for layer in self.layers}

    def multiply_adds(self, widths: Mapping[str, int]) -> int:
        """Of all convolutions, for one image.

        Args:
            widths: Layer name to output channels, such as a `ChannelConfig`.
        """
        return sum(
            widths[layer.name] * layer.reads.width(widths) * math.prod(layer.shape.kernel) * layer.positions
            for layer in self.layers
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """The skeleton that `as_dict` wrote."""
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


def shape_from_dict(values: Mapping[str, Any]) -> ConvShape:
    """The shape that `dataclasses.asdict` took apart and JSON may have kept."""
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return ConvShape(**plain)


def _channels_from_dict(values: Mapping[str, Any]) -> Channels:
    return Channels(tuple(values["layers"]), values["constant"])


class _Reader:
    """Follows the channels through a graph, node by node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        graph = load_graph(path)
        self._nodes = list(graph.node)
        self._weights = {item.name: tuple(item.dims) for item in graph.initializer}
        self._shapes = {
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._channels: dict[str, Channels] = {}
        self._size: tuple[int, ...] = (0, 0)
        for value in graph.input:
            if value.name not in self._weights and len(self._shapes[value.name]) == 4:
                self._channels[value.name] = Channels(constant=self._shapes[value.name][1])
                self._size = self._shapes[value.name][2:]
        self._consumers: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._layers: list[Layer] = []
        self._transfers: list[Transfer] = []
        self._tied: list[set[str]] = []
        self._fixed = set[str]()
        self._outputs = [value.name for value in graph.output]

    def skeleton(self) -> Skeleton:
        for node in self._nodes:
            if node.op_type in ("Conv", "ConvTranspose"):
                self._convolution(node)
            elif node.op_type in _KEEPS_CHANNELS and self._passes_on(node):
                continue
            else:
                self._fix(node.input)
        self._fix(self._outputs)
        height, width, *_ = self._size
        if not self._layers or not height or not width:
            raise TargetError(
                f"{self._path}: has no convolutions that can be followed from an image of a fixed size; export a "
                "detector without dynamic sizes"
            )
        names = {layer.name for layer in self._layers}
        if len(names) < len(self._layers):
            raise TargetError(f"{self._path}: several layers share one weight; export a trained detector")
        return Skeleton((height, width), tuple(self._layers), tuple(self._transfers), self._groups())

    def _convolution(self, node: Any) -> None:
        reads, weight = self._channels.get(node.input[0]), self._weights.get(node.input[1])
        shape = self._shapes.get(node.output[0], ())
        if reads is None or weight is None or len(shape) != 4:
            return  # beyond a point where channels became something else: its time never changes
        values = _attributes(node)
        if values.get("group", 1) != 1:
            raise TargetError(f"{self._path}: {node.input[1]}: a grouped convolution cannot be predicted yet")
        layer = Layer(
            name=node.input[1].removesuffix(".weight"),
            shape=ConvShape(
                kernel=(weight[2], weight[3]),
                strides=tuple(values.get("strides", (1, 1))),
                pads=tuple(values.get("pads", (0, 0, 0, 0))),
                size=self._shapes[node.input[0]][2:],
                transposed=node.op_type == "ConvTranspose",
                activation="silu" if self._feeds_silu(node.output[0]) else "none",
            ),
            reads=reads,
            width=shape[1],
            pixels=shape[2] * shape[3],
        )
        self._layers.append(layer)
        self._channels[node.output[0]] = Channels((layer.name,))

    def _feeds_silu(self, tensor: str) -> bool:
        consumers = self._consumers.get(tensor, [])
        sigmoids = {node.output[0] for node in consumers if node.op_type == "Sigmoid"}
        return any(node.op_type == "Mul" and sigmoids & set(node.input) for node in consumers)

    def _passes_on(self, node: Any) -> bool:
        """Whether the node's output has its inputs' channels; notes them if so."""
        shape = self._shapes.get(node.output[0], ())
        parts = [self._channels[name] for name in node.input if name in self._channels]
        features = [name for name in node.input if len(self._shapes.get(name, ())) == 4]
        if len(shape) != 4 or not parts or len(parts) < len(features):
            return False
        if node.op_type == "Concat":
            if _attributes(node)["axis"] % 4 != 1:
                return False
            channels = Channels(
                tuple(name for part in parts for name in part.layers), sum(part.constant for part in parts)
            )
        else:
            channels = parts[0]
            self._tie(parts)
        self._channels[node.output[0]] = channels
        if node.op_type in OPERATIONS:
            self._transfers.append(Transfer(OPERATIONS[node.op_type], tuple(parts), shape[2] * shape[3]))
        return True

    def _tie(self, parts: list[Channels]) -> None:
        """Additions hold the layers of equal positions to one width."""
        for other in parts[1:]:
            if len(other.layers) != len(parts[0].layers) or other.constant != parts[0].constant:
                self._fixed.update(*(part.layers for part in parts))
                continue
            self._tied += [{one, two} for one, two in zip(parts[0].layers, other.layers, strict=True)]

    def _fix(self, tensors: Iterable[str]) -> None:
        """Something counts on these channels as they are."""
        for name in tensors:
            self._fixed.update(self._channels.get(name, Channels()).layers)

    def _groups(self) -> tuple[tuple[str, ...], ...]:
        group_of = {layer.name: {layer.name} for layer in self._layers}
        for pair in self._tied:
            merged = set[str]().union(*(group_of[name] for name in pair))
            for name in merged:
                group_of[name] = merged
        groups = {tuple(layer.name for layer in self._layers if layer.name in group) for group in group_of.values()}
        order = [layer.name for layer in self._layers]
        free = [group for group in groups if not self._fixed & set(group)]
        return tuple(sorted(free, key=lambda group: order.index(group[0])))


def load_graph(path: Path) -> Any:
    """The graph of an ONNX file, with the shapes of all tensors.

    Raises:
        TargetError: The file is missing or corrupt.
    """
    import onnx

    model = load_model(path)
    try:
        return onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise TargetError(f"{path}: is no ONNX file ({error}); export the network again") from error


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
