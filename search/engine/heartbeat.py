"""Heartbeats of running trials, in the study's database: who died on another host is noticed.

Optuna's storages keep heartbeats, but beat only inside `study.optimize`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.trial import Trial

from prunetune.pruning.stages.lease import StageBusyError
from prunetune.search.interruption import TrialLostError, asked_at_safe_points
from prunetune.search.study.stored_study import INTERVAL_S, StoredStudy

_log = logging.getLogger(__name__)


class Heartbeat:
    """Beats for the trials of this process, while its block runs.

    Args:
        study: Whose trials.
        interval_s: Seconds between beats.
    """

    def __init__(self, study: StoredStudy, interval_s: float = INTERVAL_S) -> None:
        self._study, self._interval_s = study, interval_s
        self._running: set[int] = set()
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
            self._running.add(trial.number)

    def end(self, trial: Trial) -> None:
        """Beats for it no more."""
        with self._lock:
            self._running.discard(trial.number)

    @contextmanager
    def carrying_out(self, trial: Trial) -> Iterator[None]:
        """Within its block, safe points ask whether the trial is still this process's.

        Raises:
            TrialLostError: It is not.
        """

        def require_not_lost() -> None:
            if trial.number in self._lost:
                raise TrialLostError

        def require_running() -> None:
            if self._study.is_finished(trial.number):
                raise TrialLostError

        require_running()
        with asked_at_safe_points(require_not_lost):
            try:
                yield
            except StageBusyError:
                require_running()  # who got the trial may be the one that trains its stage
                raise

    def beat(self) -> None:
        """Beats once for each trial, and notices those that were lost."""
        with self._lock:
            running = sorted(self._running)
        for number in running:
            try:
                self._study.record_heartbeat(number)
                if self._study.is_finished(number):
                    self._lost.add(number)
            # The database may be back for the next beat; what it refuses for good ends the trial. Without this thread
            # all trials of the process would be taken from it.
            except Exception as error:
                _log.info("trial %d: no heartbeat could be stored (%s)", number, type(error).__name__)

    def _beat_on(self) -> None:
        while not self._end.wait(self._interval_s):
            self.beat()
