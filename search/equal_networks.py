"""What a study's earlier trials know of a network, so that nothing is recovered twice.

Equal surgery of the same parent, recovered for as many epochs, gives the same network: the later trial copies the
earlier one's result. Equal channels alone give the same latency only: the weights are others, and so is the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from prunetune.results.entries import is_predicted
from prunetune.search.outcome import Outcome
from prunetune.search.workspace import Workspace

EQUALS = "equals"
"""The trial's attribute with the number of the earlier one that ended with the same network."""

LATENCY_FROM = "latency_from"
"""The trial's attribute with the number of the earlier one whose channels, and so whose latency, it has."""


def known(
    finished: Sequence[FrozenTrial], surgery: str, recovery_epochs: int, described: Mapping[str, Any]
) -> dict[str, int]:
    """Which earlier trial a trial equals after its last surgery, as attributes; none of both if there is no such.

    Args:
        finished: The study's complete trials, by number.
        surgery: The digest of the stage that the last surgery made: it stands for its parent and its plan.
        recovery_epochs: The recipe's.
        described: What is known of the network; `feasible`, `channels` and `latencies` are read.
    """
    for trial in finished:
        outcome = trial.user_attrs.get("outcome")
        if _last_surgery(trial) != surgery:
            continue
        recipe = trial.user_attrs.get("recipe", {})
        if not described["feasible"] and outcome == Outcome.OVER_BUDGET.value:
            return {EQUALS: trial.number}
        if described["feasible"] and outcome == Outcome.OK.value and recipe.get("recovery_epochs") == recovery_epochs:
            return {EQUALS: trial.number}
    if any(told.get("predicted") for told in described["latencies"].values()):
        return {}
    for trial in finished:
        if trial.user_attrs.get("channels") == described["channels"] and not is_predicted(trial):
            return {LATENCY_FROM: trial.number}
    return {}


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
