"""Accuracy of a detector, by ultralytics' own validator on the loaders of the study."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prunetune.pruning.compat import prepare_ultralytics
from prunetune.pruning.detector import Detector
from prunetune.pruning.loaders import DataLoaders, arguments
from prunetune.pruning.training import Accuracy, TrainingSetup


def evaluate(detector: Detector, setup: TrainingSetup, loaders: DataLoaders, split: str = "val") -> Accuracy:
    """Validates as stock `YOLO(checkpoint).val(data, imgsz, batch, split)` does, and gets the same figures.

    The detector is not changed.

    Args:
        detector: Any fp32 detector.
        setup: The study's data and sizes.
        loaders: The study's loaders.
        split: `val` or `test`.
    """
    prepare_ultralytics()
    from ultralytics.models.yolo.detect import DetectionValidator

    options = {**arguments(setup), "mode": "val", "split": split, "plots": False, "rect": True}
    model = detector.copy().model
    model.criterion = None
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        validator = DetectionValidator(loaders.evaluation(split), save_dir=Path(folder), args=options)
        validator(model=model)
        return accuracy_from(validator)


def accuracy_from(validator: Any) -> Accuracy:
    """What ultralytics' validator found when it last ran."""
    boxes = validator.metrics.box
    return Accuracy(
        map50=float(boxes.map50),
        map50_95=float(boxes.map),
        precision=float(boxes.mp),
        recall=float(boxes.mr),
        f1=float(sum(boxes.f1) / len(boxes.f1)) if len(boxes.f1) else 0.0,
    )
