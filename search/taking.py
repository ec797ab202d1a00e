"""Takes a study's trials, one after the other, and gives back what is not carried out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import optuna
from optuna.trial import Trial, TrialState

from prunetune.pruning.ledger import Ledger
from prunetune.search.heartbeat import ask, clock_ahead_s
from prunetune.search.limits import spent
from prunetune.search.outcome import Outcome
from prunetune.search.samplers import next_sampler
from prunetune.search.spec import StudySpec
from prunetune.search.spec_change import refuse_change
from prunetune.search.study import stored_spec, study_lock
from prunetune.search.workers import give_back, reap, requeue, this_worker
from prunetune.spaces import Recipe


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken."""

    trial: Trial
    recipe: Recipe
    ledger: Ledger = field(default_factory=Ledger, compare=False)
    """What all attempts at it took: one that meets a stage which another process trains is put aside."""


def next_trial(study: optuna.Study, spec: StudySpec) -> Claim | None:
    """Takes the next trial, or None if the study has all it should have.

    Trials of dead processes are failed first, and their recipes come before new ones.
    """
    with study_lock(spec.folder):
        reap(study)
        trials = study.get_trials(deepcopy=False)
        if not trials:  # until the first one the description may change
            refuse_change(stored_spec(study), spec)
        ahead_s = clock_ahead_s(study)
        if spec.limits.reached(spent(trials, time.time() - ahead_s)) is not None:
            return None
        study.sampler = next_sampler(spec, trials)
        trial = ask(study)  # with a sign of life, before it is signed: what is not signed needs none to be noticed
        trial.set_user_attr("worker", this_worker(spec.device, ahead_s))
        recipe = spec.space.suggest(trial)
        trial.set_user_attr("recipe", recipe.as_dict())
        return Claim(trial, recipe)


def give_trial_back(
    study: optuna.Study,
    spec: StudySpec,
    number: int,
    reason: str,
    why: Outcome = Outcome.INTERRUPTED,
    ledger: Ledger | None = None,
) -> None:
    """Gives back a trial that was taken, so that its recipe is carried out again. Does nothing if it has ended.

    Args:
        study: The trial's.
        spec: The study's description.
        number: The trial.
        reason: Why, for the user.
        why: `INTERRUPTED` or `WORKER_DIED`.
        ledger: What was trained for it; that counts in the study's budget, and whoever goes on reads it back.
    """
    with study_lock(spec.folder, always=True):
        frozen = study.get_trials(deepcopy=False)[number]
        if frozen.state == TrialState.RUNNING:
            if ledger is not None:
                note_epochs(Trial(study, frozen._trial_id), ledger)
            give_back(study, frozen, why, reason)
        requeue(study)


def note_epochs(trial: Trial, ledger: Ledger) -> None:
    """Stores with a trial how many epochs were trained for it, and how many were read back."""
    trial.set_user_attr("epochs", {"trained": ledger.epochs_trained, "reused": ledger.epochs_reused})


def limit_reached(study: optuna.Study, spec: StudySpec) -> str | None:
    """Which limit ends the study, or None if it has further trials."""
    return spec.limits.reached(spent(study.get_trials(deepcopy=False), now(study)))


def now(study: optuna.Study) -> float:
    """Seconds since the epoch, by the data base's clock."""
    return time.time() - clock_ahead_s(study)
