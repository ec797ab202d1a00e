"""What a recipe would still cost, given what the trials of its study have trained or are training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from prunetune.results.record import TrialRecord
from prunetune.spaces import Outcome, SearchSpace


class Price:
    """Epochs that a recipe would still have to train.

    - The first sparse phase is a trunk that all recipes of its sparsity share: only what it lacks is paid. What a
      running trial is at counts as there.
    - A round is continued where another trial of the same recipe, with fewer or more rounds, has recovered it.
    - The last recovery is always paid, even by a recipe that was carried out: a repetition is no bargain.

    Args:
        space: The study's.
        trials: The study's, in any state.
    """

    def __init__(self, space: SearchSpace, trials: Iterable[FrozenTrial]) -> None:
        self._largest = {name: parameter.largest for name, parameter in space.parameters()}
        self._several_rounds = int(space.rounds.largest) > 1
        self._but_rounds = [name for name in self._largest if name != "rounds"]
        self._sparse: dict[float, set[int]] = {}
        self._recovered: dict[Any, int] = {}
        for trial in trials:
            if trial.state != TrialState.WAITING:
                self._learn(trial)
        # A longer phase leaves a stage at each of the epochs that a recipe can ask for, where these are listed.
        listed = [int(value) for value in space.sparse_epochs.values or ()]
        for reached in self._sparse.values():
            longest = max(reached)
            reached.update(value for value in listed if value <= longest)

    def __call__(self, params: Mapping[str, Any]) -> float:
        """The epochs of a set of parameters; one that is missing counts with its largest value."""
        known = {**self._largest, **params}
        sparse, recovery, rounds = (int(known[name]) for name in ("sparse_epochs", "recovery_epochs", "rounds"))
        done = self._recovered.get(self._without_rounds(known), 0) if self._several_rounds else 0
        if done >= rounds:
            return float(recovery)
        reached = self._sparse.get(float(known["sparsity"]), ()) if done == 0 else ()
        there = max((epochs for epochs in reached if epochs <= sparse), default=0)
        return float((rounds - done) * (sparse + recovery) - there)

    def _learn(self, trial: FrozenTrial) -> None:
        record = TrialRecord.from_trial(trial)
        known = {**self._largest, **trial.params}
        kinds = [stage.kind for stage in record.cost.stages]
        if trial.state != TrialState.FAIL or "sparse" in kinds:
            self._sparse.setdefault(float(known["sparsity"]), set()).add(int(known["sparse_epochs"]))
        if self._several_rounds and "pruning" in kinds:
            # A trial that did not end well may have ended between its last surgery and the end of its recovery.
            key, done = self._without_rounds(known), kinds.count("pruning") - (record.outcome is not Outcome.OK)
            self._recovered[key] = max(self._recovered.get(key, 0), done)

    def _without_rounds(self, known: Mapping[str, Any]) -> tuple[Any, ...]:
        """What recipes share that differ in their rounds alone."""
        return tuple(known[name] for name in self._but_rounds)
