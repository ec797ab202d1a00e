"""Keeps splices out of a sampler's sight.

A spliced trial has no parameters. Optuna's samplers learn from the parameters that all trials share: one trial without
any would leave them none.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState


def searched(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that a search proposed: those with parameters, and those that may get some yet."""
    return [trial for trial in trials if trial.params or not trial.state.is_finished()]


class SearchTrialsSampler(BaseSampler):
    """Wraps a sampler, which sees the trials that a search proposed.

    Args:
        wrapped: Who proposes.
    """

    def __init__(self, wrapped: BaseSampler) -> None:
        self._wrapped = wrapped

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The wrapped sampler's."""
        return self._wrapped.infer_relative_search_space(_SearchTrials(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The wrapped sampler's."""
        return self._wrapped.sample_relative(_SearchTrials(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The wrapped sampler's."""
        return self._wrapped.sample_independent(_SearchTrials(study), trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Calls the wrapped sampler's."""
        self._wrapped.before_trial(_SearchTrials(study), trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Calls the wrapped sampler's."""
        self._wrapped.after_trial(_SearchTrials(study), trial, state, values)

    def reseed_rng(self) -> None:
        """Calls the wrapped sampler's."""
        self._wrapped.reseed_rng()


class _SearchTrials(optuna.Study):
    """A study without what no search proposed. Optuna's Hyperband gives its samplers a filtered study as well."""

    def __init__(self, study: optuna.Study) -> None:
        self.__dict__.update(study.__dict__)
        self._whole = study

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return searched(self._whole._get_trials(deepcopy, states, use_cache))
