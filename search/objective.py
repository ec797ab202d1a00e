"""Carries out one trial: recipe, gate, recovery, evaluation; tells the study how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from prunetune.pruning.detector import Detector
from prunetune.pruning.pipeline import Candidate, Ledger, read_history
from prunetune.pruning.trainer import is_out_of_memory
from prunetune.pruning.training import TrainingFailureError
from prunetune.results.entries import FOUND
from prunetune.search import equal_networks
from prunetune.search.outcome import Outcome
from prunetune.search.workspace import Workspace
from prunetune.spaces import LatencyShare, MeasurementError, PrunetuneError, Recipe
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

    A network over the budget ends right after surgery: it is told as infeasible, with its latency, measured or by a
    table, and the accuracy that recalibrated BatchNorm gives. A failure is told as FAIL with its name.

    Raises:
        StoreError: Nothing can be stored any more; the trial stays open and is taken up by the next run.
    """
    start = time.perf_counter()
    ledger = workspace.pipeline.ledger = Ledger()
    stored: dict[str, Any] = {}
    outcome, reason = Outcome.ERROR, ""
    with ledger.clock.part("other"):
        try:
            outcome = _attempt(recipe, workspace, stored, f"trial-{trial.number}", study)
        except TrainingFailureError as error:
            outcome, reason = Outcome(error.cause), str(error)
        except MeasurementError as error:
            outcome, reason = Outcome.NOT_MEASURED, str(error)
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
        latencies = [stored["latencies"][target]["latency_ms"] for target in workspace.spec.judged]
        for target, violation in stored["violations"].items():  # last: a retried trial would inherit it
            trial.set_constraint(workspace.spec.latency_name(target), violation)
        study.tell(trial, [stored["accuracy"]["map50_95"], *latencies])
    else:
        study.tell(trial, state=TrialState.FAIL)
    return TrialResult(trial.number, recipe, outcome, stored["reason"], stored, time.perf_counter() - start)


def _attempt(recipe: Recipe, workspace: Workspace, stored: dict[str, Any], name: str, study: optuna.Study) -> Outcome:
    """Runs the recipe's stages; fills in what is known of the network at each step."""
    gammas: list[dict[str, Any]] = []
    for candidate in workspace.pipeline.run(recipe):
        if not candidate.recovered:
            gammas += _gammas(workspace, candidate)
            if isinstance(recipe.threshold, LatencyShare):
                stored.setdefault(FOUND, []).append(candidate.plan.threshold.as_json())
        if not candidate.last:
            continue
        ships = candidate.recovered and workspace.quantises
        stored["accuracy"] = (workspace.evaluate(candidate.load()) if ships else candidate.accuracy).as_dict()
        stored["rung"] = int(candidate.recovered)
        if not candidate.recovered:
            detector = candidate.load()
            stored |= describe(detector, candidate.checkpoint, workspace.gauge(detector), workspace)
            finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            stored |= equal_networks.known(finished, candidate.stage.digest, recipe.recovery_epochs, stored)
            if not stored["feasible"]:
                stored["reason"] = _excess(stored)
                return Outcome.OVER_BUDGET
            if equal_networks.copy_result(finished, stored, workspace, name):
                break
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


def _excess(described: Mapping[str, Any]) -> str:
    """By how much a network is over the budget, where it is over it by most."""
    worst = max(described["violations"], key=lambda target: described["violations"][target])
    where = f" on {worst}" if len(described["latencies"]) > 1 else ""
    stated = described["latencies"][worst]["latency_ms"]
    idle = "" if described["channels_removed"] else "nothing was removed: "
    how = "predicted " if described["latencies"][worst].get("predicted") else ""
    return f"{idle}{how}{stated:.3g} ms{where}, {100 * described['violation']:.0f} % over the budget"


def describe(
    detector: Detector, checkpoint: Path, measured: Mapping[str, Latency], workspace: Workspace
) -> dict[str, Any]:
    """The figures of a network that do not depend on its weights.

    Args:
        detector: The network.
        checkpoint: Its file.
        measured: Its latency on each of the study's targets.
        workspace: The study's.
    """
    latencies, violations = {}, {}
    for yardstick in workspace.yardsticks:
        latency = measured[yardstick.name]
        latencies[yardstick.name] = yardstick.stated(latency)
        violation = yardstick.violation(latency)
        if violation is not None:
            violations[yardstick.name] = violation
    worst = max(violations.values(), default=None)
    channels = detector.channels
    return {
        "latencies": latencies,
        "gflops": detector.gflops(workspace.spec.imgsz),
        "params": detector.params,
        "bytes": checkpoint.stat().st_size,
        "channels": channels.as_dict(),
        "channels_removed": channels.removed(workspace.dense_channels),
        "params_removed": 1 - detector.params / workspace.dense_params,
        "feasible": worst is None or worst <= 0,
        "violation": worst,
        "violations": violations,
    }
