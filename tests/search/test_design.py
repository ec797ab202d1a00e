"""The recipes of the first trials: each trunk once, spread, and the same whoever asks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.results.record import TrialRecord
from prunetune.search.engine.taking import next_trial
from prunetune.search.engine.workers import this_worker
from prunetune.search.samplers.design import first_recipe, spread, value_at
from prunetune.search.samplers.factory import startup_trials
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import AskedTrial
from prunetune.spaces import FloatParameter, IntParameter, Outcome, SearchSpace

MakeSpec = Callable[..., StudySpec]


def space(**changes: Any) -> SearchSpace:
    return SearchSpace.model_validate(
        {
            "sparsity": {"low": 0.1, "high": 1.0, "log": True, "grid": 5},
            "sparse_epochs": {"choices": [20, 10]},
            "threshold": {"low": 0.01, "high": 1.0, "log": True},
            "rounds": {"low": 1, "high": 2},
            "recovery_epochs": 5,
            **changes,
        }
    )


def points(space: SearchSpace, count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [first_recipe(space, seed, index) for index in range(count)]


# The trunks


@pytest.mark.parametrize("seed", range(5))
def test_each_sparsity_comes_once_and_with_its_longest_trunk(seed: int) -> None:
    found = points(space(), 15, seed)
    values = space().sparsity.values
    assert values is not None
    for turn in range(3):
        assert {point["sparsity"] for point in found[5 * turn : 5 * turn + 5]} == set(values)
    assert {point["sparse_epochs"] for point in found[:5]} == {20}
    assert {point["sparse_epochs"] for point in found[5:]} == {10, 20}, "the trunks are there: all lengths are free"


@pytest.mark.parametrize("grid", [4, 7, 12, 100])
def test_the_beginning_of_a_large_grid_is_spread_over_it(grid: int) -> None:
    places = [spread(range(grid), index) for index in range(grid)]
    assert sorted(places) == list(range(grid))
    for count in range(3, min(grid, 10) + 1):
        taken = sorted(places[:count])
        assert taken[0] == 0
        assert taken[-1] == grid - 1
        gaps = [after - before for before, after in itertools.pairwise(taken)]
        assert max(gaps) <= 2 * max(1, min(gaps)) + 1


@pytest.mark.parametrize("seed", range(5))
def test_a_sparsity_without_a_grid_is_stratified_on_its_own_scale(seed: int) -> None:
    found = points(space(sparsity={"low": 0.01, "high": 100.0, "log": True}), 16, seed)
    for count in (2, 4, 8, 16):
        strata = {int(count * (math.log10(point["sparsity"]) + 2) / 4) for point in found[:count]}
        assert len(strata) == count
    assert len({point["sparse_epochs"] for point in found}) == 2


def test_other_parameters_are_spread_beside_each_sparsity() -> None:
    found = points(space(), 10)
    logs = sorted(math.log10(point["threshold"]) for point in found)
    assert {int(-2 * share) for share in logs} == {0, 1, 2, 3}
    assert {point["rounds"] for point in found[:4]} == {1, 2}


def test_what_is_fixed_is_not_asked_for() -> None:
    assert set(points(space(sparsity=0.3, sparse_epochs=4), 1)[0]) == {"threshold", "rounds"}
    assert points(space(sparsity=0.3, sparse_epochs=4, threshold=0.5, rounds=1), 1) == [{}]


def test_lengths_without_a_list_are_spread() -> None:
    lengths = [point["sparse_epochs"] for point in points(space(sparse_epochs={"low": 1, "high": 40}), 8)]
    assert min(lengths) <= 10
    assert max(lengths) > 30


# A pure function


def test_the_design_is_the_same_for_whoever_asks_and_differs_by_seed() -> None:
    assert points(space(), 12)[7] == first_recipe(space(), 0, 7)
    thresholds = {tuple(point["threshold"] for point in points(space(), 6, seed)) for seed in range(5)}
    assert len(thresholds) == 5


SHARES = st.floats(0, 1, exclude_max=True)


@given(share=SHARES, low=st.floats(1e-6, 1e3), more=st.floats(1e-6, 1e3), log=st.booleans())
def test_a_real_value_is_within_its_bounds(share: float, low: float, more: float, log: bool) -> None:
    value = value_at(FloatParameter(low=low, high=low + more, log=log), share)
    assert isinstance(value, float)
    assert low <= value <= low + more


@given(share=SHARES, low=st.integers(1, 1000), more=st.integers(0, 1000), log=st.booleans())
def test_a_whole_value_is_within_its_bounds(share: float, low: int, more: int, log: bool) -> None:
    value = value_at(IntParameter(low=low, high=low + more, log=log), share)
    assert isinstance(value, int)
    assert low <= value <= low + more


def test_every_whole_number_gets_its_share() -> None:
    parameter = IntParameter(low=2, high=5)
    assert [value_at(parameter, (step + 0.5) / 8) for step in range(8)] == [2, 2, 3, 3, 4, 4, 5, 5]


# In a study


def end(study: Any, asked: AskedTrial) -> None:
    for name, value in TrialRecord(outcome=Outcome.OK).to_attrs().items():
        asked.trial.set_user_attr(name, value)
    study.tell(asked.trial, [asked.recipe.threshold.backbone, asked.recipe.sparsity])


def test_the_first_trials_are_the_design_also_when_several_ask_and_go_on_later(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=30)
    one, other = open_study(spec), open_study(spec)
    recipes = []
    for turn in range(startup_trials(spec.trials)):
        study = (one, other, open_study(spec))[turn % 3]
        claim = next_trial(study, spec)
        assert claim is not None
        recipes.append(claim.recipe)
        if turn % 2:
            end(study, claim)
    assert recipes == [spec.space.recipe(first_recipe(spec.space, spec.seed, index)) for index in range(len(recipes))]
    assert {recipe.sparsity for recipe in recipes[:3]} == set(spec.space.sparsity.values or ())
    assert next_trial(one, spec) is not None


def test_a_retried_trial_takes_no_point_of_the_design(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=30)
    study = open_study(spec)
    first = next_trial(study, spec)
    assert first is not None
    first.trial.set_user_attr("worker", {**this_worker("cpu"), "started": 1.0})  # it is gone
    study = open_study(spec)  # this process may believe for a second what it has read
    again, second = next_trial(study, spec), next_trial(study, spec)
    assert again is not None
    assert second is not None
    assert again.recipe == first.recipe
    assert second.recipe == spec.space.recipe(first_recipe(spec.space, spec.seed, 1))


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "random"])
def test_other_samplers_begin_as_they_do(make_spec: MakeSpec, sampler: str) -> None:
    spec = make_spec(sampler=sampler)
    claim = next_trial(open_study(spec), spec)
    assert claim is not None
    assert claim.recipe != spec.space.recipe(first_recipe(spec.space, spec.seed, 0))
