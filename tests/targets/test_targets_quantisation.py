"""Networks in int8: what is rounded and what is not, and what the targets make of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from prunetune.spaces.errors import TargetError
from prunetune.targets import Network, OnnxRuntimeSpec, OpenVinoSpec, create_predictor, create_target, parse_target_spec
from prunetune.targets.backends.quantisation import Quantisation, QuantisedFiles, decoding, is_quantised, quantise
from prunetune.targets.measure import hardware
from prunetune.targets.network import Images

SHAPE = (1, 3, 32, 32)
STRIDE = 8
OPERATIONS = Quantisation(short_weights=True)
CONVOLUTIONS = Quantisation("convolutions", short_weights=True)


def write_detector(path: Path) -> Path:
    """A convolution with SiLU, and a head like Detect's: boxes in px and scores, joined in one output."""
    random = numpy.random.default_rng(0)

    def weight(name: str, outputs: int, inputs: int, side: int) -> Any:
        scale = random.uniform(0.05, 2, (outputs, 1, 1, 1))  # channels differ, as those of a trained network do
        value = scale * random.standard_normal((outputs, inputs, side, side)) * (2 / inputs / side**2) ** 0.5
        return numpy_helper.from_array(value.astype(numpy.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["s"], "stem", strides=[8, 8], kernel_shape=[8, 8]),
        helper.make_node("Sigmoid", ["s"], ["g"], "gate"),
        helper.make_node("Mul", ["s", "g"], ["f"], "silu"),
        helper.make_node("Conv", ["f", "box"], ["b"], "box"),
        helper.make_node("Conv", ["f", "class"], ["c"], "class"),
        helper.make_node("Reshape", ["b", "box_shape"], ["br"], "box_reshape"),
        helper.make_node("Reshape", ["c", "class_shape"], ["cr"], "class_reshape"),
        helper.make_node("Softmax", ["br"], ["p"], "softmax", axis=2),
        helper.make_node("Reshape", ["p", "image_shape"], ["pi"], "to_image"),
        helper.make_node("Conv", ["pi", "dfl"], ["d"], "dfl"),
        helper.make_node("Reshape", ["d", "list_shape"], ["dl"], "to_list"),
        helper.make_node("Mul", ["dl", "stride"], ["px"], "to_px"),
        helper.make_node("Sigmoid", ["cr"], ["scores"], "scores"),
        helper.make_node("Concat", ["px", "scores"], ["output"], "join", axis=1),
    ]
    constants = {"box_shape": [1, 4, 4, 16], "class_shape": [1, 2, 16], "image_shape": [1, 4, 4, 16]}
    constants |= {"list_shape": [1, 4, 16]}
    weights = [weight("stem", 16, 3, 8), weight("box", 16, 16, 1), weight("class", 2, 16, 1)]
    weights += [numpy_helper.from_array(numpy.array(value), name) for name, value in constants.items()]
    dfl = numpy.arange(4, dtype=numpy.float32).reshape(1, 4, 1, 1)
    nodes.insert(9, helper.make_node("Transpose", ["pi"], ["pt"], "bins_first", perm=[0, 2, 1, 3]))
    nodes[10].input[0] = "pt"
    weights += [numpy_helper.from_array(dfl, "dfl"), numpy_helper.from_array(numpy.float32(STRIDE * 40), "stride")]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 6, 16])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def pictures(count: int, seed: int = 0) -> tuple[Images, ...]:
    random = numpy.random.default_rng(seed)
    return tuple(random.random(SHAPE, dtype=numpy.float32) for _ in range(count))


def initializers(path: Path) -> dict[str, Any]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def rounded(path: Path) -> set[str]:
    """The nodes whose first input was rounded."""
    nodes = onnx.load(path).graph.node
    from_int8 = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    return {node.name for node in nodes if node.input[0] in from_int8 and node.op_type != "QuantizeLinear"}


def outputs(path: Path, images: Sequence[Images]) -> Images:
    predict = create_predictor(parse_target_spec({"kind": "onnxruntime"}), Network("dense", SHAPE, onnx=path))
    return numpy.concatenate([predict(image) for image in images])


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("detector") / "detector.onnx")


@pytest.mark.parametrize("how", [OPERATIONS, CONVOLUTIONS])
@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_boxes_and_scores_survive(detector: Path, tmp_path: Path, how: Quantisation, calibration: Any) -> None:
    how = Quantisation(how.rounds, calibration, short_weights=True)
    quantise(detector, tmp_path / "int8.onnx", pictures(8), how)
    unseen = pictures(4, seed=1)
    before, after = outputs(detector, unseen), outputs(tmp_path / "int8.onnx", unseen)
    assert not numpy.array_equal(before, after)
    scores, boxes = numpy.abs(after - before)[:, 4:], numpy.abs(after - before)[:, :4]
    assert scores.max() < 0.15
    assert scores.mean() < 0.02
    assert boxes.mean() < 0.02 * before[:, :4].max()


def test_one_scale_for_boxes_and_scores_would_destroy_the_scores(detector: Path) -> None:
    """Why the decoding stays in fp32: rounded to 255 steps of the largest box, no score is left."""
    output = outputs(detector, pictures(4))
    step = output.max() / 255
    assert (numpy.round(output[:, 4:] / step) == 0).mean() > 0.9


def test_what_is_rounded(detector: Path, tmp_path: Path) -> None:
    assert decoding(onnx.load(detector).graph) == {
        "box_reshape", "class_reshape", "softmax", "to_image", "bins_first", "dfl", "to_list", "to_px", "scores",
        "join",
    }  # fmt: skip
    for how, expected in (
        (OPERATIONS, {"stem", "gate", "silu", "box", "class"}),
        (CONVOLUTIONS, {"stem", "box", "class"}),
    ):
        quantise(detector, tmp_path / "int8.onnx", pictures(1), how)
        assert rounded(tmp_path / "int8.onnx") - {"box_reshape", "class_reshape"} == expected


def test_a_layer_without_a_detector_is_all_rounded(tmp_path: Path) -> None:
    """The networks that probes and tables time end with the layer itself."""
    from prunetune.targets.latency_model.conv_graph import ConvShape
    from prunetune.targets.latency_model.synthesis import write_layer

    write_layer(tmp_path / "layer.onnx", ConvShape((3, 3), (1, 1), (1, 1, 1, 1), (32, 32), activation="silu"), 8, 8, 1)
    quantise(tmp_path / "layer.onnx", tmp_path / "int8.onnx", pictures(1), OPERATIONS)
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    from_int8 = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    for kind in ("Conv", "Sigmoid", "Mul"):
        assert all(node.input[0] in from_int8 for node in nodes if node.op_type == kind), kind


@pytest.mark.parametrize(("short", "largest"), [(True, 64), (False, 127)])
def test_weights_have_a_scale_for_each_channel(detector: Path, tmp_path: Path, short: bool, largest: int) -> None:
    quantise(detector, tmp_path / "int8.onnx", pictures(1), Quantisation(short_weights=short))
    found = initializers(tmp_path / "int8.onnx")
    assert found["stem_scale"].shape == (16,)
    assert found["stem_quantized"].dtype == numpy.int8
    assert (numpy.abs(found["stem_quantized"]).max(axis=(1, 2, 3)) == largest).all()


def test_symmetric_activations_are_signed_around_zero(detector: Path, tmp_path: Path) -> None:
    quantise(detector, tmp_path / "int8.onnx", pictures(1), Quantisation(symmetric=True))
    points = [value for name, value in initializers(tmp_path / "int8.onnx").items() if name.endswith("_zero_point")]
    assert points
    assert all(value.dtype in (numpy.int8, numpy.int32) and not value.any() for value in points)


def test_a_quantised_file_is_taken_as_it_is(detector: Path, tmp_path: Path) -> None:
    quantise(detector, tmp_path / "once.onnx", pictures(1), OPERATIONS)
    quantise(tmp_path / "once.onnx", tmp_path / "twice.onnx", pictures(1), OPERATIONS)
    assert is_quantised(onnx.load(tmp_path / "twice.onnx"))
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()


def test_a_tensor_that_never_changes(detector: Path, tmp_path: Path) -> None:
    model = onnx.load(detector)
    (stem,) = (item for item in model.graph.initializer if item.name == "stem")
    stem.CopyFrom(numpy_helper.from_array(numpy.full((16, 3, 8, 8), 1e-9, dtype=numpy.float32), "stem"))
    onnx.save(model, tmp_path / "dead.onnx")
    quantise(tmp_path / "dead.onnx", tmp_path / "int8.onnx", pictures(2), OPERATIONS)
    assert numpy.isfinite(outputs(tmp_path / "int8.onnx", pictures(1))).all()


def test_a_tensor_that_the_first_image_leaves_all_but_silent(detector: Path, tmp_path: Path) -> None:
    """Its histogram would have 2,048 bins for each 1e-6: gigabytes, and minutes."""
    first, *others = pictures(3)
    images = (first * 1e-6, *others)
    for calibration in ("percentile", "minmax"):
        quantise(detector, tmp_path / calibration, images, Quantisation(calibration=calibration))  # type: ignore[arg-type]
    assert (tmp_path / "percentile").read_bytes() == (tmp_path / "minmax").read_bytes()


def test_images_of_another_brightness_have_their_histograms(detector: Path, tmp_path: Path) -> None:
    first, *others = pictures(3)
    images = (first * 0.05, *others)
    for calibration in ("percentile", "minmax"):
        quantise(detector, tmp_path / calibration, images, Quantisation(calibration=calibration))  # type: ignore[arg-type]
    assert (tmp_path / "percentile").read_bytes() != (tmp_path / "minmax").read_bytes()


def test_errors_name_the_file(detector: Path, tmp_path: Path) -> None:
    wrong = (numpy.zeros((1, 3, 64, 64), dtype=numpy.float32),)
    (tmp_path / "corrupt.onnx").write_bytes(b"no protobuf at all")
    for source, images, message in (
        (detector, (), r"detector\.onnx.*images.*at least one"),
        (detector, wrong, r"detector\.onnx.*1 x 3 x 64 x 64"),
        (tmp_path / "gone.onnx", pictures(1), r"gone\.onnx.*export"),
        (tmp_path / "corrupt.onnx", pictures(1), r"corrupt\.onnx.*export"),
    ):
        with pytest.raises(TargetError, match=message):
            quantise(source, tmp_path / "int8.onnx", images, OPERATIONS)
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize(
    ("machine", "flags", "able"),
    [
        ("x86_64", "flags\t\t: sse2 avx2 fma", False),
        ("x86_64", "flags\t\t: avx2 avx512f avx512_vnni", True),
        ("AMD64", "flags\t\t: avx2 avx_vnni", True),
        ("x86_64", "", False),
        ("aarch64", "Features\t: fp asimd", True),
    ],
)
def test_weights_are_short_where_products_overflow(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, able: bool
) -> None:
    monkeypatch.setattr(hardware.platform, "machine", lambda: machine)
    monkeypatch.setattr(hardware, "_read", lambda path: f"processor\t: 0\n{flags}\n")
    assert hardware.multiplies_int8() is able
    assert Quantisation.of(OnnxRuntimeSpec()) == Quantisation(short_weights=not able)
    assert Quantisation.of(OpenVinoSpec()) == Quantisation("convolutions", short_weights=not able)


def test_files_are_kept_from_one_measurement_to_the_next(detector: Path) -> None:
    files = QuantisedFiles(OPERATIONS)
    anchor, other = (Network("net", SHAPE, onnx=detector, calibration=pictures(1, seed)) for seed in (0, 1))
    kept, dropped = files.file(anchor), files.file(other)
    assert kept != dropped
    files.tidy()
    written = kept.stat().st_mtime_ns
    assert files.file(anchor) == kept
    files.tidy()
    assert kept.stat().st_mtime_ns == written
    assert not dropped.exists()


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_a_target_calibrates_with_the_networks_own_images(detector: Path, kind: str) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino")
    spec = parse_target_spec({"kind": kind, "precision": "int8", "warmup": 1, "runs": 6})
    images = pictures(8)
    before = outputs(detector, images)
    errors = {}
    for name, calibration in (("own", images), ("dark", tuple(image / 100 for image in images))):
        predict = create_predictor(spec, Network(name, SHAPE, onnx=detector, calibration=calibration))
        after = numpy.concatenate([predict(image) for image in images])
        errors[name] = numpy.abs(after - before)[:, 4:].mean()
    assert 0 < errors["own"] < errors["dark"] / 3
    assert create_target(spec).measure([Network("noise", SHAPE, onnx=detector)], "noise")["noise"].median_ms > 0


def test_only_files_have_outputs() -> None:
    with pytest.raises(TargetError, match=r"'cpu'.*torch.*onnxruntime"):
        create_predictor(parse_target_spec({"kind": "torch"}), Network("dense", SHAPE))
