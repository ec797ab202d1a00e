"""The budget's language and arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces.errors import ConfigError
from prunetune.spaces.named_networks import REFERENCES
from prunetune.targets import Budget
from prunetune.targets.budget import FIGURES, LATENCY

factors = st.floats(min_value=1e-6, max_value=1e6)
keys = st.sampled_from([LATENCY, *FIGURES])
budgets = st.builds(Budget, factors, st.sampled_from([None, *REFERENCES]), keys)
latencies = st.fixed_dictionaries(dict.fromkeys(REFERENCES, factors))


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("<= 1.0 ms", Budget(1.0)),
        ("<=1ms", Budget(1.0)),
        ("  <=  .5   MS ", Budget(0.5)),
        ("<= 1e-3 ms", Budget(0.001)),
        ("≤ 12 ms", Budget(12.0)),
        ("<= half-width", Budget(1.0, "half-width")),
        ("<=quarter-width", Budget(1.0, "quarter-width")),
        ("<= Dense", Budget(1.0, "dense")),
        ("<= 0.5 x dense", Budget(0.5, "dense")),
        ("<= 0.5xdense", Budget(0.5, "dense")),
        ("<= 0.9 × half-width", Budget(0.9, "half-width")),
        ("<= 2 * half-width", Budget(2.0, "half-width")),
    ],
)
def test_what_can_be_written(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    ("key", "text", "budget"),
    [
        ("bytes", "<= 2 MB", Budget(2e6, key="bytes")),
        ("bytes", "<= 1.5mib", Budget(1.5 * 2**20, key="bytes")),
        ("bytes", "<= 700000 B", Budget(7e5, key="bytes")),
        ("params", "<= 500000", Budget(5e5, key="params")),
        ("params", "<= 1.7 M", Budget(1.7e6, key="params")),
        ("params", "<= 900k", Budget(9e5, key="params")),
        ("params", "<= 0.5 x dense", Budget(0.5, "dense", "params")),
        ("gflops", "<= 1.2", Budget(1.2, key="gflops")),
        ("gflops", "<= half-width", Budget(1.0, "half-width", "gflops")),
        ("memory_mb", "<= 50 MB", Budget(50.0, key="memory_mb")),
        ("memory_mb", "<= 1 GiB", Budget(2**30 / 1e6, key="memory_mb")),
        ("memory_mb", "<= 0.9 x half-width", Budget(0.9, "half-width", "memory_mb")),
    ],
)
def test_figures_have_units_of_their_own(key: str, text: str, budget: Budget) -> None:
    assert Budget.parse(text, key) == budget


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("bytes", "<= 2"),
        ("bytes", "<= 2 ms"),
        ("bytes", "<= 2 Mbit"),
        ("params", "<= 2 MB"),
        ("params", "<= 0.5 dense"),
        ("gflops", "<= 1.2 ms"),
        ("gflops", "<= inf"),
        ("memory_mb", "<= 50"),
        ("latency", "<= 2 MB"),
    ],
)
def test_a_unit_that_does_not_fit(key: str, text: str) -> None:
    example = {"bytes": "2 MB", "params": "0.5 M", "gflops": "1.2", "memory_mb": "50 MB", "latency": "1.0 ms"}[key]
    with pytest.raises(ConfigError, match=rf"{text!r}: .*write '<= {example}', '<= half-width'"):
        Budget.parse(text, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "1.0 ms",
        "half-width",
        "< 1 ms",
        ">= 1 ms",
        "<=",
        "<= 5",
        "<= 1 s",
        "<= 1 us",
        "<= 1.2.3 ms",
        "<= 0.5 dense",
        "<= x dense",
        "<= dense x 0.5",
        "<= next-smaller",
        "<= 0 ms",
        "<= -1 ms",
        "<= 0 x dense",
        "<= nan ms",
        "<= inf ms",
        "<= 1e999 ms",
        "<= nan x dense",
    ],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(ConfigError) as found:
        Budget.parse(text)
    assert repr(text) in str(found.value)
    assert "'<= 1.0 ms', '<= half-width' or '<= 0.5 x dense'" in str(found.value)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("<= half_width", "half-width"),
        ("<= 0.5 x half width", "half-width"),
        ("<= quaterwidth", "quarter-width"),
        ("<= densse", "dense"),
    ],
)
def test_a_misspelt_reference_gets_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {nearest}"):
        Budget.parse(text)


@pytest.mark.parametrize(("factor", "reference"), [(0.0, None), (-1.0, "dense"), (float("nan"), None), (1.0, "densse")])
def test_a_wrong_value_is_refused_however_it_is_made(factor: float, reference: str | None) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget(factor, reference)


@given(st.text(), keys)
def test_any_text_is_a_budget_or_a_config_error(text: str, key: str) -> None:
    for candidate in (text, f"<= {text}"):
        try:
            budget = Budget.parse(candidate, key)
        except ConfigError:
            continue
        assert Budget.parse(str(budget), key) == budget


@given(budgets)
def test_text_and_back(budget: Budget) -> None:
    found = Budget.parse(str(budget), budget.key)
    assert found == budget
    assert hash(found) == hash(budget)


@given(budgets, latencies)
def test_the_references_needed_are_enough(budget: Budget, references: dict[str, float]) -> None:
    needed = {name: references[name] for name in budget.references_needed()}
    assert budget.limit(needed) == budget.limit(references)


def test_limits() -> None:
    references = {"dense": 10.0, "half-width": 4.0}
    assert Budget.parse("<= 1.5 ms").limit({}) == 1.5
    assert Budget.parse("<= 0.5 x dense").limit(references) == 5.0
    assert Budget.parse("<= half-width").limit(references) == 4.0
    assert Budget.parse("<= 1 kB", "bytes").limit({}) == 1000


def test_a_reference_that_was_not_measured() -> None:
    with pytest.raises(ConfigError, match=r"<= half-width.*controls"):
        Budget.parse("<= half-width").limit({"dense": 1.0})
