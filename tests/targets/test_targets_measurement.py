"""Rounds, statistics and the lock, with runners that return made-up times."""

from __future__ import annotations

import gc
import json
import logging
import os
import tempfile
import threading
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces.errors import TargetError
from prunetune.targets import Latency, Network, exclusive
from prunetune.targets.measurement import SETTLING_RUNS, TIMED_RUNS, interleave, lock_path
from prunetune.targets.protocol import Runner
from prunetune.targets.spec import MINIMUM_ROUNDS

times = st.floats(min_value=1e-3, max_value=1e4)
TURN = SETTLING_RUNS + TIMED_RUNS


class Recorder:
    """Runners that write down when they ran, and a clock that ticks with each run."""

    def __init__(self, *names: str) -> None:
        self.log: list[str] = []
        self.runners: dict[str, Runner] = {name: self._runner(name) for name in names}

    def _runner(self, name: str) -> Runner:
        def run() -> float:
            assert not gc.isenabled()
            self.log.append(name)
            return float(len(self.log))

        return run

    def clock(self) -> float:
        return float(len(self.log))

    def rounds(self, warmup: int = 0) -> list[list[str]]:
        """The order of the turns in each round that counts; each turn is checked for its length."""
        size = len(self.runners)
        counted = self.log[warmup * size :]
        turns = [counted[start : start + TURN] for start in range(0, len(counted), TURN)]
        assert all(len(turn) == TURN and len(set(turn)) == 1 for turn in turns)
        return [[turn[0] for turn in turns[start : start + size]] for start in range(0, len(turns), size)]


def test_every_round_gives_every_network_a_turn() -> None:
    recorder = Recorder("a", "b", "c")
    samples = interleave(recorder.runners, warmup=2, runs=20, seconds=1e9)
    assert sorted(recorder.log[:6]) == ["a", "a", "b", "b", "c", "c"]
    rounds = recorder.rounds(warmup=2)
    assert len(rounds) == 20
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert list(samples) == ["a", "b", "c"]
    assert all(len(found) == 20 for found in samples.values())


def test_the_order_changes_between_rounds_but_not_between_measurements() -> None:
    first, second = Recorder("a", "b", "c"), Recorder("a", "b", "c")
    for recorder in (first, second):
        interleave(recorder.runners, warmup=0, runs=30, seconds=1e9)
    assert first.log == second.log
    assert {names[0] for names in first.rounds()} == {"a", "b", "c"}


def test_warm_up_does_not_count() -> None:
    recorder = Recorder("a")
    samples = interleave(recorder.runners, warmup=3, runs=5, seconds=1e9)
    middle = 3 + SETTLING_RUNS + (TIMED_RUNS + 1) / 2
    assert samples == {"a": tuple(middle + TURN * number for number in range(5))}


def test_a_network_that_empties_the_caches_slows_no_other() -> None:
    """Two equal networks beside a large one, after which every first run takes half as long again."""
    last = ""

    def runner(name: str, warm: float) -> Runner:
        def run() -> float:
            nonlocal last
            before, last = last, name
            return warm * 1.5 if before == "large" != name else warm

        return run

    runners = {"reference": runner("reference", 1.0), "twin": runner("twin", 1.0), "large": runner("large", 9.0)}
    samples = interleave(runners, warmup=1, runs=40, seconds=1e9)
    assert set(samples["reference"]) == set(samples["twin"]) == {1.0}


def test_the_time_limit_ends_the_rounds() -> None:
    recorder = Recorder("a", "b")
    limit = 20 * 2 * TURN - 1
    samples = interleave(recorder.runners, warmup=0, runs=100, seconds=limit, clock=recorder.clock)
    assert len(samples["a"]) == len(samples["b"]) == 20


def test_the_fewest_rounds_are_done_when_time_is_up() -> None:
    recorder = Recorder("a", "b")
    samples = interleave(recorder.runners, warmup=50, runs=100, seconds=0.001, clock=recorder.clock)
    assert len(samples["a"]) == MINIMUM_ROUNDS
    assert len(recorder.rounds(warmup=1)) == MINIMUM_ROUNDS


def test_garbage_collection_returns_after_an_error() -> None:
    def fail() -> float:
        raise TargetError("no")

    with pytest.raises(TargetError):
        interleave({"a": fail}, warmup=0, runs=5, seconds=1)
    assert gc.isenabled()


def test_garbage_collection_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        interleave(Recorder("a").runners, warmup=0, runs=5, seconds=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


@given(st.lists(times, min_size=1))
def test_the_reference_is_exactly_one(samples: list[float]) -> None:
    latency = Latency.from_samples(samples, samples)
    assert (latency.ratio, latency.ratio_spread) == (1.0, 0.0)
    assert latency.stated_ms(3.25) == 3.25


@given(st.lists(st.tuples(times, times), min_size=1))
def test_statistics_stay_within_the_samples(pairs: list[tuple[float, float]]) -> None:
    samples, reference = ([pair[index] for pair in pairs] for index in (0, 1))
    latency = Latency.from_samples(samples, reference)
    ratios = [sample / other for sample, other in pairs]
    assert latency.runs == len(pairs)
    assert min(samples) <= latency.median_ms <= max(samples)
    assert min(ratios) <= latency.ratio <= max(ratios)
    assert 0 <= latency.spread_ms <= (max(samples) - min(samples)) * (1 + 1e-12)
    assert 0 <= latency.ratio_spread <= (max(ratios) - min(ratios)) * (1 + 1e-12)


@given(st.lists(times, min_size=5), st.sampled_from([0.25, 0.5, 2.0]))
def test_drift_that_hits_both_leaves_the_ratio(reference: list[float], factor: float) -> None:
    latency = Latency.from_samples([factor * time for time in reference], reference)
    assert (latency.ratio, latency.ratio_spread) == (factor, 0.0)


@given(st.lists(st.tuples(times, times), min_size=1))
def test_dict_and_back_keeps_all_but_the_samples(pairs: list[tuple[float, float]]) -> None:
    latency = Latency.from_samples([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    values = json.loads(json.dumps(latency.as_dict()))
    assert "samples_ms" not in values
    found = Latency.from_dict(values)
    assert found.samples_ms == ()
    assert found.as_dict() == latency.as_dict()


def test_interquartile_range() -> None:
    latency = Latency.from_samples([5.0, 1.0, 4.0, 2.0, 3.0], [1.0] * 5)
    assert (latency.median_ms, latency.spread_ms) == (3.0, 2.0)


@pytest.mark.parametrize(("samples", "reference"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0])])
def test_samples_that_give_no_ratio(samples: list[float], reference: list[float]) -> None:
    with pytest.raises(TargetError):
        Latency.from_samples(samples, reference)


@pytest.mark.parametrize("shape", [(1, 3, 32), (1, 3, 0, 32)])
def test_network_with_an_impossible_shape(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(TargetError, match=r"'dense'.*input_shape"):
        Network("dense", shape)


def test_network_without_a_name() -> None:
    with pytest.raises(TargetError, match="name"):
        Network("", (1, 3, 32, 32))


def test_a_second_measurement_waits(caplog: pytest.LogCaptureFixture) -> None:
    waiting, entered = threading.Event(), threading.Event()

    class Announce(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waiting.set()

    def measure() -> None:
        with exclusive("cpu"):
            entered.set()

    logger = logging.getLogger("prunetune.targets.measurement")
    handler = Announce()
    logger.addHandler(handler)
    thread = threading.Thread(target=measure)
    try:
        with caplog.at_level(logging.INFO, logger=logger.name), exclusive("cpu"):
            thread.start()
            assert waiting.wait(30)
            assert not entered.is_set()
        thread.join(30)
    finally:
        logger.removeHandler(handler)
    assert entered.is_set()
    assert "waiting" in caplog.text


def test_the_lock_is_held_inside_and_free_outside() -> None:
    def taken_by_another() -> bool:
        """Asked from another thread, as a thread is refused a second lock of its own."""
        answer: list[bool] = []

        def ask() -> None:
            other = FileLock(lock_path("cuda:1"))
            try:
                with other.acquire(blocking=False):
                    answer.append(False)
            except Timeout:
                answer.append(True)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(30)
        return answer[0]

    with exclusive("cuda:1"):
        assert taken_by_another()
    assert not taken_by_another()
    with pytest.raises(KeyError), exclusive("cuda:1"):
        raise KeyError
    assert not taken_by_another()


def test_devices_do_not_wait_for_each_other() -> None:
    with exclusive("cpu"), exclusive("cuda:0"), exclusive("cuda:1"):
        pass


def test_lock_names() -> None:
    assert lock_path("cuda") == lock_path("cuda:0") != lock_path("cuda:1")
    assert lock_path("cpu").parent == Path(tempfile.gettempdir())
    assert lock_path("a/../b c").parent == Path(tempfile.gettempdir())


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
