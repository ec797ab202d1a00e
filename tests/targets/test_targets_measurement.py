"""Rounds, statistics and the lock, with runners that return made-up times."""

from __future__ import annotations

import gc
import itertools
import json
import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces.errors import TargetError
from prunetune.targets import InterleavedTarget, Latency, Network, OnnxRuntimeSpec, Pace
from prunetune.targets.latency import median_interval
from prunetune.targets.measure.measurement import Samples, interleave
from prunetune.targets.network import Form
from prunetune.targets.protocol import Runner
from prunetune.targets.spec import MINIMUM_ROUNDS

times = st.floats(min_value=1e-3, max_value=1e4)
PACE = Pace(warmup=0)
TURN = PACE.settling + 1


def never(samples: Samples) -> bool:
    return False


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
    samples = interleave(recorder.runners, Pace(warmup=2), runs=20, seconds=1e9, settled=never)
    assert sorted(recorder.log[:6]) == ["a", "a", "b", "b", "c", "c"]
    rounds = recorder.rounds(warmup=2)
    assert len(rounds) == 20
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert list(samples) == ["a", "b", "c"]
    assert all(len(found) == 20 for found in samples.values())


def test_the_order_changes_between_rounds_but_not_between_measurements() -> None:
    first, second = Recorder("a", "b", "c"), Recorder("a", "b", "c")
    for recorder in (first, second):
        interleave(recorder.runners, PACE, runs=30, seconds=1e9, settled=never)
    assert first.log == second.log
    assert {names[0] for names in first.rounds()} == {"a", "b", "c"}


def test_warm_up_does_not_count() -> None:
    recorder = Recorder("a")
    samples = interleave(recorder.runners, Pace(warmup=3), runs=6, seconds=1e9, settled=never)
    last = 3 + TURN
    assert samples == {"a": tuple(last + TURN * number for number in range(6))}


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
    samples = interleave(runners, Pace(warmup=1), runs=40, seconds=1e9, settled=never)
    assert set(samples["reference"]) == set(samples["twin"]) == {1.0}


def test_the_time_limit_ends_the_rounds() -> None:
    recorder = Recorder("a", "b")
    limit = 20 * 2 * TURN - 1
    samples = interleave(recorder.runners, PACE, runs=100, seconds=limit, settled=never, clock=recorder.clock)
    assert len(samples["a"]) == len(samples["b"]) == 20


def test_the_fewest_rounds_are_done_when_time_is_up() -> None:
    recorder = Recorder("a", "b")
    samples = interleave(
        recorder.runners, Pace(warmup=50), runs=100, seconds=0.001, settled=never, clock=recorder.clock
    )
    assert len(samples["a"]) == MINIMUM_ROUNDS
    assert len(recorder.rounds(warmup=1)) == MINIMUM_ROUNDS


def test_the_rounds_end_when_the_samples_are_settled() -> None:
    recorder = Recorder("a", "b")
    told: list[int] = []

    def settled(samples: Samples) -> bool:
        assert {len(times) for times in samples.values()} == {len(samples["a"])}
        told.append(len(samples["a"]))
        return told[-1] >= 25

    samples = interleave(recorder.runners, PACE, runs=100, seconds=1e9, settled=settled)
    assert len(samples["a"]) == len(samples["b"]) == 26
    assert told == [*range(MINIMUM_ROUNDS, 20), 20, 22, 24, 26], "each look costs, and may end the rounds by chance"


class Scripted:
    """A backend whose networks take the times that it is given, by name, over and over."""

    form: Form = "onnx"
    pace = Pace(warmup=0, settling=0)
    precisions = ("fp32",)

    def __init__(self, times: dict[str, list[float]], **spec: Any) -> None:
        self.spec = OnnxRuntimeSpec(**spec)
        self._times = {name: itertools.cycle(values) for name, values in times.items()}

    def fingerprint(self) -> dict[str, str]:
        return {}

    def pinned(self) -> nullcontext[None]:
        return nullcontext()

    def load(self, network: Network) -> Runner:
        return lambda: next(self._times[network.name])

    def measure(self) -> dict[str, Latency]:
        networks = [Network(name, (1, 3, 32, 32), onnx=Path("x.onnx")) for name in self._times]
        return InterleavedTarget(self).measure(networks, reference="reference")


def test_quiet_networks_take_the_fewest_rounds(caplog: pytest.LogCaptureFixture) -> None:
    measured = Scripted({"reference": [2.0], "half": [1.0, 1.001]}).measure()
    assert measured["half"].runs == MINIMUM_ROUNDS
    assert measured["half"].ratio == pytest.approx(0.5, rel=1e-3)
    assert caplog.text == ""


def test_a_noisy_network_takes_more_rounds_until_its_ratio_is_known(caplog: pytest.LogCaptureFixture) -> None:
    noise = [float(value) for value in np.random.default_rng(0).normal(1.0, 0.03, 1000)]
    measured = Scripted({"reference": [1.0], "noisy": noise}, runs=1000, tolerance=0.01).measure()
    assert MINIMUM_ROUNDS < measured["noisy"].runs < 400
    assert measured["noisy"].uncertainty <= 0.01
    assert measured["noisy"].ratio_low <= measured["noisy"].ratio <= measured["noisy"].ratio_high
    assert caplog.text == ""


def test_a_machine_that_is_too_noisy_is_told(caplog: pytest.LogCaptureFixture) -> None:
    measured = Scripted({"reference": [1.0], "noisy": [1.0, 2.0, 3.0, 4.0]}, runs=12, name="board").measure()
    assert measured["noisy"].runs == 12
    assert measured["noisy"].uncertainty > 0.01
    assert "'board'" in caplog.text
    assert "the ratio of 'noisy' to 'reference'" in caplog.text
    assert "after 12 rounds" in caplog.text


def test_outliers_are_kept_and_counted() -> None:
    latency = Latency.from_samples([1.0] * 6 + [1.1] * 6 + [30.0, 40.0], [1.0] * 14)
    assert latency.outliers == 2
    assert max(latency.samples_ms) == 40.0
    assert latency.ratio == pytest.approx(1.1)


@given(st.lists(times, min_size=1))
def test_the_interval_holds_the_median(values: list[float]) -> None:
    low, high = median_interval(values)
    assert min(values) <= low <= statistics.median(values) <= high <= max(values)


@pytest.mark.parametrize(("count", "ranks"), [(5, (1, 5)), (6, (1, 6)), (9, (2, 8)), (20, (6, 15)), (100, (40, 61))])
def test_the_interval_is_the_published_one(count: int, ranks: tuple[int, int]) -> None:
    """Ranks of the 95 % confidence interval of a median, as tables of order statistics print them."""
    assert median_interval([float(rank) for rank in range(1, count + 1)]) == ranks


def test_garbage_collection_returns_after_an_error() -> None:
    def fail() -> float:
        raise TargetError("no")

    with pytest.raises(TargetError):
        interleave({"a": fail}, PACE, runs=6, seconds=1, settled=never)
    assert gc.isenabled()


def test_garbage_collection_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        interleave(Recorder("a").runners, PACE, runs=6, seconds=1, settled=never)
        assert not gc.isenabled()
    finally:
        gc.enable()


@given(st.lists(times, min_size=1))
def test_the_reference_is_exactly_one(samples: list[float]) -> None:
    latency = Latency.from_samples(samples, samples)
    assert (latency.ratio, latency.ratio_spread) == (1.0, 0.0)
    assert latency.normalized(3.25, 6.5).ms == 3.25


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
