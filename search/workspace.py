"""What the trials of a study work with: data, pipeline, targets, references, and the study's folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import optuna

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.data_source import data_problem
from prunetune.pruning.dataset import inspect_dataset
from prunetune.pruning.detector import Detector
from prunetune.pruning.device import device_problem
from prunetune.pruning.evaluation import Listener
from prunetune.pruning.hyperparameters import hyperparameter_problems
from prunetune.pruning.pipeline import Pipeline, Source, mismatch
from prunetune.pruning.stage_files import CHECKPOINT
from prunetune.pruning.stage_runner import StageRunner
from prunetune.pruning.store import StageStore, StoredStage, digest_of, file_sha256
from prunetune.pruning.surgery import channel_groups, layer_regions
from prunetune.pruning.training import Accuracy, StageListener, TrainingSetup
from prunetune.results.findings import DATA_FACTS
from prunetune.search.channel_costs import StudyCosts
from prunetune.search.interruption import safe_point
from prunetune.search.latency_shares import StudyLatencies
from prunetune.search.spec import StudySpec
from prunetune.search.store_usage import STORE, register
from prunetune.search.study import DATA, study_lock
from prunetune.search.yardstick import REFERENCES, Yardstick
from prunetune.spaces import ConfigError, ModelError, TargetError
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.files import publish, storage_error, write_text
from prunetune.targets import (
    Images,
    Latency,
    Network,
    Quantisation,
    RuntimeSpec,
    Skeleton,
    create_predictor,
    quantise,
    shared,
)
from prunetune.targets.synthesis import write_resized

VERSIONS = ("prunetune", "torch", "ultralytics", "torch-pruning", "optuna", "onnx")
"""Packages on which a study's figures depend. Those of its targets are in their fingerprints."""

INT8_IMAGES = 64
"""About how many training images the ranges of an int8 network are taken from."""


class Workspace:
    """Everything that a process needs to carry out a study's trials.

    Raises on construction:
        ConfigError, DatasetError, ModelError, TargetError: Anything the user must mend before a trial can run.
    """

    def __init__(self, spec: StudySpec, listener: StageListener | None = None) -> None:
        self.spec, self.folder = spec, spec.folder
        self.safe_point: Callable[[], None] = safe_point
        """Called whenever all is stored; may raise to stop there. Whoever carries out trials may ask more there."""
        self.has_warned = False
        """Whether this process has said that a trial's threshold lies where nothing separates."""
        problems: list[str] = []
        problems += [f"train.{problem}" for problem in hyperparameter_problems(spec.train, spec.imgsz)]
        if problem := device_problem(spec.device):
            problems.append(f"device: {problem}")
        original = self._checked_model(problems)
        if problem := data_problem(spec.data):
            problems.append(problem)
        if problems or original is None:
            raise ConfigError(problems)
        self.yardsticks = [
            Yardstick(target, spec.limit_of(target.name), spec.controls, target.name in spec.judged)
            for target in spec.targets
        ]
        store = Path(spec.runs) / STORE
        self.dataset = inspect_dataset(spec.data, cache=store / "datasets.json")
        is_checkpoint = Path(spec.model).suffix.lower() == ".pt"
        if is_checkpoint and (problem := mismatch(original, self.dataset.names, self.dataset.channels)):
            raise ConfigError(f"model: {spec.model}: {problem}")
        self.model_sha256 = file_sha256(Path(spec.model)) if is_checkpoint else None
        self.store = StageStore(store, owner=spec.name)
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
        self.stages = StageRunner(
            setup,
            self.store,
            checkpoints=frozenset(int(choice) for choice in choices),
            listener=listener,
            occupy=self._occupy,
            safe_point=lambda: self.safe_point(),
        )
        self.pipeline = Pipeline(
            Source(spec.model, self.dataset.names, spec.dense_epochs, self.dataset.channels),
            self.stages,
            alignment=Alignment.common(target.alignment for target in spec.targets),
            longest_sparse_epochs=spec.space.longest_sparse_epochs,
            choose=spec.choose,
            latencies=StudyLatencies(self),
            costs=StudyCosts(self),
            rewinds=spec.space.may("start", "rewind"),
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

    def _checked_model(self, problems: list[str]) -> Detector | None:
        model = self.spec.model
        if Path(model).suffix.lower() not in (".yaml", ".yml", ".pt"):
            problems.append(f"model: takes a .yaml or a .pt, not {model!r}")
            return None
        if Path(model).suffix.lower() == ".pt" and os.path.isfile(model) and not self.spec.trust:
            distrusted = Detector.distrusted(Path(model))
            if distrusted is not None:
                problems.append(f"model: {model}: {distrusted}. If you trust who made it, give trust: true")
                return None
        try:
            detector = Detector.load(model)
            detector.require_boxes()
        except ModelError as error:
            problems.append(f"model: {error}")
            return None
        if problem := detector.imgsz_problem(self.spec.imgsz):
            problems.append(f"imgsz: {problem}")
        try:
            channel_groups(detector.model)  # now, not after its dense training
        except ModelError as error:
            problems.append(f"model: {model}: {error}")
        return detector

    # Reference networks

    @cached_property
    def _reference_detectors(self) -> dict[str, Detector]:
        needed = {name for yardstick in self.yardsticks for name in yardstick.reference_names}
        return {name: self._untrained(name) for name in REFERENCES if name in needed}

    def _untrained(self, name: str) -> Detector:
        if name == "dense" and self.pipeline.source.is_checkpoint:
            return Detector.load(self.spec.model)
        return Detector.build(self.pipeline.description(name), self.dataset.names)

    def anchor(self, yardstick: Yardstick, name: str | None = None) -> Network:
        """The network that candidates are measured against, under its own or another name."""
        detector = self._reference_detectors[yardstick.anchor]
        network = self.network(yardstick.anchor, detector, yardstick, self.folder / "references")
        return network if name is None else replace(network, name=name)

    def require_same_data(self, study: optuna.Study) -> None:
        """Refuses data that are others than when the study began.

        Raises:
            ConfigError: They are.
        """
        attributes = study.user_attrs
        if attributes.get("targets") and attributes["data_fingerprint"] != self.dataset.fingerprint:
            new = self.dataset.newly_left_out(self.folder / DATA)
            raise ConfigError(
                f"data: {self.spec.data} has changed since the study began; {new + '; ' if new else ''}"
                "restore it, or start another study with name=..."
            )

    def prepare(self, study: optuna.Study) -> list[Yardstick]:
        """Fixes, once for the study, the reference latencies that every stated latency is a multiple of.

        Returns:
            The targets whose device is another one than it was. They have new references, and the caller measures
            the study's kept networks on them again before he signs it.

        Raises:
            ConfigError: The data changed, or a device did and the description does not allow it.
        """
        with study_lock(self.folder):
            self.require_same_data(study)
            write_text(self.folder / DATA, self.dataset.as_yaml())
            if study.user_attrs.get(DATA_FACTS) != (facts := self.dataset.facts.as_dict()):
                study.set_user_attr(DATA_FACTS, facts)
            register(self.store, study, self.spec)
            attributes = study.user_attrs
            stored = {target["name"]: target for target in attributes.get("targets", [])}
            if stored and attributes.get("model_sha256") != self.model_sha256:
                raise ConfigError(
                    f"model: {self.spec.model} is another file than when the study began; "
                    "restore it, or start another study with name=..."
                )
            if not stored:
                self._describe_originals(study)
            moved = self._moved({name: target["fingerprint"] for name, target in stored.items()})
            for yardstick in self.yardsticks:
                if yardstick.table is not None:
                    dense = self._reference_detectors["dense"]
                    yardstick.require_family(self.network("dense", dense, yardstick, self.folder / "references"))
                if stored and yardstick not in moved:
                    yardstick.references = stored[yardstick.name]["references"]
                else:
                    yardstick.references = self._measured_references(yardstick)
            if moved or not stored:  # all that later readers compare with is there now
                self._store(study, {item.name: stored[item.name]["fingerprint"] for item in moved})
        self.dense_channels = ChannelConfig.from_dict(study.user_attrs["channels_dense"])
        self.dense_params: int = study.user_attrs["params_dense"]
        return moved

    def _moved(self, stored: Mapping[str, Mapping[str, str]]) -> list[Yardstick]:
        moved = [item for item in self.yardsticks if dict(stored.get(item.name, item.fingerprint)) != item.fingerprint]
        if moved and not self.spec.allow_new_device:
            raise ConfigError([_difference(stored[item.name], item) for item in moved])
        return moved

    def _describe_originals(self, study: optuna.Study) -> None:
        detectors = self._reference_detectors
        study.set_user_attr("channels_dense", detectors["dense"].channels.as_dict())
        if "half-width" in detectors:
            study.set_user_attr("channels_half", detectors["half-width"].channels.as_dict())
        study.set_user_attr("params_dense", detectors["dense"].params)
        study.set_user_attr("regions", layer_regions(detectors["dense"].model))
        study.set_user_attr("data_fingerprint", self.dataset.fingerprint)
        study.set_user_attr("model_sha256", self.model_sha256)
        study.set_user_attr("versions", {name: version(name) for name in VERSIONS} | {"python": python_version()})

    def _measured_references(self, yardstick: Yardstick) -> dict[str, float]:
        folder = self.folder / "references"
        detectors = {name: self._reference_detectors[name] for name in yardstick.reference_names}
        networks = [self.network(name, detector, yardstick, folder) for name, detector in detectors.items()]
        measured = yardstick.target.measure(networks, reference=yardstick.anchor)
        return {name: latency.median_ms for name, latency in measured.items()}

    def sign(self, study: optuna.Study) -> None:
        """Stores which devices the study's latencies belong to: those of this process."""
        self._store(study, {})

    def _store(self, study: optuna.Study, foreign: Mapping[str, Mapping[str, str]]) -> None:
        """Stores the targets, with the fingerprints that are foreign to this process where they are given."""
        told = [item.as_dict(foreign.get(item.name, item.fingerprint)) for item in self.yardsticks]
        study.set_user_attr("targets", told)

    # Latency of candidates

    def network(self, name: str, detector: Detector, yardstick: Yardstick, folder: Path) -> Network:
        """A network in the form that a target wants."""
        if yardstick.target.form == "module":
            return Network(name, self._input_shape, module=detector.deployed)
        # int8 ranges change no latency: it needs no images
        return Network(name, self._input_shape, onnx=self._onnx(name, detector, folder))

    def _onnx(self, name: str, detector: Detector, folder: Path) -> Path:
        image = "x".join(map(str, detector.input_shape(self.spec.imgsz)[1:]))
        file = folder / f"{name}-{detector.channels.digest()}-{image}.onnx"
        if not file.is_file():
            with self.stages.ledger.clock.part("export"):
                detector.export_onnx(file, self.spec.imgsz)
        return file

    @cached_property
    def skeleton(self) -> Skeleton | None:
        """The dense network's layers; None where something in it cannot be followed."""
        try:
            return Skeleton.read(self._onnx("dense", self._reference_detectors["dense"], self.folder / "references"))
        except TargetError:
            return None

    @property
    def _input_shape(self) -> tuple[int, int, int, int]:
        return (1, self.dataset.channels, self.spec.imgsz, self.spec.imgsz)

    def gauge(self, detector: Detector) -> dict[str, Latency]:
        """A candidate's latency on each target by name: measured, or predicted where nothing needs to be measured.

        That is where each target has a table, and the network is over a budget by more than the error bar.

        Raises:
            MeasurementError, TargetError: As `measure_channels` does.
        """
        channels = detector.channels
        if not all(self._latency_file(yardstick, channels).is_file() for yardstick in self.yardsticks):
            predicted = self.predict(channels)
            is_complete = len(predicted) == len(self.yardsticks)
            if is_complete and any(item.is_surely_over(predicted[item.name]) for item in self.yardsticks):
                return predicted
        return self.measure(detector)

    def measure(self, detector: Detector) -> dict[str, Latency]:
        """A candidate's latency on each target by name, its ratio that to the anchor.

        Equal channels are measured once per study and target.

        Raises:
            MeasurementError: The candidate cannot be measured, though the anchor can.
            TargetError: Nothing can be measured any more.
        """

        def make(yardstick: Yardstick) -> Network:
            # A file of its own: another process may measure equal channels, and removes its file when it has.
            made = self.network(f"candidate-{os.getpid()}", detector, yardstick, self.folder / "networks")
            return replace(made, name="candidate")

        return self._measure(detector.channels, make, self.yardsticks)

    def measure_channels(
        self, channels: ChannelConfig, build: Callable[[], Detector], yardsticks: Sequence[Yardstick]
    ) -> dict[str, Latency]:
        """The latency of a network that nobody needs but for its latency, by its channels; else as `measure`.

        Args:
            channels: The network's.
            build: Makes it. Called only for a target that runs no files.
            yardsticks: Where to measure.

        Raises:
            MeasurementError, TargetError: As `measure` does.
        """
        return self._measure(channels, lambda yardstick: self._resized(channels, build, yardstick), yardsticks)

    def _measure(
        self, channels: ChannelConfig, make: Callable[[Yardstick], Network], yardsticks: Sequence[Yardstick]
    ) -> dict[str, Latency]:
        found: dict[str, Latency] = {}
        files: set[Path] = set()
        for yardstick in yardsticks:
            known = self._latency_file(yardstick, channels)
            if (latency := _read_latency(known)) is not None:
                found[yardstick.name] = latency
                continue
            candidate, anchor = make(yardstick), self.anchor(yardstick)
            with self.stages.ledger.clock.part("measure"):
                latency = yardstick.measure(candidate, anchor)
            write_text(known, json.dumps(latency.as_dict()))
            self.safe_point()
            found[yardstick.name] = latency
            files |= {candidate.onnx} if candidate.onnx is not None else set()
        for file in files:
            file.unlink(missing_ok=True)  # latency depends on the channels alone; the file is spent
        return found

    def _latency_file(self, yardstick: Yardstick, channels: ChannelConfig) -> Path:
        """Where the latency of equal channels on a target is kept."""
        key = digest_of([yardstick.fingerprint, self.spec.imgsz, channels.digest(), yardstick.anchor])
        return self.folder / "latencies" / f"{key}.json"

    def _resized(self, channels: ChannelConfig, build: Callable[[], Detector], yardstick: Yardstick) -> Network:
        """A network of these channels with random weights: as fast as any other, and made in a tenth of an export."""
        if yardstick.target.form == "module":
            return Network("candidate", self._input_shape, module=build().deployed)
        dense = self.network("dense", self._reference_detectors["dense"], yardstick, self.folder / "references").onnx
        assert dense is not None  # its form is not "module"
        file = self.folder / "networks" / f"resized-{os.getpid()}-{channels.digest()}.onnx"
        with self.stages.ledger.clock.part("export"), publish(file) as draft:
            write_resized(dense, draft, Skeleton.read(dense), channels)
        return Network("candidate", self._input_shape, onnx=file)

    def predict(self, channels: ChannelConfig) -> dict[str, Latency]:
        """A network's latency on each target that has a table, by name, its ratio that to the anchor."""
        found: dict[str, Latency] = {}
        for yardstick in self.yardsticks:
            if yardstick.table is not None:
                latency = yardstick.predict(channels, self.reference_channels[yardstick.anchor])
                assert latency is not None
                found[yardstick.name] = latency
        return found

    @cached_property
    def reference_channels(self) -> dict[str, ChannelConfig]:
        """The channels of the networks whose latencies were fixed at the study's start, by name."""
        return {name: detector.channels for name, detector in self._reference_detectors.items()}

    # Networks as they ship

    @property
    def quantises(self) -> bool:
        """Whether networks ship in int8: the accuracy that counts is then theirs, and not that of training.

        Networks ship as the first target wants them.
        """
        return self.spec.targets[0].quantises

    @cached_property
    def calibration(self) -> tuple[Images, ...]:
        """Training images, always the same, that the ranges of int8 networks are taken from."""
        images = [image[None].numpy() for batch in self.stages.loaders.calibration() for image in batch]
        return tuple(images[:: max(1, len(images) // INT8_IMAGES)])

    def evaluate(self, detector: Detector, split: str = "val", listener: Listener | None = None) -> Accuracy:
        """A network's accuracy as it ships: in int8 as the target's runtime computes it, if that is its precision."""
        if not self.quantises:
            return self.stages.evaluate(detector, split, listener)
        with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            file = Path(folder) / "int8.onnx"
            self.export(detector, file)
            network = Network("candidate", self._input_shape, onnx=file)
            predict = create_predictor(self.spec.targets[0], network)
            return self.stages.evaluate_predictor(predict, self.dataset.names, split, listener)

    def export(self, detector: Detector, file: Path) -> None:
        """Writes a network's ONNX file as it ships."""
        spec = self.spec.targets[0]
        if not isinstance(spec, RuntimeSpec) or not spec.quantises:
            detector.export_onnx(file, self.spec.imgsz)
            return
        with self.stages.ledger.clock.part("export"), tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            full = Path(folder) / "fp32.onnx"
            detector.export_onnx(full, self.spec.imgsz)
            quantise(full, file, self.calibration, Quantisation.of(spec))

    # Files of the study

    def keep_checkpoint(self, stage: StoredStage, name: str) -> str:
        """Puts a stage's checkpoint into the study's folder; returns its path there.

        The store may forget the stage; the study keeps its candidate.
        """
        return self.keep_file(stage.file(CHECKPOINT), name)

    def keep_file(self, source: Path, name: str) -> str:
        """Puts a checkpoint into the study's folder; returns its path there.

        A hard link where the file system has them.
        """
        target = self.folder / "candidates" / f"{name}.pt"
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

    def keep_records(self, kind: str, records: Sequence[Mapping[str, Any]], name: str) -> str | None:
        """Writes what a trial's trainings recorded; returns the path in the study's folder, or None for nothing.

        Args:
            kind: `gammas`, the histograms of its sparse phases; `curves`, the accuracies of its recoveries.
            records: One for each epoch, or for each round.
            name: The trial's.
        """
        if not records:
            return None
        target = self.folder / kind / f"{name}.json"
        write_text(target, json.dumps(list(records)))
        return str(target.relative_to(self.folder))

    def forget(self, name: str) -> None:
        """Removes what was kept of a trial whose result does not count."""
        for file in (f"candidates/{name}.pt", f"gammas/{name}.json", f"curves/{name}.json"):
            (self.folder / file).unlink(missing_ok=True)


def _read_latency(file: Path) -> Latency | None:
    """A latency that was stored before; None if it was not, or if the file is damaged: it is then measured again."""
    try:
        return Latency.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _difference(before: Mapping[str, str], yardstick: Yardstick) -> str:
    """Says how a target's device differs from the one that the study was measured on."""
    now = yardstick.fingerprint
    lines = [
        f"\n  {key}: {before.get(key, 'not known')} -> {now.get(key, 'not known')}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    return (
        f"targets: {yardstick.name} is not what the study was measured on (then -> now):{''.join(lines)}\n"
        "Latencies of the two do not compare. Go on where it began, or give allow_new_device=true: the "
        "references and all kept networks are then measured again here"
    )
