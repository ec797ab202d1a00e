"""`prunetune export`: a network of a study as a bundle, ready to ship."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import yaml

from prunetune.pruning.planning.threshold_search import round_goal
from prunetune.results.bundle.bundle import (
    FIXED,
    INT8,
    OPENVINO,
    STUDY,
    TENSORRT,
    Part,
    onnx_parts,
    output_tolerance,
    require_place,
    versions,
    write_bundle,
)
from prunetune.results.bundle.model_card import command_line
from prunetune.results.bundle.verify import CHECKPOINT
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.study_network import StudyNetwork, latencies_document
from prunetune.results.study_results import Candidate, StudyResults
from prunetune.results.tables.formats import markdown_rows
from prunetune.results.tables.rows import limit_text, row, rows
from prunetune.results.tables.standing import standing
from prunetune.search.engine.study_setup import StudySetup, check_study, require_same_data
from prunetune.search.options.options import named
from prunetune.search.study.open_study import spec_here, stored_spec
from prunetune.spaces import Accuracy, LatencyShare, MissingExtraError, Recipe, Splice
from prunetune.spaces.deployment import plain_size
from prunetune.targets import (
    Network,
    OnnxRuntimeSpec,
    Quantisation,
    RuntimeSpec,
    TensorRtSpec,
    TensorRtTarget,
    create_predictor,
    quantise,
)

METRICS = ("map50", "map50_95", "precision", "recall", "f1", "confidence")


@dataclass(frozen=True)
class Forms:
    """What a bundle has beside the checkpoint and the two ONNX files."""

    openvino: bool = False
    tensorrt: bool = False
    int8: bool = False
    """A study whose networks ship in int8 has that file in any case."""


def export_bundle(study: optuna.Study, folder: Path, name: str, out: Path | None, forms: Forms) -> Path:
    """Writes a bundle of one network.

    Args:
        study: The study.
        folder: Its folder.
        name: A network's name, such as `7`, `7.1` or `dense`.
        out: Where to; below the study's folder if None.
        forms: What else it holds.

    Raises:
        ConfigError: There is no such network, or `out` holds something else than a bundle.
        MissingExtraError, TargetError: A runtime or device that a form needs is missing. Nothing was written.
        ModelError, StoreError: The network cannot be read, or the bundle not be written.
    """
    found = Findings.of(study)
    with named("--trial"):
        candidate = StudyResults(found, folder).candidate(name)
    out = out or folder / "export" / _file_name(candidate.network)
    export = _Export(study, found, folder, candidate, forms)
    require_place(out, export.title)
    with tempfile.TemporaryDirectory(prefix="prunetune-") as scratch:
        checkpoint = candidate.checkpoint
        if candidate.network.is_deployed_further:  # stock ultralytics is to run it at the size that it ships for
            checkpoint = Path(scratch) / "model.pt"
            candidate.load().save_for(checkpoint, candidate.network.deployment.imgsz)
        return write_bundle(
            out,
            checkpoint,
            export.parts(),
            export.channels_document(),
            export.bundle_document,
            export.table(),
            {STUDY: yaml.safe_dump(dict(found.study.spec), sort_keys=False, allow_unicode=True)},
        )


def _file_name(network: StudyNetwork) -> str:
    return network.name if network.trial is None else f"trial-{network.name}"


class _Export:
    """One network of a study, with all that a bundle says of it."""

    def __init__(self, study: optuna.Study, found: Findings, folder: Path, candidate: Candidate, forms: Forms) -> None:
        self._study, self._found, self._folder = study, found, folder
        self._candidate, self._network, self._forms = candidate, candidate.network, forms
        self._spec = stored_spec(found)
        self._detector = candidate.load()
        self._deployment = self._network.deployment
        self._ships_int8 = self._deployment.precision == "int8" and isinstance(self._spec.targets[0], RuntimeSpec)
        self._int8: dict[str, Accuracy] = {}
        """The accuracy of the int8 file by split, where the study does not know it."""

    @cached_property
    def _setup(self) -> StudySetup:
        setup = check_study(spec_here(self._study, self._folder))
        require_same_data(self._study, setup)
        return setup

    # The files

    def parts(self) -> list[Part]:
        """All that is exported; what is missing for it is told before anything is written."""
        metadata = {
            "prunetune": version("prunetune"),
            "prunetune_study": self._found.name,
            "prunetune_network": self._network.title,
            "prunetune_recipe": json.dumps(self._recipe_document()),
            "prunetune_channels": self._detector.channels.digest(),
        }
        parts = onnx_parts(self._detector, self._deployment.imgsz, metadata)
        if self._ships_int8 or self._forms.int8:
            if self._kept_int8 is None:
                self._setup  # noqa: B018  # now: without the images nothing can be calibrated
            parts.append(Part(INT8, {"format": "onnx", "precision": "int8", "batch": 1}, self._write_int8))
        if self._forms.openvino:
            if find_spec("openvino") is None:
                raise MissingExtraError("openvino", "openvino")
            form = {"format": "openvino", "precision": "fp32", "batch": 1, "tolerance": output_tolerance()}
            parts.append(Part(OPENVINO, form, self._write_openvino))
        if self._forms.tensorrt:
            target = TensorRtTarget(self._tensorrt_spec())
            target.fingerprint()  # is everything there?
            form = {"format": "tensorrt", "precision": target.spec.precision, "batch": 1}
            parts.append(Part(TENSORRT, form, lambda file: self._write_engine(target, file)))
        return parts

    def _write_openvino(self, folder: Path) -> None:
        from prunetune.pruning.yolo.export import export_openvino

        export_openvino(self._detector.model, folder, self._deployment.imgsz)

    def _tensorrt_spec(self) -> TensorRtSpec:
        return next((target for target in self._spec.targets if isinstance(target, TensorRtSpec)), TensorRtSpec())

    def _write_engine(self, target: TensorRtTarget, file: Path) -> None:
        """An engine behind the header by which ultralytics knows its classes."""
        onnx = file.with_name(FIXED)
        shape = self._detector.input_shape(self._deployment.imgsz)
        header = json.dumps(
            {
                "names": dict(enumerate(self._detector.names)),
                "stride": self._detector.stride,
                "channels": self._detector.image_channels,
                "imgsz": list(self._deployment.height_width),
                "task": "detect",
                "batch": 1,
            }
        ).encode()
        engine = target.serialised(Network(self._network.title, shape, onnx=onnx))
        file.write_bytes(len(header).to_bytes(4, "little", signed=True) + header + engine)

    @property
    def _kept_int8(self) -> Path | None:
        """The int8 file that the study has written, which is the one that it scored."""
        onnx = self._candidate.onnx
        return onnx if self._ships_int8 and onnx is not None and onnx.is_file() else None

    def _write_int8(self, file: Path) -> None:
        if self._kept_int8 is not None:
            file.write_bytes(self._kept_int8.read_bytes())
            return
        if self._ships_int8:
            self._setup.shipping.export(self._detector, self._deployment, file)
            return
        spec = OnnxRuntimeSpec(name="int8", precision="int8")
        with tempfile.TemporaryDirectory(prefix="prunetune-") as scratch:
            full = Path(scratch) / "fp32.onnx"
            self._detector.export_onnx(full, self._deployment.imgsz)
            calibration = self._setup.shipping.calibration(self._deployment.imgsz)
            quantise(full, file, calibration, Quantisation.of(spec))
        predict = create_predictor(spec, Network("int8", self._detector.input_shape(self._deployment.imgsz), onnx=file))
        stages = self._setup.stages.at(self._deployment.imgsz)
        for split in ("val", *(("test",) if stages.loaders.has_test else ())):
            self._int8[split] = stages.evaluate_predictor(predict, self._setup.dataset.names, split)

    # What is said of it

    def channels_document(self) -> dict[str, Any]:
        """The width of every layer, beside the dense network's, and the dense network's layers that are missing.

        Blocks are numbered anew when one goes: the last of a container are missing, whichever went.
        """
        kept = self._found.study.kept(self._detector.channels)
        dense, regions = self._found.study.channels_dense, self._found.study.regions
        return {
            "alignment": {target.name: target.alignment.as_json() for target in self._spec.targets},
            "layers": {
                layer: {"width": width, "dense": dense.get(layer), "region": regions.get(layer)}
                for layer, width in self._detector.channels.items()
            },
            "removed": [layer for layer, width in kept.items() if not width],
        }

    def table(self) -> str:
        """The network beside the controls, in Markdown."""
        controls = [item for item in rows(self._found) if item.kind == "control"]
        own = row(self._found, self._network.name)
        return markdown_rows([*(item for item in controls if item.model != own.model), own])

    def bundle_document(self) -> dict[str, Any]:
        """The bundle's description."""
        spec, network = self._spec, self._network
        sure = self._found.study.confirmation
        confirmed = None if sure is None or sure.split != "test" else sure.of(network.name)
        return {
            "title": self.title,
            "study": self._found.name,
            "standing": standing(self._found, network),
            "trial": network.trial,
            "round": network.result.round if network.is_earlier_round else None,
            "control": network.name if network.trial is None else None,
            "classes": list(self._detector.names),
            "stride": self._detector.stride,
            "image_channels": self._detector.image_channels,
            "imgsz": plain_size(self._deployment.imgsz),
            "batch": spec.batch,
            "alignment": ", ".join(dict.fromkeys(str(target.alignment.as_json()) for target in spec.targets)),
            "data": spec.data,
            "data_fingerprint": self._found.study.data_fingerprint,
            "network": {
                "params": self._detector.params,
                "gflops": self._detector.gflops(self._deployment.imgsz),
                "params_removed": network.figures.params_removed,
                "channels_removed": network.figures.channels_removed,
                "blocks_removed": network.figures.blocks_removed,
            },
            "figures": self._figures_document(),
            "accuracy_note": INT8_NOTE if self._ships_int8 or self._forms.int8 else "",
            "test_interval": confirmed.map50_95.as_dict() if confirmed is not None and confirmed.map50_95 else None,
            "latencies": self._latencies_document(),
            "recipe": self._recipe_document(),
            "recipe_text": network.recipe_text,
            "commands": self._commands(),
            "places": {"data": spec.data, **({"model": spec.model} if spec.model.endswith(".pt") else {})},
            "versions": versions(),
            "trained_with": self._detector.record.get("versions", {}),
            "fingerprints": self._fingerprints(),
        }

    @property
    def title(self) -> str:
        """What the bundle is called."""
        return f"{self._found.name}, {self._network.title}"

    def _recipe_document(self) -> dict[str, Any] | None:
        document: dict[str, Any] | None = self._network.as_dict()["recipe"]
        return document

    def _figures_document(self) -> dict[str, Any]:
        """By file and split. Of an int8 study all but the checkpoint's accuracy after training are those of int8."""
        accuracies = {"val": self._network.accuracy, "test": self._found.test_accuracy(self._network.name)}
        stated = {split: accuracy for split, accuracy in accuracies.items() if accuracy is not None}
        if self._ships_int8:
            trained = Accuracy.parse(self._detector.record.get("accuracy"))
            figures = {CHECKPOINT: {} if trained is None else {"val": trained}, INT8: stated}
        else:
            figures = {CHECKPOINT: stated, **({INT8: self._int8} if self._int8 else {})}
        return {
            file: {split: {name: getattr(accuracy, name) for name in METRICS} for split, accuracy in accuracies.items()}
            for file, accuracies in figures.items()
        }

    def _latencies_document(self) -> dict[str, Any]:
        known = latencies_document(self._network.latencies)
        return {
            target.name: {
                **known[target.name],
                "budget": limit_text(target) if target.has_budget else "",
                "fingerprint": dict(target.fingerprint),
            }
            for target in self._found.targets
            if target.name in known
        }

    def _commands(self) -> list[str]:
        """How the network is made again: with the whole study, and alone where that gives the same."""
        network, study = self._network, self._spec.name
        whole = [command_line("prunetune", "run", STUDY) + "   # the whole study, from the same seed"]
        export = command_line("prunetune", "export", study, "--trial", network.name)
        if isinstance(network.recipe, Splice):
            return [*whole, command_line("prunetune", "splice", study, *network.recipe.arguments), export]
        recipe = recipe_alone(network, self._dense_share)
        # Alone a round that is over the budget would end before its recovery.
        if recipe is None or (network.is_earlier_round and not network.figures.feasible):
            return [*whole, export]
        # The learning rate of gammas, and what `pull` means, go by the longest sparse phase.
        if recipe.sparse_epochs != self._spec.space.longest_sparse_epochs:
            return [*whole, export]
        alone = f"{study}-{network.name}"
        changes = [f"name={alone}", "trials=1", f"space={json.dumps(_space_document(recipe))}"]
        is_searched = isinstance(recipe.threshold, LatencyShare)
        but = "; which channels meet its latency is measured anew, so a few may differ" if is_searched else ""
        return [
            *whole,
            command_line("prunetune", "run", STUDY, *changes) + f"   # this recipe alone{but}",
            command_line("prunetune", "export", alone, "--trial", network.name.replace(network.own_name, "0", 1)),
        ]

    @property
    def _dense_share(self) -> float | None:
        """The dense network's latency as a share of the budget, where it is furthest above it."""
        known = [(target.dense_ms, target.budget_ms) for target in self._found.targets]
        return max((dense / limit for dense, limit in known if dense and limit), default=None)

    def _fingerprints(self) -> dict[str, str | None]:
        study, checkpoint = self._found.study, self._candidate.checkpoint
        devices = {
            f"target {target.name}": ", ".join(f"{key} {value}" for key, value in target.fingerprint.items())
            for target in study.targets
        }
        return {
            "data": study.data_fingerprint or None,
            "original model (SHA-256)": study.model_sha256,
            "channels": self._detector.channels.digest(),
            "checkpoint in the study": checkpoint.relative_to(self._folder).as_posix(),
            **devices,
        }


INT8_NOTE = (
    "The int8 file takes square images, the checkpoint keeps their proportions: compare int8 with int8. On an x86 CPU "
    "without VNNI its weights have 7 bits."
)


def recipe_alone(network: StudyNetwork, dense_share: float | None) -> Recipe | None:
    """The recipe that makes a trial's network and no other: that of its rounds, with the thresholds that were found.

    Args:
        network: The network.
        dense_share: The dense network's latency as a share of the budget.

    Returns:
        None for a baseline or a splice, and where the goal of an earlier round is not known.
    """
    recipe, rounds, found = network.recipe, network.result.round, network.thresholds
    if not isinstance(recipe, Recipe):
        return None
    if isinstance(recipe.threshold, LatencyShare):
        if len(found) == rounds:  # the same cuts, on whatever machine
            return replace(recipe, rounds=rounds, threshold=found[0], later_thresholds=found[1:])
        if dense_share is None:
            return None
        goal = round_goal(dense_share, recipe.threshold.share, rounds / recipe.rounds)
        return replace(recipe, rounds=rounds, threshold=replace(recipe.threshold, share=goal))
    return replace(recipe, rounds=rounds, later_thresholds=recipe.later_thresholds[: rounds - 1])


def _space_document(recipe: Recipe) -> dict[str, Any]:
    """The space that holds a recipe alone."""
    values = {key: value for key, value in recipe.as_dict().items() if key != "sparsity_unit"}
    return {**values, "sparsity": {"value": values["sparsity"], "unit": recipe.sparsity_unit}}
