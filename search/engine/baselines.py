"""The networks that a study compares with, trained, and looked at wherever its own networks are.

Dense is also trained on at each smaller input size, as whoever only lowers the size would do: a recipe that prunes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import optuna

from prunetune.pruning.pipeline import Recovered
from prunetune.pruning.stages.lease import StageBusyError
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.training.values import TrainingFailureError
from prunetune.pruning.yolo.detector import Detector
from prunetune.results import Findings, StudyNetwork
from prunetune.results.findings.study_network import deployed_name
from prunetune.results.record import Baseline, NetworkFiles, NetworkResult, StudyRecord
from prunetune.results.tables.rows import trained_text
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.aside import Aside
from prunetune.search.interruption import safe_point
from prunetune.search.study.study_spec import StudySpec, control_name
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.deployments import deployed, measured_figures
from prunetune.spaces import Accuracy, Deployment, ImageSize, MeasurementError, Recipe, Threshold, size_text


def train_baselines(study: optuna.Study, context: TrialContext, progress: Progress) -> None:
    """Trains the baselines, and stores each at every deployment. What is stored already stays.

    The controls are trained for as many epochs in all as the longest recipe spends; dense at a smaller input for as
    many as a recovery has.
    """
    stages = dict(trained_controls(context, progress))
    stored = dict(StudyRecord.of(study).baselines)
    for name, control, imgsz in _wanted(context):
        if (stage := stages.get(name)) is None:
            continue
        progress.begin(f"control {name}")
        baseline = stored[name] = _baseline(context, control, stage, imgsz)
        _tell(progress, name, baseline, stage.reused)
        progress.begin(f"control {name} at further deployments")
        stored |= dict(_further(context, name, baseline, stored, imgsz))
        StudyRecord.store(study, baselines=stored)


def trained_controls(
    context: TrialContext, progress: Progress, *, waits: bool = True
) -> Iterator[tuple[str, StoredStage]]:
    """Trains the controls, each when it is asked for, and gives their names and stages. Several processes share the
    work: first comes what no other one trains.

    Args:
        context: The study's.
        progress: Says what goes on, and what has failed.
        waits: Whether those that other processes train are waited for, or left out.
    """
    aside: Aside[tuple[str, str, ImageSize | None]] = Aside(context.store, progress)
    wanted = _wanted(context)
    while (control := aside.ready() or next(wanted, None) or aside.wait()) is not None:
        name = control[0]
        progress.begin(f"control {name}")
        try:
            yield name, _trained(context, *control[1:])
        except StageBusyError as busy:
            if waits:
                aside.put(f"control {name}", control, busy)
        except TrainingFailureError as error:
            progress.end()
            progress.say(f"control {name}: {error.cause} ({error}); the study ends without it")


def compared(found: Findings, spec: StudySpec) -> list[StudyNetwork]:
    """The baselines that the front is held against: the controls, and whatever else is the best without pruning."""
    controls = [found.baselines[name] for name in map(control_name, spec.controls) if name in found.baselines]
    return list({network.name: network for network in (*controls, *found.baseline_front)}.values())


def _wanted(context: TrialContext) -> Iterator[tuple[str, str, ImageSize | None]]:
    """What is trained: its name, what it is, and the input size; None for the study's own."""
    spec = context.spec
    for control in spec.controls:
        yield control_name(control), control, None
    if "dense" in spec.controls and spec.space.recovery_epochs.largest:
        for size in context.sizes:
            if size != spec.imgsz:
                yield (name := f"dense-{size_text(size)}"), name, size


def _trained(context: TrialContext, control: str, imgsz: ImageSize | None) -> StoredStage:
    space = context.spec.space
    if imgsz is None:
        return context.pipeline.control(control, space.longest_epochs)
    recovery_epochs = int(space.recovery_epochs.largest)
    nothing = Recipe(0.0, 0, Threshold.everywhere(0.0), recovery_epochs=recovery_epochs, imgsz=imgsz)
    *_, last = context.pipeline.run(nothing)
    assert isinstance(last, Recovered)
    return last.stage


def _baseline(context: TrialContext, control: str, trained: StoredStage, imgsz: ImageSize | None) -> Baseline:
    """A baseline with its figures where it was trained.

    A checkpoint that was given may be better than what training on has made of it. Then it is what others compare with.
    """
    spec, pipeline, own = context.spec, context.pipeline, context.shipping.deployment
    deployment = own if imgsz is None else Deployment(imgsz, own.precision)
    accuracy, name = _accuracy(context, trained, deployment), control_name(control)
    further = spec.space.longest_epochs if imgsz is None else int(spec.space.recovery_epochs.largest)
    given = pipeline.given(control if imgsz is None else "dense")
    if given is None or imgsz is not None:
        epochs = further if given is not None else spec.dense_epochs + further
        return Baseline(_network(context, name, trained, deployment, accuracy), epochs)
    as_given = _accuracy(context, given, deployment)
    kept = (given, as_given) if accuracy.map50_95 < as_given.map50_95 else (trained, accuracy)
    network = _network(context, name, kept[0], deployment, kept[1])
    return Baseline(network, further, as_given.map50_95, accuracy.map50_95)


def _further(
    context: TrialContext, name: str, baseline: Baseline, stored: dict[str, Baseline], imgsz: ImageSize | None
) -> Iterator[tuple[str, Baseline]]:
    """The same network at the study's further deployments, by name. One that was trained on for a size is looked at
    there alone: for the smaller ones there are others."""
    network = baseline.network
    detector = Detector.load(context.folder / str(network.files.checkpoint))
    for deployment in context.further(network.deployment):
        if (imgsz is not None and deployment.imgsz != imgsz) or detector.imgsz_problem(deployment.imgsz):
            continue
        safe_point()
        key = deployed_name(name, deployment, network.deployment)
        if (known := stored.get(key)) is not None and known.network.stage == network.stage:
            continue
        try:
            yield key, Baseline(deployed(network, detector, deployment, context), baseline.epochs)
        except MeasurementError:  # that is this deployment's end, and not the study's
            continue


def _network(
    context: TrialContext, name: str, stage: StoredStage, deployment: Deployment, accuracy: Accuracy
) -> NetworkResult:
    checkpoint = stage.file(CHECKPOINT)
    return NetworkResult(
        deployment=deployment,
        figures=measured_figures(Detector.load(checkpoint), checkpoint, deployment, context),
        accuracy=accuracy,
        stage=stage.digest,
        files=NetworkFiles(context.files.keep_checkpoint(checkpoint, name)),
    )


def _accuracy(context: TrialContext, stage: StoredStage, deployment: Deployment) -> Accuracy:
    """A stage's accuracy on `val`, as its network ships."""
    if context.shipping.quantises(deployment) or stage.accuracy is None:
        return context.shipping.evaluate(Detector.load(stage.file(CHECKPOINT)), deployment)
    return stage.accuracy


def _tell(progress: Progress, name: str, baseline: Baseline, reused: bool) -> None:
    network = baseline.network
    latencies = {target: latency.ms for target, latency in network.figures.latencies.items()}
    accuracy, figures = network.accuracy.map50_95, network.figures
    progress.network(f"control {name}", accuracy, latencies, figures.gflops, figures.params, reused)
    if baseline.points_lost is not None:
        progress.say(
            f"control {name}: {trained_text(baseline)}, {baseline.points_lost:.1f} points of mAP50-95 below "
            f"{accuracy:.3f}: give more epochs, or a smaller train.lr0"
        )
