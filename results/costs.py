"""What a study's trials took, and what came of it: epochs, hours, and how the hypervolume grew with them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from optuna.trial import FrozenTrial

from prunetune.results.entries import is_candidate, mapping, number
from prunetune.results.findings import Findings, Source
from prunetune.results.pareto import hypervolume, nondominated
from prunetune.results.trials import seconds

WORK = ("train", "validate", "measure")
"""The parts of a trial's time that a study is there for. Everything else is overhead."""


@dataclass(frozen=True)
class TrialCost:
    """What one trial took."""

    trial: int
    seconds: dict[str, float]
    """By part; trials wait for what others train without counting it."""
    trained: float
    """Epochs that ran."""
    reused: float
    """Epochs that were read back, because another trial had trained them."""

    @property
    def overhead(self) -> float:
        """Seconds that were neither training, validation nor measuring."""
        return sum(spent for part, spent in self.seconds.items() if part not in WORK)


@dataclass(frozen=True)
class Costs:
    """What all trials took that recorded it."""

    trials: tuple[TrialCost, ...]

    @classmethod
    def of(cls, study: Source) -> Costs:
        """Reads a study."""
        costs = map(_cost, Findings.of(study).trials)
        return cls(tuple(cost for cost in costs if sum(cost.seconds.values()) > 0 or cost.trained or cost.reused))

    @cached_property
    def seconds(self) -> Counter[str]:
        """Seconds by part."""
        found: Counter[str] = Counter()
        for cost in self.trials:
            found.update(cost.seconds)
        return found

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())

    @property
    def trained(self) -> float:
        """Epochs that ran."""
        return sum(cost.trained for cost in self.trials)

    @property
    def reused(self) -> float:
        """Epochs that were read back."""
        return sum(cost.reused for cost in self.trials)

    @property
    def epoch_s(self) -> float:
        """Seconds that an epoch took on average, with its validation; 0 if none ran."""
        return (self.seconds["train"] + self.seconds["validate"]) / self.trained if self.trained else 0.0


@dataclass(frozen=True)
class Progress:
    """The hypervolume after one finished trial."""

    trial: int
    epochs: float
    """Epochs trained in all trials so far."""
    hours: float
    """Hours in which at least one trial ran so far. Pauses do not count, several workers count once."""
    hypervolume: float


def progress(study: Source) -> list[Progress]:
    """How the hypervolume grew, by the order in which trials ended; empty while the dense network is not measured.

    The front is that of today's latencies: those measured again replace the trials' own, as they do elsewhere.
    """
    found = Findings.of(study)
    references = [value for value in map(found.dense_ms, found.judged) if value]
    if not references or len(references) < len(found.judged):
        return []
    ended = [trial for trial in found.trials if trial.datetime_complete is not None and trial.state.is_finished()]
    clock = _Clock(ended)
    epochs, volume = 0.0, 0.0
    best: list[tuple[float, ...]] = []
    steps: list[Progress] = []
    for trial in sorted(ended, key=lambda item: (item.datetime_complete or datetime.min, item.number)):
        epochs += number(mapping(trial.user_attrs.get("epochs")).get("trained")) or 0.0
        item = found.entry(trial) if is_candidate(trial) else None
        point = None if item is None or found.misses_budget(item) else found.point(item)
        if point is not None:
            best.append(point)
            best = [kept for kept, stays in zip(best, nondominated(best), strict=True) if stays]
            if point in best:
                volume = hypervolume(best, references)
        assert trial.datetime_complete is not None  # that is what `ended` holds
        steps.append(Progress(trial.number, epochs, clock.hours(trial.datetime_complete), volume))
    return steps


class _Clock:
    """Hours in which at least one trial ran.

    Args:
        trials: Finished ones.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        spans = sorted(
            (trial.datetime_start, trial.datetime_complete)
            for trial in trials
            if trial.datetime_start is not None and trial.datetime_complete is not None
        )
        self._starts: list[datetime] = []
        self._ends: list[datetime] = []
        for start, end in spans:
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)
        self._before = [0.0]
        for start, end in zip(self._starts, self._ends, strict=True):
            self._before.append(self._before[-1] + (end - start).total_seconds())

    def hours(self, moment: datetime) -> float:
        """Up to a moment."""
        place = bisect_right(self._starts, moment)
        if place == 0:
            return 0.0
        last = min(moment, self._ends[place - 1]) - self._starts[place - 1]
        return (self._before[place - 1] + last.total_seconds()) / 3600


def _cost(trial: FrozenTrial) -> TrialCost:
    epochs = mapping(trial.user_attrs.get("epochs"))
    spent = {part: max(0.0, value) for part, value in seconds(trial).items()}
    return TrialCost(trial.number, spent, number(epochs.get("trained")) or 0.0, number(epochs.get("reused")) or 0.0)
