"""`--target`: a kind and the options beside it, or the file of a target."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from board.board import Board

from prunetune.search.options.target_option import read_target, with_pace
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Alignment, ConfigError
from prunetune.targets import CommandSpec, TorchSpec

Prunetune = Callable[..., Any]

STAIRCASE = """
import math, sys
channels = int(sys.argv[1].split("-")[-2])
print(f"took {math.ceil(channels / 16) * 100 + channels / 100} us")
"""
"""A program that claims to compute 16 channels together."""


@pytest.fixture
def write_target(tmp_path: Path) -> Callable[..., Path]:
    """Writes a target's file."""

    def write(**keys: Any) -> Path:
        file = tmp_path / "board.yaml"
        file.write_text(yaml.safe_dump({"kind": "command", **keys}), encoding="utf-8")
        return file

    return write


def test_a_kind_takes_the_options_that_are_given() -> None:
    spec = read_target("torch", {"threads": 2, "device": None}, {"runs": 9, "tolerance": None})
    assert spec == TorchSpec(threads=2, runs=9)
    assert spec.model_fields_set == {"kind", "threads", "runs"}


def test_a_file_says_what_the_target_is_and_options_how_exactly_to_measure(write_target: Callable[..., Path]) -> None:
    file = write_target(command=["run", "{onnx}"], runs=9, tolerance=0.05)
    spec = read_target(str(file), {"threads": None}, {"runs": 1, "tolerance": None})
    assert spec == CommandSpec(command=("run", "{onnx}"), runs=1, tolerance=0.05)


@pytest.mark.parametrize(
    ("given", "options"), [({"threads": 1}, "--threads"), ({"alignment": 8, "device": "cpu"}, "--align, --device")]
)
def test_options_beside_a_file_are_refused(
    write_target: Callable[..., Path], given: dict[str, Any], options: str
) -> None:
    file = write_target(command=["run", "{onnx}"])
    with pytest.raises(ConfigError) as caught:
        read_target(str(file), given)
    assert str(caught.value) == f"{options}: {file} describes the target; change it there, or give --target a kind"


def test_a_wrong_file_is_told_with_its_name(write_target: Callable[..., Path]) -> None:
    file = write_target(command=["run", "{onnx}"], timout=5, unit="mss")
    with pytest.raises(ConfigError) as caught:
        read_target(str(file), {})
    assert caught.value.source == str(file)
    assert caught.value.problems == (
        "unit: there is no 'mss'; did you mean ms?",
        "timout: unknown key; did you mean timeout?",
    )


def test_a_kind_that_options_cannot_describe_asks_for_a_file() -> None:
    with pytest.raises(ConfigError, match=r"--target command: needs command, .* kind: command and give --target FILE"):
        read_target("command", {})


def test_another_pace_changes_only_what_nobody_gave() -> None:
    spec = CommandSpec(command=("run", "{onnx}"), runs=3)
    paced = with_pace(spec, {"runs": 12, "seconds": 7.0, "warmup": 2})
    assert (paced.runs, paced.seconds) == (3, 7.0)


@pytest.mark.parametrize("command", ["measure", "profile"])
def test_a_bad_target_is_refused_by_every_command(prunetune: Prunetune, command: str, tmp_path: Path) -> None:
    answer = prunetune(command, "yolov5n.yaml", "--target", tmp_path / "bord.yaml")
    assert answer.code == 2
    assert answer.err.startswith(f"error: {tmp_path / 'bord.yaml'}: no such file")


# On a board


def test_measure_on_a_board(prunetune: Prunetune, board: Board, write_target: Callable[..., Path]) -> None:
    board.boot()
    file = write_target(command=board.command, name="desk", device="a board of tests")
    command = ("measure", "yolov5s.yaml", "yolov5n.yaml", "--target", file, "--imgsz", 64)
    answer = prunetune(*command, "--repeats", 2, "--json")
    assert answer.code == 0, answer.err
    measured = json.loads(answer.out)
    assert measured["target"]["device"] == "a board of tests"
    assert measured["models"]["yolov5n.yaml"]["runs"] == 2
    assert measured["models"]["yolov5n.yaml"]["ratio"] < 1
    small = ("measure", "yolov5n.yaml", "yolov5n-deconv.yaml", "--target", file, "--imgsz", 64)
    assert "needs 6 rounds" in prunetune(*small, "--repeats", 2).out
    assert "needs 6 rounds" not in prunetune(*small, "--repeats", 6).out


@pytest.mark.slow
def test_align_probe_on_a_board_keeps_how_to_reach_it(
    prunetune: Prunetune, write_target: Callable[..., Path], write_study: Callable[..., Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-I", "-S", "-c", STAIRCASE.replace("{", "{{").replace("}", "}}"), "{name}", "{onnx}"]
    given = {"command": command, "regex": "took (.*) us", "unit": "us", "runs": 1, "retries": 5}
    file, out = write_target(**given, device="16 lanes"), tmp_path / "probed.yaml"
    answer = prunetune("align-probe", "--target", file, "--imgsz", 32, "--out", out)
    assert answer.code == 0, answer.err
    (target,) = StudySpec.read(write_study(targets=["probed.yaml"])).targets
    assert isinstance(target, CommandSpec)
    assert (target.name, target.device, target.alignment) == ("probed", "16 lanes", Alignment.everywhere(16))
    assert {key: value for key, value in yaml.safe_load(out.read_text()).items() if key in given} == given
