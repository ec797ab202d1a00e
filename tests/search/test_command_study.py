"""Studies whose latencies come from a board that fails: a second process, behind a command line."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from board.board import Board

from prunetune.results import Findings, load_study
from prunetune.search.study.store_limit import STORE
from prunetune.spaces import Outcome
from prunetune.targets import CommandTarget, create

Prunetune = Callable[..., Any]

FAULTS = ["crash", "garbage", "hang", "drop", "signal", "endless", "crash", "garbage", "drop", "signal"]
"""One for each trial."""

STUDY: dict[str, Any] = {
    "model": "yolov5n.yaml",
    "imgsz": 32,
    "batch": 8,
    "dense_epochs": 1,
    "space": {
        "sparsity": 0.5,
        "sparse_epochs": 1,
        "threshold": {"low": 0.47, "high": 0.53},  # between the smallest and the largest gamma
        "recovery_epochs": 0,
    },
    "budget": {"latency": "<= 100 x dense"},  # met on the busiest machine
    "sampler": "random",
    "controls": [],
}
"""One sparse phase for all trials, and another network in each, which is not trained on: measuring is what may fail."""


class Studies:
    """Studies on one board, in one folder: they share what they have in common."""

    def __init__(self, folder: Path, data: Path, board: Board) -> None:
        self.folder, self.data, self.board = folder, data, board

    def write(self, name: str, trials: int, keys: Mapping[str, Any] | None = None, **target: Any) -> Path:
        """Writes a target and a study that takes it; returns the study's file."""
        described = {"kind": "command", "command": self.board.command, "runs": 1, **target}
        (self.folder / "board.yaml").write_text(yaml.safe_dump(described))
        values = copy.deepcopy(STUDY) | {
            "name": name,
            "data": str(self.data),
            "runs": str(self.folder / "runs"),
            "targets": ["board.yaml"],
            "trials": trials,
            **(keys or {}),
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    def found(self, name: str) -> Findings:
        return load_study(self.folder / "runs" / name).findings

    def outcomes(self, name: str) -> list[Outcome | None]:
        return [record.outcome for record in self.found(name).records.values()]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, shapes: Path, board: Board) -> Studies:
    return Studies(tmp_path_factory.mktemp("studies"), shapes, board)


@pytest.fixture(autouse=True)
def _waits_for_nobody(monkeypatch: pytest.MonkeyPatch, board: Board, tmp_path: Path) -> None:
    """Pauses take the time that the board needs to boot, if it is off, and no longer. Locks are the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(create, "CommandTarget", partial(CommandTarget, pause=board.boot))
    board.suffer()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on two quiet cores
def test_a_study_on_a_failing_board_loses_no_trial(
    studies: Studies, board: Board, prunetune: Prunetune, caplog: pytest.LogCaptureFixture
) -> None:
    board.switch_off()
    # A network suffers its fault, then is measured, with a helper left behind that never ends.
    board.suffer(f"{fault} candidate" for name in FAULTS for fault in (name, "orphan"))
    file = studies.write("failing", len(FAULTS), timeout=6.0, retries=4)
    answer = prunetune("run", file)
    assert answer.code == 0, answer.err
    assert board.faults_left == []
    found = studies.found("failing")
    assert [trial.state.name for trial in found.trials] == ["COMPLETE"] * len(FAULTS)
    assert studies.outcomes("failing") == [Outcome.OK] * len(FAULTS)
    assert len(found.networks) == len(FAULTS)
    assert all(network.latencies["board"].ms > 0 for network in found.networks.values())
    assert "does not answer" in caplog.text, "it was off when the study began"
    assert caplog.text.count("network 'candidate': attempt 1 of 5") == len(FAULTS)
    document = json.loads(prunetune("front", studies.folder / "runs" / "failing", "--json").out)
    assert document["targets"][0]["kind"] == "command"
    assert document["front"]


@pytest.mark.slow
def test_a_fault_that_outlasts_the_retries_fails_its_trial_and_no_other(
    studies: Studies, board: Board, prunetune: Prunetune
) -> None:
    board.boot()
    board.suffer(["fine candidate", *["crash candidate"] * 3])
    answer = prunetune("run", studies.write("refused", 3, retries=2))
    assert answer.code == 0, answer.err
    found = studies.found("refused")
    assert studies.outcomes("refused") == [Outcome.OK, Outcome.NOT_MEASURED, Outcome.OK]
    assert [trial.state.name for trial in found.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found.trials[1].values is None
    assert "no answer after 3 attempts" in found.records[1].reason
    assert "layer Conv_17: unsupported" in found.records[1].reason
    assert "trial 1 [2/3] NOT_MEASURED (target 'board': network 'candidate'" in answer.out


@pytest.mark.slow
def test_a_board_that_is_gone_stops_the_study_and_loses_no_trial(
    studies: Studies, board: Board, prunetune: Prunetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.boot()
    board.suffer(["fine candidate", "off candidate"])
    monkeypatch.setattr(create, "CommandTarget", partial(CommandTarget, pause=lambda seconds: None))
    file = studies.write("gone", 3, retries=1)
    answer = prunetune("run", file)
    assert answer.code == 2
    assert answer.err.startswith("error: target 'board': network 'dense': no answer after 2 attempts")
    assert "board: does not answer" in answer.err
    assert "the same command goes on" in answer.err
    assert answer.err.count("error: ") == 1
    assert studies.outcomes("gone") == [Outcome.OK, Outcome.INTERRUPTED]
    board.boot()
    studies.write("gone", 3, retries=5, timeout=100.0)
    answer = prunetune("run", file)
    assert answer.code == 0, answer.err
    done = [Outcome.OK, Outcome.INTERRUPTED, Outcome.OK, Outcome.OK]
    assert studies.outcomes("gone") == done, "the recipe was carried out after all"


@pytest.mark.slow
def test_memory_that_a_board_tells_is_an_objective_and_a_limit(
    studies: Studies, board: Board, prunetune: Prunetune
) -> None:
    board.boot()
    memory = {"objectives": ["map50_95", "memory_mb"], "budget": {**STUDY["budget"], "memory_mb": "<= half-width"}}
    answer = prunetune("run", studies.write("memory", 4, keys=memory))
    found = studies.found("memory")
    (figure,) = found.study.figures
    assert (figure.name, figure.is_objective, set(figure.references)) == ("memory_mb", True, {"dense", "half-width"})
    assert figure.limit == figure.references["half-width"] < figure.references["dense"]
    for trial, record in zip(found.trials, found.records.values(), strict=True):
        assert record.network is not None
        memory_mb = record.network.figures.memory_mb
        assert memory_mb is not None
        assert trial.values == [record.network.accuracy.map50_95, memory_mb]
        over = memory_mb > 1.02 * figure.limit
        assert record.outcome is (Outcome.OVER_BUDGET if over else Outcome.OK)
    assert answer.code == 0, answer.err
    assert set(studies.outcomes("memory")) == {Outcome.OK, Outcome.OVER_BUDGET}
    document = json.loads(prunetune("front", studies.folder / "runs" / "memory", "--json").out)
    assert [network["memory_mb"] for network in document["front"]] == [item.figures.memory_mb for item in found.front]


def test_a_board_that_does_not_tell_its_memory_is_refused_before_any_training(
    studies: Studies, prunetune: Prunetune
) -> None:
    silent = [sys.executable, "-I", "-S", "-c", "print('{{\"latency_ms\": 1.5}}')", "{onnx}"]
    memory = {"objectives": ["map50_95", "latency", "memory_mb"]}
    stages = studies.folder / "runs" / STORE / "stages"
    before = sorted(stages.glob("*"))
    answer = prunetune("run", studies.write("silent", 1, keys=memory, command=silent))
    assert answer.code == 2
    assert answer.err.count("error: ") == 1
    assert "memory_mb: no target tells it" in answer.err
    assert studies.outcomes("silent") == []
    assert sorted(stages.glob("*")) == before


def test_a_board_that_is_off_when_the_study_starts_is_an_error(
    studies: Studies, board: Board, prunetune: Prunetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.switch_off()
    answer = prunetune("run", studies.write("off", 1, retries=0))
    assert answer.code == 2
    assert answer.err.count("error: ") == 1
    assert "board: does not answer" in answer.err
    assert studies.outcomes("off") == []
