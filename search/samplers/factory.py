"""The samplers of a study by name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.record import TrialRecord
from prunetune.search.samplers.design import first_recipe
from prunetune.search.samplers.search_trials import SearchTrialsSampler, searched
from prunetune.search.study.study_spec import SamplerName, StudySpec
from prunetune.spaces import SearchSpace


def next_sampler(spec: StudySpec, space: SearchSpace, trials: Sequence[FrozenTrial]) -> BaseSampler:
    """The sampler of a study's next trial.

    It is seeded by the trial: processes that start together propose different recipes, and a study that was stopped
    goes on as if it had not been. With `tpe` the first recipes come from a design, until TPE has something to learn
    from.

    Args:
        spec: The study's description.
        space: Its space, over the input sizes that it deploys at.
        trials: All trials of the study so far.
    """
    proposed = searched(trials)
    sampler = create_sampler(spec.sampler, spec.trials, spec.seed + 100_003 * len(proposed))
    finished = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in proposed)
    if spec.sampler == "tpe" and finished < startup_trials(spec.trials):
        index = sum(TrialRecord.from_trial(trial).retry_of is None for trial in proposed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = PartialFixedSampler(first_recipe(space, spec.seed, index), sampler)
    return sampler if len(proposed) == len(trials) else SearchTrialsSampler(sampler)


def create_sampler(name: SamplerName, trials: int | None, seed: int) -> BaseSampler:
    """Makes one of Optuna's samplers, fit for a study of `trials` trials; None if nobody knows how many.

    A study of a dozen trials cannot spend ten on the random start that Optuna's samplers default to, nor fill a
    population of fifty.
    """
    startup = startup_trials(trials)
    population = 50 if trials is None else max(4, min(50, trials // 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
        if name == "gp":
            return GPSampler(seed=seed, n_startup_trials=startup)
        if name == "nsga2":
            return NSGAIISampler(seed=seed, population_size=population)
        if name == "nsga3":
            return NSGAIIISampler(seed=seed, population_size=population)
        return RandomSampler(seed=seed)


def startup_trials(trials: int | None) -> int:
    """How many finished trials a sampler that learns begins with."""
    return 10 if trials is None else max(4, min(10, trials // 3))
