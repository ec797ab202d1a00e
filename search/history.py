"""What follows from a study's trials, added up once for those that have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from prunetune.results.entries import RETRY_OF, outcome
from prunetune.search.limits import Spent, Sum
from prunetune.search.outcome import Outcome


class History:
    """A study's trials so far. Those that have ended change no more: each of them is looked at once.

    All methods take all trials of the study by number.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._sum = Sum()
        self._given_back: dict[int, FrozenTrial] = {}
        self._retried: set[int] = set()

    def spent(self, trials: Sequence[FrozenTrial], now: float) -> Spent:
        """What they took; `now` as for `limits.spent`."""
        self._read_on(trials)
        total = self._sum.copy()
        for trial in trials[self._seen :]:
            total.add(trial, now)
        return total.spent

    def not_retried(self, trials: Sequence[FrozenTrial]) -> list[tuple[int, dict[str, Any]]]:
        """The numbers and parameters of trials that were given back and that no later trial carries out again."""
        self._read_on(trials)
        rest = trials[self._seen :]
        retried = self._retried | {trial.user_attrs.get(RETRY_OF) for trial in rest}
        given_back = [*self._given_back.values(), *filter(is_given_back, rest)]
        return [(trial.number, _asked(trial)) for trial in given_back if trial.number not in retried]

    def _read_on(self, trials: Sequence[FrozenTrial]) -> None:
        while self._seen < len(trials) and trials[self._seen].state.is_finished():
            trial = trials[self._seen]
            self._seen += 1
            self._sum.add(trial, 0.0)
            if is_given_back(trial):
                self._given_back[trial.number] = trial
            if (number := trial.user_attrs.get(RETRY_OF)) is not None:
                self._retried.add(number)
                self._given_back.pop(number, None)


def attempts_before(trials: Sequence[FrozenTrial], number: int) -> set[int]:
    """The numbers of the trials that began a trial's recipe before it, and were lost or given back.

    Args:
        trials: All trials of the study by number.
        number: The trial's.
    """
    found: set[int] = set()
    before = trials[number].user_attrs.get(RETRY_OF)
    while before is not None and before not in found:
        found.add(before)
        before = trials[before].user_attrs.get(RETRY_OF)
    return found


def is_given_back(trial: FrozenTrial) -> bool:
    """Whether a trial is to be carried out again, and it is known how."""
    return trial.state == TrialState.FAIL and not Outcome(outcome(trial)).counts and bool(_asked(trial))


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    # A worker that took an enqueued recipe may have died before it read it all.
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return {**fixed, **trial.params}
