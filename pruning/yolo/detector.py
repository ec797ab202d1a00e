"""The adapter over ultralytics' detectors: load, count, save, export.

With `distillation`, `export`, `loaders`, `trainer` and `evaluation` this is the only place that knows ultralytics.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.structure.layers import channel_config, coarsest_stride, image_channels, size_problem
from prunetune.pruning.yolo.area_attention import join_attention
from prunetune.pruning.yolo.compat import prepare_ultralytics, readable
from prunetune.pruning.yolo.descriptions import round_widths
from prunetune.pruning.yolo.export import export_onnx
from prunetune.pruning.yolo.foreign_files import why_unreadable
from prunetune.pruning.yolo.tasks import FINDS, Task, model_class, task_of
from prunetune.spaces.deployment import Deployment, ImageSize, plain_size
from prunetune.spaces.errors import ConfigError, ModelError, did_you_mean

SHIPPED_MODELS = Path(__file__).parent / "models"
"""Model descriptions that come with prunetune, found by their name like ultralytics' own."""


class Detector:
    """A YOLO detection network in fp32.

    Attributes:
        model: ultralytics' `DetectionModel`, or the one for masks, keypoints or rotated boxes that derives from it.
        source: The yaml or .pt it came from, for messages.
        record: The plain values that `save` kept in the checkpoint it came from; empty for any other.
    """

    def __init__(self, model: nn.Module, source: str, record: Mapping[str, Any] | None = None) -> None:
        self.model: Any = model  # ultralytics hangs attributes on it that torch's types do not know
        self.source, self.record = source, record or {}

    @classmethod
    def load(cls, source: str | Path, names: Sequence[str] | None = None, seed: int = 0) -> Detector:
        """Loads a checkpoint, or builds an untrained network from a model description.

        Args:
            source: A .pt file of ultralytics or prunetune, or a yaml: a file, one of ultralytics' names such as
                `yolov5n.yaml`, or one that prunetune ships such as `yolov5n-deconv.yaml`.
            names: Class names of the data set; decides the number of classes of a yaml.
            seed: Initial weights of a yaml.

        Raises:
            ModelError: No such file, not a checkpoint, or not a detection model.
        """
        if Path(source).suffix.lower() in (".yaml", ".yml"):
            return cls.build(read_description(source), names, seed, source=str(source))
        return cls._load_checkpoint(Path(source))

    @classmethod
    def build(
        cls,
        description: Mapping[str, Any],
        names: Sequence[str] | None = None,
        seed: int = 0,
        source: str = "",
    ) -> Detector:
        """Builds an untrained network from a model description, whose `channels` are those of its images, 3 by default.

        Raises:
            ModelError: The description is not one of a detector.
        """
        prepare_ultralytics()
        from ultralytics.nn import tasks

        source = source or str(description.get("yaml_file", "model"))
        classes = len(names) if names is not None else None
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                kind = getattr(tasks, model_class(description))
                model = kind(deepcopy(dict(description)), ch=description.get("channels", 3), nc=classes, verbose=False)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
            message = f"{source}: not the description of a detector ({type(error).__name__}: {error})"
            raise ModelError(message) from error
        model.names = dict(enumerate(names)) if names is not None else model.names
        model.task = task_of(model, source)
        return cls(model, source)

    @classmethod
    def _load_checkpoint(cls, file: Path) -> Detector:
        prepare_ultralytics()
        from ultralytics.nn.tasks import load_checkpoint

        if not os.path.isfile(file):
            if os.path.isdir(file):
                raise ModelError(f"{file}: is a folder; give a .pt that YOLO() loads")
            if os.path.islink(file):
                raise ModelError(f"{file}: is a link to {os.readlink(file)}, which leads to no file; correct it")
            raise ModelError(f"{file}: no such file; {did_you_mean(file.name, _files_beside(file))}")
        try:
            with readable(file) as path, warnings.catch_warnings(action="ignore"):
                model, checkpoint = load_checkpoint(path)
        # Unpickling a damaged or foreign file can raise anything; the user needs the file's name in every case.
        except Exception as error:
            reason = why_unreadable(file, error)
            raise ModelError(f"{file}: cannot be read as an ultralytics checkpoint: it {reason}") from error
        task_of(model, str(file))
        join_attention(model, str(file))
        for parameter in model.parameters():
            parameter.requires_grad = parameter.dtype.is_floating_point
        return cls(model.float(), str(file), checkpoint.get("prunetune"))

    @staticmethod
    def distrusted(file: Path) -> str | None:
        """Why a checkpoint may run code when it is loaded, as a sentence; None if it holds plain values alone.

        Loads nothing.
        """
        try:
            named = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        # A damaged or foreign file can raise anything, and says nothing of what is in it.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return f"cannot be read as a checkpoint without running what is in it ({reason})"
        if not named:
            return None
        foreign = [name for name in named if name.partition(".")[0] not in ("torch", "ultralytics", "prunetune")]
        shown = (foreign or named)[:3]
        others = f" and {len(named) - len(shown)} more" if len(named) > len(shown) else ""
        return f"ultralytics' checkpoints are pickles: to load one runs what it names, here {', '.join(shown)}{others}"

    @property
    def task(self) -> Task:
        """What it finds, by its head."""
        return task_of(self.model, self.source)

    def require_boxes(self) -> None:
        """Refuses a network that is no plain detector, where it would be trained or judged.

        Raises:
            ModelError: It finds masks, keypoints or rotated boxes.
        """
        if self.task != "detect":
            raise ModelError(
                f"{self.source}: finds {FINDS[self.task]}, which are neither trained nor judged yet; "
                "prune it with `prunetune prune`, and train it on with a trainer of yours"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their index."""
        names = self.model.names
        return tuple(names[index] for index in sorted(names)) if isinstance(names, Mapping) else tuple(names)

    @property
    def stride(self) -> int:
        """The side in px that images are multiples of."""
        return coarsest_stride(self.model)

    @property
    def image_channels(self) -> int:
        """Channels of the images that it takes."""
        return image_channels(self.model)

    def input_shape(self, imgsz: ImageSize) -> tuple[int, int, int, int]:
        """The shape of one image of `imgsz` px as a batch."""
        return (1, self.image_channels, *Deployment(imgsz).height_width)

    def imgsz_problem(self, imgsz: ImageSize) -> str | None:
        """What is wrong with the first side in px that no input can have; None if both are right."""
        return size_problem(imgsz, self.stride, self.source)

    def require_size(self, imgsz: ImageSize) -> None:
        """Refuses an input size that ultralytics would round up to multiples of the stride.

        Raises:
            ConfigError: A side is no multiple.
        """
        if problem := self.imgsz_problem(imgsz):
            raise ConfigError(f"imgsz: {problem}")

    @property
    def channels(self) -> ChannelConfig:
        """Output channels of every convolution."""
        return channel_config(self.model)

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def gflops(self, imgsz: ImageSize) -> float:
        """Billions of floating-point operations for one image of `imgsz` px, 2 per multiply-add."""
        prepare_ultralytics()
        from ultralytics.utils.torch_utils import get_flops

        return float(get_flops(self.deployed, imgsz))

    @property
    def deployed(self) -> nn.Module:
        """The network as it is exported and judged: without YOLO26's second head, which works without NMS."""
        model: Any = self.model
        if getattr(model.model[-1], "one2one_cv2", None) is not None:
            model = deepcopy(model)
            model.model[-1].fuse()
        found: nn.Module = model
        return found

    def copy(self) -> Detector:
        """An independent copy."""
        return Detector(deepcopy(self.model), self.source)

    def save(self, file: Path, record: Mapping[str, Any], train_args: Mapping[str, Any]) -> None:
        """Writes a checkpoint with fp32 weights that stock `YOLO(file)` loads.

        Args:
            file: Where to; appears at once and whole.
            record: Plain values kept under the key `prunetune`.
            train_args: ultralytics' arguments (`imgsz`, `data`, ...) that `YOLO(file)` falls back to.
        """
        prepare_ultralytics()
        from ultralytics import __version__

        model = deepcopy(self.model).cpu().float().eval()
        model.criterion = None  # training-only state
        model.args = dict(train_args)
        for parameter in model.parameters():
            parameter.requires_grad = False
        checkpoint = {
            "epoch": -1,
            "best_fitness": None,
            "model": model,
            "ema": None,
            "updates": None,
            "optimizer": None,
            "train_args": dict(train_args),
            "date": datetime.now(UTC).isoformat(),
            "version": __version__,
            "license": "AGPL-3.0",
            "prunetune": dict(record),
        }
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's zip writer hides the operating system's error
            raise as_os_error(file, error) from error

    def save_for(self, file: Path, imgsz: ImageSize) -> None:
        """Writes a checkpoint as it was read, with another input size that `YOLO(file)` falls back to.

        Args:
            file: Where to.
            imgsz: The size.
        """
        given = getattr(self.model, "args", {})
        args = dict(given) if isinstance(given, Mapping) else vars(given)
        self.save(file, self.record, {**args, "imgsz": plain_size(imgsz)})

    def export_onnx(self, file: Path, imgsz: ImageSize) -> None:
        """Writes the network as ONNX: batch 1, static input of `imgsz` px, simplified, with ultralytics' metadata.

        Raises:
            ConfigError: A side is no multiple of the stride.
        """
        export_onnx(self.model, file, imgsz)


def read_description(source: str | Path) -> dict[str, Any]:
    """Reads a model description by file or by name, with its scale (`n` of `yolov5n.yaml`) filled in.

    Raises:
        ModelError: There is no such description.
    """
    prepare_ultralytics()
    from ultralytics.nn.tasks import guess_model_scale
    from ultralytics.utils import ROOT, YAML

    path = Path(source)
    unscaled = re.sub(r"(\d+)([nslmx])(?=\W|$)(.*)$", r"\1\3", path.name)
    shipped = {file.name: file for file in (ROOT / "cfg" / "models").rglob("*.yaml")}
    shipped |= {file.name: file for file in SHIPPED_MODELS.glob("*.yaml")}
    beside = path.with_name(unscaled)
    file = next((candidate for candidate in (path, beside) if candidate.is_file()), None)
    if file is None and path.parent == Path("."):
        file = shipped.get(path.name) or shipped.get(unscaled)
    if file is None:
        known = [name for name in shipped if name.startswith("yolov5")]
        scaled = [name.replace("yolov5", f"yolov5{size}", 1) for name in known for size in "nsmlx"]
        raise ModelError(f"{source}: no such model description; {did_you_mean(path.name, scaled)}")
    try:
        description = YAML.load(file)
    except Exception as error:  # the parser's errors have no common base
        raise ModelError(f"{file}: cannot be read as YAML ({error})") from error
    if not isinstance(description, dict) or not {"backbone", "head"} <= set(description):
        raise ModelError(f"{file}: not a model description; it needs the keys backbone and head")
    scale = guess_model_scale(path)
    if scale:
        description["scale"] = scale
    description["yaml_file"] = path.name
    return description


def scaled_width(description: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """A description with `factor` times the width; ultralytics rounds each layer up to a multiple of 8.

    YOLO12's A2C2f is rounded up to a multiple of 64, because ultralytics builds no other, and what grouped convolutions
    write and read to a multiple of their groups.
    """
    scaled = deepcopy(dict(description))
    scales = scaled.get("scales")
    if scales:
        name = scaled.get("scale") or next(iter(scales))
        depth, width, most = scales[name]
        scaled["scales"] = {name: [depth, width * factor, most]}
        scaled["scale"] = name
    else:
        width, most = scaled.get("width_multiple", 1.0), math.inf
        scaled["width_multiple"] = width * factor
    limit = round_widths((*scaled["backbone"], *scaled["head"]), width * factor, most)
    if scales:
        scaled["scales"][name][2] = limit
    return scaled


def as_os_error(file: Path, error: RuntimeError) -> Exception:
    """Tells a full disk behind torch's "unexpected pos" errors from a real failure of torch."""
    text = str(error)
    if "unexpected pos" in text or "file write failed" in text or "PytorchStreamWriter" in text:
        if shutil.disk_usage(file.parent).free < 64 << 20:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return OSError(errno.EIO, text.splitlines()[0])
    return error


def _files_beside(file: Path) -> list[str]:
    folder = file.parent
    return [item.name for item in folder.glob("*.pt")] if folder.is_dir() else []
