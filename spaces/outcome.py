"""How a trial ended."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Stored with every trial. A failure is a state, never a score."""

    OK = "OK"
    """Recovered, evaluated and measured."""
    OVER_BUDGET = "OVER_BUDGET"
    """Too slow right after surgery: reported infeasible, not recovered."""
    STOPPED_EARLY = "STOPPED_EARLY"
    """Within the budget, but not among the best at a rung: its training was not paid to the end."""
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
