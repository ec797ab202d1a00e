"""Who carries out a trial, and whether he is still alive.

Every trial names its host, process and device. When a process of this host is gone but its trial still runs, the trial
is failed at once, and when one of any host gives no sign of life for a minute; its recipe is enqueued again. The stage
store has what was finished. A result that comes after that is refused by the storage: the trial has ended.
"""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.trial import FrozenTrial, TrialState

from prunetune.pruning.processes import is_alive as is_alive
from prunetune.pruning.processes import this_process
from prunetune.results.record import TrialRecord
from prunetune.search.heartbeat import fail_silent_trials
from prunetune.search.storage import history, is_running, set_attributes
from prunetune.spaces import Outcome


def this_worker(device: str, ahead_s: float = 0.0) -> dict[str, object]:
    """This process and what it trains on, as a trial names them.

    Args:
        device: As `StudySpec.device` names it.
        ahead_s: How far the clock of this host, which the trial's times are told by, is ahead of the data base's.
    """
    return {**this_process(), "device": device, **({"ahead_s": round(ahead_s)} if ahead_s else {})}


def is_near(worker: Mapping[str, object]) -> bool:
    """Whether a worker is on this host, so that its death would be seen at once."""
    here = this_process()
    return all(worker.get(key) == here[key] for key in ("host", "namespace"))


def responsible(trial: FrozenTrial) -> Mapping[str, object] | None:
    """Whose death ends a trial: its worker's, or its driver's where the worker is one of a cluster's."""
    record = TrialRecord.from_trial(trial)
    return record.driver or record.worker


def reap(study: optuna.Study) -> list[int]:
    """Fails the trials of dead workers and enqueues their recipes again. Call it while no other process does.

    Returns:
        The numbers of the trials that were failed.
    """
    before = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    fail_silent_trials(study)
    trials = study.get_trials(deepcopy=False)
    after = [trials[trial.number] for trial in before]
    reaped = [trial.number for trial in after if TrialRecord.from_trial(trial).outcome is Outcome.WORKER_DIED]
    gone = TrialRecord(outcome=Outcome.WORKER_DIED, reason="the process that carried it out is gone")
    for trial in after:
        if trial.state != TrialState.RUNNING:
            continue
        worker = responsible(trial)
        # A trial without a worker died between being asked for and being signed, which is one act.
        is_gone = worker is None or not is_alive(worker)
        if is_gone and give_back(study, trial, gone):
            reaped.append(trial.number)
    requeue(study)
    return sorted(reaped)


def give_back(study: optuna.Study, trial: FrozenTrial, record: TrialRecord) -> bool:
    """Fails a trial that is to be carried out again, unless it has ended. Call it while no other process does.

    Args:
        study: The study.
        trial: The trial.
        record: Why, and what was spent on it.
    """
    if not is_running(study, trial):
        return False  # its worker told its end a moment ago
    live = optuna.trial.Trial(study, trial._trial_id)
    set_attributes(live, record.to_attrs())
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return True


def requeue(study: optuna.Study) -> None:
    """Enqueues every given-back recipe that no later trial carries: also after a death in between."""
    for number, params in history(study).not_retried(study.get_trials(deepcopy=False)):
        study.enqueue_trial(params, user_attrs=TrialRecord(retry_of=number).to_attrs())
