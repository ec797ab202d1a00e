"""A sampler that knows the price: of several equally promising draws of another sampler it likes the cheap ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.pareto import nondominated

Cost = Callable[[Mapping[str, Any]], float]
"""What trying a set of parameters would cost, 0 or more; in prunetune: epochs."""

DRAWS = 8
"""Draws among which the price decides."""

EXPONENT = 1.0
"""How much the price decides: 0 not at all, 1 as improvement per epoch does, infinity always for the cheapest."""

SEEN = 500
"""So many of the newest trials, and the best of the older ones, are what the wrapped sampler learns from."""


class CostAwareSampler(BaseSampler):
    """Wraps a sampler of Optuna's and lets the price decide among several of its draws.

    Expected improvement per unit of cost (Snoek, Larochelle and Adams 2012, arXiv 1206.2944, "EI per second") is the
    usual cost-aware acquisition; taken as a maximum it starves what is expensive, also where that is good (Lee,
    Perrone, Archambeau and Seeger 2020, arXiv 2003.10870). Draws of one sampler for one trial are of similar promise,
    for each maximises the same acquisition over candidates of its own. One of them is therefore drawn with a
    probability proportional to `(1 + cost) ** -exponent`. With exponent 1, epochs instead of trials are spread over
    the space as the wrapped sampler would spread them: a recipe at ten times the price is tried a tenth as often, and
    never ceases to be tried. The price does not cool down towards a study's end as in arXiv 2003.10870: a stage
    that is trained late is shared by fewer trials.

    Relative sampling alone has a choice; what the wrapped sampler samples independently (its random start) stays as
    it is. The wrapped sampler may be any; one that samples nothing relatively (`RandomSampler`) is not changed.

    Args:
        wrapped: Who proposes.
        cost: The price of a set of parameters. It may lack those that have a single value.
        draws: How many proposals are compared.
        exponent: How much the price decides.
        seen: How many of the newest trials the wrapped sampler sees, beside the best of the older ones: TPE's time
            grows with the trials, and every draw takes it.
        seed: Of the choice; the wrapped sampler has a seed of its own.
    """

    def __init__(
        self,
        wrapped: BaseSampler,
        cost: Cost,
        *,
        draws: int = DRAWS,
        exponent: float = EXPONENT,
        seen: int = SEEN,
        seed: int | None = None,
    ) -> None:
        if draws < 1 or seen < 1 or not exponent >= 0:
            raise ValueError(f"draws ({draws}) and seen ({seen}) are 1 or more, exponent ({exponent}) 0 or more")
        self._wrapped, self._cost = wrapped, cost
        self._draws, self._exponent, self._seen = draws, exponent, seen
        self._rng = np.random.default_rng(seed)
        self._glanced: tuple[int, _Glance] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The wrapped sampler's."""
        self._glanced = (trial._trial_id, glance := _Glance(study, self._seen))
        return self._wrapped.infer_relative_search_space(glance, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One of the wrapped sampler's draws, by its price.

        Raises:
            ValueError: The cost of a draw is negative or no number.
        """
        inferred, self._glanced = self._glanced, None
        same = inferred is not None and inferred[0] == trial._trial_id
        glance = inferred[1] if inferred is not None and same else _Glance(study, self._seen)
        drawn: list[tuple[dict[str, Any], _Writes]] = []
        for _ in range(self._draws):
            params = self._wrapped.sample_relative(glance, trial, search_space)
            drawn.append((params, glance.take_writes()))
            if not params:
                break  # its random start: there is nothing to compare
        params, writes = drawn[self._choose([params for params, _ in drawn])]
        for trial_id, key, value in writes:
            study._storage.set_trial_system_attr(trial_id, key, value)
        return params

    def _choose(self, draws: Sequence[Mapping[str, Any]]) -> int:
        if len(draws) == 1:
            return 0
        costs = [float(self._cost(params)) for params in draws]
        for params, cost in zip(draws, costs, strict=True):
            if not 0 <= cost < math.inf:
                raise ValueError(f"the cost of {dict(params)} is {cost}; it must be a number, 0 or more")
        return choose(costs, self._exponent, float(self._rng.random()))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The wrapped sampler's."""
        return self._wrapped.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Calls the wrapped sampler's."""
        self._wrapped.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Calls the wrapped sampler's."""
        self._wrapped.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Makes choice and proposals differ from those of other workers."""
        self._rng = np.random.default_rng()
        self._wrapped.reseed_rng()


def choose(costs: Sequence[float], exponent: float, chance: float) -> int:
    """Draws an index with a probability proportional to `(1 + cost) ** -exponent`.

    Args:
        costs: Of each draw, 0 or more.
        exponent: 0 or more; with infinity the cheapest is taken, the first of several.
        chance: Uniform in [0, 1): the draw of chance.
    """
    cheapest = min(costs)
    if math.isinf(exponent):
        return costs.index(cheapest)
    # Relative to the cheapest: no power of a large number becomes zero for all of them.
    weights = np.array([((1 + cheapest) / (1 + cost)) ** exponent for cost in costs])
    bounds = np.cumsum(weights / weights.sum())
    return min(int(np.searchsorted(bounds, chance, side="right")), len(costs) - 1)


_Writes = list[tuple[int, str, Any]]


class _HeldBack:
    """A storage that holds back what a draw notes about its trial, until it is known which draw is taken."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self.writes: _Writes = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.writes.append((trial_id, key, value))


class _Glance(optuna.Study):
    """A study as it was at one moment, for draws that are to see the same; of a large one, the part that matters.

    Optuna's Hyperband gives its samplers such a filtered study in the same way.
    """

    def __init__(self, study: optuna.Study, most: int) -> None:
        self.__dict__.update(study.__dict__)
        self._held_back = _HeldBack(study._storage)
        self._storage = cast(BaseStorage, self._held_back)
        self._glanced = worth_seeing(study._get_trials(deepcopy=False), study.directions, most)

    def take_writes(self) -> _Writes:
        """What was written since the last call."""
        writes, self._held_back.writes = self._held_back.writes, []
        return writes

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # Samplers only read, and no caller of theirs asks for a copy.
        return [trial for trial in self._glanced if states is None or trial.state in states]


def worth_seeing(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], most: int) -> list[FrozenTrial]:
    """The newest trials, and of the older ones those that are feasible and that no other of them dominates.

    Args:
        trials: In the order of their numbers.
        directions: Of the objectives.
        most: How many newest trials; up to so many, all are.
    """
    if len(trials) <= most:
        return list(trials)
    older, newest = trials[:-most], trials[-most:]
    running = [trial for trial in older if trial.state == TrialState.RUNNING]
    good = [
        trial
        for trial in older
        if trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values())
    ]
    signs = [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in directions]
    gains = [[sign * value for sign, value in zip(signs, trial.values, strict=True)] for trial in good]
    points = [(first, *(-gain for gain in rest)) for first, *rest in gains]
    kept = [trial for trial, best in zip(good, nondominated(points), strict=True) if best]
    return sorted([*kept, *running], key=lambda trial: trial.number) + list(newest)
