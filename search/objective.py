"""Carries out one trial: recipe, gate, recovery, evaluation; tells the study how it ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from prunetune.pruning.detector import Detector
from prunetune.pruning.ledger import Ledger
from prunetune.pruning.pipeline import Candidate, accuracy_curve
from prunetune.pruning.stage_files import read_history
from prunetune.pruning.trainer import is_out_of_memory
from prunetune.pruning.training import RecoveryStoppedError, TrainingFailureError
from prunetune.results.entries import FOUND, ROUNDS_ASKED, UNSEPARATED
from prunetune.search import equal_networks
from prunetune.search.heartbeat import TrialLostError, require_owned
from prunetune.search.interruption import StopAskedError, stop_is_asked
from prunetune.search.outcome import Outcome, TrialResult
from prunetune.search.rounds import Round, after_round, judged, take_params
from prunetune.search.rungs import UNFINISHED, TrialRungs
from prunetune.search.spec import StudySpec
from prunetune.search.storage import memory, patiently_store, recent_trials, set_attributes, together
from prunetune.search.store_limit import keep_within_limit
from prunetune.search.workspace import Workspace
from prunetune.search.yardstick import violations
from prunetune.spaces import LatencyShare, MeasurementError, PrunetuneError, Recipe
from prunetune.targets import Latency

_log = logging.getLogger(__name__)


def carry_out(
    study: optuna.Study, trial: Trial, recipe: Recipe, workspace: Workspace, ledger: Ledger | None = None
) -> TrialResult:
    """Carries out a trial and tells its result.

    A network over the budget ends right after surgery: it is told as infeasible, with its latency, measured or by a
    table, and the accuracy that recalibrated BatchNorm gives. One that is stopped at a rung is told with the accuracy
    that it had there, and as infeasible by a constraint of its own: its score is not final, and `best_trials` must not
    show it. A failure is told as FAIL with its name.

    Args:
        study: The trial's.
        trial: Is told.
        recipe: What to try.
        workspace: The study's.
        ledger: That of an earlier attempt which met a claimed stage.

    Raises:
        StageClaimedError: Another process trains a stage of the recipe. The trial stays open for another attempt.
        TrialLostError: The trial was given to another process meanwhile. What this one made of it is not stored.
        StoreError: Nothing more can be stored, or may be; the trial stays open and is taken up by the next run.
        StopAskedError: A stop was asked for, and came to a safe point.
    """
    keep_within_limit(workspace.spec)
    ledger = workspace.stages.ledger = ledger or Ledger()
    ledger.begin_attempt()
    stored: dict[str, Any] = {}
    outcome, reason = Outcome.ERROR, ""
    with ledger.clock.part("other"):
        try:
            outcome = _attempt(study, trial, recipe, workspace, stored)
        except TrainingFailureError as error:
            outcome, reason = Outcome(error.cause), str(error)
        except MeasurementError as error:
            outcome, reason = Outcome.NOT_MEASURED, str(error)
        except (KeyboardInterrupt, PrunetuneError, TrialLostError):
            raise
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise TrialLostError from error
        # Whatever else a foreign library raises fails this trial, by name and with its text, and not the study.
        except Exception as error:
            if stop_is_asked():  # a signal to the whole group also ends the processes that load images
                raise StopAskedError from error
            out_of_memory = is_out_of_memory(error)
            outcome = Outcome.OUT_OF_MEMORY if out_of_memory else Outcome.ERROR
            reason = f"{type(error).__name__}: {error}"
            if not out_of_memory:
                _log.warning("trial %d failed", trial.number, exc_info=True)
    sparsity = workspace.pipeline.sparsity(recipe)
    told = {"recipe": recipe.as_dict(), "stages": ledger.stages} | stored  # where it ended early it knows better
    stored |= told | {
        "sparsity_lambda": sparsity.coefficient,
        "sparsity_pull": sparsity.pull,
        "outcome": outcome.value,
        "reason": reason or stored.get("reason", ""),
        "seconds": {part: round(seconds, 3) for part, seconds in ledger.clock.seconds.items()},
        "epochs": {"trained": ledger.epochs_trained, "reused": ledger.epochs_reused},
    }

    def tell() -> None:
        with together(study, trial):
            if not _is_told(study, trial, stored):
                _tell(study, trial, outcome, stored, workspace.spec)

    patiently_store(study, tell)
    done = Recipe.from_dict(stored["recipe"])
    return TrialResult(trial.number, done, outcome, stored["reason"], stored, sum(ledger.clock.seconds.values()))


def forget_lost(study: optuna.Study, number: int, workspace: Workspace) -> None:
    """Removes what a process kept of a trial that it lost, where no other one has told a result.

    A trial that has its values keeps its files: a driver's successor has Ray carry out what had just ended.
    """
    if study.get_trials(deepcopy=False)[number].state is TrialState.FAIL:
        workspace.forget(f"trial-{number}")


def _is_told(study: optuna.Study, trial: Trial, stored: Mapping[str, Any]) -> bool:
    """Whether the data base has a result already: its answer was lost with the connection.

    Raises:
        TrialLostError: The trial ended otherwise.
    """
    try:
        require_owned(study, trial)
    except TrialLostError:
        told = study._storage.get_trial(trial._trial_id).user_attrs
        if all(told.get(key) == stored[key] for key in ("outcome", "seconds")):
            return True
        raise
    return False


def _tell(study: optuna.Study, trial: Trial, outcome: Outcome, stored: Mapping[str, Any], spec: StudySpec) -> None:
    set_attributes(trial, stored)
    if not outcome.has_values:
        study.tell(trial, state=TrialState.FAIL)
        return
    for target, violation in stored["violations"].items():
        trial.set_constraint(spec.latency_name(target), violation)
    if spec.early_stopping:
        is_whole = outcome is not Outcome.STOPPED_EARLY and (ROUNDS_ASKED not in stored or take_params(trial, stored))
        trial.set_constraint(UNFINISHED, 0.0 if is_whole else 1.0)
    study.tell(trial, [stored["accuracy"]["map50_95"], *judged(stored, spec)])


def _attempt(
    study: optuna.Study, trial: Trial, recipe: Recipe, workspace: Workspace, stored: dict[str, Any]
) -> Outcome:
    """Runs the recipe's stages; fills in what is known of the network at each step."""
    gammas: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    rungs = TrialRungs(study, trial, recipe, workspace.spec.early_stopping or None)
    try:
        for candidate in workspace.pipeline.run(recipe, rungs.goes_on):
            if candidate.recovered and (curve := accuracy_curve(read_history(candidate.stage))):
                curves.append({"round": candidate.round, "map50_95": curve})
            if not candidate.recovered:
                gammas += _gammas(workspace, candidate)
                if isinstance(recipe.threshold, LatencyShare) and candidate.plan.threshold is not None:
                    stored.setdefault(FOUND, []).append(candidate.plan.threshold.as_json())
                if candidate.warning is not None:
                    _warn(workspace, trial, candidate, stored)
            if not candidate.last:
                if _is_stuck(candidate, recipe, workspace, stored):
                    stored["gammas"] = workspace.keep_records("gammas", gammas, f"trial-{trial.number}")
                    return Outcome.OVER_BUDGET
                if candidate.recovered and (known := _figures(candidate, workspace)) is not None:
                    found = Round(candidate, {**stored, **known}, gammas, curves)
                    if (kept := after_round(study, trial, found, workspace, rungs)) is not None:
                        stored |= kept
                        return Outcome.OK if stored["feasible"] else Outcome.OVER_BUDGET
                continue
            stored["accuracy"] = _accuracy(candidate, workspace)
            stored["rung"] = int(candidate.recovered)
            if candidate.recovered:
                stored["bytes"] = candidate.checkpoint.stat().st_size
                stored["checkpoint"] = workspace.keep_checkpoint(candidate.stage, f"trial-{trial.number}")
                stored["curves"] = workspace.keep_records("curves", curves, f"trial-{trial.number}")
                return Outcome.OK
            stored["gammas"] = workspace.keep_records("gammas", gammas, f"trial-{trial.number}")
            ended = _gate(study, trial, candidate, workspace, rungs, stored)
            if ended is not None:
                return ended
    except RecoveryStoppedError as stopped:
        curves.append({"round": stopped.progress.round, "map50_95": stopped.curve})
        stored["curves"] = workspace.keep_records("curves", curves, f"trial-{trial.number}")
        stored["accuracy"] = stopped.progress.accuracy.as_dict()
        stored["rung"] = rungs.decisions[-1].rung
        stored["reason"] = rungs.decisions[-1].reason
        return Outcome.STOPPED_EARLY
    raise AssertionError("a recipe ends with a recovered candidate")


def _warn(workspace: Workspace, trial: Trial, candidate: Candidate, stored: dict[str, Any]) -> None:
    """Stores that a surgery cut where nothing separates, and says it of the first trial: often it is true of all."""
    where = "" if candidate.last and candidate.round == 1 else f"round {candidate.round}: "
    stored.setdefault(UNSEPARATED, []).append(f"{where}{candidate.warning}")
    if not workspace.has_warned:
        workspace.has_warned = True
        _log.warning("trial %d: %s; train sparse for longer, or with more sparsity", trial.number, candidate.warning)


def _accuracy(candidate: Candidate, workspace: Workspace) -> dict[str, Any]:
    """A network's accuracy, once it is recovered as it ships."""
    ships = candidate.recovered and workspace.quantises
    return (workspace.evaluate(candidate.load()) if ships else candidate.accuracy).as_dict()


def _figures(candidate: Candidate, workspace: Workspace) -> dict[str, Any] | None:
    """What is known of a round's network that is not the last; None where the target gave no latency for it."""
    detector = candidate.load()
    try:
        described = describe(detector, candidate.checkpoint, workspace.gauge(detector), workspace)
    except MeasurementError as error:  # that is this network's end, and not the trial's
        _log.info("round %d: %s", candidate.round, error)
        return None
    return described | {"accuracy": _accuracy(candidate, workspace), "rung": 1}


def _is_stuck(candidate: Candidate, recipe: Recipe, workspace: Workspace, stored: dict[str, Any]) -> bool:
    """Whether a round before the last found every layer at its floor on its way to a latency: no further one helps.

    What is known of the network is filled in then.
    """
    if not candidate.at_floor or not isinstance(recipe.threshold, LatencyShare):
        return False
    detector = candidate.load()
    described = describe(detector, candidate.checkpoint, workspace.gauge(detector), workspace)
    if described["violation"] is None or not _exceeds(recipe, recipe.threshold.share, described, workspace):
        return False
    stored |= described | {"accuracy": _accuracy(candidate, workspace), "rung": 0}
    return True


def _gate(
    study: optuna.Study,
    trial: Trial,
    candidate: Candidate,
    workspace: Workspace,
    rungs: TrialRungs,
    stored: dict[str, Any],
) -> Outcome | None:
    """What the trial's last surgery already decides, before any recovery is paid; None if it has to be."""
    detector = candidate.load()
    stored |= describe(detector, candidate.checkpoint, workspace.gauge(detector), workspace)
    finished = recent_trials(study, (TrialState.COMPLETE,))
    networks = memory(study, equal_networks.EqualNetworks)
    stored |= equal_networks.known(finished, candidate.stage.digest, rungs.recipe, stored, networks)
    if not stored["feasible"]:
        stored["reason"] = excess(stored)
        return Outcome.OVER_BUDGET
    recipe = rungs.recipe
    if isinstance(recipe.threshold, LatencyShare) and _exceeds(recipe, recipe.threshold.share, stored, workspace):
        stored.pop(equal_networks.EQUALS, None)  # the one that it equals was not asked for so little
        return Outcome.OVER_BUDGET
    if equal_networks.copy_result(finished, stored, workspace, f"trial-{trial.number}"):
        return Outcome.OK
    if not rungs.after_surgery(candidate.accuracy, judged(stored, workspace.spec)):
        stored["reason"] = rungs.decisions[-1].reason
        return Outcome.STOPPED_EARLY
    return None


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


def excess(described: Mapping[str, Any]) -> str:
    """By how much a network is over the budget, where it is over it by most."""
    worst = max(described["violations"], key=lambda target: described["violations"][target])
    where = f" on {worst}" if len(described["latencies"]) > 1 else ""
    stated = described["latencies"][worst]["latency_ms"]
    idle = "" if described["channels_removed"] else "nothing was removed: "
    how = "predicted " if described["latencies"][worst].get("predicted") else ""
    return f"{idle}{how}{stated:.3g} ms{where}, {100 * described['violation']:.0f} % over the budget"


def _exceeds(recipe: Recipe, asked: float, described: dict[str, Any], workspace: Workspace) -> bool:
    """Whether even the strongest pruning takes more than the share of the budget that was asked for.

    Then the share is the limit that the network violates: what it costs says nothing about the share.
    """
    over = violations(workspace.yardsticks, described["latencies"], asked)
    worst = max(over.values())
    if worst <= 1e-6:
        return False
    described["violations"], described["violation"], described["feasible"] = over, worst, False
    found = (1 + worst) * asked
    floor = f", with a floor of {recipe.floor:.3g}" if recipe.floor else ""
    described["reason"] = f"no pruning meets {asked:.3g} of the budget, the strongest takes {found:.3g} of it{floor}"
    return True


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
    latencies = {yardstick.name: yardstick.stated(measured[yardstick.name]) for yardstick in workspace.yardsticks}
    over = violations(workspace.yardsticks, latencies)
    worst = max(over.values(), default=None)
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
        "violations": over,
    }
