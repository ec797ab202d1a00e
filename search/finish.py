"""The end of a study: controls, one last measurement of the whole front, the test split, export and report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState

from prunetune.pruning.detector import Detector
from prunetune.pruning.stage_files import CHECKPOINT
from prunetune.pruning.store import StoredStage
from prunetune.pruning.training import TrainingFailureError
from prunetune.results import Entry, best, csv_text, front, front_document, markdown, write_report
from prunetune.results.entries import points_lost, trained_text
from prunetune.search.aside import patiently
from prunetune.search.attributes import FINISHED
from prunetune.search.confirmation import confirm, is_confirmed
from prunetune.search.interruption import safe_point
from prunetune.search.objective import describe
from prunetune.search.progress import Progress
from prunetune.search.study import folder_lock
from prunetune.search.workspace import Workspace
from prunetune.spaces.files import publish, write_text

RESULTS = ("front.json", "front.md", "front.csv", "report.html")
BEST = ("best.pt", "best.onnx")
"""Files that a finished study has in its folder, the latter if any trial kept the budget."""


def finish(study: optuna.Study, workspace: Workspace, progress: Progress) -> None:
    """Completes a study whose trials are done. Does nothing if its results are there and nothing came since."""
    with folder_lock(workspace.folder, ".finish"):
        seen = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)))
        if study.user_attrs.get(FINISHED) == seen and not _missing(study, workspace):
            return
        controls = _train_controls(study, workspace, progress)
        # The last measurement can move members past each other or over the budget, and so bring up others.
        while missing := [item for item in front(study) if not is_confirmed(study, workspace, item)]:
            count = f"{len(missing)} member{'s' * (len(missing) != 1)}"
            progress.begin(f"measuring {count} of the front again, with the controls")
            members = {str(item.trial): load_member(workspace, item) for item in front(study)}
            confirm(study, workspace, members | controls)
        found = front(study)
        if workspace.stages.loaders.has_test:
            progress.begin("evaluating on the test split")
            _evaluate_on_test(study, workspace, found, controls)
        progress.begin("exporting")
        export_members(study, workspace, found)
        write_results(study, workspace)
        study.set_user_attr(FINISHED, seen)


def _missing(study: optuna.Study, workspace: Workspace) -> list[str]:
    """The results that somebody removed."""
    needed = [*RESULTS, *(BEST if best(study) else ()), *study.user_attrs.get("exports", {}).values()]
    return [name for name in needed if not (workspace.folder / name).is_file()]


def _train_controls(study: optuna.Study, workspace: Workspace, progress: Progress) -> dict[str, Detector]:
    """Trains the controls for as many epochs in all as the longest recipe spends, and stores their entries."""
    detectors: dict[str, Detector] = {}
    entries: dict[str, Any] = dict(study.user_attrs.get("controls", {}))
    for name in workspace.spec.controls:
        train = partial(workspace.pipeline.control, name, workspace.spec.space.longest_epochs)
        try:
            stage = patiently(train, f"control {name}", workspace.store, progress)
        except TrainingFailureError as error:
            progress.end()
            progress.say(f"control {name}: {error.cause} ({error}); the study ends without it")
            continue
        stage, accuracy, training = _better(workspace, name, stage)
        detector = detectors[name] = Detector.load(stage.file(CHECKPOINT))
        described = describe(detector, stage.file(CHECKPOINT), workspace.measure(detector), workspace)
        entries[name] = {
            **accuracy,
            **described,
            **training,
            "checkpoint": workspace.keep_checkpoint(stage, name),
            "onnx": None,
        }
        study.set_user_attr("controls", entries)
        stated = {target: told["latency_ms"] for target, told in described["latencies"].items()}
        told = entries[name]
        progress.network(f"control {name}", told["map50_95"], stated, told["gflops"], told["params"], stage.reused)
        if (points := points_lost(told)) is not None:
            progress.say(
                f"control {name}: {trained_text(told)}, {points:.1f} points of mAP50-95 below {told['map50_95']:.3f}: "
                "give more epochs, or a smaller train.lr0"
            )
    return detectors


def _better(
    workspace: Workspace, name: str, trained: StoredStage
) -> tuple[StoredStage, Mapping[str, Any], dict[str, Any]]:
    """What a control is, its accuracy, and how it was trained.

    A checkpoint that was given may be better than what training on has made of it. Then it is what others compare with.
    """
    accuracy, further = _accuracy(workspace, trained), workspace.spec.space.longest_epochs
    if name != "dense" or not workspace.pipeline.source.is_checkpoint:
        return trained, accuracy, {"epochs": workspace.spec.dense_epochs + further}
    given = workspace.pipeline.original()
    as_given = _accuracy(workspace, given)
    scores = {"map50_95_given": as_given["map50_95"], "map50_95_trained_on": accuracy["map50_95"]}
    training = {"epochs": further, "trained_on": True, **scores}
    if accuracy["map50_95"] < as_given["map50_95"]:
        return given, as_given, training
    return trained, accuracy, training


def _accuracy(workspace: Workspace, stage: StoredStage) -> Mapping[str, Any]:
    """A stage's accuracy on `val`, as its network ships."""
    if workspace.quantises:
        return workspace.evaluate(Detector.load(stage.file(CHECKPOINT))).as_dict()
    accuracy: Mapping[str, Any] = stage.record["accuracy"]
    return accuracy


def _evaluate_on_test(
    study: optuna.Study, workspace: Workspace, members: list[Entry], controls: dict[str, Detector]
) -> None:
    """Evaluates on the split whose labels decide nothing."""
    accuracies: dict[str, Any] = dict(study.user_attrs.get("test", {}))
    detectors = {str(item.trial): load_member(workspace, item) for item in members} | controls
    for name, detector in detectors.items():
        safe_point()
        if name not in accuracies:
            accuracies[name] = workspace.evaluate(detector, "test").as_dict()
    study.set_user_attr("test", accuracies)


def export_members(study: optuna.Study, workspace: Workspace, members: list[Entry]) -> None:
    """Writes each member's ONNX file, and the best one as `best.pt` and `best.onnx`."""
    exports: dict[str, str] = dict(study.user_attrs.get("exports", {}))
    for item in members:
        safe_point()
        file = workspace.folder / "candidates" / f"trial-{item.trial}.onnx"
        if not file.is_file():
            workspace.export(load_member(workspace, item), file)
        exports[str(item.trial)] = str(file.relative_to(workspace.folder))
    study.set_user_attr("exports", exports)
    winner = best(study)
    if winner is not None:
        for suffix in (".pt", ".onnx"):
            with publish(workspace.folder / f"best{suffix}") as draft:
                shutil.copyfile(workspace.folder / "candidates" / f"trial-{winner.trial}{suffix}", draft)


def write_results(study: optuna.Study, workspace: Workspace) -> None:
    """Writes the front, its tables and the report into the study's folder."""
    folder = workspace.folder
    write_text(folder / "front.json", json.dumps(front_document(study), indent=1) + "\n")
    write_text(folder / "front.md", markdown(study) + "\n")
    write_text(folder / "front.csv", csv_text(study))
    write_report(study, folder, folder / "report.html")


def load_member(workspace: Workspace, item: Entry) -> Detector:
    """The network of a member of the front."""
    assert item.checkpoint is not None  # every trial that can be on the front has one
    return Detector.load(workspace.folder / item.checkpoint)
