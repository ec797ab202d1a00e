"""The command line: what it imports, what its short commands give, and one clear message for every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunetune.pruning.detector import Detector
from prunetune.pruning.store import StageStore
from prunetune.search.spec import StudySpec
from prunetune.search.study import open_study

Prunetune = Callable[..., Any]
WriteStudy = Callable[..., Path]

QUICK_SPACE = {"sparsity": 0.3, "sparse_epochs": 0, "threshold": 0.5, "recovery_epochs": 0}
"""A space whose recipes train nothing."""


def complaint(answer: Any) -> str:
    """The one message of a command that was refused."""
    assert answer.code == 2, answer.err or answer.out
    assert "Traceback" not in answer.err
    assert answer.err.startswith("error: ")
    assert answer.err.count("error: ") == 1
    message: str = answer.err.removeprefix("error: ").rstrip("\n")
    return message


# What it imports


def test_what_only_reads_starts_without_torch(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec()
    study = open_study(spec)
    study.set_user_attr("targets", [{"name": "cpu", "budget": {"text": "<= dense", "limit_ms": 1.0}}])
    folder, runs = str(spec.folder), str(spec.folder.parent)
    StageStore(spec.folder.parent / ".store")
    commands = [
        ["--help"],
        ["run", "--help"],
        ["status", folder],
        ["status", folder, "--json"],
        ["front", folder],
        ["front", folder, "--json"],
        ["report", folder],
        ["store", "ls", "--runs", runs],
        ["store", "gc", "--dry-run", "--runs", runs],
        ["store", "verify", "--runs", runs],
    ]
    code = f"""
import contextlib, io, json, sys
from prunetune.search.cli import main
loaded, codes = {{}}, []
for command in {commands!r}:
    sys.argv = ["prunetune", *command]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
    assert out.getvalue().strip(), command
    loaded[" ".join(command)] = [name for name in ("torch", "ultralytics", "ray") if name in sys.modules]
print(json.dumps(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(map(tuple, json.loads(done.stdout).values())) == {()}
    assert (spec.folder / "report.html").is_file()


def test_help_names_every_command(prunetune: Prunetune) -> None:
    answer = prunetune("--help")
    assert answer.code == 0
    commands = ("run", "status", "front", "report", "export", "prune", "measure", "align-probe", "profile", "store")
    for command in (*commands, "doctor"):
        assert f" {command} " in answer.out


# prune


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained yolov5n of two classes as a .pt."""
    from prunetune.pruning.detector import Detector

    file = tmp_path_factory.mktemp("models") / "model.pt"
    Detector.load("yolov5n.yaml", names=("square", "disc")).save(file, {}, {"task": "detect", "imgsz": 64})
    return file


def spread_gammas(source: Path, target: Path) -> Path:
    """Writes a checkpoint whose gammas rise from 0 to 1 in every layer, as if training had spread them."""
    import torch

    from prunetune.pruning.detector import Detector

    detector = Detector.load(source)
    for module in detector.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.linspace(0, 1, module.num_features))
    detector.save(target, {}, {"task": "detect", "imgsz": 64})
    return target


def test_prune_a_yaml_as_json(prunetune: Prunetune, tmp_path: Path) -> None:
    out = tmp_path / "new" / "pruned.pt"
    answer = prunetune("prune", "yolov5n.yaml", "--threshold", 0.5, "--align", 8, "--out", out, "--imgsz", 64, "--json")
    assert answer.code == 0, answer.err
    pruned = json.loads(answer.out)
    assert pruned["params"] == pruned["params_dense"], "gammas start at 1: nothing is below the threshold"
    assert pruned["channels_removed"] == 0
    assert pruned["gflops"] == pruned["gflops_dense"] > 0
    assert pruned["channels"]["model.0.conv"] == 16
    assert all(isinstance(width, int) for width in pruned["channels"].values())
    assert pruned["out"] == str(out)
    assert list(out.parent.iterdir()) == [out]


def test_prune_a_checkpoint_and_load_it_with_stock_ultralytics(
    prunetune: Prunetune, checkpoint: Path, tmp_path: Path
) -> None:
    import torch
    from ultralytics import YOLO

    spread = spread_gammas(checkpoint, tmp_path / "spread.pt")
    out = tmp_path / "pruned.pt"
    answer = prunetune("prune", spread, "--threshold", 0.5, "--align", 8, "--out", out, "--imgsz", 64, "--json")
    assert answer.code == 0, answer.err
    pruned = json.loads(answer.out)
    assert pruned["params"] < pruned["params_dense"] / 2
    assert 0 < pruned["gflops"] < pruned["gflops_dense"]
    assert 0.3 < pruned["channels_removed"] < 0.6
    prunable = [name for name in pruned["channels"] if ".22." not in name and not name.startswith("model.24")]
    assert all(pruned["channels"][name] % 8 == 0 for name in prunable)
    loaded = YOLO(str(out))
    widths = {
        name: module.out_channels
        for name, module in loaded.model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
    }
    assert {name: widths[name] for name in pruned["channels"]} == pruned["channels"]
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == pruned["params"]
    assert loaded.names == {0: "square", 1: "disc"}
    loaded.model.float().eval()(torch.zeros(1, 3, 64, 64))


def test_prune_with_a_threshold_for_the_head(prunetune: Prunetune, checkpoint: Path, tmp_path: Path) -> None:
    spread = spread_gammas(checkpoint, tmp_path / "spread.pt")

    def pruned(*options: Any) -> dict[str, Any]:
        answer = prunetune("prune", spread, "--imgsz", 64, "--json", *options)
        assert answer.code == 0, answer.err
        found: dict[str, Any] = json.loads(answer.out)
        return found

    both = pruned("--threshold", 0.5)
    head_only = pruned("--threshold", 0, "--head-threshold", 0.5)
    assert both["params"] < head_only["params"] < both["params_dense"]
    assert head_only["channels"]["model.0.conv"] == 16
    assert both["channels"]["model.0.conv"] == 8
    assert head_only["out"] is None


def test_prune_as_a_table(prunetune: Prunetune) -> None:
    answer = prunetune("prune", "yolov5n.yaml", "--threshold", 0.5, "--imgsz", 64)
    assert answer.code == 0, answer.err
    assert "GFLOPs at 64 px" in answer.out


# measure, doctor


def test_measure_two_descriptions_against_each_other(prunetune: Prunetune, tmp_path: Path) -> None:
    models = ["yolov5s.yaml", "yolov5n.yaml"]
    plot = tmp_path / "rounds.html"
    answer = prunetune(
        "measure", *models, "--imgsz", 64, "--repeats", 7, "--tolerance", 0.001, "--plot", plot, "--json"
    )
    assert answer.code == 0, answer.err
    measured = json.loads(answer.out)
    assert list(measured["models"]) == models
    assert measured["reference"] == models[0]
    assert measured["imgsz"] == 64
    assert measured["target"]["kind"] == "onnxruntime"
    for latency in measured["models"].values():
        assert latency["median_ms"] > 0
        assert latency["runs"] in (6, 7)
        assert latency["ratio_low"] <= latency["ratio"] <= latency["ratio_high"]
    assert measured["models"][models[0]]["ratio"] == 1
    page = plot.read_text(encoding="utf-8")
    assert "<html" in page
    assert all(model in page for model in models)


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_measure_a_checkpoint(prunetune: Prunetune, checkpoint: Path, target: str) -> None:
    answer = prunetune("measure", checkpoint, "--target", target, "--imgsz", 64, "--repeats", 6)
    assert answer.code == 0, answer.err
    assert str(checkpoint) in "".join(answer.out.split())


@pytest.mark.parametrize("options", [["onnxruntime"], ["openvino", "--option", "hint=throughput"]], ids=lambda o: o[0])
def test_measure_in_int8(prunetune: Prunetune, checkpoint: Path, options: list[str]) -> None:
    pytest.importorskip(options[0])
    command = ["measure", checkpoint, "--imgsz", 64, "--repeats", 6, "--precision", "int8", "--json"]
    answer = prunetune(*command, "--target", *options)
    assert answer.code == 0, answer.err
    measured = json.loads(answer.out)
    assert list(measured["models"]) == [str(checkpoint)]
    assert (measured["target"]["kind"], measured["target"]["precision"]) == (options[0], "int8")
    assert measured["target"].get("hint") == (None if len(options) == 1 else "throughput")


@pytest.mark.slow
def test_align_probe_writes_a_target_that_a_study_takes(
    prunetune: Prunetune, write_study: WriteStudy, tmp_path: Path
) -> None:
    options = ("--imgsz", 160, "--repeats", 6, "--threads", 1)
    out = tmp_path / "board.yaml"
    answer = prunetune("align-probe", *options, "--out", out, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["out"] == str(out)
    assert set(found["roles"]) == {"outputs", "inputs", "first", "depthwise"}
    (target,) = StudySpec.read(write_study(targets=["board.yaml"])).targets
    assert target.name == "board"
    assert target.alignment.as_json() == found["alignment"] == found["entry"]["alignment"]
    answer = prunetune("align-probe", *options)
    assert answer.code == 0, answer.err
    assert "written channels" in answer.out
    assert "targets: [{kind: onnxruntime, name: cpu, threads: 1," in answer.out


def test_doctor_finds_this_installation_sound(
    prunetune: Prunetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = prunetune("doctor", "--json")
    assert answer.code == 0, answer.out
    findings = {finding["subject"]: finding for finding in json.loads(answer.out)}
    for subject in ("torch", "ultralytics", "optuna", "onnxruntime", "GFLOPs", "this folder"):
        assert findings[subject]["state"] == "ok", findings[subject]
    assert {finding["state"] for finding in findings.values()} <= {"ok", "note"}
    table = prunetune("doctor")
    assert table.code == 0
    assert "torchvision" in table.out
    assert list(tmp_path.iterdir()) == []


# Bad input to `run`


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set, to be damaged."""
    shutil.copytree(shapes.parent, tmp_path / "data")
    return tmp_path / "data" / "data.yaml"


BAD_SPECS = [
    pytest.param({"imgzs": 64}, ["imgzs", "did you mean imgsz?"], id="unknown key"),
    pytest.param({"imgsz": "big"}, ["imgsz", "valid integer", "'big'"], id="wrong type"),
    pytest.param({"rounds": {"low": 3, "high": 1}}, ["space.rounds", "low (3)", "high (1)"], id="low above high"),
    pytest.param({"sparse_epochs": {"choices": []}}, ["space.sparse_epochs.choices", "at least 1"], id="no choices"),
    pytest.param({"budget": {"latency": "fast"}}, ["budget.latency", "'<= half-width'"], id="budget"),
    pytest.param({"model": "missing.pt"}, ["model: missing.pt", "no such file"], id="missing checkpoint"),
    pytest.param({"model": "yolov5nn.yaml"}, ["model: yolov5nn.yaml", "did you mean yolov5"], id="missing yaml"),
    pytest.param({"model": "yolov8n.yaml"}, ["model: yolov8n.yaml", "cannot be pruned yet"], id="another family"),
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
    message = complaint(prunetune("run", file))
    for words in said:
        assert words in message
    assert not (file.parent / "runs" / "tiny").exists()


def test_a_detector_of_other_classes_is_refused_before_a_study_begins(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path
) -> None:
    Detector.load("yolov5n.yaml").save(tmp_path / "coco.pt", {}, {"task": "detect", "imgsz": 64})
    file = write_study(data=str(data), model=str(tmp_path / "coco.pt"), trust=True)
    message = complaint(prunetune("run", file))
    assert f"model: {tmp_path / 'coco.pt'}: has 80 classes, but the data set has 2" in message
    assert not (file.parent / "runs" / "tiny").exists()


def test_another_model_under_the_same_name_is_refused(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path
) -> None:
    def write_model(seed: int) -> None:
        model = Detector.load("yolov5n.yaml", names=("square", "disc"), seed=seed)
        model.save(tmp_path / "mine.pt", {}, {"task": "detect", "imgsz": 64})

    write_model(0)
    file = write_study(data=str(data), model=str(tmp_path / "mine.pt"), trust=True, space=QUICK_SPACE, trials=1)
    assert prunetune("run", file).code in (0, 2)
    write_model(1)
    message = complaint(prunetune("run", file, "trials=2"))
    assert message.startswith(f"model: {tmp_path / 'mine.pt'} is another file than when the study began")


def test_all_that_is_wrong_with_the_files_is_told_together(prunetune: Prunetune, write_study: WriteStudy) -> None:
    file = write_study(model="missing.pt", data="missing.yaml", train={"mosiac": 1.0})
    message = complaint(prunetune("run", file))
    assert "3 problems" in message
    for words in ("model: missing.pt", "data: missing.yaml", "train.mosiac"):
        assert words in message


def test_a_missing_description(prunetune: Prunetune, write_study: WriteStudy, tmp_path: Path) -> None:
    write_study()
    message = complaint(prunetune("run", tmp_path / "stduy.yaml"))
    assert "did you mean" in message
    assert "study.yaml?" in message


def no_labels(data: Path) -> list[str]:
    shutil.rmtree(data.parent / "labels" / "train")
    return ["train: no labels", "labels/train/000.txt"]


def class_out_of_range(data: Path) -> list[str]:
    (data.parent / "labels" / "train" / "003.txt").write_text("2 0.5 0.5 0.2 0.2\n")
    return ["labels/train/003.txt", "class index 2 out of range"]


def corrupt_image(data: Path) -> list[str]:
    image = data.parent / "images" / "val" / "002.png"
    image.write_bytes(image.read_bytes()[:200])
    return ["images/val/002.png", "cannot be decoded", "replace it"]


def no_images(data: Path) -> list[str]:
    shutil.rmtree(data.parent / "images" / "val")
    return ["val: ", "images/val does not exist"]


@pytest.mark.parametrize("damage", [no_labels, class_out_of_range, corrupt_image, no_images])
def test_a_bad_data_set_is_refused(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, damage: Callable[[Path], list[str]]
) -> None:
    said = damage(data)
    file = write_study(data=str(data))
    message = complaint(prunetune("run", file))
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
    import torch

    torch.save({"weights": torch.zeros(3)}, file)
    return "cannot be read as an ultralytics checkpoint"


def without_batchnorm(file: Path, sound: Path) -> str:
    from prunetune.pruning.detector import Detector

    detector = Detector.load(sound)
    detector.model.fuse(verbose=False)
    detector.save(file, {}, {"task": "detect", "imgsz": 64})
    return "BatchNorm"


@pytest.mark.parametrize("damage", [truncated, empty, text, foreign, without_batchnorm])
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
        message = complaint(prunetune(*command))
        assert str(bad) in message
        assert said in message
    assert not (tmp_path / "runs" / "tiny").exists()
    assert not (tmp_path / "out.pt").exists()


def test_a_spec_that_differs_from_the_stored_studys(
    prunetune: Prunetune, write_study: WriteStudy, make_spec: Callable[..., StudySpec], data: Path
) -> None:
    spec = make_spec(data=str(data))
    open_study(spec)
    before = sorted(path.name for path in spec.folder.iterdir())
    message = complaint(prunetune("run", write_study(data=str(data)), "imgsz=96", "batch=4"))
    assert "imgsz: 64 -> 96" in message
    assert "batch: 8 -> 4" in message
    assert "name=tiny-2" in message
    assert sorted(path.name for path in spec.folder.iterdir()) == before


# Folders and disks


def test_a_file_in_the_folders_place(prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    message = complaint(prunetune("run", write_study(data=str(data))))
    assert str(tmp_path / "runs") in message
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o555)
    message = complaint(prunetune("run", write_study(data=str(data))))
    assert "not writable" in message
    assert "runs=FOLDER" in message


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk at `folder`; yields a function that remounts it. Skips where mounting is not allowed."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "prunetune-test", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None or not mount(options):
        pytest.skip("needs the right to mount a small disk")
    try:
        yield lambda options: None if mount(f"remount,{options}") else pytest.fail("cannot remount")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_disk(prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "runs", "ro"):
        message = complaint(prunetune("run", write_study(data=str(data))))
        assert str(tmp_path / "runs") in message
        assert "not writable" in message
        assert "runs=FOLDER" in message


def test_a_study_whose_disk_became_read_only(
    prunetune: Prunetune, write_study: WriteStudy, make_spec: Callable[..., StudySpec], data: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "runs", "rw") as remount:
        # In a process of its own, for this one would keep the database open.
        code = "import sys; from prunetune.search.study import *; open_study(StudySpec.parse(eval(sys.argv[1])))"
        spec = make_spec(data=str(data)).model_dump(mode="json", exclude_none=True)
        subprocess.run([sys.executable, "-c", code, repr(spec)], check=True, capture_output=True)
        remount("ro")
        message = complaint(prunetune("run", write_study(data=str(data))))
        assert str(tmp_path / "runs" / "tiny") in message
        assert "not writable" in message


def test_a_full_disk_for_the_database(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "runs", "size=100k"):
        message = complaint(prunetune("run", write_study(data=str(data))))
        assert str(tmp_path / "runs") in message
        assert "disk is full" in message


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [14_000, 24_000])
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path, kilobytes: int
) -> None:
    """The sizes end the study while the dense network and a candidate are written."""
    runs = tmp_path / "runs"
    file = write_study(data=str(data), space=QUICK_SPACE, budget={"latency": "<= 100 x dense"}, trials=1)
    with mounted(runs, f"size={kilobytes}k") as remount:
        # In a process of its own: where the disk has no room for the trial's end, the process's end says it.
        command = [sys.executable, "-m", "prunetune.search.cli", "run", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        message = complaint(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr))
        assert str(runs) in message
        assert "disk is full" in message
        assert "same command" in message
        assert all((stage / "stage.json").is_file() for stage in (runs / ".store" / "stages").iterdir())
        remount("size=500m")
        answer = prunetune("run", file)
        assert answer.code == 0, answer.err
        assert (runs / "tiny" / "best.pt").stat().st_size > 1_000_000
        status = json.loads(prunetune("status", runs / "tiny", "--json").out)
        assert status["finished"] == 1
        assert set(status["outcomes"]) <= {"OK", "INTERRUPTED", "WORKER_DIED"}
        assert list((runs / ".store" / "drafts").iterdir()) == []


def test_a_full_disk_for_a_pruned_model(prunetune: Prunetune, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=1m"):
        out = tmp_path / "small" / "pruned.pt"
        message = complaint(prunetune("prune", "yolov5n.yaml", "--threshold", 0.5, "--out", out, "--imgsz", 64))
        assert str(out.parent) in message
        assert "disk is full" in message
        assert list(out.parent.iterdir()) == []


# Bad input to the other commands

BAD_COMMANDS = [
    (["prune", "yolov5x9.yaml", "--threshold", "0.5"], ["yolov5x9.yaml", "no such model description"]),
    (["prune", "model.pt", "--threshold", "0.5"], ["model.pt", "no such file"]),
    (["prune", "yolov5n.yaml", "--threshold", "nan"], ["threshold"]),
    (["prune", "yolov8n.yaml", "--threshold", "0.5"], ["yolov8n.yaml", "C2f block cannot be pruned"]),
    (["measure", "missing.onnx", "--imgsz", "64"], ["missing.onnx"]),
    (["measure", "model.txt", "--imgsz", "64"], ["model.txt", "takes a .pt, a .onnx or a .yaml"]),
    (["measure", "yolov5n.yaml", "--target", "tpu"], ["kind", "onnxruntime"]),
    (["measure", "yolov5n.yaml", "--device", "cuda:0", "--precision", "int8"], ["provider: tensorrt"]),
    (["measure", "yolov5n.yaml", "--option", "provider=tensorrt"], ["provider: tensorrt", "device: cuda"]),
    (["measure", "yolov5n.yaml", "--option", "kind=torch"], ["--option kind=torch", "--target says it already"]),
    (["measure", "yolov5n.yaml", "--threads", "1", "--option", "threads=2"], ["--threads says it already"]),
    (["measure", "yolov5n.yaml", "--target", "table", "--option", "file=no.json"], ["target 'table': file: no.json"]),
    (["measure", "yolov5n.yaml", "--option", "fast"], ["'fast'", "key=value"]),
    (["measure", "yolov5n.yaml", "--target", "torch", "--precision", "int8"], ["precision", "fp16"]),
    (["measure", "yolov5n.yaml", "--target", "openvino", "--device", "cuda"], ["openvino measures on the CPU"]),
    (["align-probe", "--target", "tpu"], ["kind", "onnxruntime"]),
    (["align-probe", "--precision", "fp16", "--out", "board.yaml"], ["precision: fp16", "device: cuda"]),
    (["measure", "m.onnx", "--target", "torch"], ["m.onnx", "--target onnxruntime"]),
    (["measure", "yolov5n.yaml", "--imgsz", "50"], ["--imgsz: 50 is no multiple of 32"]),
    (["prune", "yolov5n.yaml", "--threshold", "0.5", "--imgsz", "33"], ["--imgsz: 33 is no multiple of 32"]),
    (["prune", "yolov5n.yaml", "--threshold", "inf"], ["threshold", "finite"]),
    (["prune", ".", "--threshold", "0.5"], [".: "]),
    (["status", "nosuch"], ["nosuch", "no such study"]),
    (["front", "nosuch"], ["nosuch", "no such study"]),
    (["report", "nosuch"], ["nosuch", "no such study"]),
    (["export", "nosuch", "--trial", "0"], ["nosuch", "no such study"]),
    (["front", "nosuch.yaml"], ["nosuch.yaml", "no such file"]),
    (["run", "nosuch.yaml", "imgsz"], ["nosuch.yaml", "no such file"]),
]


@pytest.mark.parametrize(("command", "said"), BAD_COMMANDS, ids=lambda value: " ".join(value)[:60])
def test_a_bad_command_is_refused(
    prunetune: Prunetune,
    command: list[str],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = complaint(prunetune(*command))
    for words in said:
        assert words in message
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_is_not_there(prunetune: Prunetune, make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    spec = make_spec()
    open_study(spec)
    for command in (("export", spec.folder, "--trial", 7), ("report", spec.folder, "--trial", 7)):
        message = complaint(prunetune(*command))
        assert "trial" in message
        assert "7" in message
    assert not (spec.folder / "report.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune", "yolov5n.yaml"],
        ["prune", "m.pt", "--threshold", "high"],
        ["prune", "yolov5n.yaml", "--threshold", "0.5", "--imgsz", "0"],
        ["prune", "yolov5n.yaml", "--threshold", "0.5", "--align", "0"],
        ["runn"],
        ["run"],
    ],
)
def test_wrong_usage_shows_the_usage(prunetune: Prunetune, arguments: list[str]) -> None:
    answer = prunetune(*arguments)
    assert answer.code == 2
    assert "Usage: " in answer.err
    assert "Traceback" not in answer.err
