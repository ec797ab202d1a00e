"""How sure the figures are: the study's attribute and its typed reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.results import Comparison, Confirmation, ConfirmedNetwork, Interval, confirmation
from prunetune.results.certainty import CONFIRMATION

Builder = Any

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
def test_what_is_stored_is_read_back(make_builder: Any, named: dict[str, ConfirmedNetwork], busy: float | None) -> None:
    builder = make_builder()
    made = Confirmation("test", 72, 1000, 0, 0.95, "2026-01-01T00:00:00+00:00", busy, named)
    stored = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    builder.study.set_user_attr(CONFIRMATION, stored)
    assert confirmation(builder.study) == made


@pytest.mark.parametrize("stored", [None, [], "x", {}, {"networks": {}}, {"networks": 7}])
def test_a_study_that_was_not_confirmed_has_none(builder: Builder, stored: Any) -> None:
    if stored is not None:
        builder.study.set_user_attr(CONFIRMATION, stored)
    assert confirmation(builder.study) is None


def test_what_is_damaged_is_missing(builder: Builder) -> None:
    told = {"networks": {"3": {"map50_95": {"value": 0.5, "low": None, "high": 0.6}, "latencies": 3, "against": []}}}
    builder.study.set_user_attr(CONFIRMATION, told)
    found = confirmation(builder.study)
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
