"""Who carries out a trial, and whether he is still alive.

Every trial names its process. When a process of this host is gone but its trial still runs, the trial is failed
and its recipe enqueued again; the stage store has what was finished.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from prunetune.pruning.processes import is_alive as is_alive
from prunetune.pruning.processes import this_process
from prunetune.search.outcome import Outcome

RETRY_OF = "retry_of"


def this_worker(device: str) -> dict[str, Any]:
    """This process and what it trains on, as a trial names them."""
    return {**this_process(), "device": device}


def reap(study: optuna.Study) -> list[int]:
    """Fails the trials of dead workers and enqueues their recipes again. Call it with the study's lock held.

    Returns:
        The numbers of the trials that were failed.
    """
    reaped = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get("worker")
        # A trial without a worker died between being asked for and being signed, which happens under the lock.
        if worker is None or not is_alive(worker):
            give_back(study, trial, Outcome.WORKER_DIED, "the process that carried it out is gone")
            reaped.append(trial.number)
    requeue(study)
    return reaped


def give_back(study: optuna.Study, trial: FrozenTrial, outcome: Outcome, reason: str) -> None:
    """Fails a trial that is to be carried out again."""
    live = optuna.trial.Trial(study, trial._trial_id)
    live.set_user_attr("outcome", outcome.value)
    live.set_user_attr("reason", reason)
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def requeue(study: optuna.Study) -> None:
    """Enqueues every given-back recipe that no later trial carries: also after a death in between."""
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        outcome = trial.user_attrs.get("outcome")
        given_back = trial.state == TrialState.FAIL and outcome is not None and not Outcome(outcome).counts
        # A worker that took an enqueued recipe may have died before it read it all.
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if given_back and params and trial.number not in retried:
            study.enqueue_trial(params, user_attrs={RETRY_OF: trial.number})
