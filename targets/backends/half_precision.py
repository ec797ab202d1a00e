"""Networks in fp16: runtimes with strong typing, such as TensorRT, compute in what the graph itself says."""

from __future__ import annotations

from pathlib import Path

from prunetune.spaces.errors import TargetError
from prunetune.spaces.files import publish
from prunetune.targets.measure import onnx_file


def halve(source: Path, destination: Path) -> None:
    """Writes an ONNX file with weights and activations in fp16, its input and output in fp32 as before.

    Args:
        source: The fp32 file.
        destination: Where to; appears at once and whole.

    Raises:
        TargetError: The file is missing or corrupt, or has something that cannot be converted.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx_file.load_model(source)
    try:
        converted = convert_float_to_float16(model, keep_io_types=True)
    # ONNX Runtime's tools raise anything about a graph that they do not know.
    except Exception as error:
        raise TargetError(
            f"{source}: cannot be converted to fp16 ({type(error).__name__}: {error}); write precision: fp32"
        ) from error
    with publish(destination) as draft:
        onnx.save(converted, draft)
