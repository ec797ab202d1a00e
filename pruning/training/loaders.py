"""One set of data loaders per process: images are read once, however many trainings follow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from copy import copy
from typing import Any

import torch

from prunetune.pruning.training.values import TrainingSetup
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.spaces.errors import DatasetError

CALIBRATION_IMAGES = 128
"""How many training images BatchNorm statistics are recalibrated on. EagleEye needs about a hundred."""


class DataLoaders:
    """ultralytics' loaders of a study's data set, built when first used and kept.

    Attributes:
        data: ultralytics' description of the data set, with absolute paths.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        prepare_ultralytics()
        from ultralytics.cfg import get_cfg
        from ultralytics.data.utils import check_det_dataset

        self._setup = setup
        self._options = get_cfg(overrides=arguments(setup))
        self.data: dict[str, Any] = check_det_dataset(setup.data, autodownload=False)
        self._evaluation: dict[tuple[str, int | None], Any] = {}
        self._calibration: list[dict[str, Any]] | None = None
        self._train: Any = None

    @property
    def processes(self) -> int:
        """How many processes read images for each loader: none on a CPU, whose cores train."""
        return 0 if self._setup.device in ("cpu", "mps") else self._setup.workers

    @property
    def has_test(self) -> bool:
        """Whether there is a split that no decision sees."""
        return bool(self.data.get("test"))

    @property
    def classes(self) -> int:
        """How many classes the data set has."""
        return int(self.data["nc"])

    def train(self) -> Any:
        """The augmented training loader, with mosaic open again if the last training closed it."""
        if self._train is None:
            self._train = self._build(self.data["train"], "train")
        else:
            self._train.dataset.mosaic = bool(self._options.mosaic)
            self._train.dataset.transforms = self._train.dataset.build_transforms(hyp=self._options)
            self._train.reset()
        _draw_mosaics_from_all(self._train.dataset.transforms)
        return self._train

    def evaluation(self, split: str, stride: int | None) -> Any:
        """The loader that stock `YOLO.val` would build for `val` or `test`.

        Args:
            split: `val` or `test`.
            stride: The detector's, to whose multiples the images of a batch are padded; None pads them to squares, as
                an exported network takes them. A setup with a rectangle pads all images to that.
        """
        stride = None if self._setup.rectangle else stride
        if (split, stride) not in self._evaluation:
            self._evaluation[split, stride] = self._build(self.data[split], "val", stride)
        loader = self._evaluation[split, stride]
        loader.reset()  # ultralytics ends a loader's processes with each training
        return loader

    def calibration(self) -> Iterator[torch.Tensor]:
        """Batches of training images without augmentation: (batch, channels, height, width), from 0 to 1."""
        for batch in self.labelled():
            yield batch["img"]

    def labelled(self) -> Iterator[dict[str, Any]]:
        """The same as ultralytics' batches, with the images' labels. They are always the same."""
        if self._calibration is None:
            self._calibration = list(self._read_calibration())
        for batch in self._calibration:
            yield {**batch, "img": batch["img"].float() / 255}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; every batch is one."""
        if self._train is None:
            self._train = self._build(self.data["train"], "train")
        return len(self._train)

    def _read_calibration(self) -> Iterator[dict[str, Any]]:
        from prunetune.pruning.data.images import StudyImages

        options, batch, rectangle = copy(self._options), self._setup.batch, self._setup.rectangle
        options.cache = False  # a few images, read once
        with _without_bars():
            dataset = StudyImages(options, self.data["train"], batch, self.data, "val", None, rectangle)
        count = min(CALIBRATION_IMAGES, len(dataset))
        chosen = torch.linspace(0, len(dataset) - 1, count).round().long().tolist()
        images = [dataset[index] for index in chosen]
        for start in range(0, count, batch):
            yield dataset.collate_fn(images[start : start + batch])

    def _build(self, path: Any, mode: str, stride: int | None = None) -> Any:
        from ultralytics.data.build import build_dataloader

        from prunetune.pruning.data.images import StudyImages

        batch, rectangle = self._setup.batch, None if mode == "train" else self._setup.rectangle
        with _without_bars():
            dataset = StudyImages(self._options, path, batch, self.data, mode, stride, rectangle)
            _require_channels(dataset, self.data["channels"])
        device = "cpu" if self._setup.device in ("cpu", "mps") else "cuda"
        return build_dataloader(dataset, batch, self.processes, shuffle=mode == "train", rank=-1, device=device)


def _require_channels(dataset: Any, channels: int) -> None:
    """Refuses images that ultralytics would read with other channels. It makes 1 and 3 of any."""
    if channels in (1, 3):
        return
    for index, file in enumerate(dataset.im_files):
        found = dataset.load_image(index)[0].shape[2]
        if found != channels:
            raise DatasetError(f"channels: is {channels}, but {file} has {found}; correct the number or the image")


def arguments(setup: TrainingSetup) -> dict[str, Any]:
    """ultralytics' arguments for every training and validation of a study."""
    return {
        "task": "detect",
        "mode": "train",
        "data": setup.data,
        "imgsz": setup.imgsz,
        "batch": setup.batch,
        "device": setup.device,
        "workers": setup.workers,
        "cache": setup.cache or False,
        "seed": setup.seed,
        "nbs": setup.batch,  # every batch is a step: short phases need all the steps they can get
        "optimizer": "AdamW",
        "warmup_bias_lr": 0.0,
        "deterministic": False,  # each epoch is seeded anyway; ultralytics' own switch slows a CPU down
        "plots": False,
        "verbose": False,
        "patience": 0,
        "amp": setup.device not in ("cpu", "mps") and setup.hyperparameters.get("amp", False),
        "exist_ok": True,
        **{key: value for key, value in setup.hyperparameters.items() if key != "amp"},
    }


def _draw_mosaics_from_all(transform: Any) -> None:
    """Lets mosaics take any training image.

    Without `cache=ram` ultralytics takes images that it read lately: an epoch would then depend on what this
    process has read before, and the same stage would have another result with another `cache`.
    """
    if hasattr(transform, "buffer_enabled"):
        transform.buffer_enabled = False
    inner = getattr(transform, "transforms", [])
    for part in (*(inner if isinstance(inner, list) else []), getattr(transform, "pre_transform", None)):
        if part is not None:
            _draw_mosaics_from_all(part)


def _without_bars() -> contextlib.redirect_stdout[io.StringIO]:
    """Hides the progress bars of reading images, which ultralytics shows even when it is told to be quiet."""
    return contextlib.redirect_stdout(io.StringIO())
