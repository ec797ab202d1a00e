"""What a study will take before its trials run: epochs by its description alone, hours by one measured epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from prunetune.search.study.limits import Spent, duration, extrapolate
from prunetune.search.study.study_spec import TRIALS, EarlyStopping, StudySpec
from prunetune.spaces import (
    ChoiceParameter,
    Deployment,
    FixedParameter,
    FloatParameter,
    ImageSize,
    IntParameter,
    parse_size,
)

AROUND = 1.1
"""Seconds of a study for each second of training and validation: epochs are also set up and stored
(benchmarks/RESULTS.md, "Time outside of training, validation and measuring")."""

TRIAL_S = 30.0
"""What a trial takes beside its epochs: some measurements, at each input size, and surgery. Workers take turns."""

ENDS_S = 60.0
"""The reference networks are measured at first, and the front with the controls at last."""

STRIDE = 32
"""Of nearly all detectors. It decides the smaller input sizes of a study that names none."""


@dataclass(frozen=True)
class Epochs:
    """Some epochs of training."""

    count: float = 0.0
    """How many."""
    work: float = 0.0
    """The same in epochs at the study's own input size: one at a smaller size counts by its pixels."""

    def __add__(self, other: Epochs) -> Epochs:
        return Epochs(self.count + other.count, self.work + other.work)

    def __mul__(self, factor: float) -> Epochs:
        return Epochs(self.count * factor, self.work * factor)


@dataclass(frozen=True)
class PlannedEpochs:
    """What a study trains, on average over its space."""

    dense: Epochs
    """The training of a yaml, before all trials."""
    trials: Epochs
    """All trials together; they share their first sparse phases where the sparsity has a grid."""
    baselines: Epochs
    """The controls, after all trials."""


@dataclass(frozen=True)
class CostForecast:
    """What a study will take on one machine."""

    trials: int
    """How many end before a limit is reached."""
    trial_hours: float
    """Hours in which trials run."""
    hours: float
    """Hours of the whole study, with the dense network and the controls."""
    epoch_s: float
    """Seconds of an epoch at the study's input size."""
    most_epochs: int
    """Epochs of the trials if each draws the longest recipe."""
    workers: int
    """Trials that run at once."""

    def text(self) -> str:
        """As a line of progress."""
        trials = f"{self.trials} trial{'s' * (self.trials != 1)}"
        workers = f"{self.workers} worker{'s' * (self.workers != 1)}"
        return (
            f"forecast: {trials} take about {duration(self.trial_hours)} here, the whole study "
            f"{duration(self.hours)} ({self.epoch_s:.3g} s an epoch, at most {self.most_epochs:,} epochs, {workers})"
        )


def planned_epochs(spec: StudySpec, trials: int, stride: int = STRIDE) -> PlannedEpochs:
    """What a study trains if it has so many trials.

    Args:
        spec: The study's.
        trials: How many.
        stride: Its detector's.
    """
    space = spec.space
    sizes = tuple(map(parse_size, space.imgsz.values or ())) if space.imgsz else spec.sizes(stride)
    shares = [work_share(size, spec.imgsz) for size in sizes]
    share = sum(shares) / len(shares)
    sparse, recovery = _mean(space.sparse_epochs), _mean(space.recovery_epochs)
    further_rounds = _mean(space.rounds) - 1
    grid = space.sparsity.values
    trunks = trials * sparse if grid is None else min(trials, len(grid)) * space.longest_sparse_epochs
    last = recovery * _share_in_time(spec.early_stopping)
    each = _at(sparse * further_rounds, 1.0) + _at(recovery * further_rounds + last, share)
    longest = space.longest_epochs
    baselines = Epochs()
    for control in spec.controls:
        baselines += _at(longest if control == "dense" else spec.dense_epochs + longest, 1.0)
    if "dense" in spec.controls:
        for size in spec.sizes(stride)[1:]:
            baselines += _at(float(space.recovery_epochs.largest), work_share(size, spec.imgsz))
    is_trained = Path(spec.model).suffix.lower() == ".pt"
    dense = Epochs() if is_trained else _at(spec.dense_epochs, 1.0)
    return PlannedEpochs(dense, _at(trunks, 1.0) + each * trials, baselines)


def cost_forecast(
    spec: StudySpec, epoch_s: float, workers: int = 1, stride: int = STRIDE, dense_left: float | None = None
) -> CostForecast | None:
    """What a study will take from its beginning.

    Args:
        spec: The study's.
        epoch_s: Seconds of training and validation in an epoch at the study's input size.
        workers: Trials that run at once. The dense network and the controls have one.
        stride: The detector's.
        dense_left: Epochs of the dense training that are still to come; by default all.

    Returns:
        None where no limit will ever be reached.
    """
    assumed = spec.trials or TRIALS
    planned = planned_epochs(spec, assumed, stride)
    hour = epoch_s * AROUND / 3600
    each = planned.trials * (1 / assumed)
    at_once = min(workers, assumed)
    hours_each = each.work * hour / at_once + TRIAL_S / 3600
    ahead = extrapolate(spec.limits, Spent(0, 0, 0, 0.0), each.count, hours_each)
    if ahead is None:
        return None
    dense = planned.dense.work if dense_left is None else dense_left
    most = ahead.trials * spec.space.longest_epochs
    if spec.epochs is not None:
        most = min(most, spec.epochs + spec.space.longest_epochs)
    whole = ahead.hours + (dense + planned.baselines.work) * hour + ENDS_S / 3600
    return CostForecast(ahead.trials, ahead.hours, whole, epoch_s, most, at_once)


def _at(count: float, share: float) -> Epochs:
    return Epochs(count, count * share)


def work_share(size: ImageSize, imgsz: int) -> float:
    """What an epoch at an input size takes of one at `imgsz` px: its share of the pixels that are trained on."""
    return (max(Deployment(size).height_width) / imgsz) ** 2


def _mean(parameter: FloatParameter | IntParameter | ChoiceParameter | FixedParameter) -> float:
    """The average of what a space of numbers draws."""
    if parameter.values is not None:
        return sum(map(float, parameter.values)) / len(parameter.values)
    assert isinstance(parameter, FloatParameter | IntParameter)  # others have values
    low, high = parameter.low, parameter.high
    if parameter.log and low < high:
        return (high - low) / math.log(high / low)
    return (low + high) / 2


def _share_in_time(stopping: EarlyStopping | bool) -> float:
    """The share of a recovery that is trained on average, when at each rung one in `reduction` goes on."""
    if isinstance(stopping, bool):
        return 1.0
    ends = [stopping.reduction ** (place - stopping.rungs) for place in range(stopping.rungs + 1)]
    steps = [ends[0], *(after - before for before, after in pairwise(ends))]
    return sum(step / stopping.reduction**place for place, step in enumerate(steps))
