"""What a study's trials took, and what came of it: epochs, hours, and how the hypervolume grew with them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from optuna.trial import FrozenTrial

from prunetune.results.findings.findings import Findings, Source
from prunetune.results.findings.pareto import hypervolume, nondominated
from prunetune.spaces.cost import Cost

WORK = ("train", "validate", "measure", "deploy")
"""The parts of a trial's time that a study is there for. Everything else is overhead."""

_TEXTS = {"deploy": "further deployments"}


def part_text(part: str) -> str:
    """What a reader calls a part of a trial's time: `deploy` is what its networks took at further deployments."""
    return _TEXTS.get(part, part)


@dataclass(frozen=True)
class TrialCost:
    """What one trial took. Trials wait for what others train without counting it."""

    trial: int
    cost: Cost

    @property
    def overhead(self) -> float:
        """Seconds that were neither training, validation nor measuring."""
        return sum(spent for part, spent in self.cost.seconds.items() if part not in WORK)


@dataclass(frozen=True)
class Costs:
    """What all trials took that recorded it."""

    trials: tuple[TrialCost, ...]

    @classmethod
    def of(cls, study: Source) -> Costs:
        """Reads a study."""
        costs = [TrialCost(number, record.cost) for number, record in Findings.of(study).records.items()]
        return cls(tuple(spent for spent in costs if spent.cost.total_s > 0 or spent.cost.stages))

    @cached_property
    def total(self) -> Cost:
        """Of all trials together."""
        return sum((spent.cost for spent in self.trials), Cost())

    @property
    def epoch_s(self) -> float:
        """Seconds that an epoch took on average, with its validation; 0 if none ran."""
        spent = self.total.seconds.get("train", 0.0) + self.total.seconds.get("validate", 0.0)
        return spent / self.total.epochs_trained if self.total.epochs_trained else 0.0


@dataclass(frozen=True)
class Progress:
    """The hypervolume after one finished trial."""

    trial: int
    network: str
    """The name of what it came to; the trial's number where it has no network."""
    epochs: int
    """Epochs trained in all trials so far."""
    hours: float
    """Hours in which at least one trial ran so far. Pauses do not count, several workers count once."""
    hypervolume: float


def progress(study: Source) -> list[Progress]:
    """How the hypervolume grew, by the order in which trials ended; empty while the dense network is not measured.

    The front is that of today's latencies: those measured again replace the trials' own, as they do elsewhere.
    """
    found = Findings.of(study)
    if (references := found.dense_point) is None:
        return []
    ended = [trial for trial in found.trials if trial.datetime_complete is not None and trial.state.is_finished()]
    clock = _Clock(ended)
    epochs, volume = 0, 0.0
    best: list[tuple[float, ...]] = []
    steps: list[Progress] = []
    for trial in sorted(ended, key=lambda trial: (trial.datetime_complete or datetime.min, trial.number)):
        epochs += found.records[trial.number].cost.epochs_trained
        networks = [network for network in found.networks_of(trial.number) if network.result.is_candidate]
        points = [found.point(network) for network in networks if not found.misses_budget(network)]
        if new := [point for point in points if point is not None]:
            best += new
            best = [kept for kept, stays in zip(best, nondominated(best), strict=True) if stays]
            if any(point in best for point in new):
                volume = hypervolume(best, references)
        assert trial.datetime_complete is not None  # that is what `ended` holds
        hours = clock.hours(trial.datetime_complete)
        steps.append(Progress(trial.number, found.key(trial.number), epochs, hours, volume))
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
