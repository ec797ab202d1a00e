"""Single convolutions, as detectors have them, in the form that a target wants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetune.targets.network import Form, Network

if TYPE_CHECKING:
    from torch import nn

_OPSET, _IR_VERSION = 17, 9
"""What ONNX Runtime from 1.14 on reads."""


@dataclass(frozen=True)
class Convolution:
    """A convolution with bias and SiLU behind it: a block of YOLO with its BatchNorm folded in. Padded to `same`."""

    inputs: int
    """Channels that it reads."""
    outputs: int
    """Channels that it writes."""
    kernel: int
    """Side of the kernel, in px."""
    side: int
    """Side of the square input, in px."""
    stride: int = 1
    depthwise: bool = False
    """Whether each channel is read by itself; inputs and outputs are equal then."""

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """One image, channels, height (px), width (px)."""
        return (1, self.inputs, self.side, self.side)

    def network(self, name: str, form: Form, folder: Path) -> Network:
        """The convolution as a network to measure.

        Args:
            name: The network's name, and its file's.
            form: What the target wants.
            folder: Where an ONNX file is written.
        """
        if form == "module":
            return Network(name, self.input_shape, module=self.module())
        return Network(name, self.input_shape, onnx=self.write_onnx(folder / f"{name}.onnx"))

    def module(self) -> nn.Module:
        """The convolution in torch, with random weights."""
        from torch import nn

        groups = self.inputs if self.depthwise else 1
        layer = nn.Conv2d(self.inputs, self.outputs, self.kernel, self.stride, self._padding, groups=groups)
        return nn.Sequential(layer, nn.SiLU(inplace=True))

    def write_onnx(self, path: Path) -> Path:
        """Writes the convolution as an ONNX file, with random weights; returns the path."""
        import numpy
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        random = numpy.random.default_rng(0)
        reads = 1 if self.depthwise else self.inputs
        weight = random.normal(size=(self.outputs, reads, self.kernel, self.kernel)).astype(numpy.float32)
        bias = random.normal(size=self.outputs).astype(numpy.float32)
        side = (self.side + 2 * self._padding - self.kernel) // self.stride + 1
        attributes: dict[str, Any] = {
            "kernel_shape": [self.kernel] * 2,
            "pads": [self._padding] * 4,
            "strides": [self.stride] * 2,
            "group": self.inputs if self.depthwise else 1,
        }
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["image", "weight", "bias"], ["sum"], **attributes),
                helper.make_node("Sigmoid", ["sum"], ["gate"]),
                helper.make_node("Mul", ["sum", "gate"], ["features"]),
            ],
            "convolution",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.input_shape)],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, self.outputs, side, side])],
            [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        onnx.save(model, path)
        return path

    @property
    def _padding(self) -> int:
        return (self.kernel - 1) // 2
