"""What the trials of a study work with: data, pipeline, target, references, and the study's folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.dataset import inspect_dataset
from prunetune.pruning.detector import Detector, read_description
from prunetune.pruning.loaders import hyperparameter_problems
from prunetune.pruning.pipeline import CHECKPOINT, Pipeline, Source
from prunetune.pruning.store import StageStore, StoredStage, digest_of
from prunetune.pruning.surgery import channel_groups, layer_regions
from prunetune.pruning.training import Accuracy, EpochListener, TrainingSetup
from prunetune.search.spec import StudySpec
from prunetune.search.study import study_lock
from prunetune.spaces import ConfigError, ModelError
from prunetune.spaces.files import storage_error, write_text
from prunetune.targets import (
    Images,
    Latency,
    Network,
    Quantisation,
    RuntimeSpec,
    Target,
    create_predictor,
    create_target,
    quantise,
    shared,
)

DATA = "data.yaml"
"""The data set as it was checked, with absolute paths: ultralytics resolves relative ones in other ways."""

STORE = ".store"
"""The folder of stages inside `runs`: all studies there share them."""

INT8_IMAGES = 64
"""About how many training images the ranges of an int8 network are taken from."""


class Workspace:
    """Everything that a process needs to carry out a study's trials.

    Raises on construction:
        ConfigError, DatasetError, ModelError, TargetError: Anything the user must mend before a trial can run.
    """

    def __init__(self, spec: StudySpec, listener: Callable[[str], EpochListener] | None = None) -> None:
        self.spec, self.folder = spec, spec.folder
        problems: list[str] = []
        problems += [f"train.{problem}" for problem in hyperparameter_problems(spec.train)]
        self._check_model(problems)
        if not Path(spec.data).is_file():
            problems.append(f"data: {spec.data}: no such file")
        if problems:
            raise ConfigError(problems)
        self.target: Target = create_target(spec.targets[0])
        self.target_fingerprint = self.target.fingerprint()
        store = Path(spec.runs) / STORE
        self.dataset = inspect_dataset(spec.data, cache=store / "datasets.json")
        self.store = StageStore(store)
        setup = TrainingSetup(
            data=str((self.folder / DATA).resolve()),
            data_fingerprint=self.dataset.fingerprint,
            imgsz=spec.imgsz,
            batch=spec.batch,
            device=spec.device,
            workers=spec.workers,
            cache=spec.cache,
            seed=spec.seed,
            hyperparameters=spec.train,
        )
        choices = spec.space.sparse_epochs.values or ()
        self.pipeline = Pipeline(
            Source(spec.model, self.dataset.names, spec.dense_epochs),
            setup,
            self.store,
            alignment=self.target.alignment,
            longest_sparse_epochs=spec.space.longest_sparse_epochs,
            choose=spec.choose,
            sparse_checkpoints=frozenset(int(choice) for choice in choices),
            listener=listener,
            occupy=self._occupy,
        )

    @contextmanager
    def _occupy(self) -> Iterator[None]:
        """Keeps measurements from where networks run now. Training on a GPU loads images on the CPU."""
        device = self.spec.device
        with ExitStack() as held:
            held.enter_context(shared("cpu"))
            if device.isdigit():
                held.enter_context(shared(f"cuda:{device}"))
            yield

    def _check_model(self, problems: list[str]) -> None:
        model = self.spec.model
        if Path(model).suffix.lower() not in (".yaml", ".yml", ".pt"):
            problems.append(f"model: takes a .yaml or a .pt, not {model!r}")
            return
        try:
            detector = Detector.load(model)
        except ModelError as error:
            problems.append(f"model: {error}")
            return
        try:
            channel_groups(detector.model)  # now, not after its dense training
        except ModelError as error:
            problems.append(f"model: {model}: {error}")

    # Reference networks

    @property
    def reference_names(self) -> list[str]:
        """Networks whose latency the study needs: dense, the budget's, and the controls."""
        names = {"dense", *self.spec.budget.limit.references_needed(), *self.spec.controls}
        return [name for name in ("dense", "half-width", "quarter-width") if name in names]

    @property
    def anchor(self) -> str:
        """The network that candidates are measured against: the one the budget speaks of."""
        return next(iter(self.spec.budget.limit.references_needed()), "dense")

    def _untrained(self, name: str) -> Detector:
        if name == "dense":
            if self.pipeline.source.is_checkpoint:
                return Detector.load(self.spec.model)
            return Detector.build(read_description(self.spec.model), self.dataset.names)
        return Detector.build(self.pipeline.narrow_description(name), self.dataset.names)

    @cached_property
    def _reference_detectors(self) -> dict[str, Detector]:
        return {name: self._untrained(name) for name in self.reference_names}

    @cached_property
    def _reference_networks(self) -> dict[str, Network]:
        folder = self.folder / "references"
        return {name: self.network(name, item, folder) for name, item in self._reference_detectors.items()}

    def reference(self, name: str) -> Network:
        """A reference network, ready to be measured."""
        return self._reference_networks[name]

    def prepare(self, study: optuna.Study) -> bool:
        """Fixes, once for the study, the reference latencies that every stated latency is a multiple of.

        Returns:
            Whether the study came to another device than it was on. It has new references then, and the caller
            measures its kept networks again before he signs it.

        Raises:
            ConfigError: The data changed, or the device did and the description does not allow it.
        """
        write_text(self.folder / DATA, self.dataset.as_yaml())
        with study_lock(self.folder):
            attributes = study.user_attrs
            is_new = "references" not in attributes
            if not is_new and attributes["data_fingerprint"] != self.dataset.fingerprint:
                raise ConfigError(
                    f"data: {self.spec.data} has changed since the study began; "
                    "restore it, or start another study with name=..."
                )
            has_moved = not is_new and self._has_moved(attributes["target"]["fingerprint"])
            if is_new:
                self._describe_originals(study)
                self.sign(study)
            if is_new or has_moved:
                self._fix_references(study)
        self.references: dict[str, float] = study.user_attrs["references"]
        self.dense_channels = ChannelConfig.from_dict(study.user_attrs["channels_dense"])
        self.dense_params: int = study.user_attrs["params_dense"]
        return has_moved

    def _has_moved(self, before: Mapping[str, str]) -> bool:
        now = self.target_fingerprint
        if dict(before) == now:
            return False
        if not self.spec.allow_new_device:
            lines = [
                f"\n  {key}: {before.get(key, 'not known')} -> {now.get(key, 'not known')}"
                for key in sorted({*before, *now})
                if before.get(key) != now.get(key)
            ]
            raise ConfigError(
                f"targets: {self.target.name} is not what the study was measured on (then -> now):{''.join(lines)}\n"
                "Latencies of the two do not compare. Go on where it began, or give allow_new_device=true: the "
                "references and all kept networks are then measured again here"
            )
        return True

    def _describe_originals(self, study: optuna.Study) -> None:
        """Stores what later readers compare with; the references are set last, and say that all is there."""
        detectors = self._reference_detectors
        study.set_user_attr("channels_dense", detectors["dense"].channels.as_dict())
        if "half-width" in detectors:
            study.set_user_attr("channels_half", detectors["half-width"].channels.as_dict())
        study.set_user_attr("params_dense", detectors["dense"].params)
        study.set_user_attr("regions", layer_regions(detectors["dense"].model))
        study.set_user_attr("data_fingerprint", self.dataset.fingerprint)

    def _fix_references(self, study: optuna.Study) -> None:
        measured = self.target.measure(list(self._reference_networks.values()), reference=self.anchor)
        references = {name: latency.median_ms for name, latency in measured.items()}
        limit = self.spec.budget.limit.limit_ms(references)
        study.set_user_attr("budget", {"text": self.spec.budget.latency, "limit_ms": limit})
        study.set_user_attr("references", references)

    def sign(self, study: optuna.Study) -> None:
        """Stores which device the study's latencies belong to."""
        spec = self.spec.targets[0]
        described = {"name": spec.name, "kind": spec.kind, "alignment": spec.alignment.as_json()}
        study.set_user_attr("target", {**described, "fingerprint": self.target_fingerprint})

    # Latency of candidates

    def network(self, name: str, detector: Detector, folder: Path) -> Network:
        """A network in the form that the target wants."""
        if self.target.form == "module":
            return Network(name, self._input_shape, module=detector.model)
        file = folder / f"{name}-{detector.channels.digest()}.onnx"
        if not file.is_file():
            with self.pipeline.ledger.clock.part("export"):
                detector.export_onnx(file, self.spec.imgsz)
        return Network(name, self._input_shape, onnx=file)  # int8 ranges change no latency: it needs no images

    @property
    def _input_shape(self) -> tuple[int, int, int, int]:
        return (1, 3, self.spec.imgsz, self.spec.imgsz)

    def measure(self, detector: Detector) -> Latency:
        """A candidate's latency, its ratio that to the anchor. Equal channels are measured once per study."""
        key = digest_of([self.target_fingerprint, self.spec.imgsz, detector.channels.digest(), self.anchor])
        known = self.folder / "latencies" / f"{key}.json"
        if known.is_file():
            return Latency.from_dict(json.loads(known.read_text(encoding="utf-8")))
        candidate = self.network("candidate", detector, self.folder / "networks")
        anchor = self._reference_networks[self.anchor]
        with self.pipeline.ledger.clock.part("measure"):
            latency = self.target.measure([anchor, candidate], reference=anchor.name)["candidate"]
        write_text(known, json.dumps(latency.as_dict()))
        if candidate.onnx is not None:
            candidate.onnx.unlink(missing_ok=True)  # latency depends on the channels alone; the file is spent
        return latency

    def stated_ms(self, latency: Latency) -> float:
        """The latency in ms that trials of different hours compare by."""
        return latency.stated_ms(self.references[self.anchor])

    # Networks as they ship

    @property
    def quantises(self) -> bool:
        """Whether networks ship in int8: the accuracy that counts is then theirs, and not that of training."""
        return self.spec.targets[0].quantises

    @cached_property
    def calibration(self) -> tuple[Images, ...]:
        """Training images, always the same, that the ranges of int8 networks are taken from."""
        images = [image[None].numpy() for batch in self.pipeline.loaders.calibration() for image in batch]
        return tuple(images[:: max(1, len(images) // INT8_IMAGES)])

    def evaluate(self, detector: Detector, split: str = "val") -> Accuracy:
        """A network's accuracy as it ships: in int8 as the target's runtime computes it, if that is its precision."""
        if not self.quantises:
            return self.pipeline.evaluate(detector, split)
        with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            file = Path(folder) / "int8.onnx"
            self.export(detector, file)
            network = Network("candidate", self._input_shape, onnx=file)
            return self.pipeline.evaluate_predictor(create_predictor(self.spec.targets[0], network), split)

    def export(self, detector: Detector, file: Path) -> None:
        """Writes a network's ONNX file as it ships."""
        detector.export_onnx(file, self.spec.imgsz)
        spec = self.spec.targets[0]
        if isinstance(spec, RuntimeSpec) and spec.quantises:
            with self.pipeline.ledger.clock.part("export"):
                quantise(file, file, self.calibration, Quantisation.of(spec))

    # Files of the study

    def keep_checkpoint(self, stage: StoredStage, name: str) -> str:
        """Puts a stage's checkpoint into the study's folder; returns its path there.

        A hard link where the file system has them: the store may forget the stage, the study keeps its candidate.
        """
        target = self.folder / "candidates" / f"{name}.pt"
        source = stage.file(CHECKPOINT)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            try:
                os.link(source, draft)
            except OSError:
                shutil.copyfile(source, draft)
            os.replace(draft, target)
        except OSError as error:
            raise storage_error(target, error) from error
        finally:
            draft.unlink(missing_ok=True)
        return str(target.relative_to(self.folder))

    def keep_gammas(self, gammas: Sequence[Mapping[str, Any]], name: str) -> str | None:
        """Writes the gamma histograms of a trial's sparse phases; returns the path in the study's folder."""
        if not gammas:
            return None
        target = self.folder / "gammas" / f"{name}.json"
        write_text(target, json.dumps(list(gammas)))
        return str(target.relative_to(self.folder))
