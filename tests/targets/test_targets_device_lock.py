"""One measurement at a time on a device, and no training beside it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import pytest
from filelock import ReadWriteLock, Timeout

from prunetune.spaces.errors import TargetError
from prunetune.targets.measure.device_lock import exclusive, lock_path, shared

Hold: TypeAlias = Callable[[str], AbstractContextManager[None]]


class Other:
    """A thread that takes a device, holds it until it is told to let go, and says what happens."""

    def __init__(self, hold: Hold, place: str = "cpu") -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(hold, place))

    def _run(self, hold: Hold, place: str) -> None:
        with hold(place):
            self.entered.set()
            assert self.release.wait(30)

    def start(self) -> Other:
        self._thread.start()
        return self

    def ends(self) -> bool:
        """Lets it go; tells whether it had the device at last."""
        self.release.set()
        self._thread.join(30)
        return self.entered.is_set() and not self._thread.is_alive()


@pytest.fixture
def waiting() -> Iterator[threading.Event]:
    """Set when somebody begins to wait for a device."""
    begun = threading.Event()

    class Announce(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert "waiting" in record.getMessage()
            begun.set()

    logger = logging.getLogger("prunetune.targets.measure.device_lock")
    handler, level = Announce(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield begun
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize(("first", "second"), [(exclusive, exclusive), (shared, exclusive), (exclusive, shared)])
def test_a_measurement_and_anything_else_wait_for_each_other(
    first: Hold, second: Hold, waiting: threading.Event
) -> None:
    with first("cpu"):
        other = Other(second).start()
        assert waiting.wait(30)
        assert not other.entered.is_set()
    assert other.ends()


def test_trainings_share_a_device() -> None:
    with shared("cpu"):
        assert Other(shared).start().ends()


def test_a_waiting_measurement_comes_before_the_next_epoch(waiting: threading.Event) -> None:
    """Else two trainings that take turns would keep it out for good."""
    measurement, training = Other(exclusive), Other(shared)
    with shared("cpu"):
        measurement.start()
        assert waiting.wait(30)
        while _another_can_share():
            pass
        training.start()
        assert not training.entered.is_set()
    assert measurement.entered.wait(30)
    assert not training.entered.is_set()
    assert measurement.ends()
    assert training.ends()


def _another_can_share() -> bool:
    lock = ReadWriteLock(lock_path("cpu"), is_singleton=False)
    try:
        lock.acquire_read(blocking=False)
    except Timeout:
        return False
    lock.release()
    return True


def test_a_killed_process_lets_go() -> None:
    code = (
        f"import sys, tempfile; tempfile.tempdir = {tempfile.gettempdir()!r}\n"
        "from prunetune.targets import exclusive\n"
        "with exclusive('cpu'):\n"
        "    print('has it', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        other = Other(exclusive).start()
        process.kill()
        assert other.ends()


def test_it_is_free_after_an_error() -> None:
    with pytest.raises(KeyError), exclusive("cpu"):
        raise KeyError
    assert Other(exclusive).start().ends()


def test_devices_do_not_wait_for_each_other() -> None:
    with exclusive("cpu"), exclusive("cuda:0"), exclusive("cuda:1"):
        pass


def test_the_lock_lies_among_temporary_files() -> None:
    assert lock_path("cpu").parent == Path(tempfile.gettempdir())
    assert lock_path("a/../b c").parent == Path(tempfile.gettempdir())
    assert lock_path("cuda:0") != lock_path("cuda:1")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_nobody_else_can_hold_the_lock() -> None:
    with exclusive("cpu"):
        assert lock_path("cpu").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setattr(tempfile, "tempdir", str(blocker))
    with pytest.raises(TargetError, match="TMPDIR"), exclusive("cpu"):
        pass


def test_a_lock_file_that_is_something_else() -> None:
    lock_path("cpu").write_text("no lock of ours, but a text of some length that no database begins with")
    with pytest.raises(TargetError, match=r"prunetune-.*cpu\.lock"), exclusive("cpu"):
        pass
