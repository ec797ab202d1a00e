"""The price of a recipe: the epochs that no trial of its study has trained."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from prunetune.results.record import TrialRecord
from prunetune.search.price import Price
from prunetune.spaces import Cost, Outcome, SearchSpace, StageUse


def space(**changes: Any) -> SearchSpace:
    """Three trunks of 10 or 20 epochs; recovery of 5."""
    return SearchSpace.model_validate(
        {
            "sparsity": {"choices": [0.1, 0.3, 1.0]},
            "sparse_epochs": {"choices": [10, 20]},
            "threshold": {"low": 0.1, "high": 0.9},
            "recovery_epochs": 5,
            **changes,
        }
    )


def trial(
    state: TrialState = TrialState.COMPLETE, outcome: str = "OK", stages: str = "sparse pruning recovery", **params: Any
) -> FrozenTrial:
    """A trial that ended with some stages, or still runs."""
    kinds: dict[str, BaseDistribution] = {
        name: IntDistribution(0, 1000) if isinstance(value, int) else FloatDistribution(0, 10)
        for name, value in params.items()
    }
    uses = tuple(StageUse(kind, f"{kind}-{place}") for place, kind in enumerate(stages.split()))
    ended = TrialRecord(outcome=Outcome(outcome), cost=Cost(stages=uses))
    return create_trial(
        state=state,
        values=[0.5, 1.0] if state == TrialState.COMPLETE else None,
        params=params,
        distributions=kinds,
        user_attrs=ended.to_attrs() if state.is_finished() else {},
    )


def point(sparsity: float = 0.3, sparse_epochs: int = 20, threshold: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"sparsity": sparsity, "sparse_epochs": sparse_epochs, "threshold": threshold, **more}


def test_in_an_empty_study_all_is_paid() -> None:
    price = Price(space(rounds={"low": 1, "high": 3}), [])
    assert price(point(rounds=1)) == 25
    assert price(point(rounds=3, sparse_epochs=10)) == 3 * 15


def test_a_trunk_is_paid_once_and_recovery_always() -> None:
    price = Price(space(), [trial(**point())])
    assert price(point()) == 5
    assert price(point(threshold=0.2)) == 5
    assert price(point(sparse_epochs=10)) == 5, "a checkpoint on the way"
    assert price(point(sparsity=1.0)) == 25


def test_a_longer_trunk_costs_what_is_missing() -> None:
    assert Price(space(), [trial(**point(sparse_epochs=10))])(point()) == 10 + 5


def test_lengths_that_are_not_listed_leave_no_checkpoint_on_the_way() -> None:
    price = Price(space(sparse_epochs={"low": 1, "high": 40}), [trial(**point()), trial(**point(sparse_epochs=7))])
    assert price(point(sparse_epochs=15)) == 8 + 5
    assert price(point(sparse_epochs=30)) == 10 + 5
    assert price(point(sparse_epochs=5)) == 5 + 5


@pytest.mark.parametrize(
    ("other", "there"),
    [
        (trial(TrialState.RUNNING, **point()), True),
        (trial(TrialState.WAITING, **point()), False),
        (trial(TrialState.FAIL, "DIVERGED", stages="", **point()), False),
        (trial(TrialState.FAIL, "NOT_MEASURED", stages="sparse pruning", **point()), True),
        (trial(TrialState.FAIL, "WORKER_DIED", stages="", **point()), False),
        (trial(outcome="OVER_BUDGET", stages="sparse pruning", **point()), True),
    ],
    ids=["running", "waiting", "diverged", "refused", "died", "over budget"],
)
def test_what_another_trial_has_of_a_trunk(other: FrozenTrial, there: bool) -> None:
    assert Price(space(), [other])(point(threshold=0.2)) == (5 if there else 25)


def test_without_a_sparse_phase_there_is_no_trunk() -> None:
    price = Price(space(sparse_epochs=0), [])
    assert price({"sparsity": 0.3, "threshold": 0.5}) == 5


def test_fixed_values_need_not_be_given_and_missing_ones_are_the_largest() -> None:
    price = Price(space(sparsity=0.3, sparse_epochs=20), [trial(threshold=0.4)])
    assert price({"threshold": 0.5}) == 5
    assert Price(space(), [])({"threshold": 0.5}) == 25


ROUNDS = "sparse pruning recovery"


@pytest.mark.parametrize(
    ("other", "wanted", "epochs"),
    [
        (trial(stages=ROUNDS, **point(rounds=1)), 2, 25),
        (trial(stages=ROUNDS, **point(rounds=1)), 3, 50),
        (trial(stages=f"{ROUNDS} {ROUNDS} {ROUNDS}", **point(rounds=3)), 2, 5),
        (trial(outcome="OVER_BUDGET", stages=f"{ROUNDS} sparse pruning", **point(rounds=2)), 2, 25),
        (trial(outcome="OVER_BUDGET", stages="sparse pruning", **point(rounds=1)), 2, 5 + 25),
        (trial(TrialState.FAIL, "DIVERGED", stages=f"{ROUNDS} sparse pruning", **point(rounds=3)), 3, 50),
        (trial(TrialState.RUNNING, **point(rounds=2)), 2, 5 + 25),
        (trial(stages=ROUNDS, **point(rounds=1, threshold=0.4)), 2, 5 + 25),
    ],
    ids=["one more", "two more", "fewer", "gate", "gate at once", "failed", "running", "another threshold"],
)
def test_rounds_go_on_where_the_same_recipe_ended(other: FrozenTrial, wanted: int, epochs: int) -> None:
    assert Price(space(rounds={"low": 1, "high": 3}), [other])(point(rounds=wanted)) == epochs


def test_regions_are_told_apart() -> None:
    both = {"backbone": {"low": 0.1, "high": 0.9}, "head": {"low": 0.1, "high": 0.9}}
    where = {"sparsity": 0.3, "sparse_epochs": 20, "threshold_backbone": 0.2, "threshold_head": 0.3}
    price = Price(space(threshold=both, rounds={"low": 1, "high": 2}), [trial(stages=ROUNDS, rounds=1, **where)])
    assert price({**where, "rounds": 2}) == 25
    assert price({**where, "threshold_head": 0.4, "rounds": 2}) == 30
