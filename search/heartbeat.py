"""Signs of life of running trials, in the study's storage: who died on another host is noticed.

Optuna's storages keep heartbeats, but beat only inside `study.optimize`, and its thread ends at the first lost
connection. Ages are told by the clock of the data base alone. The lease is that of a stage, so that a trial and
its stages are given up together.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime

import optuna
import sqlalchemy.exc
from optuna.storages import fail_stale_trials
from optuna.trial import Trial, TrialState

from prunetune.pruning.lease import StageBusyError
from prunetune.pruning.processes import CLOCK_STEP_S
from prunetune.search.database import SharedStorage
from prunetune.search.interruption import TrialLostError, asked_at_safe_points
from prunetune.search.storage import GRACE_S as GRACE_S
from prunetune.search.storage import INTERVAL_S as INTERVAL_S
from prunetune.search.storage import cache_of

_log = logging.getLogger(__name__)


class Heartbeat:
    """Beats for the trials of this process, while its block runs.

    Args:
        study: Whose trials.
        interval_s: Seconds between beats.
    """

    def __init__(self, study: optuna.Study, interval_s: float = INTERVAL_S) -> None:
        self._study, self._interval_s = study, interval_s
        self._trials: dict[int, Trial] = {}
        self._lost: set[int] = set()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def begin(self, trial: Trial) -> None:
        """Beats for a trial from now on."""
        with self._lock:
            self._trials[trial.number] = trial

    def end(self, trial: Trial) -> None:
        """Beats for it no more."""
        with self._lock:
            self._trials.pop(trial.number, None)

    @contextmanager
    def carrying_out(self, trial: Trial) -> Iterator[None]:
        """Within its block, safe points ask whether the trial is still this process's.

        Raises:
            TrialLostError: It is not.
        """

        def require_not_lost() -> None:
            if trial.number in self._lost:
                raise TrialLostError

        require_owned(self._study, trial)
        with asked_at_safe_points(require_not_lost):
            try:
                yield
            except StageBusyError:
                require_owned(self._study, trial)  # who got the trial may be the one that trains its stage
                raise

    def beat(self) -> None:
        """Beats once for each trial, and notices those that were lost."""
        with self._lock:
            trials = list(self._trials.values())
        storage = cache_of(self._study)
        with nullcontext() if storage is None else storage.database.patience.none():
            self._beat_for(trials)

    def _beat_for(self, trials: list[Trial]) -> None:
        for trial in trials:
            try:
                sign_of_life(self._study, trial)
                if _is_finished(self._study, trial):
                    self._lost.add(trial.number)
            except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                # The data base may be back for the next beat. What it refuses for good ends the trial.
                _log.info("trial %d: no sign of life could be stored (%s)", trial.number, type(error).__name__)

    def _beat_on(self) -> None:
        while not self._end.wait(self._interval_s):
            self.beat()


def ask(study: optuna.Study) -> Trial:
    """Asks for a trial, with its first sign of life."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with", UserWarning)
        trial = study.ask()
    sign_of_life(study, trial)
    return trial


def sign_of_life(study: optuna.Study, trial: Trial) -> None:
    """Says that the process which carries out a trial lives."""
    if (database := _database(study)) is not None:
        database.record_heartbeat(trial._trial_id)


def fail_silent_trials(study: optuna.Study) -> None:
    """Fails the trials whose workers gave no sign of life for too long. From then on no result can be told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)


def silent_trials(study: optuna.Study) -> set[int]:
    """The numbers of the running trials whose workers gave no sign of life for too long. Changes nothing."""
    database = _database(study)
    stale = set() if database is None else set(database._get_stale_trial_ids(study._study_id))
    if not stale:
        return set()
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return {trial.number for trial in running if trial._trial_id in stale}


def last_signs(study: optuna.Study) -> dict[int, datetime]:
    """When each running trial last gave a sign of life, by the clock of the data base."""
    database = _database(study)
    if database is None:
        return {}
    running = {trial._trial_id: trial.number for trial in study.get_trials(states=(TrialState.RUNNING,))}
    signs, _ = database.last_signs(study._study_id)
    return {running[trial_id]: heard for trial_id, heard in signs.items() if trial_id in running}


def clock_ahead_s(study: optuna.Study) -> float:
    """By how many seconds this host's clock is ahead of the data base's; 0 where that has no clock of its own."""
    database = _database(study)
    if database is None or database.engine.dialect.name != "postgresql":
        return 0.0
    ahead = time.time() - database.clock().timestamp()
    return ahead if abs(ahead) > CLOCK_STEP_S else 0.0


class Clock:
    """By how much this host's clock is ahead, asked every few seconds, and whenever the clock was set."""

    def __init__(self) -> None:
        self._ahead_s, self._asked_at, self._offset = 0.0, -math.inf, 0.0

    def ahead_s(self, study: optuna.Study) -> float:
        """As `clock_ahead_s`."""
        offset = time.time() - time.monotonic()
        if time.monotonic() - self._asked_at > INTERVAL_S or abs(offset - self._offset) > 1.0:
            self._ahead_s, self._asked_at, self._offset = clock_ahead_s(study), time.monotonic(), offset
        return self._ahead_s


def _database(study: optuna.Study) -> SharedStorage | None:
    """The data base behind a study; None for a study in memory."""
    storage = cache_of(study)
    return None if storage is None else storage.database


def require_owned(study: optuna.Study, trial: Trial) -> None:
    """Makes sure that a trial was not given to another process.

    Raises:
        TrialLostError: It was.
    """
    if _is_finished(study, trial):
        raise TrialLostError


def _is_finished(study: optuna.Study, trial: Trial) -> bool:
    storage = cache_of(study)
    if storage is None:
        return study._storage.get_trial(trial._trial_id).state.is_finished()
    return storage.database.state_of(trial._trial_id).is_finished()
