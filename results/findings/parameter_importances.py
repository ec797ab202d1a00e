"""Which parameters mattered: their importances, and what the trials were like over each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from prunetune.results.findings.findings import Findings, Source
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.spaces.fields import number
from prunetune.spaces.outcome import Outcome

FEWEST = 6
"""Of fewer trials no importance is computed."""

ROUGH = 50
"""Of fewer trials importances are rough."""

TOP = 5
"""An importance is that for being among the best tenth, and at least among so many trials, as its authors advise."""


@dataclass(frozen=True)
class Tried:
    """One trial as a point of the space."""

    params: dict[str, float | str]
    """What was tried, by parameter: a number, or the text of a choice that is none."""
    network: StudyNetwork
    """What the trial came to."""
    is_final: bool
    """Whether its accuracy is that of the whole recipe."""


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space."""

    name: str
    is_log: bool
    choices: tuple[str, ...] | None
    """The texts of its choices; None for numbers on an axis."""

    @property
    def title(self) -> str:
        """The name as readers see it: a share of the budget is asked for, a latency is found."""
        return "latency asked for" if self.name == "latency" else self.name.replace("_", " ")


class Parameters:
    """The parameters of a study's space that took more than one value, and the trials that took them.

    Args:
        study: The study.
    """

    def __init__(self, study: Source) -> None:
        self._found = found = Findings.of(study)
        self._measured = [
            (trial, network)
            for trial in found.trials
            if trial.params
            and (network := found.last_network(trial.number)) is not None
            and (outcome := found.outcome(network)) is not None
            and outcome.has_values
            and not network.figures.predicted
        ]

    @cached_property
    def varied(self) -> list[Parameter]:
        """Those that took more than one value, in the order of the space."""
        values: dict[str, set[str]] = {}
        distributions: dict[str, BaseDistribution] = {}
        for trial, _ in self._measured:
            for name, value in trial.params.items():
                values.setdefault(name, set()).add(str(value))
                distributions[name] = trial.distributions[name]
        return [_parameter(name, distributions[name]) for name in values if len(values[name]) > 1]

    @cached_property
    def tried(self) -> list[Tried]:
        """The trials that came to a measured network."""
        names = {parameter.name: parameter for parameter in self.varied}
        return [
            Tried(
                {name: _value(value, names[name]) for name, value in trial.params.items() if name in names},
                network,
                self._found.outcome(network) is Outcome.OK and not network.is_earlier_round,
            )
            for trial, network in self._measured
        ]

    def importances(self) -> dict[str, dict[str, float]]:
        """The share of each parameter, for `mAP50-95` and for `latency`; what has too few trials is left out.

        By PED-ANOVA (arXiv 2304.10255): how far the values of the best trials differ from those of all. Unlike
        fANOVA, Optuna's default, it fits no forest, so thousands of trials take no longer than a few.
        """
        accuracy = {point.network.trial: point.network.map50_95 for point in self.tried if point.is_final}
        latency = {point.network.trial: point.network.latency_ms for point in self.tried}
        found = {
            "mAP50-95": self._importance(lambda trial: accuracy.get(trial.number), sign=-1.0),
            "latency": self._importance(lambda trial: latency.get(trial.number), sign=1.0),
        }
        return {name: shares for name, shares in found.items() if shares}

    def _importance(self, value: Callable[[FrozenTrial], float | None], sign: float) -> dict[str, float]:
        names = [parameter.name for parameter in self.varied]
        scored = [(trial, told) for trial, _ in self._measured if (told := value(trial)) is not None]
        if len(scored) < FEWEST or len(names) < 2 or len({told for _, told in scored}) < 2:
            return {}
        # The evaluator asks a study; this one holds what it needs and nothing else.
        with _quiet():
            study = optuna.create_study(direction="minimize")
            study.add_trials(
                create_trial(params=trial.params, distributions=trial.distributions, value=sign * told)
                for trial, told in scored
            )
            top = min(0.5, max(0.1, TOP / len(scored)))
            shares = get_param_importances(
                study, evaluator=PedAnovaImportanceEvaluator(target_quantile=top), params=names, normalize=True
            )
        known = {name: share for name, share in shares.items() if number(share) is not None}
        return known if any(known.values()) else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's remarks about an evaluator that is new to it, and about a study of ours."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _parameter(name: str, distribution: BaseDistribution) -> Parameter:
    if isinstance(distribution, CategoricalDistribution):
        if all(number(choice) is not None for choice in distribution.choices):
            values = [float(choice) for choice in distribution.choices]  # type: ignore[arg-type]
            return Parameter(name, min(values) > 0 and max(values) >= 20 * min(values), None)
        return Parameter(name, False, tuple(str(choice) for choice in distribution.choices))
    is_log = isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log
    return Parameter(name, is_log, None)


def _value(value: object, parameter: Parameter) -> float | str:
    told = number(value)
    return str(value) if told is None or parameter.choices is not None else told


def spread(items: Sequence[Tried], most: int) -> list[Tried]:
    """At most so many of the trials, from all over the study."""
    step = max(1, math.ceil(len(items) / most))
    return list(items[::step])
