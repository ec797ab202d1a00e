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

from prunetune.results.bundle import (
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
from prunetune.results.certainty import confirmation
from prunetune.results.entries import Entry, is_feasible, mapping, round_of, splice_of, text
from prunetune.results.findings import Findings
from prunetune.results.model_card import command_line
from prunetune.results.standing import standing
from prunetune.results.study_results import Candidate, StudyResults
from prunetune.results.table_formats import markdown_rows
from prunetune.results.tables import limit_text, row, rows
from prunetune.results.verify import CHECKPOINT
from prunetune.search.options import named
from prunetune.search.spec import StudySpec
from prunetune.search.study import spec_here, stored_spec
from prunetune.search.workspace import Workspace
from prunetune.spaces import MissingExtraError, Recipe
from prunetune.spaces.recipe import LatencyShare, Threshold
from prunetune.targets import (
    Network,
    OnnxRuntimeSpec,
    Quantisation,
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
        name: A trial's number, or a control's name.
        out: Where to; below the study's folder if None.
        forms: What else it holds.

    Raises:
        ConfigError: There is no such network, or `out` holds something else than a bundle.
        MissingExtraError, TargetError: A runtime or device that a form needs is missing. Nothing was written.
        ModelError, StoreError: The network cannot be read, or the bundle not be written.
    """
    with named("--trial"):
        candidate = StudyResults(Findings.of(study), folder).candidate(name)
    out = out or folder / "export" / _file_name(candidate)
    export = _Export(study, folder, candidate, forms)
    require_place(out, export.title)
    return write_bundle(
        out,
        candidate.checkpoint,
        export.parts(),
        export.channels(),
        export.describe,
        export.table(),
        {STUDY: yaml.safe_dump(study.user_attrs["spec"], sort_keys=False, allow_unicode=True)},
    )


def _file_name(candidate: Candidate) -> str:
    return candidate.name if candidate.entry.trial is None else f"trial-{candidate.name}"


class _Export:
    """One network of a study, with all that a bundle says of it."""

    def __init__(self, study: optuna.Study, folder: Path, candidate: Candidate, forms: Forms) -> None:
        self._study, self._folder, self._candidate, self._forms = study, folder, candidate, forms
        self._found = Findings.of(study)
        self._spec = stored_spec(study)
        self._detector = candidate.load()
        self._ships_int8 = self._spec.targets[0].quantises
        self._int8: dict[str, Any] = {}
        """The accuracy of the int8 file, where the study does not know it."""

    @property
    def _entry(self) -> Entry:
        return self._candidate.entry

    @cached_property
    def _workspace(self) -> Workspace:
        workspace = Workspace(spec_here(self._study, self._folder))
        workspace.require_same_data(self._study)
        return workspace

    # The files

    def parts(self) -> list[Part]:
        """All that is exported; what is missing for it is told before anything is written."""
        told = {
            "prunetune": version("prunetune"),
            "prunetune_study": self._found.name,
            "prunetune_network": self._title,
            "prunetune_recipe": json.dumps(self._entry.recipe),
            "prunetune_channels": self._detector.channels.digest(),
        }
        parts = onnx_parts(self._detector, self._spec.imgsz, told)
        if self._ships_int8 or self._forms.int8:
            if self._kept_int8 is None:
                self._workspace  # noqa: B018  # now: without the images nothing can be calibrated
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
        from prunetune.pruning.export import export_openvino

        export_openvino(self._detector.model, folder, self._spec.imgsz)

    def _tensorrt_spec(self) -> TensorRtSpec:
        return next((target for target in self._spec.targets if isinstance(target, TensorRtSpec)), TensorRtSpec())

    def _write_engine(self, target: TensorRtTarget, file: Path) -> None:
        """An engine behind the header by which ultralytics knows its classes."""
        onnx = file.with_name(FIXED)
        shape = self._detector.input_shape(self._spec.imgsz)
        header = json.dumps(
            {
                "names": dict(enumerate(self._detector.names)),
                "stride": self._detector.stride,
                "channels": self._detector.image_channels,
                "imgsz": [self._spec.imgsz] * 2,
                "task": "detect",
                "batch": 1,
            }
        ).encode()
        engine = target.serialised(Network(self._title, shape, onnx=onnx))
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
            self._workspace.export(self._detector, file)
            return
        spec = OnnxRuntimeSpec(name="int8", precision="int8")
        with tempfile.TemporaryDirectory(prefix="prunetune-") as scratch:
            full = Path(scratch) / "fp32.onnx"
            self._detector.export_onnx(full, self._spec.imgsz)
            quantise(full, file, self._workspace.calibration, Quantisation.of(spec))
        predict = create_predictor(spec, Network("int8", self._detector.input_shape(self._spec.imgsz), onnx=file))
        stages = self._workspace.stages
        for split in ("val", *(("test",) if stages.loaders.has_test else ())):
            accuracy = stages.evaluate_predictor(predict, self._workspace.dataset.names, split)
            self._int8[split] = accuracy.as_dict()

    # What is said of it

    def channels(self) -> dict[str, Any]:
        """The width of every layer, beside the dense network's."""
        dense, regions = self._found.dense_channels, mapping(self._found.attributes.get("regions"))
        return {
            "alignment": {target.name: target.alignment.as_json() for target in self._spec.targets},
            "layers": {
                layer: {"width": width, "dense": dense.get(layer), "region": regions.get(layer)}
                for layer, width in self._detector.channels.items()
            },
        }

    def table(self) -> str:
        """The network beside the controls, in Markdown."""
        controls = [item for item in rows(self._found) if item.kind == "control"]
        own = row(self._found, self._candidate.name)
        return markdown_rows([*(item for item in controls if item.model != own.model), own])

    def describe(self) -> dict[str, Any]:
        """The bundle's description."""
        spec, entry = self._spec, self._entry
        sure = confirmation(self._found)
        network = None if sure is None or sure.split != "test" else sure.of(self._candidate.name)
        return {
            "title": self.title,
            "study": self._found.name,
            "standing": standing(self._found, entry),
            "trial": entry.trial,
            "control": None if entry.trial is not None else self._candidate.name,
            "classes": list(self._detector.names),
            "stride": self._detector.stride,
            "image_channels": self._detector.image_channels,
            "imgsz": spec.imgsz,
            "batch": spec.batch,
            "alignment": ", ".join(dict.fromkeys(str(target.alignment.as_json()) for target in spec.targets)),
            "data": spec.data,
            "data_fingerprint": text(self._found.attributes.get("data_fingerprint")) or "",
            "network": {
                "params": self._detector.params,
                "gflops": self._detector.gflops(spec.imgsz),
                "params_removed": entry.params_removed,
                "channels_removed": entry.channels_removed,
            },
            "figures": self._figures(),
            "accuracy_note": INT8_NOTE if self._ships_int8 or self._forms.int8 else "",
            "test_interval": network.map50_95.as_dict() if network is not None and network.map50_95 else None,
            "latencies": self._latencies(),
            "recipe": entry.recipe,
            "commands": self._commands(),
            "places": {"data": spec.data, **({"model": spec.model} if spec.model.endswith(".pt") else {})},
            "versions": versions(),
            "trained_with": self._detector.record.get("versions", {}),
            "fingerprints": self._fingerprints(),
        }

    @property
    def title(self) -> str:
        """What the bundle is called."""
        return f"{self._found.name}, {self._title}"

    @property
    def _title(self) -> str:
        name = self._candidate.name
        return name if self._entry.trial is None else f"trial {name}"

    def _figures(self) -> dict[str, Any]:
        """By file and split. Of an int8 study all but the checkpoint's accuracy after training are those of int8."""
        stated = {"val": {name: getattr(self._entry, name) for name in METRICS}}
        if tested := self._found.test_accuracy(self._candidate.name):
            stated["test"] = {name: tested.get(name) for name in METRICS}
        if self._ships_int8:
            trained = mapping(self._detector.record.get("accuracy"))
            return {CHECKPOINT: {"val": dict(trained)} if trained else {}, INT8: stated}
        return {CHECKPOINT: stated, **({INT8: self._int8} if self._int8 else {})}

    def _latencies(self) -> dict[str, Any]:
        stored = mapping(self._found.attributes.get("confirmed")).get(self._candidate.name)
        trial = None if self._entry.trial is None else self._found.trial(self._entry.trial)
        own = mapping(None if trial is None else trial.user_attrs.get("latencies"))
        devices = {item["name"]: item.get("fingerprint", {}) for item in self._found.attributes.get("targets", [])}
        found = {}
        for target in self._found.targets:
            reading = self._entry.latencies.get(target.name)
            if reading is None:
                continue
            told = {**mapping(own.get(target.name)), **mapping(mapping(stored).get(target.name))}
            found[target.name] = {
                "latency_ms": reading.latency_ms,
                "latency_ratio": reading.latency_ratio,
                "latency_uncertainty": reading.latency_uncertainty,
                "latency_spread_ms": told.get("latency_spread_ms"),
                "predicted": told.get("predicted") is True,
                "budget": limit_text(target) if target.has_budget else "",
                "fingerprint": devices.get(target.name, {}),
            }
        return found

    def _commands(self) -> list[str]:
        """How the network is made again: with the whole study, and alone where that gives the same."""
        spec, name = self._spec, self._candidate.name
        whole = [command_line("prunetune", "run", STUDY) + "   # the whole study, from the same seed"]
        export = command_line("prunetune", "export", spec.name, "--trial", name)
        if self._entry.trial is None:
            return [*whole, export]
        trial = self._found.trial(self._entry.trial)
        assert trial is not None
        if (splice := splice_of(trial)) is not None:
            return [*whole, command_line("prunetune", "splice", spec.name, *splice.arguments), export]
        alone = _space_of(Recipe.from_dict(trial.user_attrs["recipe"]), trial.user_attrs.get("threshold_found"), spec)
        is_recovered_by_another = round_of(trial) is not None and not is_feasible(trial)
        if alone is None or is_recovered_by_another:  # alone it would be over the budget, and end before its recovery
            return [*whole, export]
        named = f"{spec.name}-{name}"
        changes = [f"name={named}", "trials=1", f"space={json.dumps(alone)}"]
        # A knapsack leaves no threshold that could be given again.
        but = "; which channels meet its latency is measured anew, so a few may differ" if "latency" in alone else ""
        return [
            *whole,
            command_line("prunetune", "run", STUDY, *changes) + f"   # this recipe alone{but}",
            command_line("prunetune", "export", named, "--trial", "0"),
        ]

    def _fingerprints(self) -> dict[str, Any]:
        attributes, checkpoint = self._found.attributes, self._candidate.checkpoint
        devices = {
            f"target {item['name']}": ", ".join(f"{key} {value}" for key, value in item.get("fingerprint", {}).items())
            for item in attributes.get("targets", [])
        }
        return {
            "data": text(attributes.get("data_fingerprint")),
            "original model (SHA-256)": text(attributes.get("model_sha256")),
            "channels": self._detector.channels.digest(),
            "checkpoint in the study": checkpoint.relative_to(self._folder).as_posix(),
            **devices,
        }


INT8_NOTE = (
    "The int8 file takes square images, the checkpoint keeps their proportions: compare int8 with int8. On an x86 CPU "
    "without VNNI its weights have 7 bits."
)


def _space_of(recipe: Recipe, found: Any, spec: StudySpec) -> dict[str, Any] | None:
    """The space that holds a recipe alone; None where the recipe would not mean the same in it."""
    if recipe.sparse_epochs != spec.space.longest_sparse_epochs:
        return None  # the learning rate of gammas, and what `pull` means, go by the longest sparse phase
    if isinstance(recipe.threshold, LatencyShare) and found and len(found) == recipe.rounds:
        first, *later = map(Threshold.parse, found)  # the same cuts, on whatever machine
        recipe = replace(recipe, threshold=first, later_thresholds=tuple(later))
    values = {key: value for key, value in recipe.as_dict().items() if key != "sparsity_unit"}
    values["sparsity"] = {"value": values["sparsity"], "unit": recipe.sparsity_unit}
    return values
