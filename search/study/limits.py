"""How much a study may spend on its trials, what it has spent, and what remains of that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prunetune.spaces import Outcome

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from prunetune.results.record import TrialRecord

PACE = 10
"""A forecast goes by so many of the latest trials: the first ones train the trunks that later ones share."""

IDLE = 100
"""A study without a limit on its trials ends after so many in a row that trained nothing."""


AT_THE_END = "controls and report"
"""What follows the trials, which no limit counts."""


@dataclass(frozen=True)
class Spent:
    """What the trials of a study took.

    Attributes:
        begun: Trials that ended or run, without those that were given back to be carried out again.
        finished: Those of them that ended.
        epochs: Epochs that were trained; those of a running trial count when it ends.
        hours: Hours in which at least one trial ran. Pauses do not count, several workers count once.
        idle: How many of the latest trials in a row trained nothing.
    """

    begun: int
    finished: int
    epochs: int
    hours: float
    idle: int = 0


@dataclass(frozen=True)
class Limits:
    """The most that a study spends. No trial is begun once one of them is reached; what runs ends.

    Attributes:
        trials: Trials that count.
        epochs: Epochs of training in all trials together.
        hours: Hours in which trials run.
    """

    trials: int | None = None
    epochs: int | None = None
    hours: float | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Limits:
        """Those of a description as it is stored with the study."""
        return cls(described.get("trials"), described.get("epochs"), described.get("hours"))

    def reached(self, spent: Spent) -> str | None:
        """Which limit is reached, as a user reads it; None while there is room for another trial."""
        if self.trials is not None and spent.begun >= self.trials:
            return f"trials: {spent.begun} of {self.trials}"
        if self.epochs is not None and spent.epochs >= self.epochs:
            return f"epochs: {spent.epochs} of {self.epochs}"
        if self.hours is not None and spent.hours >= self.hours:
            return f"hours: {spent.hours:.2f} of {self.hours:g}"
        if self.trials is None and spent.idle >= IDLE:
            return f"the last {spent.idle} trials trained nothing, and no trials: limits them"
        return None


@dataclass(frozen=True)
class Forecast:
    """What a study will still take at its latest pace.

    Attributes:
        trials: Trials that have not ended yet.
        epochs: Epochs to train.
        hours: Hours of running trials.
        limit: Which limit ends it: `trials`, `epochs` or `hours`.
    """

    trials: int
    epochs: float
    hours: float
    limit: str

    def text(self, now: datetime | None = None) -> str:
        """As a line of progress.

        Args:
            now: With it, the line says when the study will end.
        """
        if not self.trials:
            return f"the trials are done; {AT_THE_END} remain"
        about = f"about {self.trials} trial{'s' * (self.trials > 1)}"
        end = "" if now is None else f", until {self._end(now)}"
        remain = f"{self.epochs:.0f} epochs, {duration(self.hours)} remain ({self.limit} ends it)"
        return f"{about}, {remain}{end}, then {AT_THE_END}"

    def short_text(self, now: datetime) -> str:
        """As a few words of a live view."""
        if not self.trials:
            return f"{AT_THE_END} remain"
        return f"about {duration(self.hours)} remain, until {self._end(now)}"

    def _end(self, now: datetime) -> str:
        ends = datetime.fromtimestamp(now.timestamp() + 3600 * self.hours)
        return f"{ends:%H:%M}" if ends.date() == now.date() else f"{ends:%Y-%m-%d %H:%M}"


def counts(trial: FrozenTrial, record: TrialRecord) -> bool:
    """Whether a trial is one of the study's `trials`: it ended or runs, and is not to be carried out again.

    A splice is none of them: somebody asked for it by name.
    """
    if record.is_splice or trial.state.name == "WAITING":
        return False
    return record.outcome is None or record.outcome.counts


def spent(trials: Iterable[tuple[FrozenTrial, TrialRecord]], now: float) -> Spent:
    """Adds up what trials took.

    A trial whose worker died has no end of its own: it ended when that was noticed, and does not count as time. No
    limit counts splices.

    Args:
        trials: In any state. Of a running one it is assumed that its worker lives.
        now: Seconds since the epoch, the end of what still runs.
    """
    begun = finished = epochs = idle = 0
    intervals = []
    for trial, record in trials:
        if trial.datetime_start is None or record.is_splice:
            continue
        trained = record.cost.epochs_trained
        epochs += trained
        if record.outcome is not Outcome.WORKER_DIED:
            end = now if trial.datetime_complete is None else trial.datetime_complete.timestamp()
            intervals.append((trial.datetime_start.timestamp(), end))
        if counts(trial, record):
            begun += 1
            if trial.state.is_finished():
                finished += 1
                idle = 0 if trained else idle + 1
    return Spent(begun, finished, epochs, union(intervals) / 3600, idle)


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what intervals cover together; one that ends before it begins covers nothing."""
    covered, reached = 0.0, -math.inf
    for begin, end in sorted(intervals):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def forecast(limits: Limits, trials: Sequence[tuple[FrozenTrial, TrialRecord]], now: float) -> Forecast | None:
    """What remains, if trials go on to take what the latest ones took.

    Args:
        limits: The study's.
        trials: The study's, in any state.
        now: Seconds since the epoch.

    Returns:
        None before the first trial has ended, and where no limit will ever be reached.
    """
    ended = sorted(
        (item for item in trials if item[0].state.is_finished() and counts(*item)),
        key=lambda item: item[0].datetime_complete.timestamp() if item[0].datetime_complete else 0.0,
    )
    latest = spent(ended[-PACE:], now)
    if not latest.finished:
        return None
    each = latest.epochs / latest.finished, latest.hours / latest.finished
    return extrapolate(limits, spent(trials, now), *each)


def extrapolate(limits: Limits, so_far: Spent, epochs_each: float, hours_each: float) -> Forecast | None:
    """What remains at so many epochs and hours a trial; None where no limit will ever be reached."""
    left = {
        "trials": None if limits.trials is None else max(0, limits.trials - so_far.finished),
        "epochs": _trials_left(limits.epochs, so_far.epochs, epochs_each),
        "hours": _trials_left(limits.hours, so_far.hours, hours_each),
    }
    known = {name: trials for name, trials in left.items() if trials is not None}
    if not known:
        return None
    limit = min(known, key=lambda name: known[name])
    trials = known[limit]
    return Forecast(trials, trials * epochs_each, trials * hours_each, limit)


def _trials_left(limit: float | None, used: float, each: float) -> int | None:
    """Trials until a limit is reached: the last of them begins before that."""
    if limit is None:
        return None
    if used >= limit:
        return 0
    left = (limit - used) / each if each > 0 else math.inf
    return math.ceil(left) if math.isfinite(left) else None


def duration(hours: float) -> str:
    """Hours as a user reads them."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"
