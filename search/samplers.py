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
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from prunetune.search.cost_aware import CostAwareSampler
from prunetune.search.price import Price
from prunetune.search.spec import OptunaSamplerName, StudySpec


def next_sampler(spec: StudySpec, trials: Sequence[FrozenTrial]) -> BaseSampler:
    """The sampler of a study's next trial.

    It is seeded by the trial: processes that start together propose different recipes, and a study that was stopped
    goes on as if it had not been.

    Args:
        spec: The study's description.
        trials: All trials of the study so far.
    """
    seed = spec.seed + 100_003 * len(trials)
    if spec.sampler == "cost-aware":
        tpe = create_sampler("tpe", spec.trials, seed)
        return CostAwareSampler(tpe, Price(spec.space, trials), seed=seed)
    return create_sampler(spec.sampler, spec.trials, seed)


def create_sampler(name: OptunaSamplerName, trials: int, seed: int) -> BaseSampler:
    """Makes one of Optuna's samplers, fit for a study of `trials` trials.

    A study of a dozen trials cannot spend ten on the random start that Optuna's samplers default to, nor fill a
    population of fifty.
    """
    startup = startup_trials(trials)
    population = max(4, min(50, trials // 4))
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


def startup_trials(trials: int) -> int:
    """How many trials come before a sampler that learns has anything to learn from."""
    return max(4, min(10, trials // 3))
