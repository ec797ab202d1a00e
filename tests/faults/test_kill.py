"""SIGKILL at moments of every kind, the same command each time: nothing is lost, repeated or half-written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands.command import Command
from optuna.trial import FrozenTrial

from prunetune.results.record import TrialRecord
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome

STUDY: dict[str, Any] = {
    "name": "killed",
    "model": "yolov5n.yaml",
    "imgsz": 64,
    "batch": 8,
    "dense_epochs": 2,
    "space": {
        "sparsity": {"low": 0.2, "high": 0.4},
        "sparse_epochs": 2,
        "threshold": {"low": 0.5, "high": 1.1},
        "recovery_epochs": 3,
    },
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6}],
    "budget": {"latency": "<= 100 x dense"},  # met on the busiest machine
    "controls": ["half-width"],
    "early_stopping": False,  # every trial is to end OK, whatever its accuracy
    "trials": 3,
}

EPOCH = re.compile(r": (original|sparse|recovery|control), epoch (\d+) in ")


class Place:
    """What a study leaves on the disk."""

    def __init__(self, runs: Path) -> None:
        self.folder, self.store = runs / "killed", runs / ".store"

    def trials(self) -> list[FrozenTrial]:
        """The study's trials; none before it exists."""
        if not (self.folder / "study.db").is_file():
            return []
        return find_study(str(self.folder))[0].get_trials()

    def finished(self) -> dict[int, FrozenTrial]:
        """The trials that have ended, by number."""
        return {trial.number: trial for trial in self.trials() if trial.state.is_finished()}

    def stages(self) -> dict[str, tuple[int, int]]:
        """Every published stage, with its record's inode and time: neither changes unless it is written anew."""
        found = {}
        for stage in (self.store / "stages").glob("*"):
            record = (stage / "stage.json").stat()  # a stage without a record would be half-written
            found[stage.name] = (record.st_ino, record.st_mtime_ns)
        return found

    def records(self) -> list[dict[str, Any]]:
        """The records of all published stages."""
        files = (self.store / "stages").glob("*/stage.json")
        return [json.loads(file.read_text(encoding="utf-8"))["record"] for file in files]


MOMENTS = {
    "between two epochs of the dense training": r"original, epoch 1 in",
    "while the dense network is stored": r"^open .*/\.store/drafts/.*/stage\.json$",
    "when a trial was taken": r"^  trial \d+$",
    "between two sparse epochs": r"sparse, epoch 1 in",
    "after surgery": r"^open .*/\.store/stages/pruning-[^/]*/stage\.json$",
    "while a latency is measured": r"^os\.remove .*/killed/networks/candidate-.*\.onnx$",
    "between two epochs of recovery": r"recovery, epoch 2 in",
    "when a trial was told": r"^trial \d+ \[1/3\] OK",
    "between two epochs of a control": r"control, epoch 4 in",
    "while the front is measured again": r"^  measuring \d members? of the front",
    "while the front is exported": r"^  exporting",
}
"""Ten and one moments in the order of a study, as `hold` knows them. Each comes, however often it was killed before."""

FEW = ("while the dense network is stored", "between two epochs of recovery", "when a trial was told")
"""What a study must survive at least: half a file, half a training, a trial that may be taken for lost."""

IN_A_TRIAL = list(MOMENTS)[2:7]
"""A worker that dies then leaves a trial behind."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(FEW, id="few", marks=pytest.mark.core),
        pytest.param(tuple(MOMENTS), id="all", marks=pytest.mark.faults),
    ],
)
def test_a_study_survives_sigkill_at_any_moment(
    names: tuple[str, ...],
    shapes: Path,
    tmp_path: Path,
    start: Callable[..., Command],
    nondominated: Callable[[Path], set[tuple[float, float]]],
) -> None:
    place = Place(tmp_path / "runs")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "data": str(shapes), "runs": str(tmp_path / "runs")}))
    starts: list[Command] = []
    finished: dict[int, FrozenTrial] = {}
    stages: dict[str, tuple[int, int]] = {}
    for name in names:
        starts.append(start("run", file, hold=MOMENTS[name]))
        starts[-1].await_hold()
        starts[-1].kill()
        now = place.finished()
        assert {number: now.get(number) for number in finished} == finished, f"a finished trial changed {name}"
        kept = place.stages()
        assert {stage: kept.get(stage) for stage in stages} == stages, f"a finished stage was written again {name}"
        finished, stages = now, kept

    starts.append(start("run", file))
    assert starts[-1].wait() == 0, starts[-1].said
    now, kept = place.finished(), place.stages()
    assert {number: now.get(number) for number in finished} == finished
    assert {stage: kept.get(stage) for stage in stages} == stages
    assert not any("Traceback" in run.said or "error:" in run.said for run in starts)

    # Exactly the trials that were asked for, and each recipe of a dead worker carried out once.
    trials = place.trials()
    assert all(trial.state.is_finished() for trial in trials)
    records = [TrialRecord.from_trial(trial) for trial in trials]
    outcomes = [record.outcome for record in records]
    assert outcomes.count(Outcome.OK) == 3
    assert set(outcomes) == {Outcome.OK, Outcome.WORKER_DIED}
    assert outcomes.count(Outcome.WORKER_DIED) == sum(name in IN_A_TRIAL for name in names)
    for trial in trials:
        repeated = [other for other in trials if records[other.number].retry_of == trial.number]
        assert [other.params for other in repeated] == ([] if outcomes[trial.number] is Outcome.OK else [trial.params])

    # A kill costs one epoch at most: a training goes on with the epoch that the last process was in.
    epochs = [[(kind, int(number)) for kind, number in EPOCH.findall(run.said)] for run in starts]
    told = [lines for lines in epochs if lines]
    for before, after in pairwise(told):
        (kind, reached), (next_kind, next_epoch) = before[-1], after[0]
        assert next_kind != kind or next_epoch >= reached, f"{kind}: epoch {next_epoch} after {reached}"
    # What an undisturbed study trains is what the stages say.
    needed = sum(record["epochs"] for record in place.records())
    assert needed - len(names) <= sum(map(len, epochs)) <= needed + len(names)
    for record in records:
        if record.outcome is Outcome.OK:
            assert record.cost.epochs_trained + record.cost.epochs_reused == 2 + 3

    document = json.loads((place.folder / "front.json").read_text(encoding="utf-8"))
    assert {(entry["map50_95"], entry["latency_ms"]) for entry in document["front"]} == nondominated(place.folder)
    assert (place.folder / "best.onnx").is_file()
    assert list((place.store / "drafts").iterdir()) == []
