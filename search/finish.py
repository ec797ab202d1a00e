"""The end of a study: baselines, one last measurement of the whole front, the test split, export and report."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState

from prunetune.pruning.detector import Detector
from prunetune.pruning.stage_files import CHECKPOINT
from prunetune.pruning.store import StoredStage
from prunetune.pruning.training import TrainingFailureError
from prunetune.results import Findings, StudyNetwork, best, csv_text, front, front_document, markdown, write_report
from prunetune.results.dashboard import show_study
from prunetune.results.record import Baseline, NetworkFiles, NetworkResult, StudyRecord
from prunetune.results.tables import trained_text
from prunetune.search.aside import patiently
from prunetune.search.confirmation import confirm
from prunetune.search.interruption import safe_point
from prunetune.search.progress import Progress
from prunetune.search.study import folder_lock
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.figures import network_figures
from prunetune.spaces import Accuracy
from prunetune.spaces.files import publish, write_text

RESULTS = ("front.json", "front.md", "front.csv", "report.html")
BEST = ("best.pt", "best.onnx")
"""Files that a finished study has in its folder, the latter if any trial kept the budget."""


def finish(study: optuna.Study, context: TrialContext, progress: Progress) -> None:
    """Completes a study whose trials are done. Does nothing if its results are there and nothing came since."""
    with folder_lock(context.folder, ".finish"):
        seen = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)))
        if StudyRecord.of(study).finished == seen and not _missing(study, context.folder):
            return
        baselines = _train_baselines(study, context, progress)
        # The last measurement can move members past each other or over the budget, and so bring up others.
        while missing := _unconfirmed(study, context):
            count = f"{len(missing)} member{'s' * (len(missing) != 1)}"
            progress.begin(f"measuring {count} of the front again, with the controls")
            members = {network.name: load_member(context, network) for network in front(study)}
            confirm(study, context, members | baselines)
        if context.stages.loaders.has_test:
            progress.begin("evaluating on the test split")
            members = {network.name: load_member(context, network) for network in front(study)}
            _evaluate_on_test(study, context, members | baselines)
        progress.begin("exporting")
        export_members(study, context)
        write_results(study, context.folder)
        StudyRecord.store(study, finished=seen)


def _missing(study: optuna.Study, folder: Path) -> list[str]:
    """The results that somebody removed."""
    needed = [*RESULTS, *(BEST if best(study) else ()), *StudyRecord.of(study).exports.values()]
    return [name for name in needed if not (folder / name).is_file()]


def _unconfirmed(study: optuna.Study, context: TrialContext) -> list[StudyNetwork]:
    """The members of the front that were not measured together with others on every target."""
    found = Findings.of(study)
    targets = {target.name for target in context.meter.targets}
    return [network for network in found.front if not targets <= found.study.confirmed.get(network.name, {}).keys()]


def _train_baselines(study: optuna.Study, context: TrialContext, progress: Progress) -> dict[str, Detector]:
    """Trains the baselines for as many epochs in all as the longest recipe spends, and stores them."""
    detectors: dict[str, Detector] = {}
    baselines = dict(StudyRecord.of(study).baselines)
    for name in context.spec.controls:
        train = partial(context.pipeline.control, name, context.spec.space.longest_epochs)
        try:
            stage = patiently(train, f"control {name}", context.store, progress)
        except TrainingFailureError as error:
            progress.end()
            progress.say(f"control {name}: {error.cause} ({error}); the study ends without it")
            continue
        baseline = baselines[name] = _baseline(context, name, stage)
        network = baseline.network
        detectors[name] = Detector.load(context.folder / str(network.files.checkpoint))
        StudyRecord.store(study, baselines=baselines)
        latencies = {target: latency.ms for target, latency in network.figures.latencies.items()}
        accuracy, figures = network.accuracy.map50_95, network.figures
        progress.network(f"control {name}", accuracy, latencies, figures.gflops, figures.params, stage.reused)
        if baseline.points_lost is not None:
            progress.say(
                f"control {name}: {trained_text(baseline)}, {baseline.points_lost:.1f} points of mAP50-95 below "
                f"{accuracy:.3f}: give more epochs, or a smaller train.lr0"
            )
    return detectors


def _baseline(context: TrialContext, name: str, trained: StoredStage) -> Baseline:
    """A baseline with its figures.

    A checkpoint that was given may be better than what training on has made of it. Then it is what others compare with.
    """
    accuracy, further = _accuracy(context, trained), context.spec.space.longest_epochs
    if name != "dense" or not context.pipeline.source.is_checkpoint:
        return Baseline(_network(context, name, trained, accuracy), context.spec.dense_epochs + further)
    given = context.pipeline.original()
    as_given = _accuracy(context, given)
    kept = (given, as_given) if accuracy.map50_95 < as_given.map50_95 else (trained, accuracy)
    return Baseline(_network(context, name, *kept), further, as_given.map50_95, accuracy.map50_95)


def _network(context: TrialContext, name: str, stage: StoredStage, accuracy: Accuracy) -> NetworkResult:
    checkpoint = stage.file(CHECKPOINT)
    detector = Detector.load(checkpoint)
    measured = context.meter.measure(detector)
    latencies = {target.name: target.normalized(measured[target.name]) for target in context.meter.targets}
    return NetworkResult(
        deployment=context.shipping.deployment,
        figures=network_figures(detector, checkpoint, context, latencies),
        accuracy=accuracy,
        stage=stage.digest,
        files=NetworkFiles(context.files.keep_checkpoint(checkpoint, name)),
    )


def _accuracy(context: TrialContext, stage: StoredStage) -> Accuracy:
    """A stage's accuracy on `val`, as its network ships."""
    if context.shipping.quantises or stage.accuracy is None:
        return context.shipping.evaluate(Detector.load(stage.file(CHECKPOINT)))
    return stage.accuracy


def _evaluate_on_test(study: optuna.Study, context: TrialContext, detectors: dict[str, Detector]) -> None:
    """Evaluates on the split whose labels decide nothing."""
    accuracies = dict(StudyRecord.of(study).test)
    for name, detector in detectors.items():
        safe_point()
        if name not in accuracies:
            accuracies[name] = context.shipping.evaluate(detector, "test")
    StudyRecord.store(study, test=accuracies)


def export_members(study: optuna.Study, context: TrialContext) -> None:
    """Writes the ONNX file of each member of the front, and the best one as `best.pt` and `best.onnx`."""
    exports = dict(StudyRecord.of(study).exports)
    for network in front(study):
        safe_point()
        file = (context.folder / str(network.checkpoint)).with_suffix(".onnx")
        if not file.is_file():
            context.shipping.export(load_member(context, network), file)
        exports[network.name] = str(file.relative_to(context.folder))
    StudyRecord.store(study, exports=exports)
    if (winner := best(study)) is not None:
        for path in (winner.checkpoint, winner.onnx):
            with publish(context.folder / f"best{Path(str(path)).suffix}") as draft:
                shutil.copyfile(context.folder / str(path), draft)


def write_results(study: optuna.Study, folder: Path) -> None:
    """Writes the front, its tables and the report into the study's folder, and what optuna-dashboard shows of it."""
    write_text(folder / "front.json", json.dumps(front_document(study), indent=1) + "\n")
    write_text(folder / "front.md", markdown(study) + "\n")
    write_text(folder / "front.csv", csv_text(study))
    write_report(study, folder, folder / "report.html")
    show_study(study, folder)


def load_member(context: TrialContext, network: StudyNetwork) -> Detector:
    """The network of a member of the front. A checkpoint that somebody removed is taken from the store again."""
    file = context.folder / str(network.checkpoint)  # every network that can be on the front has one
    if not file.is_file() and (stage := context.store.find(network.result.stage)) is not None:
        context.files.keep_checkpoint(stage.file(CHECKPOINT), file.stem)
    return Detector.load(file)
