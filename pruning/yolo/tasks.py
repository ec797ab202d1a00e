"""What an ultralytics network is for, by its class and its head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from torch import nn

from prunetune.spaces.errors import ModelError

Task: TypeAlias = Literal["detect", "segment", "pose", "obb"]
"""What a network finds: boxes; beside them masks or keypoints; or rotated boxes."""

FINDS: Mapping[Task, str] = {"detect": "boxes", "segment": "masks", "pose": "keypoints", "obb": "rotated boxes"}

_HEADS: Mapping[str, Task] = {
    "Detect": "detect",
    "v10Detect": "detect",
    "Segment": "segment",
    "Segment26": "segment",
    "Pose": "pose",
    "Pose26": "pose",
    "OBB": "obb",
    "OBB26": "obb",
}
_MODELS: Mapping[str, Task] = {
    "DetectionModel": "detect",
    "SegmentationModel": "segment",
    "PoseModel": "pose",
    "OBBModel": "obb",
}


def model_class(description: Mapping[str, Any]) -> str:
    """The name of ultralytics' class for a model description, by its last block."""
    task = _HEADS.get(str(description["head"][-1][2]), "detect")
    return next(name for name, its in _MODELS.items() if its == task)


def task_of(model: nn.Module, source: str) -> Task:
    """What a network finds.

    Args:
        model: Any network.
        source: The file that it came from, for messages.

    Raises:
        ModelError: It is for something else, whatever its attribute `task` says.
    """
    task = _MODELS.get(type(model).__name__)
    if task is None:
        raise ModelError(f"{source}: is no detection model but a {type(model).__name__}")
    layers: Any = model.model
    head = type(layers[-1]).__name__
    if _HEADS.get(head) != task:
        raise ModelError(f"{source}: is no detection model, its last block is {head} instead of Detect")
    return task
