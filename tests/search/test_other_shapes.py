"""Detectors with another coarsest stride than 32, or images of other than three channels, through every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from prunetune.pruning.yolo.detector import Detector, read_description
from prunetune.results.bundle import verify

Prunetune = Callable[..., Any]
WriteStudy = Callable[..., Path]

NAMES = ("square", "disc")
SHAPES = {"p6": ("yolov5n-p6.yaml", 128, 3), "grayscale": ("yolov5n.yaml", 64, 1), "four": ("yolov5n.yaml", 64, 4)}
"""Description, side of the input in px, channels."""
SPACE: dict[str, Any] = {"sparsity": 0.3, "sparse_epochs": 1, "threshold": 0.8, "recovery_epochs": 1}


def with_channels(data: Path, channels: int) -> Path:
    """Says how many channels the images of a data set are read with."""
    data.write_text(f"{data.read_text()}channels: {channels}\n")
    return data


@pytest.fixture(params=["grayscale", *(pytest.param(name, marks=pytest.mark.faults) for name in ("p6", "four"))])
def detector(request: pytest.FixtureRequest) -> tuple[Detector, int]:
    """A detector of each shape, and the side of its input."""
    model, imgsz, channels = SHAPES[request.param]
    return Detector.build({**read_description(model), "channels": channels}, NAMES), imgsz


@pytest.fixture
def saved(detector: tuple[Detector, int], tmp_path: Path) -> tuple[Path, int]:
    """The same as a checkpoint."""
    made, imgsz = detector
    made.save(tmp_path / "other.pt", {}, {"task": "detect", "imgsz": imgsz})
    return tmp_path / "other.pt", imgsz


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_measure(prunetune: Prunetune, saved: tuple[Path, int], target: str) -> None:
    file, imgsz = saved
    answer = prunetune("measure", file, "--target", target, "--imgsz", imgsz, "--repeats", 6, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["models"][str(file)]["median_ms"] > 0


def test_an_exported_file_says_its_channels_to_measure(
    prunetune: Prunetune, detector: tuple[Detector, int], tmp_path: Path
) -> None:
    made, imgsz = detector
    made.export_onnx(tmp_path / "other.onnx", imgsz)
    options = ("--imgsz", imgsz, "--repeats", 6, "--precision", "int8", "--json")
    answer = prunetune("measure", tmp_path / "other.onnx", *options)
    assert answer.code == 0, answer.err
    shape = [size.dim_value for size in onnx.load(tmp_path / "other.onnx").graph.input[0].type.tensor_type.shape.dim]
    assert tuple(shape) == made.input_shape(imgsz) == (1, made.image_channels, imgsz, imgsz)


def test_prune(prunetune: Prunetune, saved: tuple[Path, int], tmp_path: Path) -> None:
    file, imgsz = saved
    out = tmp_path / "pruned.pt"
    answer = prunetune("prune", file, "--threshold", 9, "--floor", 0.5, "--imgsz", imgsz, "--out", out, "--json")
    assert answer.code == 0, answer.err
    told, before, after = json.loads(answer.out), Detector.load(file), Detector.load(out)
    assert 0 < told["gflops"] < 0.6 * told["gflops_dense"]
    assert (after.stride, after.image_channels) == (before.stride, before.image_channels)
    assert after.channels.removed(before.channels) > 0.3


@pytest.mark.parametrize(
    ("model", "imgsz", "said"),
    [
        ("yolov5n-p6.yaml", 96, "96 is no multiple of 64, the stride of yolov5n-p6.yaml; take 64 or 128"),
        ("yolov5s-p6.yaml", 32, "32 is no multiple of 64, the stride of yolov5s-p6.yaml; take 64"),
        ("yolo26n-p6.yaml", 672, "672 is no multiple of 64, the stride of yolo26n-p6.yaml; take 640 or 704"),
    ],
)
def test_a_size_that_the_stride_does_not_divide(
    prunetune: Prunetune, write_study: WriteStudy, shapes: Path, tmp_path: Path, model: str, imgsz: int, said: str
) -> None:
    commands: list[tuple[Any, ...]] = [
        ("measure", model, "--imgsz", imgsz),
        ("measure", model, "--imgsz", imgsz, "--target", "torch"),
        ("profile", model, "--imgsz", imgsz, "--out", tmp_path / "table.json"),
        ("prune", model, "--threshold", 0.5, "--imgsz", imgsz),
    ]
    for command in commands:
        assert prunetune(*command).complaint == f"--imgsz: {said}"
    study = write_study(model=model, imgsz=imgsz, data=str(shapes))
    assert prunetune("run", study).complaint == f"imgsz: {said}"
    file = tmp_path / model.replace(".yaml", ".pt")
    Detector.load(model, NAMES).save(file, {}, {"task": "detect", "imgsz": 640})
    refused = prunetune("recover", file, f"data={shapes}", "epochs=1", f"imgsz={imgsz}").complaint
    assert refused == f"imgsz: {said.replace(model, str(file))}"
    assert not list(tmp_path.glob("**/stages/*"))


@pytest.mark.parametrize(("own", "given"), [(1, 3), (3, 1), (4, 3)])
def test_a_checkpoint_of_other_channels_than_the_images(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path, own: int, given: int
) -> None:
    file = tmp_path / "other.pt"
    Detector.build({**read_description("yolov5n.yaml"), "channels": own}, NAMES).save(file, {}, {"imgsz": 64})
    with_channels(data, given)
    commands: list[tuple[Any, ...]] = [
        ("run", write_study(model=str(file), data=str(data), trust=True)),
        ("recover", file, f"data={data}", "epochs=1", "imgsz=64"),
        ("prune", file, "--threshold", 1, "--importance", "taylor", "--data", data, "--imgsz", 64),
    ]
    for command in commands:
        complaint = prunetune(*command).complaint
        assert f"takes {own}-channel images, but the data set gives {given}-channel ones" in complaint
        assert str(file) in complaint


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize(("shape", "precision"), [("p6", "fp32"), ("grayscale", "int8")])
def test_a_study_and_what_ships_of_it(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path, shape: str, precision: str
) -> None:
    model, imgsz, channels = SHAPES[shape]
    study = write_study(
        model=model,
        imgsz=imgsz,
        data=str(with_channels(data, channels)),
        space=SPACE,
        targets=[{"kind": "onnxruntime", "name": "cpu", "threads": 1, "precision": precision, "runs": 6}],
        budget={"latency": "<= 100 x dense"},
        controls=["half-width"],
        trials=1,
    )
    answer = prunetune("run", study)
    assert answer.code == 0, answer.err
    bundle, again = tmp_path / "bundle", tmp_path / "again"
    where = (tmp_path / "runs" / "tiny",)
    assert prunetune("export", *where, "--trial", 0, "--out", bundle).code == 0
    told = json.loads((bundle / "bundle.json").read_text())
    detector = Detector.load(bundle / "model.pt")
    assert (told["stride"], told["image_channels"]) == (detector.stride, channels)
    assert detector.image_channels == channels
    assert f"1 x {channels} x {imgsz} x {imgsz}" in (bundle / "model-card.md").read_text()
    assert {check.state for check in verify.verify(bundle, str(data))} == {"holds"}
    recovered = prunetune("recover", bundle, f"data={data}", "epochs=1", "--out", again)
    assert recovered.code == 0, recovered.err
    assert {check.state for check in verify.verify(again, str(data))} == {"holds"}
    drawn = prunetune("pictures", *where, "--out", tmp_path / "drawn", "--trial", 0, "--images", 1)
    assert drawn.code == 0, drawn.err
    assert list((tmp_path / "drawn").glob("sample-*.jpg"))
    with_channels(data, 3 if channels == 1 else 1)
    assert f"--data {data}: has" in prunetune("verify", bundle, "--data", data).complaint
