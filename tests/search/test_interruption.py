"""An orderly stop: the first signal waits for a safe point, the second does not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunetune.search.interruption import Interruption, StopAskedError, safe_point, stop_is_asked
from prunetune.search.study.open_study import study_lock

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_the_first_signal_waits_for_a_safe_point(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption():
        safe_point()
        signal.raise_signal(number)
        assert stop_is_asked()
        assert "once more stops at once" in capfd.readouterr().err
        with pytest.raises(StopAskedError):
            safe_point()
    safe_point()
    assert not stop_is_asked()


@BOTH
def test_the_second_one_stops_at_once(number: signal.Signals) -> None:
    with Interruption():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(number)
        assert not isinstance(caught.value, StopAskedError)
        assert caught.value.args == (number,)
        with pytest.raises(KeyboardInterrupt) as caught:  # whoever swallowed it
            safe_point()
        assert not isinstance(caught.value, StopAskedError)


def test_what_handled_signals_before_does_so_again() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption() as outer:
        with Interruption() as inner:
            assert inner is outer
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_worker_stops_at_once_on_its_parents_signal_alone() -> None:
    with Interruption(hasty=signal.SIGUSR1):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        with pytest.raises(StopAskedError):
            safe_point()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGUSR1)


def test_no_signals_are_handled_in_other_threads() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def run() -> None:
        with Interruption():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, 0), (signal.SIGTERM, signal.SIGTERM)])
def test_a_process_that_loads_images_outlives_ctrl_c_and_ends_when_told(number: signal.Signals, ended: int) -> None:
    with Interruption():
        child = os.fork()
        if child == 0:
            signal.raise_signal(number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == ended
        assert not stop_is_asked()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[threading.Event]:
    """Somebody else who has the study's lock until the event."""
    has, end = threading.Event(), threading.Event()

    def hold() -> None:
        with study_lock(tmp_path):
            has.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    has.wait()
    yield end
    end.set()
    thread.join()


@pytest.mark.usefixtures("other")
def test_waiting_for_another_process_is_a_safe_point(tmp_path: Path) -> None:
    with Interruption():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopAskedError), study_lock(tmp_path):
            pytest.fail("it is another's")


def test_giving_back_waits_for_its_lock_all_the_same(tmp_path: Path, other: threading.Event) -> None:
    with Interruption():
        signal.raise_signal(signal.SIGTERM)
        release = threading.Timer(0.05, other.set)
        release.start()
        with study_lock(tmp_path, always=True):
            assert other.is_set()
