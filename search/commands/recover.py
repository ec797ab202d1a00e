"""`prunetune recover`: a pruned network trained on, by prunetune's own trainer, so that its widths stay."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from rich.console import Console

from prunetune.pruning.data.data_source import data_problem
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.pipeline import mismatch
from prunetune.pruning.stages.stage import Stage, training_stage
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.stages.stage_runner import StageRunner
from prunetune.pruning.stages.store import StageStore
from prunetune.pruning.structure.layers import layer_regions
from prunetune.pruning.training.device import device_problem
from prunetune.pruning.training.hyperparameters import hyperparameter_problems
from prunetune.pruning.training.values import TrainingFailureError, TrainingSetup, continued_phase
from prunetune.pruning.yolo.detector import Detector
from prunetune.results.bundle import verify
from prunetune.results.bundle.bundle import onnx_parts, require_place, versions, write_bundle
from prunetune.results.bundle.model_card import command_line
from prunetune.search.callbacks.progress import Progress
from prunetune.search.interruption import Interruption, safe_point
from prunetune.search.study.deploy import Size
from prunetune.search.study.overrides import overridden
from prunetune.search.study.study_spec import FileText
from prunetune.spaces import ConfigError, Deployment, ModelError, PrunetuneError
from prunetune.spaces.accuracy import Accuracy, Choice
from prunetune.spaces.deployment import plain_size
from prunetune.spaces.errors import did_you_mean
from prunetune.spaces.files import file_sha256, write_text

BATCH, IMGSZ = 16, 640
"""Where neither the user nor the network says more."""

MOST_REASONS = 10
"""Images that are left out, and named."""

LATENCY_NOTE = "Measured before it was trained on. Latency depends on the widths alone, which are the same."


class RecoverySpec(BaseModel):
    """How a network is trained on: `key=value` on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: FileText = Field(min_length=1)
    epochs: int = Field(ge=1)
    imgsz: Size
    """Of a rectangle the side of the squares that are trained on is the longer one."""
    batch: int = Field(ge=1)
    device: str = "cpu"
    workers: int = Field(default=8, ge=0)
    cache: str = "ram"
    seed: int = Field(default=0, ge=0)
    choose: Choice = "map50_95"
    train: dict[str, Any] = {}
    """Further ultralytics arguments."""

    @property
    def side(self) -> int:
        """Of the square images that are trained on, in px."""
        return max(Deployment(self.imgsz).height_width)

    @classmethod
    def read(cls, overrides: Sequence[str], usual: Mapping[str, int | list[int]]) -> RecoverySpec:
        """Reads `key=value`s.

        Args:
            overrides: What the user gave.
            usual: What else holds.

        Raises:
            ConfigError: With every problem that was found.
        """
        values: dict[str, Any] = dict(usual)
        for override in overrides:
            values = overridden(values, override)
        values["device"] = str(values.get("device", "cpu"))  # a GPU's number
        try:
            spec = cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError([_sentence(problem) for problem in error.errors()]) from error
        problems = [f"train.{problem}" for problem in hyperparameter_problems(spec.train, spec.side)]
        if problem := device_problem(spec.device):
            problems.append(f"device: {problem}")
        if problem := data_problem(spec.data):
            problems.append(problem)
        if problems:
            raise ConfigError(problems)
        return spec


def _sentence(problem: ErrorDetails) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{where}: missing; give {where}=..."
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {did_you_mean(where, RecoverySpec.model_fields)}"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"


def recover(source: Path, overrides: Sequence[str], out: Path | None, console: Console) -> Path:
    """Trains a pruned network on and writes it as a new bundle. The same command goes on after a stop.

    Args:
        source: A bundle, or a .pt.
        overrides: `data=...`, `epochs=...` and other keys of `RecoverySpec`.
        out: The new bundle's folder; by default beside the source.
        console: Where progress is shown.

    Raises:
        PrunetuneError: Something the user must mend; epochs that were trained are kept.
        StopAskedError: As asked for.
    """
    parent = _Parent(source)
    spec = RecoverySpec.read(overrides, parent.usual)
    out = out or source.with_name(f"{source.stem if source.suffix == '.pt' else source.name}-recovered")
    require_place(out)
    if out.resolve() == source.resolve():
        raise ConfigError(f"--out: {out}: is the network itself; give another folder")
    work = out.with_name(f".{out.name}.stages")
    progress = Progress(console, None)
    with Interruption():
        try:
            progress.begin("checking network and data")
            _Recovery(parent, spec, work, progress).carry_out(out)
        except TrainingFailureError as error:
            raise PrunetuneError(f"{source}: {error.cause}: {error}") from error
        finally:
            progress.end()
    shutil.rmtree(work, ignore_errors=True)
    return out


class _Parent:
    """The network that is trained on, with what is known of it."""

    def __init__(self, source: Path) -> None:
        self.told: dict[str, Any] = {}
        self.channels: dict[str, Any] | None = None
        self.checkpoint = source
        if os.path.isdir(source):
            try:
                self.told = verify.read_description(source)
            except verify.NoBundleError as error:
                raise ConfigError(str(error)) from error
            self.checkpoint = source / verify.CHECKPOINT
            if wrong := [check for check in verify.check_sums(source) if check.state == verify.FAILS]:
                raise ModelError(f"{source / wrong[0].file}: {wrong[0].detail}; prunetune verify {source} says more")
            self.channels = json.loads((source / verify.CHANNELS).read_text(encoding="utf-8"))
        self.detector = Detector.load(self.checkpoint)
        self.detector.require_boxes()
        self.sha256 = file_sha256(self.checkpoint)

    @property
    def title(self) -> str:
        """What the card calls it."""
        return str(self.told.get("title") or self.checkpoint.name)

    @property
    def usual(self) -> dict[str, int | list[int]]:
        """What holds where the user says nothing."""
        trained = getattr(self.detector.model, "args", {})
        trained = trained if isinstance(trained, Mapping) else vars(trained)
        return {
            "imgsz": self.told.get("imgsz") or trained.get("imgsz") or IMGSZ,
            "batch": self.told.get("batch") or trained.get("batch") or BATCH,
        }

    def channels_document(self) -> dict[str, Any]:
        """What `channels.json` says."""
        if self.channels is not None:
            return self.channels
        regions = layer_regions(self.detector.model)
        layers = self.detector.channels.items()
        return {"layers": {name: {"width": width, "region": regions[name]} for name, width in layers}}


class _Recovery:
    """One recovery, in stages of its own so that it goes on after a stop."""

    def __init__(self, parent: _Parent, spec: RecoverySpec, work: Path, progress: Progress) -> None:
        self._parent, self._spec, self._progress = parent, spec, progress
        self._dataset = inspect_dataset(spec.data)
        if problem := parent.detector.imgsz_problem(spec.imgsz):
            raise ConfigError(f"imgsz: {problem}")
        if problem := mismatch(parent.detector, self._dataset.names, self._dataset.channels):
            raise ConfigError(f"data: {spec.data}: {parent.checkpoint} {problem}")
        data = work / "data.yaml"
        shared = spec.model_dump(include={"batch", "device", "workers", "cache", "seed"})
        setup = TrainingSetup(
            str(data.resolve()), self._dataset.fingerprint, spec.side, hyperparameters=spec.train, **shared
        ).at(spec.imgsz)
        self._phase = continued_phase(spec.epochs, spec.choose)
        self._start = Stage("original", "", {"checkpoint": parent.sha256, "data": self._dataset.fingerprint})
        self._digest = training_stage("recovery", self._start.digest, setup, self._phase).digest
        self._setup, self._work, self._data = setup, work, data

    def carry_out(self, out: Path) -> None:
        """Trains, and writes the bundle; does nothing where it is there."""
        if self._is_there(out):
            self._progress.say(f"{out}: holds this recovery already")
            return
        write_text(self._data, self._dataset.as_yaml())
        reasons = list(self._dataset.left_out.values())
        for line in (*self._dataset.facts.notes(), *reasons[:MOST_REASONS]):
            self._progress.say(line)
        if len(reasons) > MOST_REASONS:
            self._progress.say(f"and {len(reasons) - MOST_REASONS} more")
        listener = self._progress.epochs
        stages = StageRunner(self._setup, StageStore(self._work), listener=listener, safe_point=safe_point)
        self._progress.begin("evaluating it as it is")
        before = stages.make(self._start, lambda: self._parent.detector).stage
        self._progress.begin("recovering")
        recovered = stages.train("recovery", before, self._phase).stage
        start, end = before.require_accuracy(), recovered.require_accuracy()
        is_worse = end.score(self._spec.choose) < start.score(self._spec.choose)
        best = before if is_worse else recovered
        detector = Detector.load(best.file(CHECKPOINT))
        accuracies = {"val": start if is_worse else end}
        if stages.loaders.has_test:
            self._progress.begin("evaluating on the test split")
            accuracies["test"] = stages.evaluate(detector, "test")
        self._progress.end()
        kept = "; it was better before, and is kept as it was: give more epochs, or a smaller train.lr0"
        self._progress.say(
            f"map50_95 on val: {start.map50_95:.3f} to {end.map50_95:.3f} by epoch {recovered.best_epoch} of "
            f"{self._spec.epochs}{kept if is_worse else ''}"
        )
        metadata = {"prunetune": version("prunetune"), "prunetune_network": f"{self._parent.title}, recovered"}
        write_bundle(
            out,
            best.file(CHECKPOINT),
            onnx_parts(detector, self._spec.imgsz, metadata),
            self._parent.channels_document(),
            lambda: self._document(detector, accuracies),
        )

    def _is_there(self, out: Path) -> bool:
        try:
            return verify.read_description(out).get("stage") == self._digest
        except verify.NoBundleError:
            return False

    def _document(self, detector: Detector, accuracies: Mapping[str, Accuracy]) -> dict[str, Any]:
        parent, spec = self._parent, self._spec
        imgsz = plain_size(spec.imgsz)
        given = {
            **spec.model_dump(exclude_defaults=True, exclude={"train"}),
            **{f"train.{key}": value for key, value in spec.train.items()},
        }
        changes = [
            f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in given.items()
        ]
        return {
            "title": f"{parent.title}, recovered",
            "stage": self._digest,
            "classes": list(detector.names),
            "stride": detector.stride,
            "image_channels": detector.image_channels,
            "imgsz": imgsz,
            "batch": spec.batch,
            "alignment": parent.told.get("alignment", ""),
            "data": spec.data,
            "data_fingerprint": self._dataset.fingerprint,
            "network": {
                **parent.told.get("network", {}),
                "params": detector.params,
                "gflops": detector.gflops(spec.imgsz),
            },
            "figures": {verify.CHECKPOINT: {split: accuracy.as_dict() for split, accuracy in accuracies.items()}},
            "latencies": parent.told.get("latencies", {}) if imgsz == parent.told.get("imgsz") else {},
            "latency_note": LATENCY_NOTE,
            "recipe": None,
            "commands": [
                *parent.told.get("commands", []),
                command_line("prunetune", "recover", "DIR", *changes) + f"   # DIR: {parent.title}",
            ],
            "versions": versions(),
            "fingerprints": {
                **parent.told.get("fingerprints", {}),
                "data": self._dataset.fingerprint,
                "network that was trained on (SHA-256)": parent.sha256,
            },
        }
