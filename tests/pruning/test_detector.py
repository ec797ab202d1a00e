"""The adapter over ultralytics' detectors: loading, saving, exporting."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from prunetune.pruning.planning.plan import plan_pruning
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.batchnorm import norm_layers, recalibrate
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.pruning.yolo.detector import Detector, read_description, scaled_width
from prunetune.spaces import ImageSize, ModelError, Threshold

NAMES = ("square", "disc")
TRAIN_ARGS = {"task": "detect", "imgsz": 64}


def images_of(data: Path) -> torch.Tensor:
    """The validation images: (8, 3, 64, 64), from 0 to 1."""
    files = sorted((data.parent / "images" / "val").glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module", params=["yolov5n.yaml", "yolov5n-deconv.yaml"])
def pruned(request: pytest.FixtureRequest, shapes: Path) -> Detector:
    """A detector with random gammas, a third of its parameters cut, whose statistics fit the images."""
    detector = Detector.load(request.param, NAMES)
    generator = torch.Generator().manual_seed(0)
    for gamma in [norm.weight for norm in norm_layers(detector.model).values()]:
        gamma.data.uniform_(0, 1, generator=generator)
    plan = plan_pruning(detector.model, Threshold.everywhere(0.5), alignment=8)
    narrow = Detector(apply_plan(detector.model, plan), request.param)
    assert narrow.params < 0.7 * detector.params
    recalibrate(narrow.model, [images_of(shapes)])  # with its first statistics it would not see the image
    return narrow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint of an untrained network."""
    file = tmp_path_factory.mktemp("sound") / "sound.pt"
    Detector.load("yolov5n.yaml", NAMES).save(file, {}, TRAIN_ARGS)
    return file


def weights(detector: Detector) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in detector.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Descriptions


@pytest.mark.parametrize(("name", "params"), [("yolov5n.yaml", 2.5e6), ("yolov5s.yaml", 9.1e6)])
def test_by_ultralytics_name_with_the_right_scale(name: str, params: float) -> None:
    prepare_ultralytics()
    from ultralytics import YOLO

    detector = Detector.load(name, NAMES)
    assert detector.names == NAMES
    assert detector.params == pytest.approx(params, rel=0.02)
    stock = YOLO(name)
    assert Detector.load(name).params == sum(weight.numel() for weight in stock.model.parameters())


def test_the_shipped_deconvolution_variant_has_scales_too() -> None:
    small, large = (Detector.load(f"yolov5{size}-deconv.yaml", NAMES) for size in "ns")
    assert large.params > 3 * small.params
    assert large.params > Detector.load("yolov5s.yaml", NAMES).params
    upsampling = [module for module in small.model.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [module.out_channels for module in upsampling] == [128, 64]


@pytest.mark.parametrize("asked", ["mine5n.yaml", "yolov5s.yaml"])
def test_by_file(tmp_path: Path, asked: str) -> None:
    stored = asked.replace("yolov5s", "yolov5")
    description = {**read_description("yolov5n.yaml"), "nc": 7}
    del description["scale"]
    (tmp_path / stored).write_text(yaml.safe_dump(description, sort_keys=False))
    detector = Detector.load(tmp_path / asked)
    assert len(detector.names) == 7
    expected = "yolov5s.yaml" if asked == "yolov5s.yaml" else "yolov5n.yaml"
    assert detector.params == pytest.approx(Detector.load(expected, NAMES).params, rel=0.01)


def test_the_seed_decides_the_first_weights() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (Detector.load("yolov5n.yaml", NAMES, seed=seed) for seed in (1, 1, 2))
    assert equal(weights(one), weights(same))
    assert not equal(weights(one), weights(other))
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's random numbers are left alone"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("yolo5n.yaml", "yolov5n.yaml"),
        ("yolov5n-decon.yaml", "yolov5n-deconv.yaml"),
        ("yolov5q.yaml", "yolov5.*.yaml"),
    ],
)
def test_a_misspelt_name_gives_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ModelError, match=rf"{name}: no such model description; did you mean {nearest}\?"):
        Detector.load(name)


def test_a_missing_description_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.yaml: no such model description"):
        Detector.load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, b]\ntrain: images\n", "not a model description; it needs the keys backbone and head"),
        ("- a\n- b\n", "cannot be read as YAML"),
        ("", "not a model description"),
        ("backbone: [\n", "cannot be read as YAML"),
        ("backbone: 3\nhead: 4\n", "not the description of a detector"),
        (
            "nc: 2\nbackbone:\n  - [-1, 1, Cnov, [16, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n",
            "not the description of a detector .*Cnov",
        ),
        ("nc: 2\nbackbone:\n  - [-1, 1, Conv, [16, 3, 2]]\nhead:\n  - [-1, 1, Conv, [16]]\n", "is no detection model"),
    ],
)
def test_a_wrong_description_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ModelError, match=rf"wrong\.yaml: {message}"):
        Detector.load(tmp_path / "wrong.yaml")


@pytest.mark.parametrize("name", ["yolov8n-cls.yaml", "yolo26n-sem.yaml", "rtdetr-l.yaml"])
def test_a_description_for_another_task(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}: is no detection model"):
        Detector.load(name)


def test_half_the_width() -> None:
    detector = Detector.load("yolov5s.yaml", NAMES)
    half = Detector.build(scaled_width(detector.model.yaml, 0.5), NAMES)
    assert half.params == pytest.approx(Detector.load("yolov5n.yaml", NAMES).params)
    quarter = Detector.build(scaled_width(detector.model.yaml, 0.25), NAMES)
    assert quarter.params < 0.4 * half.params
    body = [name for name in detector.channels if not name.startswith("model.24")]
    assert all(half.channels[name] == detector.channels[name] / 2 for name in body)


def test_half_the_width_without_scales() -> None:
    description = {"nc": 2, "width_multiple": 0.5, "backbone": [], "head": []}
    assert scaled_width(description, 0.5)["width_multiple"] == 0.25
    assert description["width_multiple"] == 0.5


# Checkpoints


def test_saved_weights_are_fp32_and_equal(pruned: Detector, tmp_path: Path) -> None:
    before, modes = weights(pruned), [module.training for module in pruned.model.modules()]
    record = {"plan": {"digest": "0123"}, "epochs": 3}
    pruned.save(tmp_path / "pruned.pt", record, TRAIN_ARGS)
    loaded = Detector.load(tmp_path / "pruned.pt")
    assert equal(weights(loaded), before)
    assert {value.dtype for value in weights(loaded).values()} <= {torch.float32, torch.int64}
    assert (loaded.channels, loaded.names) == (pruned.channels, NAMES)
    assert all(weight.requires_grad for weight in loaded.model.parameters()), "it can be trained again"
    stored = torch.load(tmp_path / "pruned.pt", weights_only=False)
    assert stored["prunetune"] == record
    assert [path.name for path in tmp_path.iterdir()] == ["pruned.pt"]
    assert equal(weights(pruned), before)
    assert [module.training for module in pruned.model.modules()] == modes
    assert any(weight.requires_grad for weight in pruned.model.parameters())


def test_a_loaded_network_computes_the_same(pruned: Detector, shapes: Path, tmp_path: Path) -> None:
    pruned.save(tmp_path / "pruned.pt", {}, TRAIN_ARGS)
    images = images_of(shapes)
    with torch.no_grad():
        outputs = [
            detector.copy().model.eval()(images)[0] for detector in (pruned, Detector.load(tmp_path / "pruned.pt"))
        ]
    assert torch.equal(*outputs)


@pytest.mark.slow
def test_stock_ultralytics_predicts_with_it(
    pruned: Detector, shapes: Path, tmp_path: Path, stock_ultralytics: Callable[..., dict[str, Any]]
) -> None:
    pruned.save(tmp_path / "pruned.pt", {"epochs": 3}, TRAIN_ARGS)
    image = shapes.parent / "images" / "val" / "000.png"
    seen = stock_ultralytics("predict", tmp_path / "pruned.pt", image, 64)
    assert seen["classes"] == list(NAMES)
    assert seen["dtype"] == "torch.float32"
    assert len(seen["boxes"]) > 0


@pytest.mark.parametrize("name", ["it's a network.pt", "o'brien/'best'.pt", "yolov5n.pt", " blank.pt"])
def test_a_name_that_ultralytics_would_change(
    pruned: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    pruned.save(Path(name), {}, {"task": "detect", "imgsz": 64})
    loaded = Detector.load(name)
    assert loaded.source == name
    assert loaded.channels == pruned.channels


@pytest.mark.parametrize(("imgsz", "stored"), [(96, 96), ((64, 96), [64, 96])])
def test_a_checkpoint_for_another_input_size_differs_in_that_alone(
    pruned: Detector, tmp_path: Path, imgsz: ImageSize, stored: int | list[int]
) -> None:
    pruned.save(tmp_path / "pruned.pt", {"kind": "recovery"}, TRAIN_ARGS)
    Detector.load(tmp_path / "pruned.pt").save_for(tmp_path / "small.pt", imgsz)
    small = Detector.load(tmp_path / "small.pt")
    assert small.model.args == {**pruned_args(tmp_path / "pruned.pt"), "imgsz": stored}
    assert small.record == {"kind": "recovery"}
    for name, weights in pruned.model.state_dict().items():
        assert small.model.state_dict()[name].equal(weights), name


def pruned_args(file: Path) -> dict[str, Any]:
    """What `YOLO(file)` falls back to."""
    return dict(Detector.load(file).model.args)


def test_a_missing_checkpoint_gives_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    with pytest.raises(ModelError, match=r"bset\.pt: no such file; did you mean best\.pt\?"):
        Detector.load(tmp_path / "bset.pt")
    with pytest.raises(ModelError, match=r"best\.pt: no such file"):
        Detector.load(tmp_path / "missing" / "best.pt")


def _random_bytes(file: Path, sound: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(5000))


def _truncated(file: Path, sound: Path) -> None:
    file.write_bytes(sound.read_bytes()[: sound.stat().st_size // 2])


def _flipped(file: Path, sound: Path) -> None:
    content = bytearray(sound.read_bytes())
    content[200:1200] = bytes(1000)
    file.write_bytes(content)


def _empty(file: Path, sound: Path) -> None:
    file.touch()


def _text(file: Path, sound: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\n")


def _weights_only(file: Path, sound: Path) -> None:
    torch.save(Detector.load(sound).model.state_dict(), file)


def _not_a_dictionary(file: Path, sound: Path) -> None:
    torch.save([1, 2, 3], file)


def _other_network(file: Path, sound: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, file)


@pytest.mark.parametrize(
    "damage",
    [_random_bytes, _truncated, _flipped, _empty, _text, _weights_only, _not_a_dictionary, _other_network],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_a_damaged_or_foreign_checkpoint(
    tmp_path: Path, checkpoint: Path, damage: Callable[[Path, Path], None]
) -> None:
    damage(tmp_path / "broken.pt", checkpoint)
    before = (tmp_path / "broken.pt").read_bytes()
    with pytest.raises(ModelError, match=r"broken\.pt: ") as caught:
        Detector.load(tmp_path / "broken.pt")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "broken.pt").read_bytes() == before


@pytest.mark.parametrize("name", ["yolov8n-cls", "yolo26n-sem"])
def test_a_checkpoint_for_another_task(tmp_path: Path, name: str) -> None:
    prepare_ultralytics()
    from ultralytics import YOLO

    YOLO(f"{name}.yaml").save(tmp_path / f"{name}.pt")
    with pytest.raises(ModelError, match=rf"{name}\.pt: is no detection model but a "):
        Detector.load(tmp_path / f"{name}.pt")


@pytest.mark.parametrize(("name", "task", "finds"), [
    ("yolov8n-seg", "segment", "masks"), ("yolo11n-pose", "pose", "keypoints"), ("yolo26n-obb", "obb", "rotated boxes"),
])  # fmt: skip
def test_what_finds_more_than_boxes_is_loaded_but_not_judged(tmp_path: Path, name: str, task: str, finds: str) -> None:
    prepare_ultralytics()
    from ultralytics import YOLO

    YOLO(f"{name}.yaml").save(tmp_path / f"{name}.pt")
    for detector in (Detector.load(tmp_path / f"{name}.pt"), Detector.load(f"{name}.yaml", NAMES)):
        assert detector.task == task
        with pytest.raises(ModelError, match=f"{name}.*: finds {finds}, which are neither trained nor judged yet"):
            detector.require_boxes()
    Detector.load("yolov8n.yaml").require_boxes()


def test_a_copy_is_independent() -> None:
    detector = Detector.load("yolov5n.yaml", NAMES)
    copy = detector.copy()
    next(copy.model.parameters()).data.zero_()
    assert not equal(weights(copy), weights(detector))


def test_gflops_grow_with_the_image() -> None:
    detector = Detector.load("yolov5n.yaml", NAMES)
    before = weights(detector)
    assert detector.gflops(640) == pytest.approx(7.1, abs=0.3)
    assert detector.gflops(320) == pytest.approx(detector.gflops(640) / 4, rel=0.05)
    assert equal(weights(detector), before)


# ONNX


@pytest.mark.slow
def test_onnx_computes_what_the_checkpoint_does(
    pruned: Detector, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    pruned.model.train()
    before = weights(pruned)
    pruned.export_onnx(tmp_path / "pruned.onnx", imgsz=64)

    images = images_of(shapes)
    session = onnxruntime.InferenceSession(tmp_path / "pruned.onnx", providers=["CPUExecutionProvider"])
    pruned.save(tmp_path / "pruned.pt", {}, TRAIN_ARGS)
    network = Detector.load(tmp_path / "pruned.pt").model.eval()
    with torch.no_grad():
        expected, exact = network(images)[0].numpy(), deepcopy(network).double()(images.double())[0].numpy()
    assert np.ptp(expected, axis=0).max() > 0.1, "the network looks at the image"
    # Boxes of random weights reach hundreds of px, where fp32 itself errs by more than 1e-3 px. Trained networks
    # are compared to 1e-3 in the tests of the pipeline.
    error = np.abs(expected - exact).max()
    for image, output in zip(images, expected, strict=True):
        (got,) = session.run(None, {session.get_inputs()[0].name: image[None].numpy()})
        assert got.shape == (1, 4 + len(NAMES), 84)
        np.testing.assert_allclose(got[0], output, rtol=0, atol=1e-3 + 3 * error)

    assert equal(weights(pruned), before)
    assert all(module.training for module in pruned.model.modules())
    assert any(weight.requires_grad for weight in pruned.model.parameters())
    assert list((tmp_path / "current").iterdir()) == [], "nothing is left in the current folder"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "pruned.onnx", "pruned.pt"]
    metadata = {item.key: item.value for item in onnx.load(tmp_path / "pruned.onnx").metadata_props}
    assert metadata["imgsz"] == "[64, 64]"
    assert metadata["names"] == "{0: 'square', 1: 'disc'}"


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pruned.onnx").write_text("old")

    def fail(*paths: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(ZeroDivisionError):
        Detector.load("yolov5n.yaml", NAMES).export_onnx(tmp_path / "pruned.onnx", imgsz=64)
    assert (tmp_path / "pruned.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["pruned.onnx"]


@pytest.mark.parametrize("gamma", [1.0, 0.0])
def test_a_network_of_next_to_nothing_is_exported(gamma: float, tmp_path: Path) -> None:
    """Zeros are shared in the file, which is then smaller still."""
    detector = Detector.load("yolov5n.yaml", NAMES)
    tiny = Detector(apply_plan(detector.model, plan_pruning(detector.model, Threshold.everywhere(9.0), 8)), "")
    for parameter in [norm.weight for norm in norm_layers(tiny.model).values()]:
        nn.init.constant_(parameter, gamma)
    tiny.export_onnx(tmp_path / "tiny.onnx", imgsz=64)
    session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": np.zeros((1, 3, 64, 64), np.float32)})
    assert np.isfinite(output).all()
