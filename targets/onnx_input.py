"""Does an ONNX file take the images that it is to be measured on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prunetune.spaces.errors import TargetError
from prunetune.targets.network import Network


class Input(Protocol):
    """An input of a graph, as ONNX Runtime describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def type(self) -> str:
        """For example `tensor(float)`."""

    @property
    def shape(self) -> Sequence[Any]:
        """Its sizes. One that is no integer is free."""


@dataclass(frozen=True)
class _Input:
    name: str
    type: str
    shape: tuple[int | str, ...]


def existing_file(network: Network) -> Path:
    """The network's file.

    Raises:
        TargetError: It is missing.
    """
    if network.onnx is None or not network.onnx.is_file():
        raise TargetError(f"network {network.name!r}: {network.onnx}: no such ONNX file; export the network first")
    return network.onnx


def read_inputs(network: Network) -> list[Input]:
    """The inputs of a network's file.

    Raises:
        TargetError: The file is missing or corrupt.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = existing_file(network)
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError, ValueError) as error:
        raise TargetError(
            f"network {network.name!r}: {path}: is no ONNX file ({error}); export the network again"
        ) from error
    weights = {item.name for item in graph.initializer}
    return [
        _Input(
            value.name,
            f"tensor({onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()})",
            tuple(
                size.dim_value if size.HasField("dim_value") else size.dim_param or "any"
                for size in value.type.tensor_type.shape.dim
            ),
        )
        for value in graph.input
        if value.name not in weights
    ]


def check_inputs(inputs: Sequence[Input], network: Network) -> str:
    """The name of the one input, whose type and shape fit.

    Raises:
        TargetError: There are several, it takes no fp32 numbers, or another shape than `network.input_shape`.
    """
    where = f"network {network.name!r}: {network.onnx}"
    if len(inputs) != 1:
        raise TargetError(f"{where}: has {len(inputs)} inputs; export a network whose one input is the image")
    (only,) = inputs
    if only.type != "tensor(float)":
        raise TargetError(f"{where}: its input is {only.type}; export it with an fp32 input, tensor(float)")
    shape = only.shape
    fits = len(shape) == 4 and all(
        not isinstance(size, int) or size == given for size, given in zip(shape, network.input_shape, strict=True)
    )
    if not fits:
        raise TargetError(
            f"{where}: takes {shape_text(shape)}, not input_shape {shape_text(network.input_shape)}; "
            f"set input_shape (imgsz) to the size it was exported for, or export it again"
        )
    return str(only.name)


def shape_text(shape: Sequence[Any]) -> str:
    """A shape as people write it: `1 x 3 x 640 x 640`."""
    return " x ".join("any" if size is None else str(size) for size in shape)
