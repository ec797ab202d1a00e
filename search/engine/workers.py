"""Who carries out a trial, and whether he is still alive.

Every trial names its host, process and device. When a process of this host is gone but its trial still runs, the trial
is failed at once, and when one of any host has no heartbeat for a minute; its recipe is enqueued again. The stage store
has what was finished. A result that comes after that is refused by the storage: the trial has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.record import TrialRecord
from prunetune.search.engine.processes import is_alive as is_alive
from prunetune.search.engine.processes import this_process
from prunetune.search.study.stored_study import StoredStudy, retry, set_attributes
from prunetune.spaces import Outcome


def this_worker(device: str) -> dict[str, object]:
    """This process and what it trains on, as a trial names them.

    Args:
        device: As `StudySpec.device` names it.
    """
    return {**this_process(), "device": device}


def is_near(worker: Mapping[str, object]) -> bool:
    """Whether a worker is on this host, so that its death would be seen at once."""
    here = this_process()
    return all(worker.get(key) == here[key] for key in ("host", "namespace"))


def responsible(trial: FrozenTrial) -> Mapping[str, object] | None:
    """Whose death ends a trial: its worker's, or its driver's where the worker is one of a cluster's."""
    record = TrialRecord.from_trial(trial)
    return record.driver or record.worker


def reap(study: StoredStudy) -> list[int]:
    """Fails the trials of dead workers and enqueues their recipes again. Call it while you hold the study's lock.

    Returns:
        The numbers of the trials that were failed.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    gone = TrialRecord(outcome=Outcome.WORKER_DIED, reason="the process that carried it out is gone")
    for trial in running:
        worker = responsible(trial)
        # A trial without a worker died between being asked for and being signed: both are done within the lock.
        if worker is None or not is_alive(worker):
            give_back(study, trial.number, gone)
    study.fail_stale_trials()  # after that: of a trial which nobody signed, nothing would say that its worker died
    trials = requeue(study)
    ended = (trial.number for trial in running)
    return [number for number in ended if TrialRecord.from_trial(trials[number]).outcome is Outcome.WORKER_DIED]


def give_back(study: StoredStudy, number: int, record: TrialRecord) -> None:
    """Fails a trial that is to be carried out again, unless it has ended. Whoever asks next enqueues its recipe.

    Args:
        study: The study.
        number: The trial.
        record: Why, and what was spent on it.
    """
    try:
        set_attributes(study.running_trial(number), record.to_attrs())
    except optuna.exceptions.UpdateFinishedTrialError:
        return
    retry(lambda: study.tell(number, state=TrialState.FAIL, skip_if_finished=True))


def requeue(study: StoredStudy) -> list[FrozenTrial]:
    """Enqueues every given-back recipe that no later trial carries: also after a death in between. Call it while you
    hold the study's lock.

    Returns:
        The study's trials as they were.
    """
    trials = study.get_trials(deepcopy=False)
    records = [TrialRecord.from_trial(trial) for trial in trials]
    retried = {record.retry_of for record in records}
    for number, record in enumerate(records):
        is_given_back = record.outcome is not None and not record.outcome.counts
        if is_given_back and number not in retried and (asked := _first_attempt(trials, records, number)):
            study.enqueue_trial(asked.params, user_attrs=TrialRecord(retry_of=number).to_attrs())
    return trials


def _first_attempt(trials: Sequence[FrozenTrial], records: Sequence[TrialRecord], number: int) -> FrozenTrial | None:
    """The trial that has the recipe which a trial was to carry out: itself, or, if it died before it had stored all of
    it, the one that it takes up. None if it had asked for nothing yet."""
    before = records[number].retry_of
    while records[number].recipe is None and before is not None and 0 <= before < number:
        number, before = before, records[before].retry_of
    return None if records[number].recipe is None else trials[number]
