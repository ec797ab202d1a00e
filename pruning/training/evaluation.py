"""Accuracy of a detector, by ultralytics' own validator on the loaders of the study."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from prunetune.pruning.training.loaders import DataLoaders, arguments
from prunetune.pruning.training.values import TrainingSetup
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.accuracy import Accuracy

Predictor: TypeAlias = Callable[[Any], Any]
"""Gives a runtime's output for an array of images."""

MOST_CLASSES = 100
"""With more classes than this their figures are not kept: every trial would carry them."""

Listener: TypeAlias = Callable[[Any], None]
"""Is called with ultralytics' validator after each batch."""


def evaluate(
    detector: Detector,
    setup: TrainingSetup,
    loaders: DataLoaders,
    split: str = "val",
    listener: Listener | None = None,
) -> Accuracy:
    """Validates as stock `YOLO(checkpoint).val(data, imgsz, batch, split)` does, and gets the same figures.

    For a rectangle, on which ultralytics validates no checkpoint, they are those of `YOLO("file.onnx").val(data)` for a
    file that was exported for it. The detector is not changed.

    Args:
        detector: Any fp32 detector.
        setup: The study's data and sizes.
        loaders: The study's loaders.
        split: `val` or `test`.
        listener: Hears of each batch.

    Raises:
        ConfigError: A side of the input is no multiple of the detector's stride.
    """
    detector.require_size(setup.size)
    prepare_ultralytics()
    from ultralytics.models.yolo.detect import DetectionValidator

    options = {**arguments(setup), "mode": "val", "split": split, "plots": False, "rect": True}
    model = detector.copy().model
    model.criterion = None
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        validator = DetectionValidator(loaders.evaluation(split, detector.stride), save_dir=Path(folder), args=options)
        _listen(validator, listener)
        validator(model=model)
        return replace(accuracy_from(validator), classes=classes_from(validator))


def losses(model: Any, setup: TrainingSetup, loaders: DataLoaders) -> Iterator[torch.Tensor]:
    """The loss per image, in evaluation mode, on each batch of the training images that BatchNorm is recalibrated on.

    Gradients flow to the weights that require them.

    Args:
        model: ultralytics' `DetectionModel`, in evaluation mode. Is moved to the study's device, and gets the loss and
            the arguments of training.
        setup: The study's data and sizes.
        loaders: The study's loaders.
    """
    prepare_ultralytics()
    from ultralytics.cfg import get_cfg

    model.args, model.criterion = get_cfg(overrides=arguments(setup)), None
    device = f"cuda:{setup.device}" if setup.device.isdigit() else setup.device
    model.to(device)
    for batch in loaders.labelled():
        moved = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        loss, _ = model.loss(moved)
        yield loss.sum() / len(moved["img"])


def evaluate_predictor(
    predict: Predictor,
    names: Sequence[str],
    setup: TrainingSetup,
    loaders: DataLoaders,
    split: str = "val",
    listener: Listener | None = None,
) -> Accuracy:
    """Validates what a runtime makes of an exported detector, as stock `YOLO("file.onnx").val()` does.

    Images are padded to one shape and come one by one: the file was exported for it. So the figures compare with each
    other, in whatever precision, and for squares not with those of `evaluate`, whose images keep their proportions.

    Args:
        predict: Gives Detect's output (1, 4 + classes, boxes) for one image (1, channels, height, width), fp32, 0 to 1.
        names: Class names.
        setup: The study's data and sizes.
        loaders: The study's loaders.
        split: `val` or `test`.
        listener: Hears of each batch.
    """
    prepare_ultralytics()
    from ultralytics.models.yolo.detect import DetectionValidator

    options = {**arguments(setup), "mode": "val", "split": split, "plots": False, "rect": False, "device": "cpu"}
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        validator = DetectionValidator(loaders.evaluation(split, stride=None), save_dir=Path(folder), args=options)
        _listen(validator, listener)
        validator(model=_Exported(predict, names))
        return replace(accuracy_from(validator), classes=classes_from(validator))


class _Exported(nn.Module):
    """A runtime as ultralytics' validator takes it."""

    def __init__(self, predict: Predictor, names: Sequence[str]) -> None:
        super().__init__()
        self._predict = predict
        self.names = dict(enumerate(names))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.from_numpy(self._predict(image[None].numpy())) for image in images])


def _listen(validator: Any, listener: Listener | None) -> None:
    if listener is not None:
        validator.add_callback("on_val_batch_end", listener)


def accuracy_from(validator: Any) -> Accuracy:
    """What ultralytics' validator found when it last ran, averaged over the classes."""
    boxes = validator.metrics.box
    return Accuracy(
        map50=float(boxes.map50),
        map50_95=float(boxes.map),
        precision=float(boxes.mp),
        recall=float(boxes.mr),
        f1=float(sum(boxes.f1) / len(boxes.f1)) if len(boxes.f1) else 0.0,
        confidence=_best_confidence(boxes),
    )


def _best_confidence(boxes: Any) -> float | None:
    """The confidence at which ultralytics reads precision, recall and F1."""
    from ultralytics.utils.metrics import smooth

    if not len(boxes.f1) or not sum(boxes.f1):
        return None
    return round(float(boxes.px[smooth(boxes.f1_curve.mean(0), 0.1).argmax()]), 3)


def classes_from(validator: Any) -> dict[str, dict[str, float]] | None:
    """What ultralytics' validator found for each class that has objects; None where there are too many of them."""
    boxes = validator.metrics.box
    if len(boxes.ap_class_index) > MOST_CLASSES:
        return None
    found = zip(boxes.ap_class_index, boxes.ap50, boxes.ap, strict=True)
    return {
        str(validator.names[int(index)]): {"map50": round(float(ap50), 4), "map50_95": round(float(ap), 4)}
        for index, ap50, ap in found
    }
