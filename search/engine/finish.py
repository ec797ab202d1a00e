"""The end of a study: baselines, one last measurement of the whole front, the test split, export and report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import TrialState

from prunetune.results import Findings, StudyNetwork, best, csv_text, front, front_document, markdown, write_report
from prunetune.results.dashboard.dashboard import show_study
from prunetune.results.record import StudyRecord
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.baselines import compared, train_baselines
from prunetune.search.engine.final_measurement import Deployed, confirm, load_network
from prunetune.search.interruption import safe_point
from prunetune.search.study.open_study import folder_lock
from prunetune.search.trial.context import TrialContext
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
        train_baselines(study, context, progress)
        # The last measurement can move members past each other or over the budget, and so bring up others.
        while missing := _unconfirmed(study, context):
            count = f"{len(missing)} member{'s' * (len(missing) != 1)}"
            progress.begin(f"measuring {count} of the front again, with the controls")
            confirm(study, context, _compared(study, context))
        if context.stages.loaders.has_test:
            progress.begin("evaluating on the test split")
            _evaluate_on_test(study, context, _compared(study, context))
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


def _compared(study: optuna.Study, context: TrialContext) -> dict[str, Deployed]:
    """The front, and the baselines that it is held against."""
    found = Findings.of(study)
    networks = [*found.front, *compared(found, context.spec)]
    return {network.name: load_network(context, network) for network in networks}


def _evaluate_on_test(study: optuna.Study, context: TrialContext, networks: Mapping[str, Deployed]) -> None:
    """Evaluates on the split whose labels decide nothing."""
    accuracies = dict(StudyRecord.of(study).test)
    for name, (detector, deployment) in networks.items():
        safe_point()
        if name not in accuracies:
            accuracies[name] = context.shipping.evaluate(detector, deployment, "test")
    StudyRecord.store(study, test=accuracies)


def export_members(study: optuna.Study, context: TrialContext) -> None:
    """Writes the ONNX file of each member of the front, and the best one as `best.pt` and `best.onnx`."""
    exports = dict(StudyRecord.of(study).exports)
    for network in front(study):
        safe_point()
        checkpoint = context.folder / str(network.checkpoint)
        _, at, deployment = network.name.partition("@")
        file = checkpoint.with_name(f"{checkpoint.stem}{at}{deployment}.onnx")
        if not file.is_file():
            context.shipping.export(*load_network(context, network), file)
        exports[network.name] = str(file.relative_to(context.folder))
    StudyRecord.store(study, exports=exports)
    if (winner := best(study)) is not None:
        for path in (winner.checkpoint, winner.onnx):
            with publish(context.folder / f"best{Path(str(path)).suffix}") as draft:
                shutil.copyfile(context.folder / str(path), draft)
        if winner.is_deployed_further:  # stock ultralytics is to run it at the size that it ships for
            with publish(context.folder / "best.pt") as draft:
                load_network(context, winner).detector.save_for(draft, winner.deployment.imgsz)


def write_results(study: optuna.Study, folder: Path) -> None:
    """Writes the front, its tables and the report into the study's folder, and what optuna-dashboard shows of it."""
    write_text(folder / "front.json", json.dumps(front_document(study), indent=1) + "\n")
    write_text(folder / "front.md", markdown(study) + "\n")
    write_text(folder / "front.csv", csv_text(study))
    write_report(study, folder, folder / "report.html")
    show_study(study, folder)
