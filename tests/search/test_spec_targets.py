"""A description's targets: several of them, those from files, and their budgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Alignment, ConfigError

Written = Callable[..., Path]
Problem = Callable[..., str]

TWO = """\
targets:
  - {kind: onnxruntime, name: cpu}
  - {kind: torch, name: eager}
"""


def test_each_of_several_targets_is_an_objective_or_a_limit_or_both(written: Written, short: str) -> None:
    text = (
        short + TWO + "objectives: [map50_95, latency@eager]\nbudget: {latency@cpu: <= 3 ms, latency@eager: <= dense}\n"
    )
    spec = StudySpec.read(written(text))
    assert spec.judged == ["eager"]
    assert (spec.limit_of("cpu"), spec.limit_of("eager")) == ("<= 3 ms", "<= dense")
    assert (spec.latency_name("cpu"), spec.latency_name("eager")) == ("latency@cpu", "latency@eager")


def test_a_budget_without_a_target_holds_on_all_that_have_none_of_their_own(written: Written, short: str) -> None:
    text = short + TWO + "objectives: [map50_95]\nbudget: {latency: <= dense, latency@eager: <= 3 ms}\n"
    spec = StudySpec.read(written(text))
    assert (spec.judged, spec.limit_of("cpu"), spec.limit_of("eager")) == ([], "<= dense", "<= 3 ms")


def test_a_study_without_a_budget(written: Written, short: str) -> None:
    by_threshold = short.replace("{preset: yolov5-slimming}", "{preset: yolov5-slimming, threshold: 0.1}")
    spec = StudySpec.read(written(by_threshold + "budget: {}\n"))
    assert (spec.judged, spec.limit_of("cpu")) == (["cpu"], None)


def test_what_no_device_has_to_tell_is_an_objective_or_a_limit_beside_latency(written: Written, short: str) -> None:
    lines = "objectives: [map50_95, bytes, latency@eager, params]\nbudget: {latency: <= dense, gflops: <= 1.2}\n"
    spec = StudySpec.read(written(short + TWO + lines))
    assert spec.judged == ["eager"]
    assert (spec.limit_of("cpu"), spec.budget["gflops"]) == ("<= dense", "<= 1.2")


@pytest.mark.parametrize("target", ["{kind: openvino}", "{kind: command, command: [bench, '{onnx}']}"])
def test_memory_counts_where_a_target_tells_it(written: Written, short: str, target: str) -> None:
    lines = f"targets: [{target}]\nobjectives: [map50_95, memory_mb]\nbudget: {{latency: <= dense}}\n"
    assert StudySpec.read(written(short + lines)).counts_memory
    assert not StudySpec.read(written(short)).counts_memory


@pytest.mark.parametrize(
    ("lines", "field", "said"),
    [
        ("", "objectives", "latency alone does not say on which target; write latency@cpu or latency@eager"),
        ("objectives: [map50_95, latency@eger]", "objectives", "did you mean latency@eager?"),
        ("objectives: [map50_95, latency@cpu]\nbudget: {latency@cpu: <= dense}", "targets", "eager is neither"),
        ("objectives: [map50_95, latency@cpu]\nbudget: {latency@eager: fast}", "budget.latency@eager", "'<= 1.0 ms'"),
    ],
)
def test_what_several_targets_need(
    written: Written, short: str, problem: Problem, lines: str, field: str, said: str
) -> None:
    found = problem(written(short + TWO + lines + "\n"))
    assert found.startswith(f"{field}: ")
    assert said in found


BOARD = "kind: onnxruntime\nname: board\nthreads: 2\nalignment: {default: 16, first: 8}\n"


def test_a_target_from_a_file_beside_the_study(written: Written, short: str) -> None:
    written(BOARD, "board.yaml")
    spec = StudySpec.read(written(short + "targets: [board.yaml]\n"))
    (target,) = spec.targets
    assert (target.name, target.threads) == ("board", 2)
    assert target.alignment == Alignment(default=16, first=8, depthwise=16)
    assert StudySpec.parse(spec.model_dump(mode="json", exclude_none=True)) == spec


def test_a_target_from_a_file_in_the_current_folder(
    short: str, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "boards"
    elsewhere.mkdir()
    (elsewhere / "board.yaml").write_text(BOARD)
    monkeypatch.chdir(elsewhere)
    file = written(short + "targets: [board.yaml]\n")
    assert StudySpec.read(file).targets[0].name == "board"
    written(BOARD.replace("board", "nearer"), "board.yaml")
    assert StudySpec.read(file).targets[0].name == "nearer"


def test_overrides_reach_a_target_from_a_file_and_can_name_one(written: Written, short: str) -> None:
    written(BOARD, "board.yaml")
    spec = StudySpec.read(written(short), ["targets=[board.yaml]", "targets.0.threads=1"])
    assert (spec.targets[0].name, spec.targets[0].threads) == ("board", 1)


def test_a_wrong_target_in_a_file(written: Written, short: str, problem: Problem, tmp_path: Path) -> None:
    study = written(short + "targets: [board.yaml]\n")
    written(BOARD + "thread: 2\n", "board.yaml")
    assert problem(study) == "targets.0.thread: unknown key; did you mean threads?"
    for text, said in (("- kind: torch\n", "holds no target"), ("a: [1", "line "), ("", "holds no target")):
        written(text, "board.yaml")
        with pytest.raises(ConfigError, match=said) as caught:
            StudySpec.read(study)
        assert caught.value.source == str(tmp_path / "board.yaml")
