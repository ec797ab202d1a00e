"""What a network finds in pictures, and what is there, as plain boxes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from prunetune.pruning.yolo.compat import prepare_ultralytics, readable
from prunetune.spaces.deployment import ImageSize
from prunetune.spaces.errors import ModelError

if TYPE_CHECKING:
    from prunetune.pruning.training.loaders import DataLoaders


@dataclass(frozen=True)
class Box:
    """An object in a picture."""

    kind: int
    """Its class."""
    confidence: float
    """From 0 to 1; 1 for what was labelled."""
    corners: tuple[float, float, float, float]
    """Left, top, right and bottom in px of the picture as it is seen, turned as its camera says."""

    def iou(self, other: Box) -> float:
        """Intersection over union, whatever the classes."""
        left, top, right, bottom = (
            choose(own, its) for choose, own, its in zip((max, max, min, min), self.corners, other.corners, strict=True)
        )
        shared = max(0.0, right - left) * max(0.0, bottom - top)
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0

    @property
    def area(self) -> float:
        """In px."""
        left, top, right, bottom = self.corners
        return max(0.0, right - left) * max(0.0, bottom - top)


def labelled(loaders: DataLoaders, split: str) -> list[tuple[Path, tuple[Box, ...]]]:
    """The images of a split, with what was labelled on them, in the order of their names.

    Args:
        loaders: The study's.
        split: `val` or `test`.
    """
    from ultralytics.data.utils import exif_size

    found = []
    for label in loaders.evaluation(split, stride=None).dataset.labels:
        with Image.open(label["im_file"]) as image:
            width, height = exif_size(image)
        boxes = []
        for kind, (x, y, w, h) in zip(label["cls"].ravel().tolist(), label["bboxes"].tolist(), strict=True):
            corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            boxes.append(Box(int(kind), 1.0, corners))
        found.append((Path(label["im_file"]), tuple(boxes)))
    return sorted(found, key=lambda item: str(item[0]))


def detect(
    checkpoint: Path, files: Sequence[Path], imgsz: ImageSize, confidence: float, device: str
) -> list[tuple[Box, ...]]:
    """What a network finds in pictures, as stock `YOLO(checkpoint).predict(files)` does.

    Args:
        checkpoint: A .pt.
        files: The pictures.
        imgsz: Side of the input or (height, width) in px.
        confidence: What is less sure does not count.
        device: ultralytics' `device`.

    Returns:
        For each picture its boxes, the surest first.

    Raises:
        ModelError: The checkpoint is missing.
    """
    prepare_ultralytics()
    from ultralytics import YOLO

    if not checkpoint.is_file():
        raise ModelError(f"{checkpoint}: no such file; was the study's folder copied without its candidates?")
    options = {"imgsz": imgsz, "conf": confidence, "device": device, "verbose": False, "save": False}
    # A list in a file is read one by one; a list of names would be one batch, whose pictures are padded alike.
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder, readable(checkpoint) as weights:
        listed = Path(folder) / "pictures.txt"
        listed.write_text("\n".join(map(str, files)), encoding="utf-8")
        results = YOLO(str(weights), task="detect").predict(source=str(listed), batch=1, stream=True, **options)
        found = {result.path: _boxes(result.boxes) for result in results}
    return [found.get(str(file), ()) for file in files]


def _boxes(found: Any) -> tuple[Box, ...]:
    rows = zip(found.cls.tolist(), found.conf.tolist(), found.xyxy.tolist(), strict=True)
    return tuple(Box(int(kind), confidence, tuple(corners)) for kind, confidence, corners in rows)
