"""Claims: one living process at a time trains on a trunk, and a dead one's claim is taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.claims import LEASE_S, Claims, Holder, StageClaimedError
from prunetune.pruning.processes import this_process
from prunetune.spaces import StoreError

TRUNK, STAGE = "sparse-0123", "sparse-4567"

HOLD = """
import sys
from pathlib import Path
from prunetune.pruning.claims import Claims, StageClaimedError
with Claims(Path(sys.argv[1]), lease_s=float(sys.argv[2])).take("sparse-0123", "sparse-4567") as claim:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        claim.confirm()
        print("still held", flush=True)
    except StageClaimedError as error:
        print("lost to", error.holder.pid, flush=True)
"""


def leave(folder: Path, age: float = 0.0, **changes: Any) -> Path:
    """Leaves a held claim as another process does, last touched so many seconds ago."""
    folder.mkdir(exist_ok=True)
    holder = Holder(**{**this_process(), "host": "elsewhere", "since": "then", "stage": STAGE, "parent": "", **changes})
    file = folder / f"{TRUNK}.{len(list(folder.iterdir())):04x}.json"
    file.write_text(json.dumps(asdict(holder)) + "\nheld\n")
    touched = file.stat().st_mtime - age
    os.utime(file, (touched, touched))
    return file


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def until(condition: Callable[[], bool]) -> None:
    """Waits for another process or thread."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "claims"


@pytest.fixture
def claims(folder: Path) -> Claims:
    return Claims(folder)


def test_a_claim_says_who_has_it_and_ends_with_its_context(claims: Claims, folder: Path) -> None:
    assert claims.holder(TRUNK) is None
    with claims.take(TRUNK, STAGE, "original-89"):
        sign = claims.holder(TRUNK)
        assert sign is not None
        assert sign.holder is not None
        assert (sign.trunk, sign.holder.stage, sign.holder.parent) == (TRUNK, STAGE, "original-89")
        assert {**asdict(sign.holder), **this_process()} == asdict(sign.holder)
        assert claims.holder("sparse-012") is None, "a trunk's name is not a beginning"
        with claims.take("sparse-other", "sparse-other"):
            assert len(claims.living()) == 2
    assert claims.holder(TRUNK) is None
    assert files(folder) == []


def test_a_claim_ends_with_an_error(claims: Claims, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claims.take(TRUNK, STAGE):
        raise KeyboardInterrupt
    assert files(folder) == []


def test_a_living_claim_is_respected(claims: Claims, folder: Path) -> None:
    leave(folder, age=LEASE_S / 2, pid=77)
    with pytest.raises(StageClaimedError, match=rf"{STAGE}: is being trained by elsewhere:77") as caught:
        claims.take(TRUNK, STAGE)
    assert (caught.value.digest, caught.value.trunk) == (STAGE, TRUNK)
    assert caught.value.holder is not None
    assert caught.value.holder.pid == 77
    assert len(files(folder)) == 1, "who is refused leaves nothing"


def test_a_claim_that_nobody_touched_for_longer_than_the_lease_is_taken_over(claims: Claims, folder: Path) -> None:
    dead = leave(folder, age=LEASE_S + 1)
    assert claims.holder(TRUNK) is None
    with claims.take(TRUNK, STAGE):
        assert not dead.exists()
        assert len(files(folder)) == 1


def test_a_dead_process_of_this_host_is_known_at_once(claims: Claims, folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = this_process()["host"]
    leave(folder, host=host, pid=gone.pid)
    leave(folder, host=host, started=this_process()["started"] - 100)  # its number is in use again: by this process
    with claims.take(TRUNK, STAGE):
        assert len(files(folder)) == 1


@given(age=st.floats(0, 1000), lease=st.floats(0.1, 500))
def test_only_the_lease_decides_about_another_host(
    tmp_path_factory: pytest.TempPathFactory, age: float, lease: float
) -> None:
    folder = tmp_path_factory.mktemp("claims")
    beat = leave(folder).stat().st_mtime
    now = beat + age
    assert (Claims(folder, lease, clock=lambda: now).holder(TRUNK) is not None) == (now - beat <= lease)


def test_the_clock_of_a_host_does_not_matter(claims: Claims, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(folder, since="1970-01-01T00:00:00+00:00", started=0.0)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(StageClaimedError):
        claims.take(TRUNK, STAGE)


def test_an_unsigned_claim_counts_until_it_is_old(claims: Claims, folder: Path) -> None:
    folder.mkdir()
    file = folder / f"{TRUNK}.0000000000000000.json"
    file.touch()
    with pytest.raises(StageClaimedError, match="another process") as caught:
        claims.take(TRUNK, STAGE)
    assert caught.value.holder is None
    old = file.stat().st_mtime - LEASE_S - 1
    os.utime(file, (old, old))
    claims.take(TRUNK, STAGE).release()


def test_what_is_no_claim_is_left_alone(claims: Claims, folder: Path) -> None:
    folder.mkdir()
    for name in ("README", f"{TRUNK}.json", f"{TRUNK}.0123.txt", ".nfs0001"):
        (folder / name).write_text("mine")
    claims.take(TRUNK, STAGE).release()
    assert claims.remove_dead() == 0
    assert len(files(folder)) == 4


def test_dead_claims_are_removed(claims: Claims, folder: Path) -> None:
    leave(folder, age=LEASE_S + 1)
    leave(folder)
    assert claims.remove_dead() == 1
    assert len(claims.living()) == 1


def test_a_claim_is_kept_young(folder: Path) -> None:
    with Claims(folder, lease_s=0.06).take(TRUNK, STAGE):
        (file,) = folder.iterdir()
        os.utime(file, (0, 0))
        until(lambda: file.stat().st_mtime > 0)


def test_a_claim_that_was_lost_is_taken_again_if_nobody_has_it(claims: Claims, folder: Path) -> None:
    with claims.take(TRUNK, STAGE) as claim:
        before = files(folder)
        claim.confirm()
        assert files(folder) == before
        (folder / before[0]).unlink()
        claim.confirm()
        assert len(files(folder)) == 1
        assert files(folder) != before
    assert files(folder) == []


def test_a_claim_that_somebody_took_over_is_lost(claims: Claims, folder: Path) -> None:
    with claims.take(TRUNK, STAGE) as claim:
        next(folder.iterdir()).unlink()
        other = leave(folder)
        with pytest.raises(StageClaimedError):
            claim.confirm()
    assert files(folder) == [other.name], "its end does not remove the other's"


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("in the way")
    with pytest.raises(StoreError, match="claims"):
        Claims(tmp_path / "claims").take(TRUNK, STAGE)


# Real processes


def _take_together(folder: Path, rounds: int, together: Barrier, results: Any) -> None:
    claims, won = Claims(folder), []
    for _ in range(rounds):
        together.wait()
        try:
            claim = claims.take(TRUNK, STAGE)
        except StageClaimedError:
            claim = None
        won.append(claim is not None)
        together.wait()
        if claim is not None:
            claim.release()
    results.put(won)


def test_of_several_takers_one_wins(folder: Path) -> None:
    """Also of those who take over a dead claim."""
    rounds, takers = 30, 4
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(takers + 1), context.Queue()
    workers = [context.Process(target=_take_together, args=(folder, rounds, together, results)) for _ in range(takers)]
    for worker in workers:
        worker.start()
    for turn in range(rounds):
        if turn % 2:
            leave(folder, age=LEASE_S + 1)
        together.wait(60)
        together.wait(60)
        until(lambda: not any(Claims(folder).living()))
    won = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert [sum(turn) for turn in zip(*won, strict=True)] == [1] * rounds
    assert files(folder) == []


def hold(folder: Path, lease_s: float) -> subprocess.Popen[str]:
    """A process that holds the claim until it reads a line."""
    command = [sys.executable, "-c", HOLD, str(folder), str(lease_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_process_loses_its_claim_at_once(claims: Claims, folder: Path) -> None:
    with hold(folder, LEASE_S) as process:
        with pytest.raises(StageClaimedError) as caught:
            claims.take(TRUNK, STAGE)
        assert caught.value.holder is not None
        assert caught.value.holder.pid == process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        claims.take(TRUNK, STAGE).release()


def test_a_suspended_process_loses_its_claim_after_the_lease_and_learns_of_it(folder: Path) -> None:
    lease = 2.0
    with hold(folder, lease) as process:
        claims = Claims(folder, lease)
        with pytest.raises(StageClaimedError):
            claims.take(TRUNK, STAGE)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: claims.holder(TRUNK) is None)
        with claims.take(TRUNK, STAGE):
            os.kill(process.pid, signal.SIGCONT)
            said, _ = process.communicate("\n")
            assert said == f"lost to {os.getpid()}\n"
            assert claims.holder(TRUNK) is not None, "the loser's end leaves it to the other"
