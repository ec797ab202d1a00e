"""Which candidates go on from a rung, and that a stopped recovery costs what it says."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.training import Accuracy, RecoveryProgress
from prunetune.results.pareto import ranks
from prunetune.search.outcome import Outcome
from prunetune.search.rungs import RUNGS, TrialRungs, judge, rung_epochs, stood_at
from prunetune.search.spec import EarlyStopping, StudySpec
from prunetune.spaces import ConfigError, Recipe, Threshold

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


def accuracy(value: float) -> Accuracy:
    return Accuracy(value, value, value, value, value)


def recipe(recovery_epochs: int = 9, rounds: int = 1) -> Recipe:
    return Recipe(1.0, 1, Threshold.everywhere(0.5), rounds, recovery_epochs)


def progress(epoch: int, value: float, of: int = 9, number: int = 1) -> RecoveryProgress:
    return RecoveryProgress(number, epoch, of, accuracy(value))


def study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize"])


def test_every_decision_is_stored_with_its_reason() -> None:
    found = study()
    settings = EarlyStopping(reduction=2, rungs=1, recalibrated=True)
    for value, goes_on in ((0.5, True), (0.6, True), (0.1, False)):
        trial = found.ask()
        rungs = TrialRungs(found, trial, recipe(), settings)
        assert rungs.after_surgery(accuracy(0.1), [1.0])
        assert rungs.goes_on(progress(1, value))
        assert rungs.goes_on(progress(5, value)) == goes_on
    told = found.trials[2].user_attrs[RUNGS]
    assert [(item["rung"], item["epochs"], item["goes_on"]) for item in told] == [(0, 0, True), (1, 5, False)]
    assert told[1]["reason"] == "after 5 epochs of recovery not among the best: 2 of 3 are ahead"
    assert stood_at(found.trials[2].user_attrs, 1) == (0.1, 1.0)
    assert stood_at(found.trials[2].user_attrs, 2) is None


def test_recoveries_of_different_length_meet_at_the_same_share() -> None:
    found = study()
    settings = EarlyStopping(reduction=3, rungs=2, recalibrated=True)
    for epochs, last in ((9, 3), (2, 1)):
        rungs = TrialRungs(found, found.ask(), recipe(epochs), settings)
        rungs.after_surgery(accuracy(0.1), [1.0])
        rungs.goes_on(progress(last, 0.2, epochs))
    assert [[told["rung"] for told in trial.user_attrs[RUNGS]] for trial in found.trials] == [[0, 2], [0, 2]]


def test_only_the_last_round_is_judged() -> None:
    found = study()
    rungs = TrialRungs(found, found.ask(), recipe(rounds=2), EarlyStopping())
    assert rungs.goes_on(progress(3, 0.0, number=1))
    assert rungs.decisions == []
    rungs.goes_on(progress(3, 0.0, number=2))
    assert [decision.rung for decision in rungs.decisions] == [1]


def test_without_early_stopping_nothing_is_judged() -> None:
    found = study()
    rungs = TrialRungs(found, found.ask(), recipe(), None)
    assert rungs.after_surgery(accuracy(0.0), [1.0])
    assert all(rungs.goes_on(progress(epoch, 0.0)) for epoch in range(1, 9))
    assert rungs.decisions == []


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
