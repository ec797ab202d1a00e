"""What Ray Tune asks of a study while it carries it out: the next trial, whether to stop, and how trials ended."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from optuna.trial import Trial, TrialState
from ray import tune
from ray.tune.search import Searcher

from prunetune.results.record import TrialRecord
from prunetune.search.events import TrialBegun
from prunetune.search.heartbeat import Heartbeat
from prunetune.search.interruption import stop_is_asked
from prunetune.search.progress import Progress
from prunetune.search.ray_worker import PROBLEM, reported_epoch
from prunetune.search.spec import StudySpec
from prunetune.search.storage import StoredStudy, set_attributes
from prunetune.search.taking import give_trial_back, next_trial
from prunetune.search.telling import tell_progress
from prunetune.search.workers import this_worker
from prunetune.spaces import Outcome, Recipe

MOST_GIVEN_UP = 3
"""After so many trials in a row whose processes died, the run ends."""

ASK_AGAIN_S = 5.0
"""While this driver's trials run, it looks so often whether the study has another one for it."""


class Drive:
    """One driver's work on a study, as the parts see it that Ray Tune calls.

    Ray stores those parts in its experiment. This stays out of it: it knows the storage's address.

    Args:
        study: Whose trials.
        spec: The study's description.
        progress: Says how trials ended.
        heartbeat: Beats for the trials that run.
    """

    current: Drive

    def __init__(self, study: StoredStudy, spec: StudySpec, progress: Progress, heartbeat: Heartbeat) -> None:
        self.study, self.spec, self.progress, self.heartbeat = study, spec, progress, heartbeat
        self.trials: dict[str, Trial] = {}
        self.problem: str | None = None
        self.is_exhausted = False
        self._given_up, self._ask_at = 0, 0.0

    @classmethod
    def begin(cls, study: StoredStudy, spec: StudySpec, progress: Progress, heartbeat: Heartbeat) -> Drive:
        """Makes the drive that this process's searcher, stopper and callback speak to."""
        cls.current = cls(study, spec, progress, heartbeat)
        return cls.current

    @property
    def stops(self) -> bool:
        """Whether trials end at their next report."""
        return self.problem is not None or stop_is_asked()

    def suggest(self, name: str) -> dict[str, Any] | str | None:
        """The next trial, `FINISHED` when there is none, or None while those that run may leave another."""
        if self.stops:
            return Searcher.FINISHED
        if self.trials and time.monotonic() < self._ask_at:
            return None
        claim = next_trial(self.study, self.spec)
        if claim is not None:
            self._own(name, claim.trial, claim.recipe)
            return {"trial": claim.trial.number, "recipe": claim.recipe.as_dict()}
        self._ask_at = time.monotonic() + ASK_AGAIN_S
        self.is_exhausted = not self.trials
        return Searcher.FINISHED if self.is_exhausted else None

    def adopt(self, numbers: dict[str, int]) -> None:
        """Takes over the trials of a driver that died."""
        trials = self.study.get_trials(deepcopy=False)
        for name, number in numbers.items():
            if trials[number].state == TrialState.RUNNING:
                recipe = TrialRecord.from_trial(trials[number]).recipe
                assert isinstance(recipe, Recipe)  # it was asked for
                self._own(name, self.study.running_trial(number), recipe)

    def complete(self, name: str, result: dict[str, Any] | None) -> None:
        """Notes that a trial's process reported for the last time, or died too often."""
        trial = self.trials.pop(name, None)
        if trial is None:
            return
        self.heartbeat.end(trial)
        self._ask_at = 0.0
        if result is None:
            self._given_up += 1
            reason = f"its process died {self.spec.ray.max_failures + 1} times"
            give_trial_back(self.study, trial.number, reason, Outcome.WORKER_DIED)
            self.progress.say(f"trial {trial.number}: {reason}")
            if self._given_up >= MOST_GIVEN_UP:
                self.problem = (
                    f"the processes of {MOST_GIVEN_UP} trials in a row died; Ray's logs have what they wrote. The "
                    "same command goes on"
                )
            return
        self.problem = self.problem or result.get(PROBLEM)
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        if not frozen.state.is_finished():
            give_trial_back(self.study, trial.number, result.get(PROBLEM) or "the run was interrupted")
        elif (record := TrialRecord.from_trial(frozen)).outcome not in (Outcome.WORKER_DIED, Outcome.INTERRUPTED):
            self._given_up = 0
            tell_progress(self.study, self.spec, trial.number, record, self.progress)

    def recover(self, name: str) -> None:
        """Says that a trial's process died and that Ray starts another one for it."""
        if (trial := self.trials.get(name)) is not None:
            self.progress.say(f"trial {trial.number}: its process died; another one goes on with it")

    def give_all_back(self) -> None:
        """Gives back what still runs: Ray ends it with the experiment."""
        for trial in self.trials.values():
            self.heartbeat.end(trial)
            give_trial_back(self.study, trial.number, "the run was interrupted")
        self.trials.clear()

    def hear(self, name: str, result: dict[str, Any]) -> None:
        """Passes an epoch on that a trial's process reported."""
        trial = self.trials.get(name)
        if trial is not None and (epoch := reported_epoch(trial.number, result)) is not None:
            self.progress.pass_on(epoch)

    def _own(self, name: str, trial: Trial, recipe: Recipe) -> None:
        set_attributes(trial, TrialRecord(driver=this_worker(self.spec.device)).to_attrs())
        self.trials[name] = trial
        self.heartbeat.begin(trial)
        self.progress.pass_on(TrialBegun(trial.number, recipe))


class StudySearcher(Searcher):
    """Gives Ray Tune the trials of an Optuna study. What Ray stores of it is which trial is which."""

    def __init__(self) -> None:
        super().__init__(metric=None, mode=None)

    def suggest(self, trial_id: str) -> Any:
        """See `Drive.suggest`."""
        return Drive.current.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See `Drive.complete`."""
        Drive.current.complete(trial_id, None if error else result)

    def save(self, checkpoint_path: str) -> None:
        """Writes the numbers of the trials that run."""
        numbers = {name: trial.number for name, trial in Drive.current.trials.items()}
        Path(checkpoint_path).write_text(json.dumps(numbers))

    def restore(self, checkpoint_path: str) -> None:
        """See `Drive.adopt`."""
        Drive.current.adopt(json.loads(Path(checkpoint_path).read_text()))


class StopWhenAsked(tune.Stopper):
    """Ends trials at a report, when all that they did is stored."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends that has just reported."""
        return Drive.current.stops

    def stop_all(self) -> bool:
        """Never: it would not wait for the reports."""
        return False


class Listen(tune.Callback):
    """Hears every epoch, and what Ray mends. Ray itself logs a traceback."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """See `Drive.hear`."""
        Drive.current.hear(trial.trial_id, result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `Drive.recover`."""
        Drive.current.recover(trial.trial_id)
