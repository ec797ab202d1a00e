"""Who does the work of a study: this process, or a cluster that it drives."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import optuna

from prunetune.pruning.stages.lease import StageBusyError
from prunetune.pruning.training.values import TrainingFailureError
from prunetune.results.record import StudyRecord
from prunetune.results.storage.storage import storage_errors
from prunetune.results.tables.headline import LEARNT
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.aside import patiently
from prunetune.search.engine.baselines import trained_controls
from prunetune.search.engine.final_measurement import move_to_these_devices
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.study_setup import StudySetup, check_study, prepare_study
from prunetune.search.study.open_study import open_study
from prunetune.search.study.stored_study import StoredStudy
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.context import TrialContext
from prunetune.spaces import PrunetuneError


class Engine(Protocol):
    """Does a study's work within its block."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def prepare(self) -> StoredStudy:
        """Checks model and data, opens the study, measures the references and trains the dense network."""

    def all_trials(self, study: StoredStudy, heartbeat: Heartbeat) -> None:
        """Carries out trials until the study has all it should have, and none of this engine's still runs."""

    def help_to_finish(self) -> None:
        """Trains controls that nobody trains yet, while other processes carry out the last trials."""

    def finish(self, study: StoredStudy) -> None:
        """Trains the controls and writes the results."""


def prepare(spec: StudySpec, progress: Progress) -> tuple[StoredStudy, TrialContext]:
    """Does in this process what comes before a study's trials. Of several processes one trains, and others wait.

    Raises:
        PrunetuneError: Something the user must mend.
    """
    setup = check(spec, progress)
    study = open_study(spec)
    with storage_errors(spec.folder, spec.storage):
        context = prepare_context(study, setup, progress)
        if half_is_no_smaller(StudyRecord.of(study)):
            progress.say(
                f"half-width has half of the channels of the network that {spec.model} was pruned from, which are not "
                "fewer than it has itself; give a budget in multiples of dense, or in ms"
            )
        _train_original(context, progress)
    return study, context


def half_is_no_smaller(record: StudyRecord) -> bool:
    """Whether a study's narrow network is as wide as its dense one, which then was pruned before."""
    half = record.channels_half
    return bool(half) and sum(half.values()) >= sum(record.channels_dense.values())


def check(spec: StudySpec, progress: Progress) -> StudySetup:
    """Checks a description; see `check_study`."""
    progress.begin("checking model and data")
    return check_study(spec, progress.epochs)


def prepare_context(study: optuna.Study, setup: StudySetup, progress: Progress) -> TrialContext:
    """Fixes what a study's latencies are multiples of; all is measured again where its device is another one.

    Raises:
        ConfigError: As `prepare_study` does.
    """
    progress.begin("measuring the reference networks")
    prepared = prepare_study(study, setup)
    if prepared.moved:
        progress.begin("measuring the kept networks on this device")
        move_to_these_devices(study, prepared.context, prepared.moved)
    return prepared.context


def _train_original(context: TrialContext, progress: Progress) -> None:
    pipeline = context.pipeline
    try:
        train_meanwhile(context, progress)
        stage = patiently(pipeline.original, "dense network", context.store, progress)
        if pipeline.rewinds:  # a study that began without them has none yet
            patiently(pipeline.early, "first epochs of the dense network", context.store, progress)
    except TrainingFailureError as error:
        raise PrunetuneError(
            f"dense network: {error.cause}: {error}. Without it there is nothing to prune; change train, batch "
            f"or imgsz, and start again with name={context.spec.name}-2"
        ) from error
    assert stage.accuracy is not None  # every dense network is evaluated
    accuracy = stage.accuracy.map50_95
    latencies = {target.name: target.references_ms["dense"] for target in context.meter.targets}
    progress.network("dense network", accuracy, latencies, stage.gflops, stage.params, stage.reused)
    if accuracy < LEARNT:
        progress.say(
            f"the dense network has hardly learnt (map50_95 {accuracy:.3f}): what is pruned of it cannot be compared; "
            "give it more epochs (dense_epochs), or look at its data"
        )


def train_meanwhile(context: TrialContext, progress: Progress) -> None:
    """Trains the dense network or, as long as another process does that, controls that begin from scratch."""
    try:
        progress.begin("dense network")
        context.pipeline.original()
    except StageBusyError as busy:
        for _ in trained_controls(context, progress, waits=False):
            if context.store.is_released(busy):
                return
