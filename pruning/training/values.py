"""The values of a training: what all trainings of a study share, what one phase does, what an epoch reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from prunetune.spaces.accuracy import Accuracy, Choice
from prunetune.spaces.deployment import Deployment, ImageSize
from prunetune.spaces.fields import integer, items, mapping, number, numbers
from prunetune.spaces.recipe import Shrinkage

PLAIN_LR = 0.01
"""ultralytics' `lr0`, which is meant for SGD and what is made of it."""

_PLAIN = ("sgd", "musgd", "rmsprop")
"""Optimizers that it is meant for. The others are kinds of Adam, whose steps are as long as their learning rate."""

EARLY = 0.1
"""The share of a dense training whose weights count as early."""


@dataclass(frozen=True)
class TrainingSetup:
    """What all trainings of a study share."""

    data: str
    """The data set's yaml."""
    data_fingerprint: str
    """What the data set holds; equal data in another folder is equal."""
    imgsz: int = 640
    """Side in px of the squares that are trained on."""
    batch: int = 16
    """Images per step; every batch is one step of the optimizer."""
    device: str = "cpu"
    """ultralytics' `device`."""
    workers: int = 8
    """Processes that load images; none on a CPU."""
    cache: str = "ram"
    """Keep the images in memory (`ram`), on disk (`disk`) or not at all (an empty string)."""
    seed: int = 0
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ultralytics, such as `mosaic` or `weight_decay`, for every training."""
    rectangle: tuple[int, int] | None = None
    """Height and width in px of the images that networks are evaluated on; None: the squares that they train on."""

    @property
    def size(self) -> ImageSize:
        """Of the images that networks are evaluated on."""
        return self.rectangle or self.imgsz

    def at(self, imgsz: ImageSize) -> TrainingSetup:
        """The same for another input. A rectangle is trained on squares of its longer side."""
        height, width = Deployment(imgsz).height_width
        return replace(self, imgsz=max(height, width), rectangle=None if height == width else (height, width))

    def identity(self) -> dict[str, Any]:
        """What decides the result of a training, and so the name of its stage."""
        rectangle = {} if self.rectangle is None else {"rectangle": list(self.rectangle)}
        return {
            "data": self.data_fingerprint,
            "imgsz": self.imgsz,
            "batch": self.batch,
            "seed": self.seed,
            "hyperparameters": dict(self.hyperparameters),
            **rectangle,
        }


@dataclass(frozen=True)
class Phase:
    """One training: so many epochs with one schedule."""

    epochs: int
    schedule: Literal["constant", "linear"]
    """After the warm-up the learning rate stays, or falls linearly to 1 % over the epochs."""
    warmup_epochs: float
    choose: Choice = "last"
    penalty: float = 0.0
    """L1 coefficient lambda on BatchNorm gammas (arXiv 1708.06519); 0 trains without."""
    gamma_lr: float | None = None
    """Learning rate of the gammas, in a parameter group of their own; None: that of the rest."""
    shrinkage: Shrinkage = "proximal"
    """How the penalty acts."""
    distillation: float = 0.0
    """Weight of the distance to the teacher's features in the loss (ultralytics' `dis`); 0 trains without a teacher."""
    teacher: str = ""
    """Digest of the stage whose network teaches."""
    lr_factor: float = 1.0
    """What the learning rate is multiplied by."""
    until: int | None = None
    """Ends after so many of its epochs, in the middle of its schedule; None: after all."""

    @property
    def end(self) -> int:
        """The epoch that it ends with."""
        return self.epochs if self.until is None else self.until

    def taught(self, weight: float, teacher: str) -> Phase:
        """The same phase under a teacher; without one if the weight is 0."""
        return replace(self, distillation=weight, teacher=teacher) if weight else self

    @property
    def sparse(self) -> bool:
        """Whether gammas are pulled to zero."""
        return self.gamma_lr is not None

    def extensible(self) -> bool:
        """Whether a shorter run is a checkpoint on the way of a longer one."""
        return self.schedule == "constant" and self.choose == "last"


def learning_rate(hyperparameters: Mapping[str, Any], classes: int) -> float:
    """The learning rate at which trainings start.

    The `lr0` that is given; else, for AdamW and its kin, ultralytics' rule (its `optimizer=auto`): the more classes a
    head tells apart, the smaller. At 0.001 an epoch of ten steps took a detector of 147 classes from 0.209 to 0.027
    map50_95; the rule gives 0.000066 there, and 0.001 for six classes.

    Args:
        hyperparameters: ultralytics' arguments that are given for every training.
        classes: How many classes the detector tells apart.
    """
    if "lr0" in hyperparameters:
        return float(hyperparameters["lr0"])
    if str(hyperparameters.get("optimizer", "AdamW")).lower() in _PLAIN:
        return PLAIN_LR
    return round(0.002 * 5 / (4 + classes), 6)


def warmup_steps(warmup_epochs: float, steps_per_epoch: int) -> int:
    """Optimizer steps over which the learning rate rises from 0."""
    return round(warmup_epochs * steps_per_epoch)


def early_phase(phase: Phase) -> Phase | None:
    """The beginning of a training, whose weights a recovery can go back to; None if that is all of it.

    Not the initial weights, from which networks of any size do not find back, but those after a first share of the
    training (Frankle et al. 2019, arXiv 1903.01611).
    """
    until = max(1, round(EARLY * phase.epochs))
    return replace(phase, choose="last", until=until) if until < phase.epochs else None


def recovery_phase(epochs: int, choose: Choice, lr_factor: float = 1.0) -> Phase:
    """Ordinary training with a falling learning rate, for dense training and for recovery."""
    return Phase(epochs, "linear", warmup_epochs=min(3.0, epochs / 10), choose=choose, lr_factor=lr_factor)


def continued_phase(epochs: int, choose: Choice) -> Phase:
    """The same for a detector that has converged, which a gentler start keeps as it is: ultralytics' warm-up.

    A pruned one has a way to go, and loses by it (benchmarks/RESULTS.md, "Training on").
    """
    return replace(recovery_phase(epochs, choose), warmup_epochs=min(3.0, epochs / 4))


@dataclass(frozen=True)
class GammaDistribution:
    """How |gamma| is distributed over a network: does training separate channels?"""

    edges: tuple[float, ...]
    """Of the bins, one more than there are."""
    counts: Mapping[str, tuple[int, ...]]
    """Channels in each bin, by region."""
    quantiles: Mapping[str, float]
    """Of all gammas, by percent; empty if none is finite."""
    below: Mapping[str, float]
    """Shares of all gammas below some limits, by limit; empty if none is finite."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, stored: Any) -> GammaDistribution | None:
        """The distribution that `as_dict` wrote; None for anything else."""
        values = mapping(stored)
        edges = tuple(edge for edge in map(number, items(values.get("edges"))) if edge is not None)
        counts = {
            str(region): tuple(integer(count) or 0 for count in items(bins))
            for region, bins in mapping(values.get("counts")).items()
        }
        return cls(edges, counts, numbers(values.get("quantiles")), numbers(values.get("below"))) if edges else None


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch reports."""

    epoch: int
    """From 1."""
    losses: Mapping[str, float]
    """Mean of each part of the loss; `sl_loss` is the L1 penalty."""
    train_s: float
    validate_s: float = 0.0
    accuracy: Accuracy | None = None
    gammas: GammaDistribution | None = None
    """After a sparse epoch."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "accuracy": self.accuracy.as_dict() if self.accuracy else None}

    @classmethod
    def parse(cls, stored: Any) -> EpochRecord | None:
        """The record that `as_dict` wrote; None where its epoch is missing or damaged."""
        values = mapping(stored)
        if (epoch := integer(values.get("epoch"))) is None:
            return None
        return cls(
            epoch=epoch,
            losses=numbers(values.get("losses")),
            train_s=number(values.get("train_s")) or 0.0,
            validate_s=number(values.get("validate_s")) or 0.0,
            accuracy=Accuracy.parse(values.get("accuracy")),
            gammas=GammaDistribution.parse(values.get("gammas")),
        )


@dataclass(frozen=True)
class TrainingSpeed:
    """How long training takes on a device, at one input size and batch."""

    step_s: float
    """Seconds of an optimizer step."""
    image_s: float
    """Seconds of validating one image."""

    def epoch_s(self, steps: int, images: int) -> float:
        """Seconds of an epoch.

        Args:
            steps: Of the optimizer.
            images: That are validated.
        """
        return self.step_s * steps + self.image_s * images


EpochListener: TypeAlias = Callable[[EpochRecord], None]
"""Hears of every finished epoch; may raise to stop the training."""

StageListener: TypeAlias = Callable[[str, int, int], EpochListener]
"""Hears that a training begins: its stage's kind, its epochs, and how many of them were trained before. Returns who
hears of those that follow."""

Occupy: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Gives a context to work in, batch by batch: whoever measures latency on the same device waits for its end."""


class TrainingFailureError(Exception):
    """A training that cannot be used, with a name for the cause.

    Args:
        cause: `DIVERGED`, `OUT_OF_MEMORY`, ...
        message: What happened, for the user.
    """

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


def check_finite(losses: Mapping[str, float], epoch: int) -> None:
    """Raises TrainingFailureError (DIVERGED) if a loss is NaN or infinite."""
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise TrainingFailureError("DIVERGED", f"{', '.join(bad)} is not finite in epoch {epoch}")
