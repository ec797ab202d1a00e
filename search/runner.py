"""Runs a study: trial after trial until there are enough, then its end."""

from __future__ import annotations

import threading

import optuna
from optuna.trial import TrialState
from rich.console import Console

from prunetune.pruning.claims import LOOK_S
from prunetune.results.storage import storage_errors
from prunetune.search.engine import Engine
from prunetune.search.heartbeat import Heartbeat, last_signs
from prunetune.search.interruption import Interruption, StopAskedError, safe_point, stop_is_asked
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.study import open_study, study_exists, study_lock
from prunetune.search.taking import limit_reached
from prunetune.search.workers import is_near, reap, responsible
from prunetune.spaces import PrunetuneError


def run_study(spec: StudySpec, console: Console) -> optuna.Study:
    """Carries out a study's trials until there are enough, then finishes it.

    The same call resumes a study, joins one that runs elsewhere, and shows one that is done.

    Raises:
        PrunetuneError: Something the user must mend; what was finished is kept.
        StopAskedError: As asked for; the running trial was given back, and those put aside.
        KeyboardInterrupt: The same in the middle of an epoch, after a second signal.
    """
    progress = Progress(console, spec.trials)
    with Interruption():
        try:
            return _run(spec, progress)
        except Exception as error:
            if stop_is_asked() and not isinstance(error, PrunetuneError):
                raise StopAskedError from error  # a signal to the whole group also ends the processes that load images
            raise
        finally:
            progress.end()


def _run(spec: StudySpec, progress: Progress) -> optuna.Study:
    if study_exists(spec):
        open_study(spec)  # a changed description shows before any work
    engine = _engine(spec, progress)
    with engine:
        study = engine.prepare()
        with storage_errors(spec.folder, spec.storage):
            done_before = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
            if done_before:
                rest = "no further trial" if limit_reached(study, spec) else "going on"
                progress.say(f"study {spec.name}: {done_before} finished trials, {rest}")
            safe_point()
            with Heartbeat(study) as heartbeat:
                engine.all_trials(study, heartbeat)
                while (others := _others_finish(study, spec, progress)) is None:
                    engine.all_trials(study, heartbeat)
            if (reached := limit_reached(study, spec)) and not reached.startswith("trials"):
                progress.say(f"no further trial: {reached}")
            if others:
                progress.say(
                    "no trial is left to take; the processes that still run will train the controls and finish the "
                    "study"
                )
            else:
                engine.finish(study)
    return study


def _engine(spec: StudySpec, progress: Progress) -> Engine:
    if spec.engine == "ray":
        from prunetune.search.ray_engine import RayEngine

        return RayEngine(spec, progress)
    from prunetune.search.local_engine import LocalEngine  # torch and ultralytics

    return LocalEngine(spec, progress)


def _others_finish(study: optuna.Study, spec: StudySpec, progress: Progress) -> bool | None:
    """Whether others, who live, will finish the study; None if there is work again.

    Who died on another host is noticed only when it was silent for a while. So nobody leaves before each of those that
    run was heard once more, ended, or was given up.
    """
    first, pause = last_signs(study), threading.Event()
    while running := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        with study_lock(spec.folder):
            if reap(study):
                return None
        signs = last_signs(study)
        far = [trial for trial in running if not is_near(responsible(trial) or {})]
        unheard = [trial for trial in far if trial.number in first and first[trial.number] == signs.get(trial.number)]
        if not unheard:
            return True
        told = ", ".join(f"trial {trial.number} on {trial.user_attrs['worker'].get('host')}" for trial in unheard)
        progress.begin(f"waiting for a sign of life of {told}")
        safe_point()
        pause.wait(LOOK_S)
    return False
