"""Optuna's samplers by name."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

from prunetune.search.spec import SamplerName


def create_sampler(name: SamplerName, trials: int, seed: int) -> BaseSampler:
    """Makes a sampler that fits a study of `trials` trials.

    A study of a dozen trials cannot spend ten on the random start that Optuna's samplers default to, nor fill a
    population of fifty.
    """
    startup = max(4, min(10, trials // 3))
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
