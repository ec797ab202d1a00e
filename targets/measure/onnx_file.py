"""An ONNX file as a measurement takes it: readable, with one fp32 batch of images of the right size as its input.

Every runtime that runs files checks them here first, so that a wrong one gets the same message from all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunetune.spaces.errors import TargetError
from prunetune.targets.network import Network


def load_model(path: Path) -> Any:
    """Reads an ONNX file, without weights that lie in files beside it.

    Raises:
        TargetError: It is missing, corrupt or empty.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror}); export the network first") from error
    except (DecodeError, ValueError) as error:
        raise TargetError(f"{path}: is no ONNX file ({error}); export the network again") from error
    if not model.graph.node:
        raise TargetError(f"{path}: is no ONNX file, it computes nothing; export the network again")
    return model


def where(network: Network) -> str:
    """How messages begin: the network and its file."""
    return f"network {network.name!r}: {network.onnx}"


def image_channels(path: Path) -> int:
    """Channels of the images that a file takes; 3 where it does not say, or is none that can be measured.

    Raises:
        TargetError: The file is missing or corrupt.
    """
    graph = load_model(path).graph
    weights = {item.name for item in graph.initializer}
    shapes = [item.type.tensor_type.shape.dim for item in graph.input if item.name not in weights]
    return (shapes[0][1].dim_value if shapes and len(shapes[0]) == 4 else 0) or 3


def input_name(network: Network) -> str:
    """The name of the one input of a network's file.

    Raises:
        TargetError: The file is missing or corrupt, or its input is not one fp32 image batch of
            `network.input_shape`.
    """
    from onnx import TensorProto

    place = where(network)
    if network.onnx is None or not network.onnx.is_file():
        raise TargetError(f"{place}: no such ONNX file; export the network first")
    try:
        graph = load_model(network.onnx).graph
    except TargetError as error:
        raise TargetError(f"network {network.name!r}: {error}") from error
    weights = {item.name for item in graph.initializer}  # files of old exporters list them as inputs too
    inputs = [item for item in graph.input if item.name not in weights]
    if len(inputs) != 1:
        raise TargetError(f"{place}: has {len(inputs)} inputs; export a network whose one input is the image")
    (only,) = inputs
    tensor = only.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise TargetError(f"{place}: its input is {kind}; export it with an fp32 input")
    shape = [size.dim_value or size.dim_param or "any" for size in tensor.shape.dim]
    fits = len(shape) == 4 and all(
        isinstance(size, str) or size == given for size, given in zip(shape, network.input_shape, strict=True)
    )
    if not fits:
        raise TargetError(
            f"{place}: takes {shape_text(shape)}, not input_shape {shape_text(network.input_shape)}; "
            f"set input_shape (imgsz) to the size it was exported for, or export it again"
        )
    return str(only.name)


def cannot_be_loaded(network: Network, error: Exception | str) -> TargetError:
    """What to raise when a runtime refuses a file that reads well."""
    return TargetError(f"{where(network)}: cannot be loaded ({_one_line(error)}); export the network again")


def does_not_run(network: Network, error: Exception | str) -> TargetError:
    """What to raise when a loaded network fails on its first batch."""
    shape, reason = shape_text(network.input_shape), _one_line(error)
    return TargetError(
        f"{where(network)}: does not run on an input of {shape} ({reason}); export it again for this size"
    )


def image_batch(network: Network) -> Any:
    """The random images that every runtime is timed on: fp32, 0 to 1, of `network.input_shape`."""
    import numpy

    return numpy.random.default_rng(0).random(network.input_shape, dtype=numpy.float32)


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())


def shape_text(shape: Sequence[int | str]) -> str:
    """Sizes as messages show them."""
    return " x ".join(map(str, shape))
