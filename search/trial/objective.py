"""Carries out trials of an Optuna study: what they see of one another, and how a record is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from prunetune.results.dashboard.dashboard import shown_on_dashboard
from prunetune.results.record import TrialRecord
from prunetune.results.storage.storage import storage_errors
from prunetune.search.interruption import TrialLostError
from prunetune.search.study.store_limit import keep_within_limit
from prunetune.search.study.stored_study import StoredStudy, retry, set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.run import run_trial
from prunetune.spaces import Cost, Outcome, Recipe
from prunetune.targets import FIGURES

UNFINISHED = "unfinished"
"""The constraint that a trial violates whose accuracy is not that of its whole recipe."""


@dataclass(frozen=True)
class AskedTrial:
    """A trial that this process has asked for."""

    trial: Trial
    recipe: Recipe
    spent: Cost = field(default_factory=Cost)
    """On attempts that met a stage which another process trains."""

    @property
    def number(self) -> int:
        """The trial's."""
        return self.trial.number


@dataclass(frozen=True)
class StudyPeers:
    """The other trials of an Optuna study. See `Peers`."""

    study: StoredStudy
    trial: Trial
    spec: StudySpec

    def records(self) -> Mapping[int, TrialRecord]:
        """See `Peers`."""
        with self._errors():
            trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        others = [trial for trial in trials if trial.number != self.trial.number]
        return {trial.number: TrialRecord.from_trial(trial) for trial in others}

    def earlier_attempts(self) -> Sequence[TrialRecord]:
        """See `Peers`."""
        with self._errors():
            trials = self.study.get_trials(deepcopy=False)
        numbers = (self.trial.number, *attempts_before(trials, self.trial.number))
        return [TrialRecord.from_trial(trials[number]) for number in numbers]

    def publish(self, record: TrialRecord) -> None:
        """See `Peers`.

        Raises:
            TrialLostError: The trial was given to another process.
            StoreError: The database cannot be used, for longer than it is waited for. That says nothing of the recipe.
        """
        try:
            with self._errors():
                set_attributes(self.trial, record.to_attrs())
        except UpdateFinishedTrialError as error:
            raise TrialLostError from error

    def _errors(self) -> AbstractContextManager[None]:
        return storage_errors(self.spec.folder, self.spec.storage)


def run_and_tell(study: StoredStudy, asked: AskedTrial, context: TrialContext) -> TrialRecord:
    """Carries out a trial and tells its record.

    Raises:
        StageBusyError, StopAskedError, TrialLostError: As `run_trial` does; the trial stays open.
        StoreError: The disk is full, or the store over its limit; the trial stays open for the next run.
    """
    keep_within_limit(context.spec)
    record = run_trial(asked.recipe, context.for_trial(asked.number, StudyPeers(study, asked.trial, context.spec)))
    record = replace(record, cost=asked.spent.then(record.cost))
    with shown_on_dashboard(study, asked.trial, record, context.folder):
        tell(study, asked.trial, record, context)
    return record


def tell(study: StoredStudy, trial: Trial, record: TrialRecord, context: TrialContext) -> None:
    """Stores a trial's record, and ends the trial with the values of the network that it came to.

    Optuna has no PRUNED trial of several objectives. So one that was stopped on its way is complete, and infeasible by
    a constraint of its own: its score is not final, and `best_trials` must not show it. A network over the budget is
    infeasible, too. A failure is FAIL, and its recipe may come again.

    Raises:
        TrialLostError: The trial ended otherwise.
    """

    network, values = record.network, None
    if record.outcome is not None and record.outcome.has_values and network is not None:
        values = context.values(network)

    def act() -> None:
        if study.is_finished(trial.number):
            return
        set_attributes(trial, record.to_attrs())
        if values is None:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            return
        stored = trial.constraints
        for name, violation in constraints(record, context.spec).items():
            if name not in stored:
                trial.set_constraint(name, violation)
        study.tell(trial.number, values, skip_if_finished=True)

    with suppress(UpdateFinishedTrialError):
        retry(act)
    # This has ended the trial, perhaps at an attempt whose answer was lost with the connection, or another process has.
    stored = stored_record(study, trial.number)
    if (stored.outcome, stored.cost) != (record.outcome, record.cost):
        raise TrialLostError


def constraints(record: TrialRecord, spec: StudySpec) -> dict[str, float]:
    """What a trial with a network violates, by the constraint's name; at most 0 where it does not."""
    figures = None if record.network is None else record.network.figures
    told = {} if figures is None else figures.violations
    found = {name if name in FIGURES else spec.latency_name(name): over for name, over in told.items()}
    if spec.early_stopping:
        found[UNFINISHED] = float(record.outcome is Outcome.STOPPED_EARLY)
    return found


def forget_lost(study: StoredStudy, number: int, context: TrialContext) -> None:
    """Removes what a process kept of a trial that it lost, unless a result was told for it: then files of these names
    belong to that."""
    outcome = stored_record(study, number).outcome
    if outcome is not None and not outcome.counts:
        context.files.forget(f"trial-{number}")


def stored_record(study: StoredStudy, number: int) -> TrialRecord:
    """What the study knows of a trial now."""
    return TrialRecord.from_trial(study.get_trials(deepcopy=False)[number])


def attempts_before(trials: Sequence[FrozenTrial], number: int) -> set[int]:
    """The numbers of the trials that began a trial's recipe before it, and were lost or given back.

    Args:
        trials: All trials of the study by number.
        number: The trial's.
    """
    found: set[int] = set()
    before = TrialRecord.from_trial(trials[number]).retry_of
    while before is not None and 0 <= before < min((number, *found)):  # whatever an attribute says, it goes back
        found.add(before)
        before = TrialRecord.from_trial(trials[before]).retry_of
    return found
