"""Keeps splices out of a sampler's sight.

A spliced trial has no parameters, and Optuna's samplers learn from the parameters that all trials share: after one
splice a Gaussian process would draw at random, and TPE each parameter by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial


def searched(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that a search proposed: those with parameters, and those that may get some yet."""
    return [trial for trial in trials if trial.params or not trial.state.is_finished()]


class SearchTrialsSampler(BaseSampler):
    """Shows one of Optuna's samplers a copy of the study, in memory, of the trials that a search proposed.

    What TPE and GP note about a trial, for processes that ask at the same moment, stays in the copy. A genetic
    sampler needs its notes: a trial's generation. It samples from the study itself, whose splices are in none.

    Args:
        wrapped: Who proposes.
    """

    def __init__(self, wrapped: BaseSampler) -> None:
        self._wrapped = wrapped

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `BaseSampler`."""
        return self._wrapped.infer_relative_search_space(*_without_splices(study, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
        if isinstance(self._wrapped, BaseGASampler):
            return self._wrapped.sample_relative(study, trial, search_space)
        return self._wrapped.sample_relative(*_without_splices(study, trial), search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See `BaseSampler`."""
        return self._wrapped.sample_independent(*_without_splices(study, trial), param_name, param_distribution)

    def reseed_rng(self) -> None:
        """See `BaseSampler`."""
        self._wrapped.reseed_rng()


def _without_splices(study: optuna.Study, trial: FrozenTrial) -> tuple[optuna.Study, FrozenTrial]:
    """A copy of a study without what no search proposed, and the trial in it. Numbers close up.

    Raises:
        UpdateFinishedTrialError: The trial was failed meanwhile, before it had parameters.
    """
    kept = searched(study.get_trials(deepcopy=False))
    copy = optuna.create_study(directions=study.directions)
    copy.add_trials(kept)
    place = next((place for place, other in enumerate(kept) if other.number == trial.number), None)
    if place is None:
        raise UpdateFinishedTrialError(f"trial {trial.number} has ended")
    return copy, copy.get_trials(deepcopy=False)[place]
