"""What a study's earlier trials know of a network, so that nothing is recovered twice.

Equal surgery of the same parent, recovered in the same way, gives the same network: the later trial copies the
earlier one's result. Equal channels alone give the same latency only: the weights are others, and so is the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from prunetune.results.entries import is_predicted
from prunetune.search.outcome import Outcome
from prunetune.search.workspace import Workspace
from prunetune.spaces import Recipe
from prunetune.spaces.recipe import OPTIONS

EQUALS = "equals"
"""The trial's attribute with the number of the earlier one that ended with the same network."""

LATENCY_FROM = "latency_from"
"""The trial's attribute with the number of the earlier one whose channels, and so whose latency, it has."""


class EqualNetworks:
    """The complete trials of a study by what they are asked for. Each is looked at once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._by_surgery: dict[str, list[FrozenTrial]] = {}
        self._by_channels: dict[frozenset[tuple[str, int]], FrozenTrial] = {}
        self._by_last_stage: dict[str, int] = {}

    def with_stage(self, finished: Sequence[FrozenTrial], digest: str) -> int | None:
        """The first trial whose network is that of a stage, recovered or not.

        Args:
            finished: The study's complete trials, by number.
            digest: The stage's.
        """
        self._read_on(finished)
        return self._by_last_stage.get(digest)

    def known(
        self, finished: Sequence[FrozenTrial], surgery: str, recipe: Recipe, described: Mapping[str, Any]
    ) -> dict[str, int]:
        """As the function of this name."""
        self._read_on(finished)
        for trial in self._by_surgery.get(surgery, ()):
            told = trial.user_attrs
            # A round of another trial was recovered over the budget, too.
            is_over = told.get("outcome") == Outcome.OVER_BUDGET.value and not told.get("rung")
            if not described["feasible"] and is_over:
                return {EQUALS: trial.number}
            is_ok = told.get("outcome") == Outcome.OK.value
            if described["feasible"] and is_ok and _recovery(told.get("recipe", {})) == _recovery(recipe.as_dict()):
                return {EQUALS: trial.number}
        if any(told.get("predicted") for told in described["latencies"].values()):
            return {}
        twin = self._by_channels.get(_channels_key(described["channels"]))
        return {} if twin is None else {LATENCY_FROM: twin.number}

    def _read_on(self, finished: Sequence[FrozenTrial]) -> None:
        for trial in finished:
            if trial.number not in self._seen:
                self._seen.add(trial.number)
                self._learn(trial)

    def _learn(self, trial: FrozenTrial) -> None:
        if (digest := _last_surgery(trial)) is not None:
            self._by_surgery.setdefault(digest, []).append(trial)
        stages = trial.user_attrs.get("stages", ())
        if stages and trial.user_attrs.get("outcome") in (Outcome.OK.value, Outcome.OVER_BUDGET.value):
            self._by_last_stage.setdefault(stages[-1]["digest"], trial.number)
        if "channels" in trial.user_attrs and not is_predicted(trial):
            self._by_channels.setdefault(_channels_key(trial.user_attrs["channels"]), trial)


def known(
    finished: Sequence[FrozenTrial],
    surgery: str,
    recipe: Recipe,
    described: Mapping[str, Any],
    networks: EqualNetworks | None = None,
) -> dict[str, int]:
    """Which earlier trial a trial equals after its last surgery, as attributes; none of both if there is no such.

    Args:
        finished: The study's complete trials, by number.
        surgery: The digest of the stage that the last surgery made: it stands for its parent and its plan.
        recipe: The trial's.
        described: What is known of the network; `feasible`, `channels` and `latencies` are read.
        networks: What was learned of the same study's trials before.
    """
    return (networks or EqualNetworks()).known(finished, surgery, recipe, described)


def _recovery(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a recipe decides what a surgery's network is recovered to."""
    return tuple(recipe.get(name, default) for name, default in _RECOVERS.items())


_RECOVERS = {"recovery_epochs": 0, **{name: OPTIONS[name] for name in ("start", "recovery_lr", "distillation")}}


def _channels_key(channels: Mapping[str, int]) -> frozenset[tuple[str, int]]:
    return frozenset(channels.items())


def copy_result(finished: Sequence[FrozenTrial], stored: dict[str, Any], workspace: Workspace, name: str) -> bool:
    """Takes over the result of the trial that `stored` says it equals.

    Args:
        finished: The study's complete trials.
        stored: The trial's attributes. Gets the accuracy and the checkpoint.
        workspace: The study's. Its ledger gets the stages that need not run.
        name: What the checkpoint is called.

    Returns:
        Whether there was one whose checkpoint is still there; without it the recipe is carried out.
    """
    equal = next((trial for trial in finished if trial.number == stored.get(EQUALS)), None)
    if equal is None or not (workspace.folder / equal.user_attrs["checkpoint"]).is_file():
        return False
    stored |= {key: equal.user_attrs[key] for key in ("accuracy", "rung", "bytes")}
    stored["curves"] = equal.user_attrs.get("curves")
    stored["checkpoint"] = workspace.keep_file(workspace.folder / equal.user_attrs["checkpoint"], name)
    stages = equal.user_attrs["stages"]
    last = max(index for index, stage in enumerate(stages) if stage["kind"] == "pruning")
    for stage in stages[last + 1 :]:
        workspace.stages.ledger.stages.append({**stage, "reused": True})
        workspace.stages.ledger.epochs_reused += stage["epochs"]
    return True


def _last_surgery(trial: FrozenTrial) -> str | None:
    """The digest of a trial's last surgery."""
    surgeries = [stage["digest"] for stage in trial.user_attrs.get("stages", ()) if stage["kind"] == "pruning"]
    return surgeries[-1] if surgeries else None
