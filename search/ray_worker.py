"""What a process of a Ray cluster does for a study: carries out its trials, one after the other.

Ray names the process's GPU by `CUDA_VISIBLE_DEVICES`, so that it is always the first, and its threads by
`OMP_NUM_THREADS`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial
from ray import tune
from rich.console import Console

from prunetune.pruning.lease import StageBusyError
from prunetune.pruning.training import EpochListener, EpochRecord
from prunetune.results.record import TrialRecord
from prunetune.results.storage import storage_errors
from prunetune.search.aside import patiently
from prunetune.search.engine import prepare
from prunetune.search.events import EpochEnded
from prunetune.search.finish import finish
from prunetune.search.heartbeat import Heartbeat
from prunetune.search.interruption import Interruption, TrialLostError
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.storage import set_attributes
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.objective import AskedTrial, forget_lost, run_and_tell
from prunetune.search.workers import this_worker
from prunetune.spaces import Accuracy, Cost, PrunetuneError, Recipe, StoreError

STAGES = "stages.json"
"""The only file of a checkpoint: the stages that a trial has finished. The store holds them."""

PROBLEM = "problem"
"""The figure by which a process says what it cannot go on for. An exception would only make Ray start again."""


def epoch_figures(stage: str, epochs: int, record: EpochRecord) -> dict[str, Any]:
    """An epoch as a process reports it to Ray, without its gamma histogram and its classes."""
    told = {**record.as_dict(), "stage": stage, "epochs": epochs}
    del told["gammas"]
    if record.accuracy is not None:
        told["accuracy"] = replace(record.accuracy, classes=None).as_dict()
        told["map50_95"] = record.accuracy.map50_95  # as a trial's last report calls it
    return told


def reported_epoch(number: int, told: Mapping[str, Any]) -> EpochEnded | None:
    """The epoch of a trial that was reported; None if the report is of something else."""
    if "losses" not in told:
        return None
    accuracy = told["accuracy"] and Accuracy.from_dict(told["accuracy"])
    record = EpochRecord(told["epoch"], told["losses"], told["train_s"], told["validate_s"], accuracy)
    return EpochEnded(f"trial {number}", number, told["stage"], told["epochs"], record)


class RayProgress(Progress):
    """Says what goes on to Ray, too: every epoch with its figures, and finished stages as a checkpoint.

    Ray ends a trial that is to stop at the next report: all is stored then.
    """

    _current: _Reported | None = None

    @contextmanager
    def carrying_out(self, trial: Trial, context: TrialContext) -> Iterator[None]:
        """Reports for a trial within its block."""
        self._current = _Reported(trial, context)
        try:
            yield
        finally:
            self._current = None

    def begin(self, what: str) -> None:
        """Names what is going on now."""
        super().begin(what)
        self.report({})

    def epochs(self, kind: str, epochs: int, done: int) -> EpochListener:
        """A listener for one training stage."""
        say = super().epochs(kind, epochs, done)

        def listen(record: EpochRecord) -> None:
            say(record)
            self.report(epoch_figures(kind, epochs, record))

        return listen

    def report(self, figures: dict[str, Any]) -> None:
        """Reports figures of the trial that is carried out, if there is one.

        Raises:
            SystemExit: The trial is to stop.
        """
        if self._current is not None:
            self._current.report(figures)


class _Reported:
    """A trial whose progress goes to Ray."""

    def __init__(self, trial: Trial, context: TrialContext) -> None:
        self._trial, self._context = trial, context
        self._began = context.cost_meter.reading()
        self._kept = 0

    def report(self, figures: dict[str, Any]) -> None:
        told = {"trial_number": self._trial.number, **figures}
        cost = self._context.cost_meter.reading() - self._began
        try:
            if len(cost.stages) == self._kept:
                tune.report(told)
                return
            self._kept = len(cost.stages)
            with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
                document = {"store": str(self._context.store.root), "stages": cost.as_dict()["stages"]}
                Path(folder, STAGES).write_text(json.dumps(document, indent=1) + "\n")
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))
        except SystemExit:
            set_attributes(self._trial, TrialRecord(cost=cost).to_attrs())
            raise


class _Desk:
    """What a process keeps between trials: data in memory, and networks that were built."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec, self.progress = spec, RayProgress(_console(), spec.trials)
        self.study, self.context = prepare(spec, self.progress)

    def carry_out(self, number: int, recipe: Recipe) -> TrialRecord | None:
        """Carries out a trial; None if it was given to another process, or is over."""
        trial = self.study.running_trial(number)
        with Heartbeat(self.study) as heartbeat, self.progress.carrying_out(trial, self.context):
            heartbeat.begin(trial)
            try:
                with heartbeat.carrying_out(trial):
                    set_attributes(trial, TrialRecord(worker=this_worker(self.spec.device)).to_attrs())
                    return self._patiently(AskedTrial(trial, recipe))
            except (TrialLostError, optuna.exceptions.UpdateFinishedTrialError):
                forget_lost(self.study, number, self.context)
                return None

    def _patiently(self, asked: AskedTrial) -> TrialRecord:
        """Carries a trial out, again after each wait for a stage that another process trains."""
        spent = Cost()

        def attempt() -> TrialRecord:
            nonlocal spent
            began = self.context.cost_meter.reading()
            try:
                return run_and_tell(self.study, replace(asked, spent=spent), self.context)
            except StageBusyError:
                spent = spent.then(self.context.cost_meter.reading() - began)
                raise

        return patiently(attempt, f"trial {asked.number}", self.context.store, self.progress)


_desk: _Desk | None = None
"""This process's: Ray gives it one trial after the other."""


def prunetune_trial(config: dict[str, Any], spec: StudySpec, folder: str) -> None:
    """What Ray Tune calls for a trial, under this name on its dashboard.

    Args:
        config: `trial`, its number, and `recipe`.
        spec: The study's description.
        folder: Where its relative paths start.
    """
    number, told = config["trial"], {}
    try:
        _enter(folder)
        with storage_errors(spec.folder, spec.storage):
            record = _desk_for(spec).carry_out(number, Recipe.from_dict(config["recipe"]))
    except PrunetuneError as error:
        told = {PROBLEM: str(error)}
    else:
        told = {"outcome": "LOST"} if record is None else _figures(record)
    tune.report({"trial_number": number, **told, "done": True})


def _figures(record: TrialRecord) -> dict[str, Any]:
    told: dict[str, Any] = {"outcome": record.outcome and record.outcome.value, "reason": record.reason}
    if record.network is not None and record.outcome is not None and record.outcome.has_values:
        told["map50_95"] = record.network.accuracy.map50_95
        for target, latency in record.network.figures.latencies.items():
            told[f"latency_ms/{target}"] = latency.ms
    return told


def _desk_for(spec: StudySpec) -> _Desk:
    global _desk
    if _desk is None or _desk.spec != spec:
        _desk = _Desk(spec)
    return _desk


def prepare_study(spec: StudySpec, folder: str) -> str | None:
    """A task that does what comes before a study's trials. Returns the problem that it met, if it did."""
    return _told(lambda progress: prepare(spec, progress), spec, folder)


def finish_study(spec: StudySpec, folder: str) -> str | None:
    """A task that trains the controls and writes the results. Returns the problem that it met, if it did."""

    def act(progress: Progress) -> None:
        study, context = prepare(spec, progress)
        finish(study, context, progress)

    return _told(act, spec, folder)


def _told(act: Callable[[Progress], object], spec: StudySpec, folder: str) -> str | None:
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
