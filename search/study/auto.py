"""What a study is to look like for a detector, a data set and a machine: each choice with its reason.

Ratios are those that did well before (benchmarks/RESULTS.md): sparse phases half as long as recoveries, a dense
training twice as long; recoveries of some hundred steps at least.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.pruning.training.values import TrainingSpeed
from prunetune.search.study.overrides import overridden
from prunetune.search.study.study_cost import CostForecast, cost_forecast
from prunetune.search.study.study_spec import StudySpec

HOURS = 10.0
"""A night: what a study may take where nothing is said."""

USUAL_IMGSZ = 640
"""ultralytics' own input size in px."""

MOST_EPOCHS = 300
"""No recovery, and no dense training, is chosen longer."""

FEWEST_STEPS = 10
"""Optimizer steps of an epoch, below which a smaller batch is chosen."""

MANY_CLASSES = 10
"""With more of them the learning rate is so low that recoveries want a multiple of it (RESULTS.md, "Training on")."""

LADDER = tuple((round(200 * 1.2**rung), 8 + 2 * rung) for rung in range(28))
"""Optimizer steps of the longest recovery, and trials; the smallest sensible study first."""


@dataclass(frozen=True)
class StudyFacts:
    """What is known before anything is chosen."""

    model: str
    """As the user names it."""
    data: str
    """As the user names it."""
    is_checkpoint: bool
    """Whether the model is trained already."""
    stride: int
    """The detector's, in px."""
    classes: int
    train_images: int
    val_images: int
    image_side: int
    """Of the longer side of a typical training image, in px."""
    gpus: int = 0
    """How many GPUs torch sees."""
    trained_imgsz: int | None = None
    """The input size in px that a checkpoint was trained at."""
    trained_epochs: int | None = None
    """Epochs that a checkpoint was trained for."""


@dataclass(frozen=True)
class Chosen:
    """A key of a description with its value, and why it has that."""

    key: str
    """As an override names it: `space.recovery_epochs`."""
    value: Any
    """As YAML has it."""
    reason: str
    """A short phrase."""


@dataclass(frozen=True)
class AutoStudy:
    """A description that was chosen."""

    spec: StudySpec
    chosen: tuple[Chosen, ...]
    """Every key, in order; one that the user gave has its value and says so."""
    forecast: CostForecast | None
    """What it will take; None where no limit will ever be reached."""
    hours: float
    """What it may take."""

    @property
    def fits(self) -> bool:
        """Whether it does not take more."""
        return self.forecast is None or self.forecast.hours <= self.hours


def choose_sizes(facts: StudyFacts) -> tuple[Chosen, Chosen, Chosen]:
    """Input size, batch and device: what has to be known before a step can be timed."""
    steps = facts.train_images / FEWEST_STEPS
    batch = next((size for size in (16, 8) if size <= steps), 4)
    device = Chosen("device", 0, "the first GPU") if facts.gpus else Chosen("device", "cpu", "torch sees no GPU")
    if batch == 16:
        return _imgsz(facts), Chosen("batch", 16, f"{math.ceil(facts.train_images / 16)} steps an epoch"), device
    return _imgsz(facts), Chosen("batch", batch, f"few images: more steps than with 16, {batch}"), device


def _imgsz(facts: StudyFacts) -> Chosen:
    step = math.lcm(32, facts.stride)
    if facts.trained_imgsz:
        size = _rounded(facts.trained_imgsz, step)
        return Chosen("imgsz", size, "as the checkpoint was trained")
    side = min(USUAL_IMGSZ, facts.image_side)
    reason = f"as ultralytics; images have {facts.image_side} px" if side == USUAL_IMGSZ else "as large as the images"
    return Chosen("imgsz", _rounded(side, step), reason)


def _rounded(size: int, step: int) -> int:
    """A multiple of `step` that is allowed as an input size, the next one from `size` on."""
    return min(max(math.ceil(size / step), 1) * step, 8192 // step * step)


def choose_study(
    facts: StudyFacts,
    sizes: Sequence[Chosen],
    speed: TrainingSpeed,
    hours: float = HOURS,
    given: Sequence[str] = (),
    workers: int = 1,
) -> AutoStudy:
    """The largest study of the ladder that fits a time; the smallest one if none does.

    More hours never choose fewer trials or epochs.

    Args:
        facts: Of detector, data and machine.
        sizes: `imgsz`, `batch` and `device`.
        speed: Of training at these sizes.
        hours: What the study may take, with its dense network and controls.
        given: Overrides, which are laid over what is chosen: `key=value`.
        workers: Trials that run at once.

    Raises:
        ConfigError: An override does not fit.
    """
    studies = (_described(facts, sizes, speed, rung, hours, given, workers) for rung in LADDER)
    found = next(studies)
    for larger in studies:
        if not larger.fits:
            break
        found = larger
    return found


def _described(
    facts: StudyFacts,
    sizes: Sequence[Chosen],
    speed: TrainingSpeed,
    rung: tuple[int, int],
    hours: float,
    given: Sequence[str],
    workers: int,
) -> AutoStudy:
    steps = math.ceil(facts.train_images / int(study_document(sizes, given)["batch"]))
    ends = Chosen("hours", int(hours) if hours == int(hours) else hours, "no trial is begun after so many")
    phases = _phases(facts, steps, *rung)
    if is_given("space.threshold", given):  # takes its place
        phases = (item for item in phases if item.key != "space.latency")
    chosen = (*_named(facts, given), *sizes, *phases, ends)
    spec = StudySpec.parse(study_document(chosen, given))
    epoch_s = speed.epoch_s(steps, facts.val_images)
    forecast = cost_forecast(spec.model_copy(update={"hours": None}), epoch_s, workers, facts.stride)
    return AutoStudy(spec, chosen, forecast, hours)


def _named(facts: StudyFacts, given: Sequence[str]) -> Iterable[Chosen]:
    yield Chosen("name", study_name(facts.data, facts.model), "its folder below runs/")
    yield Chosen("model", facts.model, "taken as it is" if facts.is_checkpoint else "is trained first")
    if is_given("trust", given):
        yield Chosen("trust", True, "")
    yield Chosen("data", facts.data, f"{facts.train_images:,} images to train on, {facts.val_images:,} to validate")


def study_name(data: str, model: str) -> str:
    """What a study is called that has no name: a valid folder name made of those of its data and model."""
    file = Path(data)
    what = file.absolute().parent.name if file.stem in ("data", "dataset") else file.stem
    words = [re.sub(r"[^\w.-]+", "-", word).strip("-.") for word in (what, Path(model).stem)]
    name = "-".join(word for word in words if word).encode()[:100].decode(errors="ignore").rstrip("-.")
    return re.sub(r"\.ya?ml$", "", name) or "study"


def _phases(facts: StudyFacts, steps: int, recovery_steps: int, trials: int) -> Iterable[Chosen]:
    """How long phases are and what is searched, for recoveries of so many steps."""
    recovery = min(MOST_EPOCHS, max(3, math.ceil(recovery_steps / steps)))
    sparse = max(1, recovery // 2)
    is_long = recovery >= 50
    yield _dense_epochs(facts, recovery)
    ends = {"low": 0.1, "high": 1.0, "grid": 5} if is_long else {"low": 0.4, "high": 0.8, "grid": 3}
    why = "from mild to strong" if is_long else "few epochs need a strong one"
    yield Chosen("space.sparsity", {**ends, "log": True, "unit": "pull"}, why)
    lengths = {"choices": [1, sparse]} if sparse > 1 else 1
    yield Chosen("space.sparse_epochs", lengths, "1 did best for taylor, half a recovery for gamma")
    yield Chosen("space.importance", {"choices": ["taylor", "gamma"]}, "which one wins depends on data and length")
    yield Chosen("space.latency", {"low": 0.6, "high": 0.98}, "shares of the budget; the threshold is found")
    yield Chosen("space.depth", {"low": 0, "high": 4}, "residual blocks that go whole")
    yield Chosen("space.rounds", 1, "two were never better in the same time")
    choices = sorted({max(2, recovery // 2), recovery})
    lengths = {"choices": choices} if is_long else recovery
    yield Chosen("space.recovery_epochs", lengths, f"{recovery * steps:,} steps at most")
    if facts.classes > MANY_CLASSES:
        factors = {"low": 1.0, "high": 10.0, "log": True}
        yield Chosen("space.recovery_lr", factors, f"the rate for {facts.classes:,} classes is low for what was cut")
    yield Chosen("targets", [{"kind": "onnxruntime", "threads": 1}], "where latency is measured")
    yield Chosen("budget", {"latency": "<= half-width"}, 'or "<= 4.0 ms", "<= 0.5 x dense"')
    yield Chosen("trials", trials, "as many as fit the hours with recoveries that long")


def _dense_epochs(facts: StudyFacts, recovery: int) -> Chosen:
    if not facts.is_checkpoint:
        return Chosen("dense_epochs", min(MOST_EPOCHS, max(10, 2 * recovery)), "twice a recovery")
    most = min(MOST_EPOCHS, 4 * recovery)
    if facts.trained_epochs is not None and facts.trained_epochs <= most:
        return Chosen("dense_epochs", facts.trained_epochs, "of half-width: as many as the checkpoint had")
    return Chosen("dense_epochs", most, "of half-width, from scratch: four recoveries")


def is_given(key: str, given: Iterable[str]) -> bool:
    """Whether an override names a key, a part of it, or all that it is a part of."""
    names = [override.partition("=")[0] for override in given]
    return any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in names)


def study_document(chosen: Iterable[Chosen], given: Iterable[str]) -> dict[str, Any]:
    """The plain values of a description: what was chosen, with overrides laid over it."""
    values: dict[str, Any] = {}
    for item in chosen:
        parent, _, key = item.key.rpartition(".")
        (values.setdefault(parent, {}) if parent else values)[key] = item.value
    for override in given:
        values = overridden(values, override)
    return values
