"""Networks written only to be timed: single layers, and whole networks of other widths. Their weights are random."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from prunetune.targets.latency_model.conv_graph import Channels, ConvGraph, ConvShape
from prunetune.targets.latency_model.onnx_graph import OnnxGraphReader

COPIES = 4
"""Convolutions in a network that times one."""

IMAGE = 3
"""Channels of the image that these networks take."""


def write_layer(path: Path, shape: ConvShape, inputs: int, outputs: int, copies: int = COPIES) -> None:
    """Writes a network that computes one layer several times, side by side, from the same features.

    A layer alone would mostly show what a session costs, and the conversion of its input and output to and from the
    runtime's own layout. Here a 1x1 convolution makes the features, in the layout that the runtime likes, and the
    mean over all pixels leaves little to convert. What that costs, the same network with `copies=0` shows.

    Args:
        path: Where to. The network takes `IMAGE` channels at `shape.size`.
        shape: The layer.
        inputs: Channels that it reads; `IMAGE` for the image itself.
        outputs: Channels that it writes.
        copies: How often it is computed. Each copy has its own weights, lest a runtime computes equal ones once.
    """
    from onnx import TensorProto, helper, numpy_helper

    height, width = shape.size
    nodes, weights, ends = [], {}, []
    features = "image"
    if inputs != IMAGE:
        weights["stem"] = _random("stem", (inputs, IMAGE, 1, 1))
        nodes += [helper.make_node("Conv", ["image", "stem"], ["features"], kernel_shape=[1, 1])]
        features = "features"
    nodes += [helper.make_node("GlobalAveragePool", [features], ["mean"])]
    ends += [("mean", inputs)]
    for copy in range(copies):
        name = f"layer{copy}"
        weights[f"{name}.weight"] = _random(name, (*shape.sides(inputs, outputs), *shape.kernel))
        weights[f"{name}.bias"] = _random(f"{name}.bias", (outputs,))
        nodes += [
            helper.make_node(
                "ConvTranspose" if shape.transposed else "Conv",
                [features, f"{name}.weight", f"{name}.bias"],
                [name],
                kernel_shape=shape.kernel,
                strides=shape.strides,
                pads=shape.pads,
                group=shape.groups_of(outputs),
            )
        ]
        last = name
        if shape.activation == "silu":
            nodes += [
                helper.make_node("Sigmoid", [name], [f"{name}.sigmoid"]),
                helper.make_node("Mul", [name, f"{name}.sigmoid"], [f"{name}.silu"]),
            ]
            last = f"{name}.silu"
        nodes += [helper.make_node("GlobalAveragePool", [last], [f"{name}.mean"])]
        ends += [(f"{name}.mean", outputs)]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, IMAGE, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 1, 1]) for name, channels in ends],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    _save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_resized(source: Path, path: Path, graph: ConvGraph, widths: Mapping[str, int]) -> None:
    """Writes a network of the same family with other widths.

    Args:
        source: The ONNX file that the graph was read from.
        path: Where to.
        graph: What `read_conv_graph` gives of it.
        widths: Output channels of each layer.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    onnx_graph = model.graph
    layers = {f"{layer.name}.weight": layer for layer in graph.layers}
    scales = {
        item.name: item
        for item in onnx_graph.initializer
        if len(item.dims) == 4 and item.dims[1] == math.prod(item.dims)
    }
    reader = OnnxGraphReader(source)
    reader.read()
    resized: dict[str, Any] = {}
    for node in onnx_graph.node:
        if node.op_type == "Split":
            resized |= _resized_split(node, [reader.channels_of(name) for name in node.output], widths)
        elif node.op_type == "Mul" and (scale := next((name for name in node.input if name in scales), None)):
            channels = reader.channels_of(node.output[0])
            resized |= {scale: _random(scale, (1, channels.width(widths), 1, 1))} if channels else {}
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in layers:
            continue
        layer = layers[node.input[1]]
        outputs, inputs = widths[layer.name], layer.reads.width(widths)
        if layer.shape.depthwise:
            next(item for item in node.attribute if item.name == "group").i = outputs
        resized[node.input[1]] = _random(layer.name, (*layer.shape.sides(inputs, outputs), *layer.shape.kernel))
        if len(node.input) > 2:  # exporters let layers of equal biases share one
            node.input[2] = f"{layer.name}.resized.bias"
            resized[node.input[2]] = _random(node.input[2], (outputs,))
    kept = [item for item in onnx_graph.initializer if item.name not in resized]
    del onnx_graph.initializer[:], onnx_graph.value_info[:]
    onnx_graph.initializer.extend([*kept, *(numpy_helper.from_array(value, name) for name, value in resized.items())])
    _save(model, path)


def _resized_split(node: Any, parts: Sequence[Channels | None], widths: Mapping[str, int]) -> dict[str, Any]:
    """The sizes that a node splits the channels of a layer into; none where it splits something else."""
    halves = [part for part in parts if part is not None and part.layers]
    if len(node.input) < 2 or len(halves) < len(parts):
        return {}
    node.input[1] = f"{node.output[0]}.resized"  # exporters let equal splits share their sizes
    return {node.input[1]: numpy.array([half.width(widths) for half in halves], numpy.int64)}


def _random(name: str, shape: tuple[int, ...]) -> Any:
    """Weights that keep features at the same scale from layer to layer, the same ones for equal names and shapes."""
    generator = numpy.random.default_rng(zlib.crc32(f"{name} {shape}".encode()))
    inputs = max(1, int(numpy.prod(shape[1:])))
    return (generator.standard_normal(shape) * (2 / inputs) ** 0.5).astype(numpy.float32)


def _save(model: Any, path: Path) -> None:
    import onnx

    onnx.save(model, path)
