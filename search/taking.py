"""Takes a study's trials, one after the other, and gives back what is not carried out."""

from __future__ import annotations

import time
from itertools import count

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from prunetune.results.record import TrialRecord
from prunetune.search.heartbeat import Clock, ask, clock_ahead_s
from prunetune.search.interruption import TrialLostError, safe_point
from prunetune.search.samplers import next_sampler
from prunetune.search.spec import StudySpec
from prunetune.search.spec_change import refuse_change
from prunetune.search.storage import (
    alone,
    history,
    memory,
    patiently_store,
    set_attributes,
    together,
)
from prunetune.search.study import stored_spec
from prunetune.search.trial.objective import AskedTrial
from prunetune.search.workers import give_back, reap, requeue, this_worker
from prunetune.spaces import Cost, Outcome


def next_trial(study: optuna.Study, spec: StudySpec) -> AskedTrial | None:
    """Takes the next trial, or None if the study has all it should have.

    Trials of dead processes are failed first, and their recipes come before new ones.
    """
    ahead_s = memory(study, Clock).ahead_s(study)

    def claim() -> tuple[Trial, list[FrozenTrial]] | None:
        with alone(study):
            reap(study)
            trials = study.get_trials(deepcopy=False)
            if not trials:  # until the first one the description may change
                refuse_change(stored_spec(study), spec)
            if spec.limits.reached(history(study).spent(trials, time.time() - ahead_s)) is not None:
                return None
            return _asked(study, spec, ahead_s), trials

    if (claimed := patiently_store(study, claim)) is None:
        return None
    trial, before = claimed
    study.sampler = next_sampler(spec, before, unseen=max(0, trial.number - len(before)))
    return _signed(study, spec, trial)


def _asked(study: optuna.Study, spec: StudySpec, ahead_s: float) -> Trial:
    """Takes a trial and signs it. Call it while no other process does."""
    safe_point()
    trial = ask(study)
    set_attributes(trial, TrialRecord(worker=this_worker(spec.device, ahead_s)).to_attrs())
    return trial


def _signed(study: optuna.Study, spec: StudySpec, trial: Trial) -> AskedTrial:
    """Chooses a trial's recipe. Others take their trials meanwhile; who dies here has asked for nothing."""
    attempts = count()

    def sign() -> AskedTrial:
        # What a lost attempt has chosen is not in the data base: Optuna's object takes it for stored.
        mine = trial if next(attempts) == 0 else Trial(study, trial._trial_id)
        mine.relative_params  # noqa: B018  # sampled here, before anything is locked
        with together(study, mine):
            recipe = spec.space.suggest(mine)
            set_attributes(mine, TrialRecord(recipe).to_attrs())
        return AskedTrial(mine, recipe)

    try:
        return patiently_store(study, sign)
    except optuna.exceptions.UpdateFinishedTrialError as error:
        raise TrialLostError from error


def give_trial_back(
    study: optuna.Study,
    number: int,
    reason: str,
    why: Outcome = Outcome.INTERRUPTED,
    cost: Cost | None = None,
) -> None:
    """Gives back a trial that was taken, so that its recipe is carried out again. Does nothing if it has ended.

    Args:
        study: The trial's.
        number: The trial.
        reason: Why, for the user.
        why: `INTERRUPTED` or `WORKER_DIED`.
        cost: What was spent on it; that counts in the study's limits, and whoever goes on reads its stages back.
    """

    def act() -> None:
        with alone(study):
            frozen = study.get_trials(deepcopy=False)[number]
            if frozen.state == TrialState.RUNNING:
                give_back(study, frozen, TrialRecord(outcome=why, reason=reason, cost=cost or Cost()))
            requeue(study)

    patiently_store(study, act)


def limit_reached(study: optuna.Study, spec: StudySpec) -> str | None:
    """Which limit ends the study, or None if it has further trials."""
    return spec.limits.reached(history(study).spent(study.get_trials(deepcopy=False), now(study)))


def is_over(study: optuna.Study, spec: StudySpec) -> bool:
    """Whether nothing is left to do: a limit is reached, no trial runs, and none waits to be taken up again."""
    open_trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return not open_trials and limit_reached(study, spec) is not None


def now(study: optuna.Study) -> float:
    """Seconds since the epoch, by the data base's clock."""
    return time.time() - clock_ahead_s(study)


def reap_alone(study: optuna.Study) -> list[int]:
    """Gives back the trials of dead workers, while no other process does."""
    with alone(study):
        return reap(study)
