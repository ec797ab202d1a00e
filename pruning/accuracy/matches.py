"""Which detections on a split are right, image by image: what accuracies and their uncertainty are computed from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunetune.spaces.errors import StoreError
from prunetune.spaces.files import publish

Integers = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]

IOUS = 10
"""The IoU thresholds from 0.5 to 0.95."""


@dataclass(frozen=True, eq=False)
class Matches:
    """All detections of one network on one split, and the objects that there are.

    N detections and M objects, on images that are numbered by their place in `images`.
    """

    images: npt.NDArray[np.str_]
    """Names of the files, in the loader's order."""
    correct: npt.NDArray[np.bool_]
    """(N, 10): whether a detection is right at each IoU threshold."""
    confidence: Floats
    """(N,), from 0 to 1."""
    predicted: Integers
    """(N,): the class that a detection says."""
    image: Integers
    """(N,): the image that it is on."""
    target: Integers
    """(M,): the class of an object."""
    target_image: Integers
    """(M,): the image that it is on."""

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.images)

    def map(self, counts: Integers | None = None) -> tuple[float, float]:
        """mAP50 and map50_95 as ultralytics computes them: the mean over the classes that have objects.

        Args:
            counts: (images,): how often each image counts; once each by default. NaN if no object is left.
        """
        if counts is None:
            counts = np.ones(self.size, dtype=int)
        objects = np.bincount(self.target, counts[self.target_image], minlength=self._classes)
        found = [
            _average_precisions(*self._by_class[index], counts, count)
            for index, count in enumerate(objects)
            if count > 0
        ]
        if not found:
            return float("nan"), float("nan")
        mean = np.mean(found, axis=0)
        return float(mean[0]), float(mean.mean())

    @cached_property
    def _classes(self) -> int:
        return 1 + max(int(self.target.max(initial=-1)), int(self.predicted.max(initial=-1)))

    @cached_property
    def _by_class(self) -> list[tuple[npt.NDArray[np.bool_], Integers]]:
        """Each class's detections by falling confidence: which are right, and their images."""
        order = np.argsort(-self.confidence, kind="stable")
        ranked = [order[self.predicted[order] == index] for index in range(self._classes)]
        return [(self.correct[rows], self.image[rows]) for rows in ranked]

    def save(self, path: Path) -> None:
        """Writes them as .npz, as one step.

        Raises:
            StoreError: `path` cannot be written.
        """
        with publish(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Matches:
        """Reads what `save` wrote.

        Raises:
            StoreError: The file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(**{item.name: stored[item.name] for item in fields(cls)})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StoreError(f"{path}: cannot be read ({error}); remove it, and run the same command again") from error


_KEPT = ("tp", "conf", "pred_cls", "target_cls")


@dataclass
class MatchRecorder:
    """Listens to ultralytics' validator, batch by batch, and keeps what it then throws away."""

    _images: list[str] = field(default_factory=list)
    _stats: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _KEPT})

    def __call__(self, validator: Any) -> None:
        """Takes the images of the last batch."""
        stats = validator.metrics.stats
        begin, end = len(self._images), len(stats["conf"])
        self._images += [Path(file).name for file in validator.dataloader.dataset.im_files[begin:end]]
        for name, kept in self._stats.items():
            kept += stats[name][begin:end]

    def matches(self) -> Matches:
        """All that was seen."""
        correct = [np.asarray(rows, dtype=bool).reshape(-1, IOUS) for rows in self._stats["tp"]]
        return Matches(
            images=np.array(self._images, dtype=np.str_),
            correct=np.concatenate(correct or [np.zeros((0, IOUS), dtype=bool)]),
            confidence=_joined(self._stats["conf"], np.float32),
            predicted=_joined(self._stats["pred_cls"], np.int32),
            image=_numbers(self._stats["conf"]),
            target=_joined(self._stats["target_cls"], np.int32),
            target_image=_numbers(self._stats["target_cls"]),
        )


def _joined(parts: list[Any], kind: Any) -> Any:
    return np.concatenate([np.zeros(0, dtype=kind), *(np.asarray(part, dtype=kind) for part in parts)])


def _numbers(parts: list[Any]) -> Integers:
    return np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])


def _average_precisions(correct: npt.NDArray[np.bool_], image: Integers, counts: Integers, objects: float) -> Floats:
    """One class's average precision at each IoU threshold, from its detections by falling confidence.

    Precision rises at right detections only (right at any threshold: one can be right at 0.7 and not at 0.5, where a
    surer one has its object). So its envelope needs these, and the last one before each: of tens of
    thousands of detections some hundreds are left.
    """
    from ultralytics.utils.metrics import compute_ap

    often = counts[image]
    hits = np.flatnonzero(correct.any(axis=1) & (often > 0))
    if not len(hits):
        return np.zeros(IOUS)
    copies, ends = often[hits], often.cumsum()[hits]
    # For each right detection the place before it, and then those of its copies.
    size = copies + 1
    first = size.cumsum() - size
    places = np.repeat(ends - copies - first, size) + np.arange(size.sum())
    right = np.repeat(correct[hits], size, axis=0)
    right[first] = False
    known = places > 0
    found = right.cumsum(axis=0)[known]
    recall, precision = found / objects, found / places[known, None]
    return np.array([compute_ap(recall[:, iou], precision[:, iou])[0] for iou in range(IOUS)])
