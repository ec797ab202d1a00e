"""One clear message for every bad input to the commands beside `run`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec

Prunetune = Callable[..., Any]


BAD_COMMANDS = [
    (["prune", "yolov5x9.yaml", "--threshold", "0.5"], ["yolov5x9.yaml", "no such model description"]),
    (["prune", "model.pt", "--threshold", "0.5"], ["model.pt", "no such file"]),
    (["prune", "yolov5n.yaml", "--threshold", "nan"], ["threshold"]),
    (["prune", "yolov10n.yaml", "--threshold", "0.5"], ["yolov10n.yaml", "SCDown block cannot be pruned"]),
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
    (["verify", "nosuch"], ["nosuch", "prunetune export"]),
    (["recover", "nosuch.pt", "data=d.yaml", "epochs=1"], ["nosuch.pt: no such file"]),
    (["recover", "nosuch", "data=d.yaml", "epochs=1"], ["nosuch: no such file"]),
    (["table", "nosuch"], ["nosuch", "no such study"]),
    (["table", "nosuch", "--out", "front.doc"], ["--out: front.doc", ".parquet", "--format"]),
    (["table", "nosuch", "--format", "parquet"], ["--format parquet", "--out"]),
    (["pictures", "nosuch", "--out", "pictures"], ["nosuch", "no such study"]),
    (["confirm", "nosuch"], ["nosuch", "no such study"]),
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
    message = prunetune(*command).complaint
    for words in said:
        assert words in message
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_is_not_there(prunetune: Prunetune, make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    spec = make_spec()
    open_study(spec)
    for command in (("export", spec.folder, "--trial", 7), ("report", spec.folder, "--trial", 7)):
        message = prunetune(*command).complaint
        assert "trial" in message
        assert "7" in message
    assert not (spec.folder / "report.html").exists()
