"""Carries out one trial: recipe, gate, recovery, evaluation; tells the study how it ended."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from prunetune.pruning.detector import Detector
from prunetune.pruning.pipeline import Candidate, Ledger, read_history
from prunetune.pruning.trainer import is_out_of_memory
from prunetune.pruning.training import TrainingFailureError
from prunetune.search.outcome import Outcome
from prunetune.search.workspace import Workspace
from prunetune.spaces import PrunetuneError, Recipe
from prunetune.targets import Latency

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        number: The trial.
        recipe: What was tried.
        outcome: How it ended.
        reason: Why, where it is no success.
        attributes: What was stored with the trial.
        seconds: How long it took.
    """

    number: int
    recipe: Recipe
    outcome: Outcome
    reason: str
    attributes: dict[str, Any]
    seconds: float


def carry_out(study: optuna.Study, trial: Trial, recipe: Recipe, workspace: Workspace) -> TrialResult:
    """Carries out a trial and tells its result.

    A network over the budget ends right after surgery: it is told as infeasible, with its measured latency and
    the accuracy that recalibrated BatchNorm gives. A failure is told as FAIL with its name.

    Raises:
        StoreError: Nothing can be stored any more; the trial stays open and is taken up by the next run.
    """
    start = time.perf_counter()
    ledger = workspace.pipeline.ledger = Ledger()
    stored: dict[str, Any] = {}
    outcome, reason = Outcome.ERROR, ""
    with ledger.clock.part("other"):
        try:
            outcome = _attempt(recipe, workspace, stored, f"trial-{trial.number}")
        except TrainingFailureError as error:
            outcome, reason = Outcome(error.cause), str(error)
        except (KeyboardInterrupt, PrunetuneError):
            raise
        # Whatever else a foreign library raises fails this trial, by name and with its text, and not the study.
        except Exception as error:
            out_of_memory = is_out_of_memory(error)
            outcome = Outcome.OUT_OF_MEMORY if out_of_memory else Outcome.ERROR
            reason = f"{type(error).__name__}: {error}"
            if not out_of_memory:
                _log.warning("trial %d failed", trial.number, exc_info=True)
    sparsity = workspace.pipeline.sparsity(recipe)
    stored |= {
        "recipe": recipe.as_dict(),
        "sparsity_lambda": sparsity.coefficient,
        "sparsity_pull": sparsity.pull,
        "outcome": outcome.value,
        "reason": reason or stored.get("reason", ""),
        "seconds": {part: round(seconds, 3) for part, seconds in ledger.clock.seconds.items()},
        "epochs": {"trained": ledger.epochs_trained, "reused": ledger.epochs_reused},
        "stages": ledger.stages,
    }
    for key, value in stored.items():
        trial.set_user_attr(key, value)
    if outcome in (Outcome.OK, Outcome.OVER_BUDGET):
        values = [stored["accuracy"]["map50_95"], stored["latency_ms"]]
        trial.set_constraint("latency", stored["violation"])  # last: a retried trial would inherit it
        study.tell(trial, values[: len(study.directions)])
    else:
        study.tell(trial, state=TrialState.FAIL)
    return TrialResult(trial.number, recipe, outcome, stored["reason"], stored, time.perf_counter() - start)


def _attempt(recipe: Recipe, workspace: Workspace, stored: dict[str, Any], name: str) -> Outcome:
    """Runs the recipe's stages; fills in what is known of the network at each step."""
    gammas: list[dict[str, Any]] = []
    for candidate in workspace.pipeline.run(recipe):
        if not candidate.recovered:
            gammas += _gammas(workspace, candidate)
        if not candidate.last:
            continue
        ships = candidate.recovered and workspace.quantises
        stored["accuracy"] = (workspace.evaluate(candidate.load()) if ships else candidate.accuracy).as_dict()
        stored["rung"] = int(candidate.recovered)
        if not candidate.recovered:
            detector = candidate.load()
            latency = workspace.measure(detector)
            stored |= describe(detector, candidate.checkpoint, latency, workspace)
            if not stored["feasible"]:
                stored["reason"] = f"{stored['latency_ms']:.3g} ms, {100 * stored['violation']:.0f} % over the budget"
                return Outcome.OVER_BUDGET
        else:
            stored["bytes"] = candidate.checkpoint.stat().st_size
            stored["checkpoint"] = workspace.keep_checkpoint(candidate.stage, name)
    stored["gammas"] = workspace.keep_gammas(gammas, name)
    return Outcome.OK


def _gammas(workspace: Workspace, candidate: Candidate) -> list[dict[str, Any]]:
    """The gamma histograms of the sparse phase before a surgery."""
    sparse = workspace.store.find(candidate.stage.record["parent"])
    if sparse is None or sparse.record["kind"] != "sparse":
        return []
    return [
        {
            "round": candidate.round,
            "epoch": record["epoch"],
            "sl_loss": record["losses"]["sl_loss"],
            "histogram": record["gammas"],
        }
        for record in read_history(sparse)
    ]


def describe(detector: Detector, checkpoint: Path, latency: Latency, workspace: Workspace) -> dict[str, Any]:
    """The figures of a network that do not depend on its weights."""
    stated = workspace.stated_ms(latency)
    references = workspace.references
    violation = workspace.spec.budget.limit.violation(stated, references)
    channels = detector.channels
    return {
        "latency_ms": stated,
        "latency_ratio": stated / references["dense"],
        "latency_spread_ms": latency.ratio_spread * references[workspace.anchor],
        "gflops": detector.gflops(workspace.spec.imgsz),
        "params": detector.params,
        "bytes": checkpoint.stat().st_size,
        "channels": channels.as_dict(),
        "channels_removed": channels.removed(workspace.dense_channels),
        "params_removed": 1 - detector.params / workspace.dense_params,
        "feasible": violation <= 0,
        "violation": violation,
    }
