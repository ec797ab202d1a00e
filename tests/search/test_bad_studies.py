"""One clear message for every bad input to `run`: descriptions, data sets and detectors."""

from __future__ import annotations

import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
import torch

from prunetune.pruning.yolo.detector import Detector
from prunetune.search.engine.study_setup import check_study, prepare_study
from prunetune.search.engine.taking import next_trial
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec

Prunetune = Callable[..., Any]
WriteStudy = Callable[..., Path]


BAD_SPECS = [
    pytest.param({"imgzs": 64}, ["imgzs", "did you mean imgsz?"], id="unknown key"),
    pytest.param({"imgsz": "big"}, ["imgsz", "valid integer", "'big'"], id="wrong type"),
    pytest.param({"rounds": {"low": 3, "high": 1}}, ["space.rounds", "low (3)", "high (1)"], id="low above high"),
    pytest.param({"sparse_epochs": {"choices": []}}, ["space.sparse_epochs.choices", "at least 1"], id="no choices"),
    pytest.param({"budget": {"latency": "fast"}}, ["budget.latency", "'<= half-width'"], id="budget"),
    pytest.param({"model": "missing.pt"}, ["model: missing.pt", "no such file"], id="missing checkpoint"),
    pytest.param({"model": "yolov5nn.yaml"}, ["model: yolov5nn.yaml", "did you mean yolov5"], id="missing yaml"),
    pytest.param({"model": "yolov10n.yaml"}, ["model.5: a SCDown block cannot be pruned yet"], id="another family"),
    pytest.param({"model": "yolo11n-seg.yaml"}, ["model: yolo11n-seg.yaml: finds masks"], id="another task"),
    pytest.param({"model": "model.onnx"}, ["model", "takes a .yaml or a .pt"], id="no model"),
    pytest.param({"device": 7}, ["device: GPU 7 is not there", "write cpu"], id="no such GPU"),
    pytest.param({"data": "missing.yaml"}, ["data: missing.yaml", "no such file"], id="missing data"),
    pytest.param({"train": {"mosiac": 0.5}}, ["train.mosiac", "did you mean mosaic?"], id="training argument"),
    pytest.param({"train": {"mosaic": 7.0}}, ["train.mosaic", "between 0.0 and 1.0"], id="training value"),
]


@pytest.mark.parametrize(("changes", "said"), BAD_SPECS)
def test_a_bad_description_is_refused(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, changes: dict[str, Any], said: list[str]
) -> None:
    space = {"sparsity": 0.3, "sparse_epochs": 1, "threshold": 0.5, "recovery_epochs": 1}
    outside = {key: value for key, value in changes.items() if key not in ("rounds", "sparse_epochs")}
    inside = {key: value for key, value in changes.items() if key not in outside}
    file = write_study(**{"data": str(data), "space": {**space, **inside}, **outside})
    message = prunetune("run", file).complaint
    for words in said:
        assert words in message
    assert not (file.parent / "runs" / "tiny").exists()


def test_a_detector_of_other_classes_is_refused_before_a_study_begins(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path
) -> None:
    Detector.load("yolov5n.yaml").save(tmp_path / "coco.pt", {}, {"task": "detect", "imgsz": 64})
    file = write_study(data=str(data), model=str(tmp_path / "coco.pt"), trust=True)
    message = prunetune("run", file).complaint
    assert f"model: {tmp_path / 'coco.pt'}: has 80 classes, but the data set has 2" in message
    assert not (file.parent / "runs" / "tiny").exists()


def test_another_model_under_the_same_name_is_refused(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path
) -> None:
    def write_model(seed: int) -> None:
        model = Detector.load("yolov5n.yaml", names=("square", "disc"), seed=seed)
        model.save(tmp_path / "mine.pt", {}, {"task": "detect", "imgsz": 64})

    write_model(0)
    file = write_study(data=str(data), model=str(tmp_path / "mine.pt"), trust=True)
    spec = StudySpec.read(file)
    prepare_study(open_study(spec), check_study(spec))
    write_model(1)
    message = prunetune("run", file, "trials=2").complaint
    assert message.startswith(f"model: {tmp_path / 'mine.pt'} is another file than when the study began")


def test_all_that_is_wrong_with_the_files_is_told_together(prunetune: Prunetune, write_study: WriteStudy) -> None:
    file = write_study(model="missing.pt", data="missing.yaml", train={"mosiac": 1.0})
    message = prunetune("run", file).complaint
    assert "3 problems" in message
    for words in ("model: missing.pt", "data: missing.yaml", "train.mosiac"):
        assert words in message


def test_a_missing_description(prunetune: Prunetune, write_study: WriteStudy, tmp_path: Path) -> None:
    write_study()
    message = prunetune("run", tmp_path / "stduy.yaml").complaint
    assert "did you mean" in message
    assert "study.yaml?" in message


def no_labels(data: Path) -> list[str]:
    shutil.rmtree(data.parent / "labels" / "train")
    return ["train: no labels", "labels/train/000.txt"]


def class_out_of_range(data: Path) -> list[str]:
    for label in (data.parent / "labels" / "train").iterdir():
        label.write_text("2 0.5 0.5 0.2 0.2\n")
    return ["labels/train/000.txt", "class index 2 out of range", "train: "]


def corrupt_images(data: Path) -> list[str]:
    for image in (data.parent / "images" / "val").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    return ["images/val/002.png", "cannot be used", "replace it", "val: "]


def no_images(data: Path) -> list[str]:
    shutil.rmtree(data.parent / "images" / "val")
    return ["val: ", "images/val does not exist"]


@pytest.mark.parametrize("damage", [no_labels, class_out_of_range, corrupt_images, no_images])
def test_a_bad_data_set_is_refused(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, damage: Callable[[Path], list[str]]
) -> None:
    said = damage(data)
    file = write_study(data=str(data))
    message = prunetune("run", file).complaint
    assert str(data.parent) in message
    for words in said:
        assert words in message
    assert not (file.parent / "runs" / "tiny").exists()


def truncated(file: Path, sound: Path) -> str:
    file.write_bytes(sound.read_bytes()[:50_000])
    return "cannot be read as an ultralytics checkpoint"


def empty(file: Path, sound: Path) -> str:
    file.write_bytes(b"")
    return "cannot be read as an ultralytics checkpoint"


def text(file: Path, sound: Path) -> str:
    file.write_text("weights")
    return "cannot be read as an ultralytics checkpoint"


def foreign(file: Path, sound: Path) -> str:
    torch.save({"weights": torch.zeros(3)}, file)
    return "cannot be read as an ultralytics checkpoint"


def pointer(file: Path, sound: Path) -> str:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    return "it is a pointer of Git LFS in the place of the file; run: git lfs pull"


def web_page(file: Path, sound: Path) -> str:
    file.write_text("\n<!DOCTYPE html><html><body>Not found</body></html>")
    return "it is a web page"


def torchscript(file: Path, sound: Path) -> str:
    torch.jit.trace(torch.nn.Linear(3, 3), torch.zeros(1, 3)).save(str(file))
    return "it is TorchScript"


def onnx_file(file: Path, sound: Path) -> str:
    import onnx

    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "graph", [], [])
    onnx.save(onnx.helper.make_model(graph), file)
    return "it is an ONNX file"


def weights_alone(file: Path, sound: Path) -> str:
    from prunetune.pruning.yolo.detector import Detector

    torch.save({"model": Detector.load(sound).model.state_dict(), "epoch": 3}, file)
    return "it holds weights, and no network"


def of_yolov5s_repository(file: Path, sound: Path) -> str:
    modules = {name: types.ModuleType(name) for name in ("models", "models.yolo")}
    network = type("DetectionModel", (), {"__module__": "models.yolo"})
    modules["models.yolo"].DetectionModel = network  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        torch.save({"model": network(), "epoch": 3}, file)
    return "it is of a repository such as YOLOv5's own"


def link_to_nothing(file: Path, sound: Path) -> str:
    file.symlink_to("nowhere.pt")
    return "is a link to nowhere.pt, which leads to no file"


def of_another_task(file: Path, sound: Path) -> str:
    from ultralytics.nn.tasks import ClassificationModel

    torch.save({"model": ClassificationModel("yolov8n-cls.yaml", verbose=False)}, file)
    return "is no detection model but a ClassificationModel"


SORTS = [
    pointer,
    web_page,
    torchscript,
    onnx_file,
    weights_alone,
    of_yolov5s_repository,
    link_to_nothing,
    of_another_task,
]


def without_batchnorm(file: Path, sound: Path) -> str:
    from prunetune.pruning.yolo.detector import Detector

    detector = Detector.load(sound)
    detector.model.fuse(verbose=False)
    detector.save(file, {}, {"task": "detect", "imgsz": 64})
    return "BatchNorm"


@pytest.mark.parametrize("damage", [truncated, empty, text, foreign, without_batchnorm, *SORTS])
def test_a_bad_checkpoint_is_refused(
    prunetune: Prunetune,
    write_study: WriteStudy,
    data: Path,
    checkpoint: Path,
    tmp_path: Path,
    damage: Callable[[Path, Path], str],
) -> None:
    bad = tmp_path / "bad.pt"
    said = damage(bad, checkpoint)
    file = write_study(data=str(data), model=str(bad), trust=True)
    for command in (("run", file), ("prune", bad, "--threshold", 0.5, "--out", tmp_path / "out.pt")):
        message = prunetune(*command).complaint
        assert str(bad) in message
        assert said in message
    assert not (tmp_path / "runs" / "tiny").exists()
    assert not (tmp_path / "out.pt").exists()


def test_a_spec_that_differs_from_the_stored_studys(
    prunetune: Prunetune, write_study: WriteStudy, make_spec: Callable[..., StudySpec], data: Path
) -> None:
    spec = make_spec(data=str(data))
    assert next_trial(open_study(spec), spec) is not None
    before = sorted(path.name for path in spec.folder.iterdir())
    message = prunetune("run", write_study(data=str(data)), "imgsz=96", "batch=4").complaint
    assert re.search("imgsz +64 +96", message)
    assert re.search("batch +8 +4", message)
    assert "name=tiny-2" in message
    assert sorted(path.name for path in spec.folder.iterdir()) == before


def test_what_is_meant_for_ray_is_not_taken_silently(
    write_study: Callable[..., Path], prunetune: Callable[..., Any]
) -> None:
    file = write_study(data="nowhere.yaml")
    message = prunetune("run", file, "ray.gpus=0.5", "ray.cpus=2").complaint
    assert message == "ray.gpus, ray.cpus: counts with a Ray cluster only; add --engine ray, or leave it out"
    noted = "ray: what the description says of a Ray cluster counts with --engine ray only"
    assert noted not in prunetune("run", file).out
    file = write_study(data="nowhere.yaml", ray={"gpus": 0.5})
    assert noted in prunetune("run", file).out
    assert prunetune("run", file, "--quiet").out == ""


def test_a_checkpoint_may_have_a_class_without_a_name_and_paths_of_windows(
    prunetune: Prunetune, checkpoint: Path, tmp_path: Path
) -> None:
    held = torch.load(checkpoint, weights_only=False)
    held["model"].names = {0: "", 1: "disc"}
    held["train_args"] = {**held["train_args"], "data": "C:\\data.yaml", "model": PureWindowsPath("C:\\x\\y.pt")}
    file = tmp_path / "größe mit blank.pt"
    torch.save(held, file)
    done = prunetune("prune", file, "--threshold", 0.5, "--imgsz", 64, "--out", tmp_path / "out.pt")
    assert done.code == 0, done.err
    assert Detector.load(tmp_path / "out.pt").names == ("", "disc")
