"""What is told after a trial: how it ended, and where the study is."""

from __future__ import annotations

import time

import optuna
from optuna.trial import FrozenTrial

from prunetune.results import Findings
from prunetune.results.entries import round_of
from prunetune.search.events import RoundEnded, Standing
from prunetune.search.history import attempts_before
from prunetune.search.limits import forecast
from prunetune.search.outcome import TrialResult
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.storage import history
from prunetune.search.taking import now

FRONT_EVERY, FRONT_SHARE = 5, 20
"""The front is shown after every fifth trial, in a large study after every twentieth part of them."""

MANY = 200
"""From so many trials on, where the study is is looked up only when it is shown: it takes a look at every trial."""


def tell_progress(study: optuna.Study, spec: StudySpec, result: TrialResult, progress: Progress) -> None:
    """Tells how a trial ended and where the study is."""
    trials = study.get_trials(deepcopy=False)
    finished = history(study).spent(trials, time.time()).finished
    progress.trial(result, finished)
    attempts = {result.number} | attempts_before(trials, result.number)
    for trial in trials[min(attempts) + 1 :]:  # they were added while it ran
        if round_of(trial) in attempts:
            progress.tell(RoundEnded(TrialResult.of(trial), result.number))
    is_due = finished % max(FRONT_EVERY, finished // FRONT_SHARE) == 0
    if is_due or len(trials) < MANY:
        progress.tell(_standing(study, spec, trials, is_due))


def tell_standing(study: optuna.Study, spec: StudySpec, progress: Progress) -> None:
    """Tells where a study is that goes on."""
    progress.tell(_standing(study, spec, study.get_trials(deepcopy=False), is_due=False))


def _standing(study: optuna.Study, spec: StudySpec, trials: list[FrozenTrial], is_due: bool) -> Standing:
    so_far = now(study)
    epochs = [trial.user_attrs.get("epochs", {}) for trial in trials]
    members = Findings(study.study_name, tuple(trials), study.user_attrs).front
    return Standing(
        finished=history(study).spent(trials, so_far).finished,
        trials=spec.trials,
        trained=sum(item.get("trained", 0) for item in epochs),
        reused=sum(item.get("reused", 0) for item in epochs),
        front=[{"trial": item.trial, "map50_95": item.map50_95, "latency_ms": item.latency_ms} for item in members],
        remaining=forecast(spec.limits, trials, so_far),
        is_due=is_due,
    )
