"""What a process of a Ray cluster does for a study: carries out its trials, one after the other.

Ray names the process's GPU by `CUDA_VISIBLE_DEVICES`, so that it is always the first, and its threads by
`OMP_NUM_THREADS`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import optuna
from ray import tune
from rich.console import Console

from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.stages.lease import StageBusyError
from prunetune.results.record import TrialRecord
from prunetune.results.storage.storage import storage_errors
from prunetune.search.callbacks.events import EpochEnded, Event, TaskStarted
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.aside import patiently
from prunetune.search.engine.engine import prepare
from prunetune.search.engine.finish import finish
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.workers import this_worker
from prunetune.search.interruption import Interruption, TrialLostError
from prunetune.search.study.stored_study import StoredStudy, set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.objective import AskedTrial, forget_lost, run_and_tell, stored_record
from prunetune.spaces import Cost, PrunetuneError, Recipe, StoreError

REPORT = "report"
"""The figure of a trial, among those that Ray shows, that its driver reads."""


@dataclass(frozen=True)
class Report:
    """What the process of a trial reports to the driver."""

    cost: Cost | None = None
    """What the trial took so far: whatever ends it, that was spent. None: as in the report before."""
    epoch: EpochEnded | None = None
    """The epoch that has just ended."""
    problem: str | None = None
    """Why the process cannot go on. An exception would only make Ray start it again."""


class TuneReports:
    """Reports a trial's epochs, and whatever else begins, to Ray Tune. It may end the trial at any report.

    Args:
        number: The trial's.
        meter: Of its cost.
    """

    def __init__(self, number: int, meter: CostMeter) -> None:
        self._number, self._meter, self._began = number, meter, meter.reading()

    def hear(self, event: Event) -> None:
        """See `Listener`."""
        report = Report(self._meter.reading() - self._began)
        if isinstance(event, EpochEnded):
            accuracy = event.record.accuracy and replace(event.record.accuracy, classes=None)
            record = replace(event.record, accuracy=accuracy, gammas=None)
            epoch = replace(event, what=f"trial {self._number}", trial=self._number, record=record)
            tune.report({**epoch.as_dict(), REPORT: replace(report, epoch=epoch)})
        elif isinstance(event, TaskStarted):
            tune.report({"trial": self._number, REPORT: report})


def prunetune_trial(config: dict[str, Any], spec: StudySpec, folder: str) -> dict[str, Any]:
    """What Ray Tune calls for a trial, under this name on its dashboard.

    Args:
        config: `trial`, its number, and `recipe`.
        spec: The study's description.
        folder: Where its relative paths start.

    Returns:
        The trial's last report.
    """
    number, recipe = config["trial"], Recipe.from_dict(config["recipe"])
    try:
        _enter(folder)
        with storage_errors(spec.folder, spec.storage):
            record = carry_out(number, recipe, *_prepared(spec.model_dump_json(exclude_none=True)))
    except PrunetuneError as error:
        return {"trial": number, REPORT: Report(problem=str(error))}
    figures = {"outcome": "LOST"} if record is None else _figures(record)
    return {"trial": number, **figures, REPORT: Report()}


@lru_cache(maxsize=1)
def _prepared(spec: str) -> tuple[StoredStudy, TrialContext, Progress]:
    """A study as this process keeps it between trials: its data in memory, its networks built."""
    parsed = StudySpec.model_validate_json(spec)
    progress = Progress(_console(), parsed.trials)
    return *prepare(parsed, progress), progress


def carry_out(
    number: int, recipe: Recipe, study: StoredStudy, context: TrialContext, progress: Progress
) -> TrialRecord | None:
    """Carries out a trial; None if it was given to another process, or is over."""
    asked = AskedTrial(study.running_trial(number), recipe)
    if (record := stored_record(study, number)).worker not in (None, record.driver):
        progress.say(f"trial {number}: its process died; another one goes on with it")
    with Heartbeat(study) as heartbeat, progress.heard_by(TuneReports(number, context.cost_meter)):
        heartbeat.begin(asked.trial)
        try:
            with heartbeat.carrying_out(asked.trial):
                set_attributes(asked.trial, TrialRecord(worker=this_worker(context.spec.device)).to_attrs())
                return _patiently(study, asked, context, progress)
        except (TrialLostError, optuna.exceptions.UpdateFinishedTrialError):
            forget_lost(study, number, context)
            return None


def _patiently(study: StoredStudy, asked: AskedTrial, context: TrialContext, progress: Progress) -> TrialRecord:
    """Carries a trial out, again after each wait for a stage that another process trains."""
    spent = Cost()

    def attempt() -> TrialRecord:
        nonlocal spent
        began = context.cost_meter.reading()
        try:
            return run_and_tell(study, replace(asked, spent=spent), context)
        except StageBusyError:
            spent = spent.then(context.cost_meter.reading() - began)
            raise

    return patiently(attempt, f"trial {asked.number}", context.store, progress)


def _figures(record: TrialRecord) -> dict[str, Any]:
    figures: dict[str, Any] = {"outcome": record.outcome and record.outcome.value, "reason": record.reason}
    if record.network is not None and record.outcome is not None and record.outcome.has_values:
        figures["map50_95"] = record.network.accuracy.map50_95
        for target, latency in record.network.figures.latencies.items():
            figures[f"latency_ms/{target}"] = latency.ms
    return figures


def prepare_study(spec: StudySpec, folder: str) -> str | None:
    """A task that does what comes before a study's trials. Returns the problem that it met, if it did."""
    return _problem_of(lambda progress: prepare(spec, progress), spec, folder)


def finish_study(spec: StudySpec, folder: str) -> str | None:
    """A task that trains the controls and writes the results. Returns the problem that it met, if it did."""

    def act(progress: Progress) -> None:
        study, context = prepare(spec, progress)
        finish(study, context, progress)

    return _problem_of(act, spec, folder)


def _problem_of(act: Callable[[Progress], object], spec: StudySpec, folder: str) -> str | None:
    try:
        _enter(folder)
        with Interruption(), storage_errors(spec.folder, spec.storage):  # who cancels a task sends SIGINT
            act(Progress(_console(), spec.trials))
    except PrunetuneError as error:
        return str(error)
    return None


def _enter(folder: str) -> None:
    for name in ("optuna", "alembic", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        os.chdir(folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: this folder is not there on {socket.gethostname()} ({error.strerror}); start the study in a "
            "folder that all nodes share"
        ) from error


def _console() -> Console:
    """Ray collects what is written, shows it on its dashboard, and passes it on to the driver's terminal."""
    return Console(file=sys.stdout, width=180, force_terminal=False)
