"""How long training takes on this machine: a few steps are really trained, and a few images validated."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from prunetune.pruning.data.dataset import Dataset
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.trainer import in_parts
from prunetune.pruning.training.values import EpochRecord, Occupy, TrainingSetup, TrainingSpeed, recovery_phase
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.files import write_text

STEPS = 4
"""Optimizer steps of an epoch that is timed."""
EPOCHS = 4
"""Epochs at most. The first one is not counted if there is another: it warms up the device."""
ENOUGH_S = 6.0
"""No further epoch is begun after so many seconds."""


def measure_speed(
    detector: Detector, setup: TrainingSetup, dataset: Dataset, occupy: Occupy = nullcontext
) -> TrainingSpeed:
    """Trains a copy of a detector for a few steps.

    Args:
        detector: Which network; it is not changed.
        setup: Input size, batch and device; whose data it names does not matter.
        dataset: Images to train on and to validate, of which a few are taken.
        occupy: Every batch is trained or validated within its context.

    Raises:
        TrainingFailureError: `DIVERGED` or `OUT_OF_MEMORY`.
    """
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        train, val = (dataset.some_images(split, STEPS * setup.batch) for split in ("train", "val"))
        few = replace(dataset, sources={"train": (Path(folder) / "train.txt",), "val": (Path(folder) / "val.txt",)})
        for split, images in (("train", train), ("val", val)):
            write_text(Path(folder) / f"{split}.txt", "".join(f"{image}\n" for image in images))
        write_text(Path(folder) / "data.yaml", few.as_yaml())
        every = {key: value for key, value in setup.hyperparameters.items() if key != "fraction"}
        here = replace(setup, data=str(Path(folder) / "data.yaml"), hyperparameters=every)
        records: list[EpochRecord] = []
        loaders, began = DataLoaders(here), time.monotonic()
        phase = recovery_phase(EPOCHS, "map50_95")
        with in_parts(detector, phase, here, loaders, on_epoch=records.append, occupy=occupy) as advance:
            for epoch in range(1, EPOCHS + 1):
                advance(epoch)
                if time.monotonic() - began > ENOUGH_S:
                    break
        return speed_of(records, loaders.steps_per_epoch, len(val))


def speed_of(records: Sequence[EpochRecord], steps: int, images: int) -> TrainingSpeed:
    """The mean of some epochs, without the first if there are others.

    Args:
        records: One at least.
        steps: Optimizer steps of each.
        images: Images that each validates.
    """
    counted = records[1:] or records
    return TrainingSpeed(
        sum(record.train_s for record in counted) / len(counted) / steps,
        sum(record.validate_s for record in counted) / len(counted) / images,
    )
