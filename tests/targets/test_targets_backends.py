"""The conformance suite over both backends, and what is special about each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from prunetune.spaces.errors import TargetError
from prunetune.targets import (
    Network,
    OnnxRuntimeSpec,
    OnnxRuntimeTarget,
    Target,
    TorchSpec,
    TorchTarget,
    create_target,
    parse_target_spec,
)
from prunetune.targets.testing import NARROW, TargetTestCase

ONNX_SPEC = OnnxRuntimeSpec(warmup=1, runs=7)
TORCH_SPEC = TorchSpec(warmup=1, runs=7)
SIZE = 32


def write_onnx(path: Path, width: int, *, inputs: int = 1, dtype: int = TensorProto.FLOAT) -> Path:
    """A 3x3 convolution from `width` channels to as many, on images of `SIZE` px."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weight = numpy.random.default_rng(0).normal(size=(width, width, 3, 3)).astype(kind)
    images = [
        helper.make_tensor_value_info(f"image{index or ''}", dtype, ["batch", width, SIZE, SIZE])
        for index in range(inputs)
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1])],
        "convolution",
        images,
        [helper.make_tensor_value_info("features", dtype, ["batch", width, SIZE, SIZE])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def convolution(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))


class TestOnnxRuntime(TargetTestCase):
    def target(self) -> Target:
        return create_target(ONNX_SPEC)

    def network(self, name: str, width: int) -> Network:
        path = write_onnx(self.folder / f"{name}.onnx", width)
        return Network(name, (1, width, SIZE, SIZE), onnx=path)


class TestTorch(TargetTestCase):
    def target(self) -> Target:
        return create_target(TORCH_SPEC)

    def network(self, name: str, width: int) -> Network:
        return Network(name, (1, width, SIZE, SIZE), module=convolution(width))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
class TestTorchOnGpu(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _precision(self, precision: str) -> None:
        self.spec = parse_target_spec(
            {"kind": "torch", "device": "cuda", "precision": precision, "warmup": 3, "runs": 15}
        )

    def target(self) -> Target:
        return create_target(self.spec)

    def network(self, name: str, width: int) -> Network:
        # A GPU needs large images before more channels take more time.
        return Network(name, (8, width, 256, 256), module=convolution(width))


def measure_onnx(path: Path, shape: tuple[int, int, int, int] = (1, NARROW, SIZE, SIZE)) -> None:
    create_target(ONNX_SPEC).measure([Network("dense", shape, onnx=path)], reference="dense")


def test_missing_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"'dense'.*gone\.onnx.*export"):
        measure_onnx(tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"no protobuf at all"])
def test_corrupt_onnx_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corrupt.onnx"
    path.write_bytes(content)
    with pytest.raises(TargetError, match=r"'dense'.*corrupt\.onnx.*export"):
        measure_onnx(path)


def test_truncated_onnx_file(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "half.onnx", NARROW)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TargetError, match=r"'dense'.*half\.onnx"):
        measure_onnx(path)


def test_onnx_file_with_two_inputs(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"two\.onnx.*2 inputs"):
        measure_onnx(write_onnx(tmp_path / "two.onnx", NARROW, inputs=2))


def test_onnx_file_in_fp16(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"half\.onnx.*float16.*fp32"):
        measure_onnx(write_onnx(tmp_path / "half.onnx", NARROW, dtype=TensorProto.FLOAT16))


def test_free_dimensions_of_an_onnx_file_take_any_size(tmp_path: Path) -> None:
    measure_onnx(write_onnx(tmp_path / "free.onnx", NARROW), (2, NARROW, SIZE, SIZE))


def test_onnx_input_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"8 x 32 x 32, not input_shape 1 x 8 x 64 x 64"):
        measure_onnx(write_onnx(tmp_path / "small.onnx", NARROW), (1, NARROW, 64, 64))


def test_free_dimensions_that_the_graph_cannot_take(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", "c", "h", "w"])
    output = helper.make_tensor_value_info("flat", TensorProto.FLOAT, None)
    shape = numpy_helper.from_array(numpy.array([3, 5, 7]), "shape")
    node = helper.make_node("Reshape", ["image", "shape"], ["flat"])
    graph = helper.make_graph([node], "reshape", [image], [output], [shape])
    path = tmp_path / "reshape.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(TargetError, match=r"reshape\.onnx.*1 x 8 x 32 x 32"):
        measure_onnx(path)


@pytest.mark.parametrize(("threads", "before"), [(1, 2), (2, 1)])
def test_torch_threads_are_pinned_and_given_back(threads: int, before: int) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled(), self.training))
            return image

    was = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        target = create_target(TORCH_SPEC.model_copy(update={"threads": threads}))
        target.measure([Network("spy", (1, 3, 8, 8), module=Spy())], reference="spy")
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(was)
    assert set(seen) == {(threads, True, False)}


def test_torch_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    target = create_target(TORCH_SPEC.model_copy(update={"threads": before + 1}))
    with pytest.raises(TargetError):
        target.measure([Network("dense", (1, 3, 8, 8), module=convolution(NARROW))], reference="dense")
    assert torch.get_num_threads() == before


def test_torch_measures_fp16_weights_in_fp32() -> None:
    module = convolution(NARROW).half()
    network = Network("dense", (1, NARROW, SIZE, SIZE), module=module)
    create_target(TORCH_SPEC).measure([network], reference="dense")
    assert next(module.parameters()).dtype == torch.float16


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_gpu_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    target = create_target(TorchSpec(name="board", device=device))
    network = Network("dense", (1, NARROW, SIZE, SIZE), module=convolution(NARROW))
    with pytest.raises(TargetError, match=rf"'board'.*{device}.*nvidia-smi.*device: cpu"):
        target.measure([network], reference="dense")
    with pytest.raises(TargetError, match="'board'"):
        target.fingerprint()


def test_fingerprint_tells_settings_apart() -> None:
    one, two = (OnnxRuntimeTarget(OnnxRuntimeSpec(threads=count)) for count in (1, 2))
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() != TorchTarget(TORCH_SPEC).fingerprint()


def test_import_loads_no_runtime() -> None:
    code = (
        "import sys, prunetune.targets as targets;"
        "targets.create_target(targets.TorchSpec());"
        "targets.create_target(targets.OnnxRuntimeSpec());"
        "print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
