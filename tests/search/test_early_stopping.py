"""Which candidates go on from a rung."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.results.findings.pareto import ranks
from prunetune.results.record import RungDecision, TrialRecord
from prunetune.search.study.study_spec import EarlyStopping, StudySpec
from prunetune.search.trial.early_stopping import decided_after, judge, rung_epochs, rungs_of, values_at
from prunetune.spaces import ConfigError, Outcome

Points = list[tuple[float, float]]

points = st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=30)
reductions = st.integers(2, 4)


@given(st.integers(0, 300), reductions, st.integers(0, 6))
def test_rungs_lie_within_the_recovery_and_rise(epochs: int, reduction: int, count: int) -> None:
    found = rung_epochs(epochs, reduction, count)
    assert all(0 < epoch < epochs for epoch in found)
    assert list(found) == sorted(set(found))
    assert len(found) <= count


def test_rungs_are_shares_of_the_recovery() -> None:
    assert rung_epochs(27, 3, 2) == (3, 9)
    assert rung_epochs(100, 2, 3) == (13, 25, 50)
    assert rung_epochs(2, 3, 2) == (1,)
    assert rung_epochs(1, 3, 2) == ()


@given(points, reductions)
def test_whom_nobody_dominates_goes_on(candidates: Points, reduction: int) -> None:
    first, *others = candidates
    dominated = any(
        accuracy >= first[0] and latency <= first[1] and (accuracy, latency) != first for accuracy, latency in others
    )
    decision = judge(0, 0, first, others, reduction)
    assert decision.goes_on or dominated
    assert decision.reached == len(candidates)


@given(points, reductions)
def test_the_order_of_the_others_does_not_matter(candidates: Points, reduction: int) -> None:
    first, *others = candidates
    assert judge(1, 3, first, others, reduction) == judge(1, 3, first, others[::-1], reduction)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=40, unique=True), reductions)
def test_with_one_objective_the_best_part_goes_on(accuracies: list[float], reduction: int) -> None:
    """Plain ASHA: of n candidates at a rung the best n // reduction."""
    on = [
        judge(1, 1, [value], [[other] for other in accuracies if other != value], reduction).goes_on
        for value in accuracies
    ]
    best = sorted(accuracies, reverse=True)[: max(1, len(accuracies) // reduction)]
    assert sorted((value for value, goes_on in zip(accuracies, on, strict=True) if goes_on), reverse=True) == best


def test_the_first_candidates_go_on() -> None:
    assert judge(1, 3, [0.1, 2.0], [[0.5, 1.0]], 3).goes_on
    assert not judge(1, 3, [0.1, 2.0], [[0.5, 1.0], [0.6, 1.0]], 3).goes_on


@given(points)
def test_rank_0_is_the_front(candidates: Points) -> None:
    found = ranks(candidates)
    for rank, (accuracy, latency) in zip(found, candidates, strict=True):
        above = [
            other_rank
            for other_rank, other in zip(found, candidates, strict=True)
            if other[0] >= accuracy and other[1] <= latency and other != (accuracy, latency)
        ]
        assert rank == (1 + max(above) if above else 0)


def test_a_decision_says_why() -> None:
    decision = judge(1, 5, (0.1, 1.0), [(0.5, 1.0), (0.6, 1.0)], 2)
    assert decision == RungDecision(1, 5, (0.1, 1.0), ahead=2, reached=3, goes_on=False)
    assert decision.reason == "after 5 epochs of recovery not among the best: 2 of 3 are ahead"
    first = judge(3, 9, (0.5, 0.5), [(0.9, 1.0)], 3, round_number=1)
    assert (first.round, first.reason) == (1, "after round 1 among the best: 0 of 2 are ahead")


def test_recoveries_of_different_length_meet_at_the_same_share() -> None:
    settings = EarlyStopping(reduction=3, rungs=2, recalibrated=True)
    assert rungs_of(settings, 9) == {0: 0, 1: 1, 3: 2}
    assert rungs_of(settings, 2) == {0: 0, 1: 2}
    assert rungs_of(settings, 0) == {}, "what is not recovered is not judged before"
    assert rungs_of(EarlyStopping(reduction=3, rungs=2), 9) == {1: 1, 3: 2}


def test_without_early_stopping_nothing_is_judged() -> None:
    assert rungs_of(None, 9) == {}


AT_RUNG, AFTER_ROUND = RungDecision(1, 3, (0.5, 1.0), 0, 1, True), RungDecision(3, 9, (0.9, 1.0), 0, 1, False, 1)


def test_others_are_compared_with_as_they_stood_at_the_rung() -> None:
    peers = {
        0: TrialRecord(decisions=(AT_RUNG, replace(AT_RUNG, rung=2, values=(0.6, 1.0)))),
        1: TrialRecord(decisions=(AFTER_ROUND, replace(AT_RUNG, values=(0.1, 1.0)))),
        2: TrialRecord(),
    }
    assert values_at(1, peers) == [(0.5, 1.0), (0.1, 1.0)]
    assert values_at(2, peers) == [(0.6, 1.0)]
    assert values_at(3, peers) == [], "that was between two rounds"


def test_a_round_is_judged_once_whoever_takes_the_recipe_up() -> None:
    attempts = [TrialRecord(), TrialRecord(decisions=(AT_RUNG, AFTER_ROUND)), TrialRecord(decisions=(AT_RUNG,))]
    assert decided_after(1, attempts) == AFTER_ROUND
    assert decided_after(2, attempts) is None
    assert decided_after(1, []) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, EarlyStopping()), (False, False), ({"reduction": 2}, EarlyStopping(reduction=2))],
)
def test_the_description_knows_early_stopping(
    make_spec: Callable[..., StudySpec], value: object, expected: object
) -> None:
    spec = make_spec(early_stopping=value)
    assert spec.early_stopping == expected
    stored = spec.model_dump(mode="json", exclude_none=True)
    assert StudySpec.parse(stored).frozen_part() == spec.frozen_part()


@pytest.mark.parametrize("value", [{"reduction": 1}, {"reduction": 5}, {"rungs": -1}, {"rung": 2}, 3])
def test_wrong_early_stopping_is_named(make_spec: Callable[..., StudySpec], value: object) -> None:
    with pytest.raises(ConfigError, match="early_stopping"):
        make_spec(early_stopping=value)


def test_a_stopped_trial_has_values() -> None:
    assert Outcome.STOPPED_EARLY.has_values
    assert Outcome.STOPPED_EARLY.counts
