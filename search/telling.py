"""What progress shows after a trial: how it ended, and where the study is."""

from __future__ import annotations

import time

import optuna
from optuna.trial import FrozenTrial

from prunetune.results.findings import Findings
from prunetune.results.record import StudyRecord, TrialRecord
from prunetune.search.events import FrontMember, StudyProgress
from prunetune.search.limits import forecast
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.storage import history
from prunetune.search.taking import now

FRONT_EVERY, FRONT_SHARE = 5, 20
"""The front is shown after every fifth trial, in a large study after every twentieth part of them."""

MANY = 200
"""From so many trials on, where the study is is looked up only when it is shown: it takes a look at every trial."""


def tell_progress(study: optuna.Study, spec: StudySpec, number: int, record: TrialRecord, progress: Progress) -> None:
    """Tells how a trial ended and where the study is."""
    trials = study.get_trials(deepcopy=False)
    finished = history(study).spent(trials, time.time()).finished
    progress.trial(number, record, finished)
    is_due = finished % max(FRONT_EVERY, finished // FRONT_SHARE) == 0
    if is_due or len(trials) < MANY:
        progress.tell(_progress(study, spec, trials, is_due))


def tell_standing(study: optuna.Study, spec: StudySpec, progress: Progress) -> None:
    """Tells where a study is that goes on."""
    progress.tell(_progress(study, spec, study.get_trials(deepcopy=False), is_due=False))


def _progress(study: optuna.Study, spec: StudySpec, trials: list[FrozenTrial], is_due: bool) -> StudyProgress:
    so_far = now(study)
    known = history(study).records(trials)
    front = Findings(study.study_name, tuple(trials), StudyRecord.of(study)).front
    return StudyProgress(
        finished=history(study).spent(trials, so_far).finished,
        trials=spec.trials,
        trained=sum(record.cost.epochs_trained for _, record in known),
        reused=sum(record.cost.epochs_reused for _, record in known),
        front=tuple(map(FrontMember.of, front)),
        remaining=forecast(spec.limits, known, so_far),
        is_due=is_due,
    )
