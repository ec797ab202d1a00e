"""Finds out what a study is chosen from: of the detector, of the data, and how fast this machine trains it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from PIL import Image

from prunetune.pruning.data.dataset import Dataset
from prunetune.pruning.pipeline import Source
from prunetune.pruning.training.device import gpu_count
from prunetune.pruning.training.speed import measure_speed
from prunetune.pruning.training.values import TrainingSpeed
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.engine.study_setup import occupied, training_setup
from prunetune.search.study.auto import StudyFacts
from prunetune.search.study.study_spec import StudySpec

LOOKED_AT = 32
"""Images whose size is read."""


def read_facts(spec: StudySpec, original: Detector, dataset: Dataset, source: Source) -> StudyFacts:
    """What is known of a detector and its data.

    Args:
        spec: Names both.
        original: The detector.
        dataset: The data set, looked through.
        source: The detector as the data set wants it.
    """
    return StudyFacts(
        model=spec.model,
        data=spec.data,
        is_checkpoint=source.is_checkpoint,
        stride=original.stride,
        classes=len(dataset.names),
        train_images=dataset.splits["train"].images,
        val_images=dataset.splits["val"].images,
        image_side=round(median(map(_longer_side, dataset.some_images("train", LOOKED_AT)))),
        gpus=gpu_count(),
        trained_imgsz=trained_with(original, "imgsz") if source.is_checkpoint else None,
        trained_epochs=trained_with(original, "epochs") if source.is_checkpoint and not original.record else None,
    )


def trained_with(original: Detector, key: str) -> int | None:
    """A whole, positive number among the arguments that a checkpoint says it was trained with; None for any other.

    ultralytics fills in its defaults where a checkpoint says nothing, as prunetune's own do of their epochs.
    """
    given = getattr(original.model, "args", {})
    value = (given if isinstance(given, Mapping) else vars(given)).get(key)
    return value if type(value) is int and value > 0 else None


def measured_speed(spec: StudySpec, dataset: Dataset, source: Source) -> TrainingSpeed:
    """How fast this machine trains a description's detector at its input size and batch.

    Raises:
        TrainingFailureError: `OUT_OF_MEMORY`, or `DIVERGED`.
    """
    device = spec.devices[0]
    setup = training_setup(spec.model_copy(update={"device": device}), "", dataset)
    return measure_speed(source.reference("dense"), setup, dataset, lambda: occupied(device))


def _longer_side(image: Path) -> int:
    with Image.open(image) as opened:
        return max(opened.size)
