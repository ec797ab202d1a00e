"""The sampler that knows the price: a sampler as Optuna knows them, that likes what is cheap and starves nothing."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from prunetune.search.cost_aware import CostAwareSampler, choose, worth_seeing

MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


def some_cost(params: Mapping[str, Any]) -> float:
    """A price for any parameters: numbers by their size, words by their length."""
    return float(sum(abs(value) if isinstance(value, (int, float)) else len(value) for value in params.values()))


def tpe(**changes: Any) -> TPESampler:
    return TPESampler(**{"multivariate": True, "n_startup_trials": 0, "seed": 0, **changes})


class TestOptunasOwnSuite(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """What Optuna asks of every sampler."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: CostAwareSampler(tpe(), some_cost, seed=0)


class TestOptunasOwnSuiteForALittleOfALargeStudy(BasicSamplerTestCase):
    """The same where the wrapped sampler does not see all trials."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: CostAwareSampler(tpe(), some_cost, seed=0, draws=2, seen=3)


class Dice(RandomSampler):
    """Samples all that it is asked for relatively, each choice alike."""

    SPACE: dict[str, BaseDistribution] = {"cost": CategoricalDistribution([0.0, 1.0, 9.0])}  # noqa: RUF012

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.SPACE

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {name: self.sample_independent(study, trial, name, search_space[name]) for name in search_space}


def frequencies(trials: int = 600, **options: Any) -> dict[float, float]:
    """How often each price is taken of dice that throw each alike."""
    sampler = CostAwareSampler(Dice(seed=1), lambda params: params["cost"], seed=2, **options)
    study = optuna.create_study(sampler=sampler)
    thrown = Counter(study.ask(dict(Dice.SPACE)).params["cost"] for _ in range(trials))
    return {price: thrown[price] / trials for price in (0.0, 1.0, 9.0)}


# Which draw is taken


def test_the_cheap_are_preferred_and_the_dear_not_starved() -> None:
    found = frequencies()
    assert found[0.0] > found[1.0] > found[9.0] > 0.01
    assert found[0.0] > 0.5


def test_without_an_exponent_the_price_does_not_matter() -> None:
    assert all(share == pytest.approx(1 / 3, abs=0.06) for share in frequencies(exponent=0.0).values())
    assert all(share == pytest.approx(1 / 3, abs=0.06) for share in frequencies(draws=1).values())


def test_with_an_infinite_exponent_the_cheapest_is_taken() -> None:
    missed = (2 / 3) ** 8  # none of eight draws is the cheapest
    assert frequencies(exponent=math.inf)[0.0] == pytest.approx(1 - missed, abs=0.03)


@given(costs=st.lists(st.floats(0, 1e9), min_size=1, max_size=9), exponent=st.floats(0, 50), chance=st.floats(0, 0.999))
def test_some_draw_is_always_taken(costs: list[float], exponent: float, chance: float) -> None:
    assert 0 <= choose(costs, exponent, chance) < len(costs)
    assert costs[choose(costs, math.inf, chance)] == min(costs)


@given(cheap=st.floats(0, 1e4), more=st.floats(0.5, 1e4))
def test_two_draws_share_chance_as_their_prices(cheap: float, more: float) -> None:
    dear = cheap + more
    share = (1 + dear) / (2 + cheap + dear)  # of 1 / (1 + cheap) beside 1 / (1 + dear)
    assert choose([cheap, dear], 1.0, share - 1e-6) == 0
    assert choose([cheap, dear], 1.0, min(share + 1e-6, 0.9999999)) == (1 if share + 1e-6 < 0.9999999 else 0)
    assert choose([dear, cheap], 1.0, 1 - share - 1e-9) == 0


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(cost: float) -> None:
    sampler = CostAwareSampler(Dice(seed=0), lambda _: cost)
    with pytest.raises(ValueError, match=rf"the cost of \{{'cost': \d\.0\}} is {cost}"):
        optuna.create_study(sampler=sampler).ask(dict(Dice.SPACE))


@pytest.mark.parametrize("options", [{"draws": 0}, {"seen": 0}, {"exponent": -1.0}, {"exponent": math.nan}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CostAwareSampler(RandomSampler(), some_cost, **options)


# What it leaves of the wrapped sampler


def study_of(sampler: BaseSampler, trials: int) -> optuna.Study:
    """A study with two objectives that has begun."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x, size = trial.suggest_float("x", 0, 1), trial.suggest_categorical("size", [1, 5, 25])
        return x * size, size + (1 - x) ** 2

    study.optimize(objective, n_trials=trials)
    return study


def test_a_seed_gives_the_same_trials_and_another_seed_others() -> None:
    def params(wrapped: int, own: int) -> list[dict[str, Any]]:
        sampler = CostAwareSampler(tpe(seed=wrapped, n_startup_trials=4), some_cost, seed=own)
        return [trial.params for trial in study_of(sampler, 15).trials]

    first = params(0, 0)
    assert params(0, 0) == first
    assert params(0, 1) != first
    assert params(1, 0) != first


def test_the_random_start_has_no_price() -> None:
    asked: list[Mapping[str, Any]] = []

    def cost(params: Mapping[str, Any]) -> float:
        asked.append(params)
        return some_cost(params)

    start = study_of(CostAwareSampler(tpe(n_startup_trials=5), cost), 5)
    assert asked == []
    alone = study_of(tpe(n_startup_trials=5), 5)
    assert [trial.params for trial in start.trials] == [trial.params for trial in alone.trials]
    study_of(CostAwareSampler(tpe(n_startup_trials=5), cost, draws=3), 7)
    assert len(asked) == 2 * 3
    assert all(set(params) == {"x", "size"} for params in asked)


def test_other_processes_see_the_draw_that_was_taken() -> None:
    study = study_of(CostAwareSampler(tpe(), some_cost, seed=0), 12)
    noted = [
        (json.loads(trial.system_attrs["tpe:relative_params:0"]), trial.params)
        for trial in study.trials
        if "tpe:relative_params:0" in trial.system_attrs
    ]
    assert len(noted) > 8
    assert all(note == params for note, params in noted)


def test_a_sampler_that_writes_about_its_trials_goes_on_as_before() -> None:
    study = study_of(CostAwareSampler(NSGAIISampler(population_size=4, seed=0), some_cost, seed=0), 13)
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in study.trials]
    assert generations == [0] * 4 + [1] * 4 + [2] * 4 + [3]


# What the wrapped sampler sees of a large study


def told(number: int, *values: float, feasible: bool = True) -> FrozenTrial:
    trial = create_trial(values=values, constraints={"latency": -1.0 if feasible else 1.0})
    trial.number = number
    return trial


POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=30)


@given(points=POINTS, most=st.integers(1, 30))
def test_newest_and_best_are_seen(points: list[tuple[float, float, bool]], most: int) -> None:
    trials = [told(n, gain, cost, feasible=feasible) for n, (gain, cost, feasible) in enumerate(points)]
    seen = worth_seeing(trials, [MAXIMIZE, MINIMIZE], most)
    numbers = [trial.number for trial in seen]
    assert numbers == sorted(set(numbers))
    assert seen[-most:] == trials[-most:] if len(trials) > most else seen == trials
    best = [
        n
        for n, (gain, cost, feasible) in enumerate(points)
        if feasible
        and not any(
            other and more >= gain and less <= cost and (more, less) != (gain, cost) for more, less, other in points
        )
    ]
    assert set(best) <= set(numbers)


def test_with_one_objective_the_best_is_seen() -> None:
    trials = [told(0, 3.0), told(1, 9.0), told(2, 10.0, feasible=False), told(3, 1.0), told(4, 2.0)]
    assert [trial.number for trial in worth_seeing(trials, [MAXIMIZE], 1)] == [1, 4]
    assert [trial.number for trial in worth_seeing(trials, [MINIMIZE], 1)] == [3, 4]


def test_old_trials_that_still_run_are_seen() -> None:
    running = create_trial(state=TrialState.RUNNING)
    running.number = 0
    failed = create_trial(state=TrialState.FAIL)
    failed.number = 1
    trials = [running, failed, told(2, 1.0), told(3, 0.5)]
    assert [trial.number for trial in worth_seeing(trials, [MAXIMIZE], 1)] == [0, 2, 3]


def test_a_large_study_goes_on() -> None:
    study = study_of(CostAwareSampler(tpe(), some_cost, seed=0, seen=5), 25)
    assert len(study.trials) == 25
    taken = [trial.params["size"] for trial in study.trials]
    assert len(set(taken)) > 1, list(itertools.groupby(taken))
