"""Latencies as a study compares them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.targets import Latency, NormalizedLatency
from prunetune.targets.spec import MINIMUM_ROUNDS

times = st.floats(min_value=1e-3, max_value=1e4)
MEASURED = Latency(
    median_ms=9.0,
    spread_ms=0.4,
    runs=40,
    ratio=1.5,
    ratio_spread=0.1,
    ratio_low=1.47,
    ratio_high=1.53,
    outliers=2,
)


def test_a_normalized_latency_is_in_terms_of_the_first_measurement() -> None:
    found = MEASURED.normalized(reference_ms=4.0, dense_ms=8.0)
    assert (found.ms, found.ratio_to_dense) == (6.0, 0.75)
    assert (found.low_ms, found.spread_ms, found.uncertainty) == pytest.approx((5.88, 0.4, 0.02))
    assert not found.predicted


@given(st.lists(times, min_size=MINIMUM_ROUNDS, max_size=50), times, st.floats(min_value=0.1, max_value=10.0))
def test_drift_since_the_start_changes_no_normalized_latency(samples: list[float], start: float, drift: float) -> None:
    then = Latency.from_samples(samples, [start] * len(samples)).normalized(start, start)
    later = Latency.from_samples([drift * time for time in samples], [drift * start] * len(samples))
    assert later.normalized(start, start).ms == pytest.approx(then.ms)
    assert later.normalized(start, start).low_ms == pytest.approx(then.low_ms)


@given(st.lists(times, min_size=1, max_size=50))
def test_the_interval_begins_below_the_latency(samples: list[float]) -> None:
    found = Latency.from_samples(samples, [1.0] * len(samples)).normalized(2.0, 4.0)
    assert (found.low_ms is None) == (len(samples) < MINIMUM_ROUNDS)
    assert found.low_ms is None or found.low_ms <= found.ms


def test_memory_goes_with_a_latency() -> None:
    assert "memory_mb" not in MEASURED.as_dict()
    told = replace(MEASURED, memory_mb=12.5)
    assert Latency.from_dict(json.loads(json.dumps(told.as_dict()))) == told
    assert NormalizedLatency.parse(told.normalized(4.0, 8.0).as_dict()) == told.normalized(4.0, 8.0)
    assert told.normalized(4.0, 8.0).memory_mb == 12.5


def test_a_prediction_has_an_error_and_no_interval() -> None:
    found = replace(MEASURED, runs=0).normalized(4.0, 8.0, predicted=True)
    assert found.predicted
    assert found.low_ms is None
    assert found.uncertainty == pytest.approx(0.02)


def test_of_few_rounds_nothing_is_said_of_the_noise() -> None:
    found = replace(MEASURED, runs=MINIMUM_ROUNDS - 1).normalized(4.0, 8.0)
    assert (found.low_ms, found.uncertainty) == (None, None)


def test_what_is_not_known_is_not_stored() -> None:
    assert NormalizedLatency(2.0).as_dict() == {"ms": 2.0}
    stored = json.loads(json.dumps(MEASURED.normalized(4.0, 8.0).as_dict()))
    assert NormalizedLatency.parse(stored) == MEASURED.normalized(4.0, 8.0)


@pytest.mark.parametrize("stored", [None, [], "2.0", {}, {"ms": None}, {"ms": "2"}, {"ms": float("nan")}])
def test_what_has_no_time_is_no_latency(stored: object) -> None:
    assert NormalizedLatency.parse(stored) is None


def test_a_damaged_field_is_missing() -> None:
    assert NormalizedLatency.parse({"ms": 2, "spread_ms": "wide", "predicted": "yes"}) == NormalizedLatency(2.0)
