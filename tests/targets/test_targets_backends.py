"""The conformance suite over all backends, and what is special about each."""

from __future__ import annotations

import builtins
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from prunetune.spaces.errors import MissingExtraError, TargetError
from prunetune.targets import (
    Network,
    OnnxRuntimeSpec,
    OnnxRuntimeTarget,
    OpenVinoSpec,
    OpenVinoTarget,
    Target,
    TensorRtSpec,
    TensorRtTarget,
    TorchSpec,
    TorchTarget,
    create_predictor,
    create_target,
    parse_target_spec,
)
from prunetune.targets.backends import openvino as openvino_target
from prunetune.targets.backends.half_precision import halve
from prunetune.targets.backends.openvino_process import compile_network
from prunetune.targets.backends.quantisation import is_quantised
from prunetune.targets.testing import NARROW, TargetTestCase

ONNX_SPEC = OnnxRuntimeSpec(warmup=1, runs=7)
OPENVINO_SPEC = OpenVinoSpec(warmup=1, runs=7)
TORCH_SPEC = TorchSpec(warmup=1, runs=7)
SIZE = 32

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino, an extra")


def write_onnx(path: Path, width: int, *, inputs: int = 1, dtype: int = TensorProto.FLOAT, size: int = SIZE) -> Path:
    """A 3x3 convolution from `width` channels to as many, on images of `size` px."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weight = numpy.random.default_rng(0).normal(size=(width, width, 3, 3)).astype(kind)
    images = [
        helper.make_tensor_value_info(f"image{index or ''}", dtype, ["batch", width, size, size])
        for index in range(inputs)
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1])],
        "convolution",
        images,
        [helper.make_tensor_value_info("features", dtype, ["batch", width, size, size])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def convolution(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
class TestOnnxRuntime(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _precision(self, precision: str) -> None:
        self.spec = parse_target_spec({"kind": "onnxruntime", "precision": precision, "warmup": 1, "runs": 7})

    def target(self) -> Target:
        return create_target(self.spec)

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        size = SIZE // shrink
        path = write_onnx(self.folder / f"{name}.onnx", width, size=size)
        return Network(name, (1, width, size, size), onnx=path)


def openvino_capabilities() -> list[str]:
    import openvino

    found: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


@needs_openvino
@pytest.mark.parametrize("options", [{}, {"hint": "throughput"}, {"precision": "bf16"}, {"precision": "int8"}], ids=str)
class TestOpenVino(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _options(self, options: dict[str, str]) -> None:
        if options.get("precision") == "bf16" and "BF16" not in openvino_capabilities():
            pytest.skip("needs a CPU with bf16")
        self.spec = parse_target_spec({"kind": "openvino", **options, "warmup": 1, "runs": 7})

    def target(self) -> Target:
        return create_target(self.spec)

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        size = SIZE // shrink
        path = write_onnx(self.folder / f"{name}.onnx", width, size=size)
        return Network(name, (1, width, size, size), onnx=path)


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu and its GPU"
)
@pytest.mark.parametrize("options", [{}, {"provider": "tensorrt", "precision": "int8"}], ids=str)
class TestOnnxRuntimeOnGpu(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _options(self, options: dict[str, str]) -> None:
        if options:
            pytest.importorskip("tensorrt", reason="needs TensorRT")
        self.spec = parse_target_spec({"kind": "onnxruntime", "device": "cuda", **options, "warmup": 3, "runs": 15})

    def target(self) -> Target:
        return create_target(self.spec)

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        size = SIZE // shrink
        path = write_onnx(self.folder / f"{name}.onnx", width, size=size)
        return Network(name, (64, width, size, size), onnx=path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
class TestTensorRt(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _engines(self, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("tensorrt", reason="needs pip install 'prunetune[tensorrt]'")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        self.spec = TensorRtSpec(precision=precision, warmup=3, runs=15)

    def target(self) -> Target:
        return create_target(self.spec)

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        size = SIZE // shrink
        path = write_onnx(self.folder / f"{name}.onnx", width, size=size)
        return Network(name, (64, width, size, size), onnx=path)


@pytest.mark.parametrize("channels_last", [False, True], ids=["channels first", "channels last"])
class TestTorch(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _layout(self, channels_last: bool) -> None:
        self.spec = TORCH_SPEC.model_copy(update={"channels_last": channels_last})

    def target(self) -> Target:
        return create_target(self.spec)

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        return Network(name, (1, width, SIZE // shrink, SIZE // shrink), module=convolution(width))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("options", [{}, {"cuda_graph": False}, {"channels_last": True}], ids=str)
class TestTorchOnGpu(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _options(self, precision: str, options: dict[str, bool]) -> None:
        self.spec = TorchSpec(device="cuda", precision=precision, warmup=3, runs=15, **options)

    def target(self) -> Target:
        return create_target(self.spec)

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        # A GPU needs large images before more channels take more time.
        return Network(name, (8, width, 256 // shrink, 256 // shrink), module=convolution(width))


# Sizes and precisions beside each other


def network_of(folder: Path, size: int, precision: str | None = None) -> Network:
    path = write_onnx(folder / f"{size}.onnx", NARROW, size=size)
    return Network(f"{size}-{precision}", (1, NARROW, size, size), onnx=path, precision=precision)


def test_onnxruntime_runs_each_network_at_its_size_and_in_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    class Spy(onnxruntime.InferenceSession):
        def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
            super().__init__(path, *arguments, **options)
            self.precision = "int8" if is_quantised(onnx.load(path)) else "fp32"

        def run(self, outputs: Any, inputs: Any, *rest: Any) -> Any:
            seen.add((inputs["image"].shape[2:], self.precision))
            return super().run(outputs, inputs, *rest)

    target = create_target(ONNX_SPEC)
    networks = [network_of(tmp_path, *made) for made in ((32, None), (16, "fp32"), (32, "int8"), (16, "int8"))]
    target.measure(networks, reference="32-None")  # quantises, which runs sessions as well
    monkeypatch.setattr(onnxruntime, "InferenceSession", Spy)
    target.measure(networks, reference="32-None")
    assert seen == {((32, 32), "fp32"), ((16, 16), "fp32"), ((32, 32), "int8"), ((16, 16), "int8")}


@pytest.mark.parametrize(
    ("spec", "precision"),
    [(ONNX_SPEC, "int8"), pytest.param(OPENVINO_SPEC, "int8", marks=needs_openvino)],
    ids=["onnxruntime", "openvino"],
)
def test_a_predictor_computes_in_the_networks_precision(tmp_path: Path, spec: Any, precision: str) -> None:
    network = network_of(tmp_path, SIZE)
    image = numpy.random.default_rng(0).random(network.input_shape, dtype=numpy.float32)

    def outputs(own: str, asked: str | None) -> Any:
        target = spec.model_copy(update={"precision": own})
        return create_predictor(target, replace(network, precision=asked, calibration=(image,)))(image)

    full, short = outputs("fp32", None), outputs(precision, None)
    assert numpy.abs(full - short).max() > 1e-3
    numpy.testing.assert_array_equal(outputs("fp32", precision), short)
    numpy.testing.assert_array_equal(outputs(precision, "fp32"), full)


@pytest.mark.parametrize(
    ("spec", "precision"),
    [
        (OnnxRuntimeSpec(name="desk"), "fp16"),
        pytest.param(OpenVinoSpec(name="desk"), "int3", marks=needs_openvino),
    ],
    ids=["onnxruntime", "openvino"],
)
def test_a_predictor_refuses_a_precision_that_the_target_lacks(tmp_path: Path, spec: Any, precision: str) -> None:
    with pytest.raises(TargetError, match=rf"precision: {precision} .*'desk'.*fp32"):
        create_predictor(spec, network_of(tmp_path, SIZE, precision))


@needs_openvino
def test_openvino_tells_each_networks_process_its_size_and_precision(tmp_path: Path) -> None:
    target = OpenVinoTarget(OPENVINO_SPEC)
    large, small = (target._request(network_of(tmp_path, *made)) for made in ((32, None), (16, "int8")))
    assert (large.shape, small.shape) == ((1, NARROW, 32, 32), (1, NARROW, 16, 16))
    assert [is_quantised(onnx.load(request.file)) for request in (large, small)] == [False, True]


@needs_openvino
def test_openvino_tells_the_memory_of_each_network(tmp_path: Path) -> None:
    networks = [
        Network(name, (1, width, SIZE, SIZE), onnx=write_onnx(tmp_path / f"{name}.onnx", width))
        for name, width in (("narrow", 8), ("wide", 1024))
    ]
    measured = create_target(OPENVINO_SPEC).measure(networks, reference="narrow")
    narrow, wide = measured["narrow"].memory_mb, measured["wide"].memory_mb
    assert narrow is not None
    assert wide is not None
    weights = 1024 * 1024 * 9 * 4 / 1e6
    assert 0 < narrow < wide - weights / 2
    assert create_target(ONNX_SPEC).measure(networks[:1], reference="narrow")["narrow"].memory_mb is None


@needs_openvino
def test_openvino_does_not_have_the_precisions_that_a_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    monkeypatch.setattr(openvino, "Core", _CoreOfAnOldCpu)
    assert create_target(OpenVinoSpec(precision="int8")).precisions == ("int8", "fp32")


def test_torch_runs_each_module_at_its_own_size() -> None:
    seen = set()

    class Spy(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.add((tuple(image.shape), image.dtype))
            return image

    networks = [Network(str(size), (1, 3, size, 2 * size), module=Spy()) for size in (8, 16)]
    create_target(TORCH_SPEC).measure(networks, reference="8")
    assert seen == {((1, 3, 8, 16), torch.float32), ((1, 3, 16, 32), torch.float32)}


def test_onnxruntime_tells_its_gpu_provider_each_networks_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = OnnxRuntimeSpec(device="cuda:1", provider="tensorrt", precision="fp16")
    target, seen = OnnxRuntimeTarget(spec), []
    networks = [network_of(tmp_path, SIZE, precision) for precision in (None, "fp32", "int8")]
    target._quantised.file(networks[-1])  # which needs real sessions

    class Session:
        def __init__(self, path: str, _: Any, *, providers: Any, enable_fallback: int) -> None:
            ((self.provider, options),) = providers
            asked = tuple(options[f"trt_{precision}_enable"] for precision in ("fp16", "int8"))
            seen.append((*asked, options["device_id"], is_quantised(onnx.load(path))))

        def get_providers(self) -> list[str]:
            return [self.provider]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for network in networks:
        target._open(network)
    assert seen == [("True", "False", "1", False), ("False", "False", "1", False), ("False", "True", "1", True)]


@pytest.mark.parametrize("precision", [None, "fp32", "fp16", "int8"])
def test_tensorrt_takes_a_file_of_the_networks_precision(tmp_path: Path, precision: str | None) -> None:
    network = network_of(tmp_path, SIZE, precision)
    target = TensorRtTarget(TensorRtSpec())  # its files go with it
    file = target._file(network)
    graph = onnx.load(file).graph
    kinds = {item.data_type for item in graph.initializer}
    assert (file == network.onnx) == (precision in (None, "fp32"))
    assert (TensorProto.FLOAT16 in kinds) == (precision == "fp16")
    assert (TensorProto.INT8 in kinds) == (precision == "int8")


class OnnxFileCase:
    """What every runtime of ONNX files says about a wrong one."""

    spec: Any

    def measure(self, path: Path, shape: tuple[int, int, int, int] = (1, NARROW, SIZE, SIZE)) -> None:
        create_target(self.spec).measure([Network("dense", shape, onnx=path)], reference="dense")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"'dense'.*gone\.onnx.*export"):
            self.measure(tmp_path / "gone.onnx")

    @pytest.mark.parametrize("content", [b"", b"no protobuf at all"])
    def test_corrupt(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "corrupt.onnx"
        path.write_bytes(content)
        with pytest.raises(TargetError, match=r"'dense'.*corrupt\.onnx.*is no ONNX file.*export"):
            self.measure(path)

    def test_truncated(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "half.onnx", NARROW)
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(TargetError, match=r"'dense'.*half\.onnx"):
            self.measure(path)

    def test_two_inputs(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"two\.onnx.*2 inputs"):
            self.measure(write_onnx(tmp_path / "two.onnx", NARROW, inputs=2))

    def test_fp16_input(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"half\.onnx.*float16.*fp32"):
            self.measure(write_onnx(tmp_path / "half.onnx", NARROW, dtype=TensorProto.FLOAT16))

    def test_free_dimensions_take_any_size(self, tmp_path: Path) -> None:
        self.measure(write_onnx(tmp_path / "free.onnx", NARROW), (2, NARROW, SIZE, SIZE))

    def test_input_of_another_size(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"8 x 32 x 32, not input_shape 1 x 8 x 64 x 64"):
            self.measure(write_onnx(tmp_path / "small.onnx", NARROW), (1, NARROW, 64, 64))

    def test_free_dimensions_that_the_graph_cannot_take(self, tmp_path: Path) -> None:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", "c", "h", "w"])
        output = helper.make_tensor_value_info("flat", TensorProto.FLOAT, None)
        shape = numpy_helper.from_array(numpy.array([3, 5, 7]), "shape")
        node = helper.make_node("Reshape", ["image", "shape"], ["flat"])
        with pytest.raises(TargetError, match=r"reshape\.onnx.*1 x 8 x 32 x 32"):
            self.measure(save_graph(tmp_path / "reshape.onnx", [node], image, output, [shape]))

    def test_unknown_operation(self, tmp_path: Path) -> None:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, NARROW, SIZE, SIZE])
        output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
        node = helper.make_node("Frobnicate", ["image"], ["output"])
        with pytest.raises(TargetError, match=r"'dense'.*unknown\.onnx.*export"):
            self.measure(save_graph(tmp_path / "unknown.onnx", [node], image, output, []))


def save_graph(path: Path, nodes: list[Any], image: Any, output: Any, weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "graph", [image], [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class TestOnnxFileInOnnxRuntime(OnnxFileCase):
    spec = ONNX_SPEC


@needs_openvino
class TestOnnxFileInOpenVino(OnnxFileCase):
    spec = OPENVINO_SPEC


@needs_openvino
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_openvino_says_which_precisions_a_cpu_lacks(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    import openvino

    monkeypatch.setattr(openvino, "Core", _CoreOfAnOldCpu)
    target = create_target(OpenVinoSpec(name="board", precision=precision))
    with pytest.raises(TargetError, match=rf"'board'.*{precision}.*write precision: fp32 or int8"):
        target.fingerprint()


@needs_openvino
@pytest.mark.parametrize(("precision", "asked"), [("fp32", "f32"), ("fp16", "f16"), ("bf16", "bf16"), ("int8", "f32")])
def test_openvino_is_told_the_precision(
    precision: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_target, "_able", lambda core: ["FP32", "FP16", "BF16", "INT8"])
    network = network_of(tmp_path, SIZE)
    for own, wanted in ((precision, None), ("fp32", precision)):
        request = OpenVinoTarget(OpenVinoSpec(precision=own))._request(replace(network, precision=wanted))
        assert request.settings["INFERENCE_PRECISION_HINT"] == asked


@needs_openvino
def test_openvino_computes_in_bf16_where_it_is_asked_to(tmp_path: Path) -> None:
    if "BF16" not in openvino_capabilities():
        pytest.skip("needs a CPU with bf16")
    network = Network("dense", (1, NARROW, SIZE, SIZE), onnx=write_onnx(tmp_path / "dense.onnx", NARROW))
    image = numpy.random.default_rng(0).random(network.input_shape, dtype=numpy.float32)
    full, short = (
        create_predictor(OpenVinoSpec(precision=precision), network)(image) for precision in ("fp32", "bf16")
    )
    assert not numpy.allclose(full, short, atol=1e-3)
    numpy.testing.assert_allclose(full, short, atol=0.2)


class _CoreOfAnOldCpu:
    """What OpenVINO says of a CPU without half precision."""

    def get_property(self, device: str, key: str) -> list[str]:
        return ["FP32", "INT8", "BIN", "EXPORT_IMPORT"]


@needs_openvino
def test_openvino_counts_its_threads_anew_for_every_target(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "one.onnx", NARROW)
    network = Network("dense", (1, NARROW, SIZE, SIZE), onnx=path)
    create_target(OPENVINO_SPEC).measure([network], reference="dense")
    two = OpenVinoTarget(OPENVINO_SPEC.model_copy(update={"threads": 2}))
    with two.pinned():
        compiled = compile_network(two._core, two._request(network))
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_openvino_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_openvino(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "openvino":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_openvino)
    target = create_target(OpenVinoSpec(name="board"))
    with pytest.raises(TargetError, match=r"'board'.*openvino.*pip install 'prunetune\[openvino\]'"):
        target.fingerprint()


@pytest.mark.parametrize(
    ("options", "provider"),
    [({}, "CUDAExecutionProvider"), ({"provider": "tensorrt", "precision": "fp16"}, "TensorrtExecutionProvider")],
)
def test_onnxruntime_without_a_provider_for_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], provider: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    target = create_target(parse_target_spec({"kind": "onnxruntime", "name": "board", "device": "cuda:1", **options}))
    network = Network("dense", (1, NARROW, SIZE, SIZE), onnx=write_onnx(tmp_path / "dense.onnx", NARROW))
    message = rf"'board'.*no {provider}, only CPUExecutionProvider; .*pip install onnxruntime-gpu.*device: cpu"
    with pytest.raises(TargetError, match=message):
        target.fingerprint()
    with pytest.raises(TargetError, match=message):
        target.measure([network], reference="dense")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the provider would start")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnxruntime_that_would_run_on_the_cpu_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    target = create_target(OnnxRuntimeSpec(name="board", device="cuda"))
    network = Network("dense", (1, NARROW, SIZE, SIZE), onnx=write_onnx(tmp_path / "dense.onnx", NARROW))
    with pytest.raises(TargetError, match=r"'board'.*CUDAExecutionProvider does not start.*nvidia-smi"):
        target.measure([network], reference="dense")


def test_onnxruntime_whose_provider_lacks_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def session(*_: object, **__: object) -> None:
        raise RuntimeError("Please install TensorRT libraries")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    target = create_target(OnnxRuntimeSpec(name="board", device="cuda", provider="tensorrt"))
    network = Network("dense", (1, NARROW, SIZE, SIZE), onnx=write_onnx(tmp_path / "dense.onnx", NARROW))
    with pytest.raises(TargetError, match=r"'board'.*does not start \(Please install TensorRT libraries\); check"):
        target.measure([network], reference="dense")


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


def test_torch_takes_images_in_the_layout_that_is_asked_for() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image.is_contiguous(memory_format=torch.channels_last))
            return image

    for channels_last in (True, False):
        seen.clear()
        target = create_target(TORCH_SPEC.model_copy(update={"channels_last": channels_last}))
        target.measure([Network("spy", (1, 3, 8, 8), module=Spy())], reference="spy")
        assert set(seen) == {channels_last}
    layouts = [TorchTarget(TorchSpec(channels_last=layout)).fingerprint()["runtime"] for layout in (False, True)]
    assert layouts[1] == f"{layouts[0]}, channels last"


def test_tensorrt_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    target = create_target(TensorRtSpec())
    with pytest.raises(MissingExtraError, match=r"pip install 'prunetune\[tensorrt\]'"):
        target.fingerprint()
    network = Network("dense", (1, NARROW, SIZE, SIZE), onnx=write_onnx(tmp_path / "dense.onnx", NARROW))
    with pytest.raises(MissingExtraError, match="tensorrt is not installed"):
        target.measure([network], reference="dense")


def test_a_network_in_fp16_computes_the_same_to_three_digits(tmp_path: Path) -> None:
    full, half = write_onnx(tmp_path / "full.onnx", NARROW), tmp_path / "half.onnx"
    halve(full, half)
    assert {item.data_type for item in onnx.load(half).graph.initializer} == {TensorProto.FLOAT16}
    image = numpy.random.default_rng(0).random((1, NARROW, SIZE, SIZE), dtype=numpy.float32)
    got, expected = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
        for path in (half, full)
    )
    assert got.dtype == numpy.float32
    numpy.testing.assert_allclose(got, expected, atol=0.02)


def test_what_cannot_be_halved_is_named(tmp_path: Path) -> None:
    (tmp_path / "corrupt.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(TargetError, match=r"corrupt\.onnx: is no ONNX file"):
        halve(tmp_path / "corrupt.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


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


@needs_openvino
def test_fingerprint_tells_the_hint() -> None:
    one, two = (OpenVinoTarget(OpenVinoSpec(hint=hint)).fingerprint() for hint in ("latency", "throughput"))
    assert one != two
    assert one["networks"] == two["networks"] == "a process each"


def test_import_loads_no_runtime() -> None:
    code = (
        "import sys, prunetune.targets as targets;"
        "targets.create_target(targets.TorchSpec());"
        "targets.create_target(targets.OnnxRuntimeSpec());"
        "targets.create_target(targets.OpenVinoSpec());"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
