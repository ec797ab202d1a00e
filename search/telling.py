"""What is said after a trial: its line, and now and then the front and what remains."""

from __future__ import annotations

import time
from datetime import datetime

import optuna

from prunetune.results import front
from prunetune.search.limits import forecast
from prunetune.search.outcome import TrialResult
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.storage import history
from prunetune.search.taking import now

FRONT_EVERY, FRONT_SHARE = 5, 20
"""The front is shown after every fifth trial, in a large study after every twentieth part of them."""


def tell_progress(study: optuna.Study, spec: StudySpec, result: TrialResult, progress: Progress) -> None:
    """Says how a trial ended and where the study is."""
    trials = study.get_trials(deepcopy=False)
    finished = history(study).spent(trials, time.time()).finished
    progress.trial(result, finished)
    if finished % max(FRONT_EVERY, finished // FRONT_SHARE) == 0:
        members = [f"trial {item.trial}: {item.map50_95:.3f} at {item.latency_ms:.2f} ms" for item in front(study)]
        progress.say("front: " + ("; ".join(members) or "no trial meets the budget yet"))
        if remaining := forecast(spec.limits, trials, now(study)):
            progress.say(remaining.text(datetime.now()))
