"""Runs a study: trial after trial until there are enough, then its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from optuna.trial import TrialState
from rich.console import Console

from prunetune.results.record import StudyRecord, TrialRecord
from prunetune.results.storage.storage import storage_errors
from prunetune.search.callbacks.events import Listener, StudyEnded, StudyStarted
from prunetune.search.callbacks.forecasting import ForecastTeller
from prunetune.search.callbacks.progress import Progress
from prunetune.search.callbacks.telling import tell_standing
from prunetune.search.engine.engine import Engine
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.taking import is_over, limit_reached, reap_alone
from prunetune.search.engine.workers import is_near, responsible
from prunetune.search.interruption import Interruption, StopAskedError, safe_point, stop_is_asked
from prunetune.search.study.advice import advice
from prunetune.search.study.open_study import DATA, open_study, study_exists
from prunetune.search.study.stored_study import GRACE_S, INTERVAL_S, StoredStudy
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import PrunetuneError

LOOK_S = 1.0
"""Who waits for the others looks again after so long."""


def run_study(
    spec: StudySpec, console: Console | None = None, callbacks: Sequence[Listener] = (), workers: int | None = 1
) -> StoredStudy:
    """Carries out a study's trials until there are enough, then finishes it.

    The same call resumes a study, joins one that runs elsewhere, and shows one that is done.

    Args:
        spec: The study's.
        console: Where progress is shown: a live view in a terminal, lines elsewhere. None: nowhere.
        callbacks: Hear of all that happens; see `StudyCallback`. With `engine: ray` they are told what the driver
            knows: trials with their epochs, and the front, but nothing of the dense network and the controls.
        workers: Trials that run at once, for the forecast of what the study takes; None where another process tells it.

    Raises:
        PrunetuneError: Something the user must mend; what was finished is kept.
        StopAskedError: As asked for; the running trial was given back, and those put aside.
        KeyboardInterrupt: The same in the middle of an epoch, after a second signal.
    """
    progress = Progress(console, spec.trials, callbacks)
    with Interruption(), ExitStack() as heard:
        if workers is not None and spec.engine == "local":  # a cluster has as many workers as there is room for
            heard.enter_context(progress.heard_by(ForecastTeller(spec, workers, progress.say)))
        progress.tell(_started(spec))
        ended = StudyEnded("failed")
        try:
            study = _run(spec, progress)
            ended = StudyEnded("left" if StudyRecord.of(study).finished is None else "finished")
        except Exception as error:
            if stop_is_asked() and not isinstance(error, PrunetuneError):
                ended = StudyEnded("stopped")
                raise StopAskedError from error  # a signal to the whole group also ends the processes that load images
            ended = StudyEnded("failed", str(error) if isinstance(error, PrunetuneError) else type(error).__name__)
            raise
        except KeyboardInterrupt:
            ended = StudyEnded("stopped")
            raise
        finally:
            progress.tell(ended)
    return study


def _started(spec: StudySpec) -> StudyStarted:
    return StudyStarted(
        study=spec.name,
        folder=str(spec.folder),
        trials=spec.trials,
        epochs=spec.epochs,
        hours=spec.hours,
        objectives=tuple(spec.objectives),
        engine=spec.engine,
    )


def _run(spec: StudySpec, progress: Progress) -> StoredStudy:
    if study_exists(spec):
        open_study(spec)  # a changed description shows before any work
    engine = _engine(spec, progress)
    with engine:
        study = engine.prepare()
        with storage_errors(spec.folder, spec.storage):
            complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            done_before = sum(not TrialRecord.from_trial(trial).is_splice for trial in complete)
            if done_before:
                rest = "no further trial" if is_over(study, spec) else "going on"
                progress.say(f"study {spec.name}: {done_before} finished trial{'s' * (done_before > 1)}, {rest}")
                tell_standing(study, spec, progress)
            for line in (*advice(spec), *StudyRecord.of(study).data.notes(spec.folder / DATA)):
                progress.say(line)
            safe_point()
            with Heartbeat(study) as heartbeat:
                engine.all_trials(study, heartbeat)
                while (others := _others_finish(study, spec, progress)) is None:
                    engine.all_trials(study, heartbeat)
            if (reached := limit_reached(study, spec)) and not reached.startswith("trials"):
                progress.say(f"no further trial: {reached}")
            if others:
                progress.say("no trial is left to take; the processes that still run will finish the study")
                engine.help_to_finish()
            else:
                engine.finish(study)
    return study


def _engine(spec: StudySpec, progress: Progress) -> Engine:
    if spec.engine == "ray":
        from prunetune.search.ray_tune.engine import RayEngine

        return RayEngine(spec, progress)
    from prunetune.search.engine.local_engine import LocalEngine  # torch and ultralytics

    return LocalEngine(spec, progress)


def _others_finish(study: StoredStudy, spec: StudySpec, progress: Progress) -> bool | None:
    """Whether others, who live, will finish the study; None if there is work again.

    Who died on another host is noticed only when its heartbeat is stale. So nobody leaves before that time has passed
    for those that run elsewhere, or they have ended.
    """
    all_are_heard, pause = time.monotonic() + GRACE_S + INTERVAL_S, threading.Event()
    while running := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if reap_alone(study, spec):
            return None
        workers = {trial.number: responsible(trial) or {} for trial in running}
        elsewhere = {number: worker for number, worker in workers.items() if not is_near(worker)}
        if not elsewhere or time.monotonic() > all_are_heard:
            return True
        told = ", ".join(f"trial {number} on {worker.get('host')}" for number, worker in elsewhere.items())
        progress.begin(f"waiting for a heartbeat of {told}")
        safe_point()
        pause.wait(LOOK_S)
    return False
