"""A spliced trial has no parameters and was searched by nobody: samplers and limits go on as without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import FrozenTrial, create_trial

from prunetune.results.record import TrialRecord
from prunetune.search.samplers.factory import create_sampler, next_sampler
from prunetune.search.samplers.search_trials import SearchTrialsSampler
from prunetune.search.study.limits import Limits, forecast, spent
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Cost, Outcome, Splice, StageUse

SPLICE = Splice("0", "dense", 3)


class TestOptunasOwnSuite(BasicSamplerTestCase, RelativeSamplerTestCase):
    """What Optuna asks of every sampler."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SearchTrialsSampler(TPESampler(multivariate=True, n_startup_trials=0, seed=0))


class TestOptunasOwnSuiteForGenerations(BasicSamplerTestCase):
    """The same where what a sampler notes about its trials matters."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SearchTrialsSampler(create_sampler("nsga2", 12, 0))


def study_of(spec: StudySpec, *, spliced: bool) -> optuna.Study:
    """A study of six trials, and perhaps a spliced one among them."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    source = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(6):
        if number == 3 and spliced:
            record = TrialRecord(SPLICE, Outcome.OK, cost=Cost(stages=(StageUse("recovery", "recovery-0", 3),)))
            study.add_trial(create_trial(values=[0.9, 0.1], user_attrs=record.to_attrs()))
        trial = source.ask()
        spec.space.suggest(trial)
        source.tell(trial, [0.1 * number, 1.0 + number])
        study.add_trial(source.get_trials()[number])
    return study


def proposal(spec: StudySpec, study: optuna.Study) -> dict[str, Any]:
    study.sampler = next_sampler(spec, spec.space, study.get_trials())
    trial = study.ask()
    spec.space.suggest(trial)
    return dict(trial.params)


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2", "nsga3", "random"])
def test_samplers_propose_what_they_would_have(name: str, make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec(sampler=name, trials=12)
    with_it, without = (study_of(spec, spliced=spliced) for spliced in (True, False))
    assert len(with_it.trials) == len(without.trials) + 1
    assert proposal(spec, with_it) == proposal(spec, without)


def test_the_rest_is_still_sampled_together(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec(sampler="tpe", trials=12)
    study = study_of(spec, spliced=True)
    trial = study.ask()
    frozen: FrozenTrial = study.get_trials()[trial.number]
    assert next_sampler(spec, spec.space, study.get_trials()[:-1]).infer_relative_search_space(study, frozen)
    bare = TPESampler(multivariate=True, n_startup_trials=0)
    assert bare.infer_relative_search_space(study, frozen) == {}, "Optuna alone would have lost it"


def test_no_limit_counts_it(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec(trials=12)
    studies = (study_of(spec, spliced=spliced) for spliced in (True, False))
    with_it, without = ([(trial, TrialRecord.from_trial(trial)) for trial in study.get_trials()] for study in studies)
    assert spent(with_it, 0.0).begun == spent(without, 0.0).begun == 6
    assert spent(with_it, 0.0).epochs == spent(without, 0.0).epochs
    expected, found = (forecast(Limits(trials=12), trials, 1e12) for trials in (without, with_it))
    assert expected is not None
    assert found is not None
    assert found.trials == expected.trials == 6


def test_it_is_told_in_words() -> None:
    assert str(SPLICE) == "backbone of trial 0, head of dense, recover 3"
    assert str(Splice("7.1", "yolov5n.v2", 3)) == "backbone of trial 7, round 1, head of yolov5n.v2, recover 3"
    assert Splice.from_dict(SPLICE.as_dict()) == SPLICE
    assert Splice.from_dict({"sparsity": 0.1, "recovery_epochs": 3}) is None
