"""Distillation: while a network trains, its features are held near those of the dense original.

ultralytics' own machinery (`distill_model`) does it: the feature maps that the last block reads, in the widths of the
student and of the teacher, are joined by small projections that are trained with the student, and the squared distance
counts where the teacher sees an object. The teacher is in evaluation mode, has no gradients, and runs once a step.

Its features are not kept for other trainings. They belong to augmented images, which differ in each epoch. An epoch's
seed does fix them, but at 640 px YOLOv5s has 5.7 MB of them an image: 160 GB for an epoch of 28,000 images, which takes
longer to read than to compute, for a teacher's forward pass is a quarter to a third of what the step costs anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunetune.pruning.yolo.compat import prepare_ultralytics


def with_teacher(student: Any, teacher: Any, seed: int) -> nn.Module:
    """Wraps a network so that its loss holds the distance to a teacher's features.

    Args:
        student: A `DetectionModel` with the trainer's `args`, whose `dis` is the weight. It is trained in place.
        teacher: The network that teaches. It is frozen in place.
        seed: Of the projections' initial weights.

    Returns:
        ultralytics' `DistillationModel`.
    """
    prepare_ultralytics()
    from ultralytics.nn.distill_model import DistillationModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DistillationModel(teacher_model=teacher, student_model=student)


def student_of(model: Any) -> Any:
    """The network that ships: without teacher and projections, or the model itself where there are none."""
    return getattr(model, "student_model", model)


def projections_of(model: Any) -> nn.Module | None:
    """What joins the widths of student and teacher; None without a teacher."""
    projections: nn.Module | None = getattr(model, "projector", None)
    return projections


def average_of(model: Any) -> Any:
    """ultralytics' moving average of what ships, which catches no features."""
    from ultralytics.utils.torch_utils import ModelEMA

    average = ModelEMA(student_of(model))
    for module in average.ema.modules():
        module._forward_hooks.clear()
    return average


def without_teacher(model: Any) -> Any:
    """What an optimizer trains: student and projections under ultralytics' names for them."""
    projections = projections_of(model)
    if projections is None:
        return model
    return nn.ModuleDict({"student_model": student_of(model), "projector": projections})
