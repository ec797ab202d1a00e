"""What a study's trials found and took so far, each ended trial read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from prunetune.results.record import TrialRecord
from prunetune.search.limits import Spent, spent


class History:
    """A study's trials so far. All methods take all trials of the study."""

    def __init__(self) -> None:
        self._ended: dict[int, TrialRecord] = {}

    def records(self, trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, TrialRecord]]:
        """Each trial with its record."""
        return [(trial, self._record(trial)) for trial in trials]

    def spent(self, trials: Sequence[FrozenTrial], now: float) -> Spent:
        """What they took; `now` as for `limits.spent`."""
        return spent(self.records(trials), now)

    def not_retried(self, trials: Sequence[FrozenTrial]) -> list[tuple[int, dict[str, Any]]]:
        """The numbers and parameters of trials that were given back and that no later trial carries out again."""
        known = self.records(trials)
        retried = {record.retry_of for _, record in known}
        return [
            (trial.number, asked)
            for trial, record in known
            if trial.number not in retried and _is_given_back(trial, record) and (asked := _asked(trial))
        ]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        if not trial.state.is_finished():
            return TrialRecord.from_trial(trial)
        if trial.number not in self._ended:
            self._ended[trial.number] = TrialRecord.from_trial(trial)
        return self._ended[trial.number]


def _is_given_back(trial: FrozenTrial, record: TrialRecord) -> bool:
    return trial.state is TrialState.FAIL and record.outcome is not None and not record.outcome.counts


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's parameters. A worker that took an enqueued recipe may have died before it read all of them."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


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
