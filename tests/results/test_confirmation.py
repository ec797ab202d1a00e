"""How sure the figures are: what `prunetune confirm` stores, and how it is read."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.results import Comparison, Confirmation, ConfirmedNetwork, Interval, StudyRecord

numbers = st.floats(-10, 10)
intervals = st.builds(Interval, numbers, numbers, numbers)
latencies = st.dictionaries(st.text(max_size=4), intervals, max_size=2)
comparisons = st.builds(Comparison, st.none() | intervals, st.none() | intervals, latencies)
networks = st.builds(
    ConfirmedNetwork,
    st.none() | intervals,
    st.none() | intervals,
    latencies,
    st.dictionaries(st.text(max_size=4), comparisons, max_size=2),
)


@given(named=st.dictionaries(st.text(max_size=4), networks, min_size=1, max_size=3), busy=st.none() | st.floats(0, 1))
def test_what_is_stored_is_read_back(named: dict[str, ConfirmedNetwork], busy: float | None) -> None:
    study = optuna.create_study()
    made = Confirmation("test", 72, 1000, 0, 0.95, "2026-01-01T00:00:00+00:00", busy, named)
    StudyRecord.store(study, confirmation=made)
    assert StudyRecord.of(study).confirmation == made
    assert Confirmation.parse(json.loads(json.dumps(made.as_dict(), allow_nan=False))) == made


@pytest.mark.parametrize("stored", [None, [], "x", {}, {"networks": {}}, {"networks": 7}])
def test_a_study_that_was_not_confirmed_has_none(stored: Any) -> None:
    assert Confirmation.parse(stored) is None


def test_what_is_damaged_is_missing() -> None:
    told = {"networks": {"3": {"map50_95": {"value": 0.5, "low": None, "high": 0.6}, "latencies": 3, "against": []}}}
    found = Confirmation.parse(told)
    assert found is not None
    assert found.of(3) == ConfirmedNetwork(None, None, {}, {})
    assert found.of("dense") is None


@pytest.mark.parametrize(
    ("low", "high", "is_sure"), [(0.01, 0.05, True), (-0.05, -0.01, True), (-0.01, 0.05, False), (0.0, 0.1, False)]
)
def test_a_difference_is_sure_when_its_interval_leaves_zero_out(low: float, high: float, is_sure: bool) -> None:
    difference = Comparison(None, Interval((low + high) / 2, low, high), {"cpu": Interval(1.1, 1 + low, 1 + high)})
    assert difference.is_accuracy_sure is is_sure
    assert difference.is_latency_sure("cpu") is is_sure
    assert not difference.is_latency_sure("board")
