"""A real process that is frozen for longer than its heartbeat allows, and wakes when another has done its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
from commands.command import Command
from filelock import SoftFileLease

from prunetune.results.record import TrialRecord
from prunetune.search.study.open_study import find_study

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STUDY: dict[str, Any] = {
    "name": "frozen",
    "batch": 4,
    "train": {"mosaic": 0.0},
    "space": {"sparsity": 0.3, "sparse_epochs": 1, "threshold": {"low": 0.5, "high": 0.9}, "recovery_epochs": 6},
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},
    "sampler": "random",
    "early_stopping": False,
    "trials": 2,
}


def pass_an_hour(storage: str, progress: Path) -> None:
    """Makes every heartbeat in the database an hour old, and breaks the leases of the store, as who waits does."""
    engine = sqlalchemy.create_engine(storage)
    table = sqlalchemy.Table("trial_heartbeats", sqlalchemy.MetaData(), autoload_with=engine)
    with engine.begin() as connection:
        for row in connection.execute(sqlalchemy.select(table)).all():
            older = table.update().where(table.c.trial_id == row.trial_id)
            connection.execute(older.values(heartbeat=row.heartbeat - timedelta(hours=1)))
    engine.dispose()
    for file in progress.glob("*.lease"):
        SoftFileLease(file).force_break()


def test_a_worker_that_wakes_too_late_changes_nothing(
    write_study: Callable[..., Path],
    start: Callable[..., Command],
    storage: str,
    shapes: Path,
    tmp_path: Path,
) -> None:
    file, runs = write_study(**STUDY, data=str(shapes), storage=storage), tmp_path / "runs"
    frozen = start("run", file, hold="recovery, epoch 3 in")
    frozen.await_hold()
    os.kill(frozen.pid, signal.SIGSTOP)
    frozen.until(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED)
    pass_an_hour(storage, runs / ".store" / "progress")

    successor = start("run", file)
    assert successor.wait() == 0, successor.said
    study, folder = find_study(str(file))
    before = study.get_trials()
    assert [(trial.state.name, TrialRecord.from_trial(trial).retry_of) for trial in before] == [
        ("FAIL", None),
        ("COMPLETE", 0),
        ("COMPLETE", None),
    ]
    assert before[1].params == before[0].params
    assert TrialRecord.from_trial(before[1]).cost.epochs_reused >= 1 + 3, "it went on from the frozen one's last epoch"
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    stages = sorted((runs / ".store" / "stages").iterdir())

    os.kill(frozen.pid, signal.SIGCONT)
    frozen.resume()
    assert frozen.wait() == 0, frozen.said
    assert "trial 0: this process had no heartbeat for 60 s" in frozen.said
    assert "Traceback" not in frozen.said
    assert find_study(str(file))[0].get_trials() == before
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    changed = {str(path.relative_to(folder)) for path in files | after if files.get(path) != after.get(path)}
    assert changed <= {"data.yaml", "gammas/trial-0.json"}, "the latter is removed: nothing refers to it"
    assert sorted((runs / ".store" / "stages").iterdir()) == stages
    assert list((runs / ".store" / "progress").iterdir()) == []
