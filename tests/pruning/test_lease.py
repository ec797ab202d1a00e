"""Leases: one process at a time trains on a trunk, and one that lost its lease does no harm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunetune.pruning.stages.lease import StageBusyError, StageLease, StageLeases
from prunetune.spaces import StoreError
from prunetune.spaces.drafts import LEASE_S

TRUNK, STAGE = "sparse-0123", "sparse-4567"
THIS = f"{socket.gethostname()}:{os.getpid()}"

HOLD = """
import sys
from pathlib import Path
from prunetune.pruning.stages.lease import StageBusyError, StageLeases
with StageLeases(Path(sys.argv[1]), float(sys.argv[2])).take("sparse-0123", "sparse-4567") as lease:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        print(lease.confirm(), flush=True)
    except StageBusyError as error:
        print("lost to", error.where, flush=True)
"""


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(tmp_path: Path, clock: Clock) -> StageLeases:
    return StageLeases(tmp_path, clock=clock)


@pytest.fixture
def elsewhere(leases: StageLeases, monkeypatch: pytest.MonkeyPatch) -> Iterator[StageLease]:
    """A lease of another host, which touches it no more."""
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        lease = leases.take(TRUNK, STAGE)
    with lease:
        yield lease


def hold(folder: Path, lease_s: float) -> subprocess.Popen[str]:
    """A process that holds the lease until it reads a line."""
    command = [sys.executable, "-c", HOLD, str(folder), str(lease_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_lease_ends_with_its_context(leases: StageLeases, tmp_path: Path, error: type[BaseException] | None) -> None:
    with pytest.raises(error or ZeroDivisionError), leases.take(TRUNK, STAGE):
        assert [path.name for path in tmp_path.iterdir()] == [f"{TRUNK}.lease"]
        assert not leases.is_free(TRUNK)
        assert leases.is_free("sparse-012"), "a trunk's name is not a beginning"
        raise error or ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_who_is_refused_learns_by_whom(leases: StageLeases) -> None:
    with leases.take(TRUNK, "another length"), pytest.raises(StageBusyError, match=f"{STAGE}: .* by {THIS};") as caught:
        leases.take(TRUNK, STAGE)
    assert (caught.value.digest, caught.value.trunk, caught.value.where) == (STAGE, TRUNK, THIS)


def test_a_lease_that_nobody_touched_is_taken_over(leases: StageLeases, elsewhere: StageLease, clock: Clock) -> None:
    """Its age counts from when it was first seen, by the clock of who waits."""
    clock.now += 10 * LEASE_S
    with pytest.raises(StageBusyError) as caught:
        leases.take(TRUNK, STAGE)
    assert caught.value.where == f"elsewhere:{os.getpid()}"
    clock.now += LEASE_S
    assert not leases.is_free(TRUNK)
    clock.now += 1
    with leases.take(TRUNK, STAGE) as mine:
        with pytest.raises(StageBusyError):
            elsewhere.confirm()
        elsewhere.release()
        assert mine.confirm(), "the end of who lost it leaves it to the other"


def test_a_lease_that_is_touched_stays(
    leases: StageLeases, elsewhere: StageLease, clock: Clock, tmp_path: Path
) -> None:
    for beat in range(3):
        os.utime(tmp_path / f"{TRUNK}.lease", (beat, beat))
        assert not leases.is_free(TRUNK)
        clock.now += LEASE_S


def test_a_file_that_names_nobody_counts_as_long(leases: StageLeases, clock: Clock, tmp_path: Path) -> None:
    """A process was killed between making and writing it."""
    (tmp_path / f"{TRUNK}.lease").touch()
    with pytest.raises(StageBusyError, match="another process"):
        leases.take(TRUNK, STAGE)
    clock.now += LEASE_S + 1
    assert leases.is_free(TRUNK)


def test_a_lease_that_was_lost_is_taken_again_if_nobody_has_it(leases: StageLeases, tmp_path: Path) -> None:
    with leases.take(TRUNK, STAGE) as lease:
        assert lease.confirm()
        (tmp_path / f"{TRUNK}.lease").unlink()
        assert not lease.confirm()
        assert lease.confirm()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "progress").write_text("in the way")
    with pytest.raises(StoreError, match="progress"):
        StageLeases(tmp_path / "progress").take(TRUNK, STAGE)


def test_a_killed_process_loses_its_lease_at_once(leases: StageLeases, tmp_path: Path) -> None:
    with hold(tmp_path, LEASE_S) as process:
        with pytest.raises(StageBusyError, match=f":{process.pid};"):
            leases.take(TRUNK, STAGE)
        process.kill()
        process.wait()
        leases.take(TRUNK, STAGE).release()


def test_a_suspended_process_loses_its_lease_and_learns_of_it(tmp_path: Path) -> None:
    leases, pause = StageLeases(tmp_path, lease_s=0.5), threading.Event()
    with hold(tmp_path, 0.5) as process:
        os.kill(process.pid, signal.SIGSTOP)
        while not leases.is_free(TRUNK):
            pause.wait(0.05)
        with leases.take(TRUNK, STAGE) as mine:
            os.kill(process.pid, signal.SIGCONT)
            said, _ = process.communicate("\n")
            assert said == f"lost to {THIS}\n"
            assert mine.confirm()
