"""Two real processes on one study whose trials share a trunk: each epoch is trained once, whoever dies."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands.command import Command

from prunetune.results.record import TrialRecord
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome

pytestmark = pytest.mark.slow

STUDY: dict[str, Any] = {
    "model": "yolov5n.yaml",
    "imgsz": 64,
    "batch": 4,
    "dense_epochs": 2,
    "train": {"mosaic": 0.0},
    "space": {
        "sparsity": 0.3,
        "sparse_epochs": {"choices": [5, 8]},
        "threshold": {"low": 0.5, "high": 0.9},
        "recovery_epochs": 1,
    },
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},
    "sampler": "random",
    "controls": [],
    "trials": 4,
}

EPOCH = re.compile(r": (original|sparse|recovery|control), epoch (\d+) in ")


Start = Callable[..., Command]


def epochs(command: Command, kind: str) -> list[int]:
    """The epochs that a process has trained."""
    return [int(number) for found, number in EPOCH.findall(command.said) if found == kind]


@pytest.fixture
def work(tmp_path: Path, shapes: Path, start: Start) -> Start:
    """Starts a process on a study of `tmp_path/runs`."""

    def run(name: str, hold: str | None = None, **changes: Any) -> Command:
        file = tmp_path / f"{name}.yaml"
        values = {**STUDY, "name": name, "data": str(shapes), "runs": str(tmp_path / "runs"), **changes}
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return start("run", file, hold=hold)

    return run


def records(folder: Path) -> list[TrialRecord]:
    return [TrialRecord.from_trial(trial) for trial in find_study(str(folder))[0].get_trials()]


def check_each_epoch_was_trained_once(runs: Path, studies: list[str]) -> None:
    """Every stage was trained by one trial, and the lengths of the trunk share their epochs."""
    known = [record for name in studies for record in records(runs / name)]
    finished = [record for record in known if record.outcome is Outcome.OK]
    stages = [stage for record in finished for stage in record.cost.stages]
    assert {record.outcome for record in known} <= {Outcome.OK, Outcome.WORKER_DIED}
    trained = [stage.digest for stage in stages if not stage.was_stored and stage.kind != "pruning"]
    assert len(trained) == len(set(trained)), "no stage twice"
    recoveries = {stage.digest for stage in stages if stage.kind == "recovery"}
    longest = max(stage.epochs for stage in stages if stage.kind == "sparse")
    assert sum(record.cost.epochs_trained for record in finished) == longest + len(recoveries)
    assert list((runs / ".store" / "progress").iterdir()) == []


def test_two_processes_of_one_study_train_a_shared_trunk_once(work: Start, tmp_path: Path) -> None:
    workers = [work("shared", hold="sparse, epoch 1 in") for _ in range(2)]  # one of them comes there
    workers[0].until(lambda: any("put aside" in worker.said for worker in workers))
    for worker in workers:
        worker.resume()
    assert [worker.wait() for worker in workers] == [0, 0], "\n".join(worker.said for worker in workers)
    check_each_epoch_was_trained_once(tmp_path / "runs", ["shared"])
    said = "".join(worker.said for worker in workers)
    assert re.search(r"^trial \d+: put aside, waiting for sparse-\w+ on \S+:\d+$", said, re.MULTILINE)
    told = sorted(epoch for worker in workers for epoch in epochs(worker, "sparse"))
    assert told == list(range(1, len(told) + 1)), "the trunk's epochs, each in one of the processes"
    dense = [epoch for worker in workers for epoch in epochs(worker, "original")]
    assert dense == [1, 2], "and so the dense network"
    assert len(records(tmp_path / "runs" / "shared")) == STUDY["trials"]


def test_two_studies_train_a_shared_trunk_once(work: Start, tmp_path: Path) -> None:
    workers = [work("one", trials=2), work("other", trials=2, seed=0)]
    assert [worker.wait() for worker in workers] == [0, 0], "\n".join(worker.said for worker in workers)
    runs = tmp_path / "runs"
    assert {record.outcome for name in ("one", "other") for record in records(runs / name)} == {Outcome.OK}
    told = sorted(epoch for worker in workers for epoch in epochs(worker, "sparse"))
    assert told == list(range(1, len(told) + 1))


def test_a_killed_worker_s_trunk_is_taken_over_from_its_last_epoch(work: Start, tmp_path: Path) -> None:
    first = work("killed", hold="sparse, epoch 1 in", trials=2)
    first.await_hold()
    second = work("killed", trials=2)
    second.until(lambda: "put aside, waiting for sparse-" in second.said)
    first.kill()
    reached = epochs(first, "sparse")[-1]
    assert list((tmp_path / "runs" / ".store" / "progress").glob("*.lease")) != []
    assert second.wait() == 0, second.said
    assert min(epochs(second, "sparse")) in (reached, reached + 1)
    outcomes = [record.outcome for record in records(tmp_path / "runs" / "killed")]
    assert sorted(map(str, outcomes)) == ["OK", "OK", "WORKER_DIED"]
    assert list((tmp_path / "runs" / ".store" / "progress").iterdir()) == []
