"""How a trial ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optuna.trial import FrozenTrial

from prunetune.spaces import Recipe


class Outcome(StrEnum):
    """Stored with every trial. Only OK can enter the front; a failure is a state, never a score."""

    OK = "OK"
    """Recovered, evaluated and measured."""
    OVER_BUDGET = "OVER_BUDGET"
    """Too slow right after surgery; told as infeasible, not recovered."""
    STOPPED_EARLY = "STOPPED_EARLY"
    """Within the budget, but not among the best at a rung; its recovery was not paid to the end."""
    DIVERGED = "DIVERGED"
    """A loss became NaN or infinite."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    """An allocation failed."""
    NOT_MEASURED = "NOT_MEASURED"
    """The target gave no latency for this network, however often it was asked."""
    WORKER_DIED = "WORKER_DIED"
    """The process vanished; the recipe was enqueued again."""
    INTERRUPTED = "INTERRUPTED"
    """The user stopped the run; the recipe was enqueued again."""
    ERROR = "ERROR"
    """Anything else, with its text."""

    @property
    def counts(self) -> bool:
        """Whether the trial is one of the study's `trials`."""
        return self not in (Outcome.WORKER_DIED, Outcome.INTERRUPTED)

    @property
    def has_values(self) -> bool:
        """Whether the trial has an accuracy and latencies, final or not."""
        return self in (Outcome.OK, Outcome.OVER_BUDGET, Outcome.STOPPED_EARLY)


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        number: The trial.
        recipe: What was tried.
        outcome: How it ended.
        reason: Why, where it is no success.
        attributes: What was stored with the trial.
        seconds: How long it took, without waiting for what others train.
    """

    number: int
    recipe: Recipe
    outcome: Outcome
    reason: str
    attributes: dict[str, Any]
    seconds: float

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialResult:
        """How a trial ended that another process carried out."""
        told = trial.user_attrs
        return cls(
            number=trial.number,
            recipe=Recipe.from_dict(told["recipe"]),
            outcome=Outcome(told["outcome"]),
            reason=told["reason"],
            attributes=told,
            seconds=sum(told.get("seconds", {}).values()),  # a round has cost none of its own
        )
