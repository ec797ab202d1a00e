"""`prunetune measure` and `align-probe`: latency without a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.search.study.study_spec import StudySpec

Prunetune = Callable[..., Any]
WriteStudy = Callable[..., Path]


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
    assert (measured["models"][str(checkpoint)].get("memory_mb", 0) > 0) == (options[0] == "openvino")
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
