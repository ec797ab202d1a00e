"""Whether a latency is over its limit: noise decides nothing, and a busy machine does not let everything in."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prunetune.targets.violation import WIDEST, is_on_edge, violation

times = st.floats(min_value=1e-3, max_value=1e3)
shares = st.floats(min_value=0.0, max_value=1.0)


@pytest.mark.parametrize(
    ("latency_ms", "low_ms", "found", "on_edge"),
    [
        (0.9, 0.89, -0.1, False),
        (1.0, 0.99, 0.0, False),
        (1.001, 0.995, 0.0, True),
        (1.02, 1.0, 0.0, True),
        (1.02, 1.0001, 0.02, False),
        (1.001, None, 0.001, False),  # nothing is known of its noise
        (0.9, None, -0.1, False),
        (1.05, 0.2, 0.0, True),
        (1.06, 0.2, 0.06, False),  # so wide an interval says nothing
        (3.0, 0.2, 2.0, False),
        (0.9, 1.2, -0.1, False),  # a damaged interval
    ],
)
def test_only_what_is_surely_over_violates(
    latency_ms: float, low_ms: float | None, found: float, on_edge: bool
) -> None:
    assert violation(latency_ms, low_ms, 1.0) == pytest.approx(found)
    assert violation(3 * latency_ms, None if low_ms is None else 3 * low_ms, 3.0) == pytest.approx(found)
    assert is_on_edge(latency_ms, low_ms, 1.0) == on_edge


@given(times, times, times, shares)
def test_it_grows_with_the_latency(one: float, two: float, limit: float, off: float) -> None:
    fast, slow = sorted((one, two))
    assert violation(fast, (1 - off) * fast, limit) <= violation(slow, (1 - off) * slow, limit)
    assert violation(fast, None, limit) <= violation(slow, None, limit)


@given(times, shares, shares, times)
def test_it_shrinks_as_the_interval_widens(latency: float, one: float, two: float, limit: float) -> None:
    narrow, wide = sorted((one, two))
    known = violation(latency, (1 - narrow) * latency, limit)
    assert violation(latency, (1 - wide) * latency, limit) <= known <= violation(latency, None, limit)


@given(times, shares, shares, times)
def test_an_interval_on_one_side_of_the_limit_decides(latency: float, down: float, up: float, limit: float) -> None:
    low, high = (1 - down) * latency, (1 + up) * latency
    assume(not 1 < latency / limit < 1 + 1e-12)  # closer to the limit than that is on it
    if low > limit:
        assert violation(latency, low, limit) > 0
    if high <= limit:
        assert violation(latency, low, limit) <= 0
        assert not is_on_edge(latency, low, limit)
    if latency > limit / (1 - WIDEST) * (1 + 1e-12):
        assert violation(latency, low, limit) > 0, "whatever the interval"
    assert is_on_edge(latency, low, limit) == (latency > limit and violation(latency, low, limit) <= 0)
