"""What progress shows after a trial: how it ended, and where the study is."""

from __future__ import annotations

import time
from dataclasses import replace

import optuna

from prunetune.results.findings.findings import Findings
from prunetune.results.record import TrialRecord
from prunetune.search.callbacks.events import FrontMember, StudyProgress
from prunetune.search.callbacks.progress import Progress
from prunetune.search.study.limits import forecast, spent
from prunetune.search.study.study_spec import StudySpec

FRONT_EVERY, FRONT_SHARE = 5, 20
"""The front is shown after every fifth trial, in a large study after every twentieth part of them."""


def tell_progress(study: optuna.Study, spec: StudySpec, number: int, record: TrialRecord, progress: Progress) -> None:
    """Tells how a trial ended and where the study is."""
    state = _progress(study, spec)
    progress.trial(number, record, state.finished)
    is_due = state.finished % max(FRONT_EVERY, state.finished // FRONT_SHARE) == 0
    progress.tell(replace(state, is_due=is_due))


def tell_standing(study: optuna.Study, spec: StudySpec, progress: Progress) -> None:
    """Tells where a study is that goes on."""
    progress.tell(_progress(study, spec))


def _progress(study: optuna.Study, spec: StudySpec) -> StudyProgress:
    found, now = Findings.of(study), time.time()
    trials = [(trial, found.records[trial.number]) for trial in found.trials]
    return StudyProgress(
        finished=spent(trials, now).finished,
        trials=spec.trials,
        trained=sum(record.cost.epochs_trained for _, record in trials),
        reused=sum(record.cost.epochs_reused for _, record in trials),
        front=tuple(map(FrontMember.of, found.front)),
        remaining=forecast(spec.limits, trials, now),
        is_due=False,
    )
