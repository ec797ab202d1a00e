"""What Ray Tune asks of a study while it carries it out: the next trial, whether to stop, and how trials ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from prunetune.results.record import TrialRecord
from prunetune.search.callbacks.events import TrialBegun
from prunetune.search.callbacks.progress import Progress
from prunetune.search.callbacks.telling import tell_progress
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.local_engine import INTERRUPTED
from prunetune.search.engine.taking import give_trial_back, next_trial
from prunetune.search.engine.workers import this_worker
from prunetune.search.interruption import stop_is_asked
from prunetune.search.ray_tune.worker import REPORT, Report
from prunetune.search.study.stored_study import StoredStudy, set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import AskedTrial
from prunetune.spaces import Outcome

MOST_GIVEN_UP = 3
"""After so many trials in a row whose processes died, the run ends."""

ASK_AGAIN_S = 5.0
"""While this driver's trials run, it looks so often whether the study has another one for it."""


class StudySearcher(Searcher):
    """Gives Ray Tune the trials of an Optuna study, and passes on what their processes report.

    Ray pickles it with its experiment, which nobody restores: the study is the record. So it leaves out what it holds,
    such as the storage's address.

    Args:
        study: Whose trials.
        spec: The study's description.
        progress: Says how trials ended.
        heartbeat: Beats for the trials that run.
    """

    def __init__(self, study: StoredStudy, spec: StudySpec, progress: Progress, heartbeat: Heartbeat) -> None:
        super().__init__(metric=None, mode=None)
        self._study, self._spec, self._progress, self._heartbeat = study, spec, progress, heartbeat
        self._running: dict[str, AskedTrial] = {}
        self.problem: str | None = None
        """Why the run cannot go on."""
        self._given_up, self._ask_at = 0, 0.0

    def __getstate__(self) -> dict[str, object]:
        return {}

    def stops(self, trial_id: str = "", result: Mapping[str, Any] | None = None) -> bool:
        """Whether trials end at their next report, when all that they did is stored."""
        return self.problem is not None or stop_is_asked()

    def suggest(self, trial_id: str) -> Any:
        """The next trial, `FINISHED` when there is none, or None while those that run may leave another."""
        if self.stops():
            return Searcher.FINISHED
        is_full = len(self._running) == self._spec.ray.concurrent
        if self._running and (is_full or time.monotonic() < self._ask_at):
            return None
        asked = next_trial(self._study, self._spec)
        if asked is None:
            self._ask_at = time.monotonic() + ASK_AGAIN_S
            return None if self._running else Searcher.FINISHED
        set_attributes(asked.trial, TrialRecord(driver=this_worker(self._spec.device)).to_attrs())
        self._running[trial_id] = asked
        self._heartbeat.begin(asked.trial)
        self._progress.pass_on(TrialBegun(asked.number, asked.recipe))
        return {"trial": asked.number, "recipe": asked.recipe.as_dict()}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Notes what a trial has cost so far, and passes its epoch on."""
        if trial_id not in self._running:
            return
        report: Report = result[REPORT]
        if report.cost is not None:
            self._running[trial_id] = replace(self._running[trial_id], spent=report.cost)
        self.problem = self.problem or report.problem
        if report.epoch is not None:
            self._progress.pass_on(report.epoch)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Notes that a trial's process reported for the last time, or, in case of an error, died too often."""
        if result:
            self.on_trial_result(trial_id, result)
        if (asked := self._running.pop(trial_id, None)) is None:
            return
        self._heartbeat.end(asked.trial)
        self._ask_at = 0.0
        if error:
            self._give_up(asked)
            return
        frozen = self._study.get_trials(deepcopy=False)[asked.number]
        record = TrialRecord.from_trial(frozen)
        if not frozen.state.is_finished():
            give_trial_back(self._study, asked.number, self.problem or INTERRUPTED, cost=asked.spent)
        elif record.outcome is not None and record.outcome.counts:
            self._given_up = 0
            tell_progress(self._study, self._spec, asked.number, record, self._progress)

    def _give_up(self, asked: AskedTrial) -> None:
        self._given_up += 1
        reason = f"its process died {self._spec.ray.max_failures + 1} times"
        give_trial_back(self._study, asked.number, reason, Outcome.WORKER_DIED, asked.spent)
        self._progress.say(f"trial {asked.number}: {reason}")
        if self._given_up >= MOST_GIVEN_UP:
            self.problem = (
                f"the processes of {MOST_GIVEN_UP} trials in a row died; Ray's logs have what they wrote. The same "
                "command goes on"
            )

    def give_all_back(self) -> None:
        """Gives back what still runs: Ray ends it with the experiment."""
        for trial_id in list(self._running):
            self.on_trial_complete(trial_id)
