"""Reads a `ConvGraph` from an ONNX file: whose channels each tensor has, and which layers additions tie."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prunetune.spaces.errors import TargetError
from prunetune.targets.latency_model.conv_graph import (
    Channels,
    ConvGraph,
    ConvShape,
    Layer,
    Operation,
    Transfer,
    layer_of,
)
from prunetune.targets.measure.onnx_file import load_model

OPERATIONS: dict[str, Operation] = {"Concat": "concat", "Resize": "resize", "Add": "add", "MaxPool": "pool"}
"""Operations of ONNX that move features without weights."""

_KEEPS_CHANNELS = frozenset({"Sigmoid", "Mul", "Relu", "LeakyRelu", "HardSwish", "Clip", "Identity", *OPERATIONS})


def read_conv_graph(file: Path) -> ConvGraph:
    """Reads an ONNX file of a fixed input size.

    Raises:
        TargetError: The file is missing or corrupt, or is of no fixed size, or has a convolution that cannot be
            followed.
    """
    return OnnxGraphReader(file).read()


class OnnxGraphReader:
    """Follows the channels through a graph, node by node.

    Args:
        path: An ONNX file of a fixed input size.

    Raises:
        TargetError: The file is missing or corrupt.
    """

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
        self._images = list[str]()
        self._size: tuple[int, ...] = (0, 0)
        for value in graph.input:
            if value.name not in self._weights and len(self._shapes[value.name]) == 4:
                self._channels[value.name] = Channels(constant=self._shapes[value.name][1])
                self._images.append(value.name)
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

    def read(self) -> ConvGraph:
        """Follows all nodes.

        Raises:
            TargetError: The file is of no fixed size, or has a convolution that cannot be followed.
        """
        for node in self._nodes:
            if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in self._weights:
                self._convolution(node)
            elif not self._halves(node) and not self._passes_on(node):
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
        groups, followed = self._groups(), self._followed()
        layers = tuple(layer for layer in self._layers if layer.name in followed)
        return ConvGraph((height, width), layers, tuple(self._transfers), groups)

    def channels_of(self, tensor: str) -> Channels | None:
        """Where the channels of features come from; None for what are no features.

        The channels of an operation that cannot be followed are constant, since all that it reads is fixed.
        """
        if tensor not in self._channels and len(self._shapes.get(tensor, ())) == 4:
            self._channels[tensor] = Channels(constant=self._shapes[tensor][1])
        return self._channels.get(tensor)

    def _convolution(self, node: Any) -> None:
        reads, weight = self.channels_of(node.input[0]), self._weights[node.input[1]]
        shape = self._shapes.get(node.output[0], ())
        if reads is None or len(shape) != 4:
            return
        values = _attributes(node)
        groups = values.get("group", 1)
        depthwise = groups > 1 and groups == weight[0] and weight[1] == 1
        layer = Layer(
            name=node.input[1].removesuffix(".weight"),
            shape=ConvShape(
                kernel=(weight[2], weight[3]),
                strides=tuple(values.get("strides", (1, 1))),
                pads=tuple(values.get("pads", (0, 0, 0, 0))),
                size=self._shapes[node.input[0]][2:],
                transposed=node.op_type == "ConvTranspose",
                activation="silu" if self._feeds_silu(node.output[0]) else "none",
                depthwise=depthwise,
                groups=1 if depthwise else groups,
            ),
            reads=reads,
            width=shape[1],
            pixels=shape[2] * shape[3],
        )
        self._layers.append(layer)
        self._channels[node.output[0]] = Channels((layer.name,))
        if layer.shape.depthwise:
            self._tie([reads, Channels((layer.name,))])

    def _halves(self, node: Any) -> bool:
        """Whether the node splits the channels of one layer in two halves; notes them if so."""
        if node.op_type != "Split":
            return False
        channels = self.channels_of(node.input[0])
        sizes = {self._shapes.get(name, ())[1:2] for name in node.output}
        if channels is None or channels.constant or len(channels.layers) != 1 or ":" in channels.layers[0]:
            return False
        if _attributes(node).get("axis", 0) % 4 != 1 or len(node.output) != 2 or len(sizes) != 1:
            return False
        halves = [f"{channels.layers[0]}:{number}" for number in range(2)]
        self._tied.append(set(halves))
        self._channels |= {name: Channels((half,)) for name, half in zip(node.output, halves, strict=True)}
        return True

    def _followed(self) -> set[str]:
        """The layers whose widths matter: all but those whose channels never change and go nowhere that is followed."""
        used = {layer_of(name) for layer in self._layers for name in layer.reads.layers}
        used |= {layer_of(name) for item in self._transfers for part in item.parts for name in part.layers}
        first = {item.input[1] for name in self._images for item in self._consumers.get(name, [])}
        return {
            layer.name
            for layer in self._layers
            if layer.reads.layers
            or f"{layer.name}.weight" in first
            or layer.name in used
            or layer.name not in self._fixed
        }

    def _feeds_silu(self, tensor: str) -> bool:
        consumers = self._consumers.get(tensor, [])
        sigmoids = {node.output[0] for node in consumers if node.op_type == "Sigmoid"}
        return any(node.op_type == "Mul" and sigmoids & set(node.input) for node in consumers)

    def _passes_on(self, node: Any) -> bool:
        """Whether the node's output has its inputs' channels; notes them if so."""
        if node.op_type not in _KEEPS_CHANNELS:
            return False
        shape = self._shapes.get(node.output[0], ())
        found = [self.channels_of(name) for name in node.input]
        parts = [channels for channels in found if channels is not None]
        if len(shape) != 4 or not parts:
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
            pairs = zip(parts[0].layers, other.layers, strict=True)
            self._tied += [{one, two} for one, two in pairs if one != two]

    def _fix(self, tensors: Iterable[str]) -> None:
        """Something counts on these channels as they are."""
        for name in tensors:
            self._fixed.update(self._channels.get(name, Channels()).layers)

    def _groups(self) -> tuple[tuple[str, ...], ...]:
        split = {layer_of(name) for pair in self._tied for name in pair if ":" in name}
        order = [
            name
            for layer in self._layers
            for name in ([f"{layer.name}:0", f"{layer.name}:1"] if layer.name in split else [layer.name])
        ]
        group_of = {name: {name} for name in order}
        for pair in self._tied:
            if pair & split:  # tied as a whole, and split all the same
                self._fixed |= pair
                continue
            merged = set[str]().union(*(group_of[name] for name in pair))
            for name in merged:
                group_of[name] = merged
        groups = {tuple(name for name in order if name in group) for group in group_of.values()}
        free = [group for group in groups if not self._fixed & {*group, *map(layer_of, group)}]
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
