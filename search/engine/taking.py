"""Asks for a study's trials, one after the other, and gives back what is not carried out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from prunetune.results.record import StudyRecord, TrialRecord
from prunetune.search.engine.workers import give_back, reap, this_worker
from prunetune.search.interruption import safe_point
from prunetune.search.samplers.factory import next_sampler
from prunetune.search.study.limits import spent
from prunetune.search.study.open_study import stored_spec, study_lock
from prunetune.search.study.spec_change import refuse_change
from prunetune.search.study.stored_study import StoredStudy, retry, set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import AskedTrial
from prunetune.spaces import Cost, Outcome, SearchSpace


def next_trial(study: StoredStudy, spec: StudySpec) -> AskedTrial | None:
    """Asks for the next trial; None if the study has all it should have.

    Trials of dead workers are failed first, and their recipes come before new ones. One process at a time does that,
    so that the study's limits hold exactly; recipes are chosen side by side.
    """
    while True:
        study.get_trials(deepcopy=False)  # a database that is away is waited for before others wait for this process
        with study_lock(spec.folder):
            trial = retry(lambda: _ask(study, spec))
        if trial is None:
            return None
        try:
            return _choose_recipe(study, spec, trial)
        except optuna.exceptions.UpdateFinishedTrialError:
            pass  # this process was frozen for so long that another one took its trial for dead


def _ask(study: StoredStudy, spec: StudySpec) -> Trial | None:
    """Asks for a trial and signs it, if a limit allows one. What a lost connection left half done is failed by the next
    call: it has no worker."""
    reap(study)
    trials = study.get_trials(deepcopy=False)
    if not trials:  # until the first one the description may change
        refuse_change(stored_spec(study), spec)
    if _limit_reached(spec, trials) is not None:
        return None
    safe_point()
    study.sampler = next_sampler(spec, search_space(study, spec), trials)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with", UserWarning)
        trial = study.ask()
    study.record_heartbeat(trial.number)  # first: without a heartbeat no trial is ever stale
    set_attributes(trial, TrialRecord(worker=this_worker(spec.device)).to_attrs())
    return trial


def _choose_recipe(study: StoredStudy, spec: StudySpec, trial: Trial) -> AskedTrial:
    """Chooses a trial's recipe and stores it; who dies here has asked for nothing.

    Raises:
        UpdateFinishedTrialError: The trial was given to another process.
    """

    def choose() -> AskedTrial:
        # Parameters that were stored before the connection was lost stay as they are.
        stored = study.running_trial(trial.number)
        recipe = search_space(study, spec).suggest(stored)
        set_attributes(stored, TrialRecord(recipe).to_attrs())
        return AskedTrial(stored, recipe)

    return retry(choose)


def search_space(study: StoredStudy, spec: StudySpec) -> SearchSpace:
    """The description's space over the input sizes that the study deploys at."""
    sizes = StudyRecord.of(study).sizes
    return spec.space.over_sizes(sizes) if sizes != (spec.imgsz,) else spec.space


def give_trial_back(
    study: StoredStudy,
    number: int,
    reason: str,
    why: Outcome = Outcome.INTERRUPTED,
    cost: Cost | None = None,
) -> None:
    """Gives back a trial that was asked for, so that its recipe is carried out again. Does nothing if it has ended.

    Args:
        study: The trial's.
        number: The trial.
        reason: Why, for the user.
        why: `INTERRUPTED` or `WORKER_DIED`.
        cost: What was spent on it; that counts in the study's limits, and whoever goes on reads its stages back.
    """
    give_back(study, number, TrialRecord(outcome=why, reason=reason, cost=cost or Cost()))


def limit_reached(study: StoredStudy, spec: StudySpec) -> str | None:
    """Which limit ends the study, or None if it has further trials."""
    return _limit_reached(spec, study.get_trials(deepcopy=False))


def _limit_reached(spec: StudySpec, trials: Sequence[FrozenTrial]) -> str | None:
    return spec.limits.reached(spent([(trial, TrialRecord.from_trial(trial)) for trial in trials], time.time()))


def is_over(study: StoredStudy, spec: StudySpec) -> bool:
    """Whether nothing is left to do: a limit is reached, no trial runs, and none waits to be carried out again."""
    open_trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return not open_trials and limit_reached(study, spec) is not None


def reap_alone(study: StoredStudy, spec: StudySpec) -> list[int]:
    """Gives back the trials of dead workers, while no other process asks for one."""
    with study_lock(spec.folder):
        return retry(lambda: reap(study))
