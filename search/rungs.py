"""Early stopping on a front: a recovery is paid on only for candidates that are among the best at its rungs.

Asynchronous successive halving (ASHA, arXiv 1810.05934) for several objectives (MO-ASHA, arXiv 2106.12639): of all
candidates that reached a rung, the ones with the better non-dominated ranks go on. Latency is exact from the surgery
on; accuracy is that at the rung. With accuracy as the only objective this is plain ASHA. Between two rounds of a recipe
lies the highest rung: there the network is recovered, and is compared with all that are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from prunetune.pruning.training import Accuracy, RecoveryProgress
from prunetune.results.pareto import ranks
from prunetune.search.history import attempts_before
from prunetune.search.outcome import Outcome
from prunetune.search.spec import EarlyStopping
from prunetune.spaces import Recipe

RUNGS = "rungs"
"""The attribute of a trial that holds what was decided at each rung."""

UNFINISHED = "unfinished"
"""The constraint that a trial which was stopped at a rung violates: its accuracy is not that of its whole recipe."""


@dataclass(frozen=True)
class Decision:
    """Whether a candidate goes on from a rung, and why."""

    rung: int
    """0 after surgery, then upwards through the recovery."""
    epochs: int
    """Epochs of recovery that were done."""
    values: tuple[float, ...]
    """What was compared: map50_95 at the rung, then the latency in ms on each target that is an objective."""
    ahead: int
    """Candidates at this rung with a better non-dominated rank."""
    reached: int
    """Candidates that reached this rung so far, this one included."""
    goes_on: bool
    round: int | None = None
    """The round whose end this is; None within the last one's recovery."""

    @property
    def reason(self) -> str:
        """One sentence fragment for tables."""
        unit = "epoch" if self.epochs == 1 else "epochs"
        where = "after surgery" if self.rung == 0 else f"after {self.epochs} {unit} of recovery"
        where = where if self.round is None else f"after round {self.round}"
        verdict = "among the best" if self.goes_on else "not among the best"
        return f"{where} {verdict}: {self.ahead} of {self.reached} are ahead"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a trial's attributes."""
        told = {**asdict(self), "values": list(self.values), "reason": self.reason}
        return told if self.round is not None else {key: told[key] for key in told if key != "round"}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Decision:
        """The decision that `as_dict` wrote."""
        return cls(**{**{key: told[key] for key in told if key != "reason"}, "values": tuple(told["values"])})


def rung_epochs(recovery_epochs: int, reduction: int, rungs: int) -> tuple[int, ...]:
    """After which epochs of a recovery a candidate is judged.

    Rung k lies at the same share of every recovery, `1 / reduction^(rungs + 1 - k)`, because the learning rate falls
    over the whole of it: candidates are compared at the same place of their schedules.

    Args:
        recovery_epochs: Of the recipe.
        reduction: The factor from one rung to the next.
        rungs: How many rungs there are at most before the end.

    Returns:
        Epochs of rung 1, 2, ...: rising, each at least 1 and below `recovery_epochs`. A short recovery has fewer: the
        first ones are left out, so the last rung always lies at one `reduction`-th.
    """
    epochs = [math.ceil(recovery_epochs / reduction**power) for power in range(rungs, 0, -1)]
    return tuple(sorted({epoch for epoch in epochs if 0 < epoch < recovery_epochs}))


def rungs_of(settings: EarlyStopping, recovery_epochs: int) -> dict[int, int]:
    """After which epochs of a recovery a candidate is judged, each with its rung; epoch 0 is right after surgery.

    Rungs are counted from the end: the last is at the same share of every recovery, and a short one has fewer.

    Args:
        settings: The study's early stopping.
        recovery_epochs: Of the recipe.
    """
    epochs = rung_epochs(recovery_epochs, settings.reduction, settings.rungs)
    within = {epoch: settings.rungs - len(epochs) + place for place, epoch in enumerate(epochs, start=1)}
    return {0: 0, **within} if settings.recalibrated and recovery_epochs else within


def judge(
    rung: int, epochs: int, values: Sequence[float], others: Sequence[Sequence[float]], reduction: int
) -> Decision:
    """Decides whether a candidate goes on.

    It goes on while fewer candidates have a better non-dominated rank than one `reduction`-th of all that reached the
    rung holds. A candidate that none dominates always does, and so do the first ones, before there are `reduction`.

    Args:
        rung: 0 after surgery, then upwards.
        epochs: Epochs of recovery done.
        values: The candidate's map50_95 and latencies.
        others: Those of all others that reached this rung, in any order.
        reduction: One in so many goes on.
    """
    found = ranks([values, *others])
    ahead = sum(rank < found[0] for rank in found)
    room = max(1, len(found) // reduction)
    return Decision(rung, epochs, tuple(values), ahead, len(found), ahead < room or len(found) < reduction)


class TrialRungs:
    """The rungs of one trial. What it has at each is stored with the trial at once: others are compared with it.

    Args:
        study: The study.
        trial: The trial.
        recipe: Its recipe.
        settings: The study's early stopping; None judges nothing.
    """

    def __init__(self, study: optuna.Study, trial: Trial, recipe: Recipe, settings: EarlyStopping | None) -> None:
        self.recipe = recipe
        self._study, self._trial, self._settings = study, trial, settings
        self._latencies: tuple[float, ...] = ()
        self._rungs = rungs_of(settings, recipe.recovery_epochs) if settings else {}
        self._of_rounds = _decided(study.get_trials(deepcopy=False), trial.number) if settings else {}
        self.decisions: list[Decision] = []

    def after_surgery(self, accuracy: Accuracy, latencies: Sequence[float]) -> bool:
        """Whether the last surgery's candidate goes on to its recovery.

        Args:
            accuracy: With recalibrated BatchNorm, before any training (EagleEye, arXiv 2007.02491).
            latencies: Stated latency in ms on each target that is an objective.
        """
        self._latencies = tuple(latencies)
        return self._judge(0, accuracy)

    def after_round(self, number: int, values: Sequence[float], own: Collection[str]) -> bool:
        """Whether another round follows one that was recovered: its network is judged among all that are finished.

        Once: who takes an interrupted recipe up, under its number or another one, keeps to what was decided. Else the
        recipe's own later rounds would be among the others.

        Args:
            number: The round, from 1; not the last.
            values: The network's map50_95 and latencies.
            own: The stages of this trial. Networks that end with one of them are its own earlier rounds.
        """
        if self._settings is None:
            return True
        if (known := self._of_rounds.get(number)) is not None:
            self._store(known)
            return known.goes_on
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        others = [trial.values for trial in trials if _is_recovered(trial) and _last_stage(trial) not in own]
        decision = judge(
            self._settings.rungs + 1, self.recipe.recovery_epochs, values, others, self._settings.reduction
        )
        self._store(replace(decision, round=number))
        return decision.goes_on

    def goes_on(self, progress: RecoveryProgress) -> bool:
        """Whether the last round's recovery goes on after an epoch; the rounds before it always do."""
        return progress.round < self.recipe.rounds or self._judge(progress.epoch, progress.accuracy)

    def _judge(self, epochs: int, accuracy: Accuracy) -> bool:
        rung = self._rungs.get(epochs)
        if self._settings is None or rung is None:
            return True
        # A trial that failed is not among them: if its worker died, its recipe comes again.
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        others = [stood_at(trial.user_attrs, rung) for trial in trials if trial.number != self._trial.number]
        values = (accuracy.map50_95, *self._latencies)
        decision = judge(rung, epochs, values, [other for other in others if other], self._settings.reduction)
        self._store(decision)
        return decision.goes_on

    def _store(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self._trial.set_user_attr(RUNGS, [told.as_dict() for told in self.decisions])


def stood_at(attributes: Mapping[str, Any], rung: int) -> tuple[float, ...] | None:
    """The values with which a trial stood at a rung; None if it did not get there.

    Args:
        attributes: The trial's user attributes.
        rung: Which one.
    """
    return next((tuple(told["values"]) for told in attributes.get(RUNGS, ()) if told["rung"] == rung), None)


def _decided(trials: Sequence[FrozenTrial], number: int) -> dict[int, Decision]:
    """What was decided after rounds of a trial's recipe, by it before it was interrupted or by earlier attempts."""
    attempts = (number, *attempts_before(trials, number))
    told = [Decision.from_dict(item) for attempt in attempts for item in trials[attempt].user_attrs.get(RUNGS, ())]
    return {decision.round: decision for decision in told if decision.round is not None}


def _is_recovered(trial: FrozenTrial) -> bool:
    """Whether a complete trial's accuracy is that of a recovered network."""
    told = trial.user_attrs
    return told.get("outcome") in (Outcome.OK.value, Outcome.OVER_BUDGET.value) and bool(told.get("rung"))


def _last_stage(trial: FrozenTrial) -> str | None:
    stages = trial.user_attrs.get("stages")
    return stages[-1]["digest"] if stages else None
