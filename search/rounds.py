"""What becomes of a round that is not a recipe's last: a trial of its own, or the end of the trial.

A recipe of three rounds begins as those of one and of two rounds do, so their networks are candidates of the study too,
and cost nothing. Such a trial is complete when it is added, has the parameters of its own recipe where the space has
that, and is marked by its attribute `round_of`. With early stopping no further round follows a network that another one
cannot improve: see `_reason_to_end`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import Trial, TrialState, create_trial

from prunetune.pruning.pipeline import Candidate
from prunetune.pruning.threshold_search import ROUGH, round_goal
from prunetune.results.entries import ROUND_OF, ROUNDS_ASKED
from prunetune.search.equal_networks import EQUALS, EqualNetworks
from prunetune.search.latency_shares import StudyLatencies
from prunetune.search.outcome import Outcome
from prunetune.search.rungs import UNFINISHED, TrialRungs
from prunetune.search.spec import StudySpec
from prunetune.search.storage import alone, memory, patiently_store
from prunetune.search.workspace import Workspace
from prunetune.search.yardstick import violations
from prunetune.spaces import LatencyShare, Recipe


@dataclass(frozen=True)
class Round:
    """A round that was recovered, and is not the last.

    Attributes:
        candidate: Its network.
        figures: What a trial stores of a network, without its files.
        gammas: Of this round and those before, as they are kept.
        curves: The same of their recoveries.
    """

    candidate: Candidate
    figures: Mapping[str, Any]
    gammas: Sequence[Mapping[str, Any]]
    curves: Sequence[Mapping[str, Any]]


def after_round(
    study: optuna.Study, trial: Trial, found: Round, workspace: Workspace, rungs: TrialRungs
) -> dict[str, Any] | None:
    """Decides whether a recipe's next round is begun. If it is, the network becomes a trial of its own.

    Args:
        study: The study.
        trial: The trial whose round it is.
        found: The round.
        workspace: The study's.
        rungs: The trial's.

    Returns:
        None, or what the trial stores if it ends with this network.
    """
    recipe, number = rungs.recipe, found.candidate.round
    stages = _stages(workspace, found.candidate)
    stored = {**found.figures, "recipe": shorter(recipe, number, workspace).as_dict(), "stages": stages}
    trials = study.get_trials(deepcopy=False)
    finished = [other for other in trials if other.state == TrialState.COMPLETE]
    same = memory(study, EqualNetworks).with_stage(finished, found.candidate.stage.digest)
    reason = _reason_to_end(found, workspace, rungs)
    if reason is None:
        _add(study, trial, found, stored, workspace)
        return None
    stored |= _files(found, workspace, f"trial-{trial.number}")
    return stored | {ROUNDS_ASKED: recipe.rounds, "reason": reason} | ({} if same is None else {EQUALS: same})


def _reason_to_end(found: Round, workspace: Workspace, rungs: TrialRungs) -> str | None:
    """Why no further round follows, in words; None if one does.

    What a latency asks for may be met already. A threshold that removed nothing removes nothing when the same is done
    again. Else the network is judged at the highest rung, among all that are recovered: of two rounds that begin from
    it none comes to the front, most likely, if it is far behind. An earlier attempt's decision stands.
    """
    if not workspace.spec.early_stopping:
        return None
    recipe, number = rungs.recipe, found.candidate.round
    cut, after = recipe.cut(number), f"after round {number} of {recipe.rounds}"
    if isinstance(cut, LatencyShare):
        over = violations(workspace.yardsticks, found.figures["latencies"], cut.share)
        if over and max(over.values()) <= 0:
            return f"{after}: its latency is met"
    elif not found.candidate.plan.keep and recipe.cut(number + 1) == cut:
        return f"{after}: it removed nothing"
    values = (found.figures["accuracy"]["map50_95"], *judged(found.figures, workspace.spec))
    own = {stage["digest"] for stage in workspace.stages.ledger.stages}
    return None if rungs.after_round(number, values, own) else rungs.decisions[-1].reason


def judged(stored: Mapping[str, Any], spec: StudySpec) -> list[float]:
    """A network's latencies in ms that are objectives."""
    return [stored["latencies"][target]["latency_ms"] for target in spec.judged]


def shorter(recipe: Recipe, rounds: int, workspace: Workspace) -> Recipe:
    """The recipe that does the first rounds of another one: where that gives a latency, this one has their own goal."""
    cut = recipe.threshold
    if isinstance(cut, LatencyShare):
        cut = replace(cut, share=round_goal(StudyLatencies(workspace).dense, cut.share, rounds / recipe.rounds))
    return replace(recipe, rounds=rounds, threshold=cut, later_thresholds=recipe.later_thresholds[: rounds - 1])


def take_params(trial: Trial, stored: Mapping[str, Any]) -> bool:
    """Gives a trial that ended early the parameters of the recipe that it did; whether the space has that.

    Call it within a transaction with the trial's end. Whoever learns from the trial learns what it did.
    """
    if (params := _params(trial, stored)) is None:
        return False
    for name, value in params.items():
        if value != trial.params[name]:
            distribution = trial.distributions[name]
            internal = distribution.to_internal_repr(value)
            trial.storage.set_trial_param(trial._trial_id, name, internal, distribution)
    return True


def _params(trial: Trial, stored: Mapping[str, Any]) -> dict[str, Any] | None:
    """A trial's parameters for a recipe with fewer rounds; None where the space has no such recipe, or the round missed
    its own goal, as the last one's network would be told to."""
    recipe = Recipe.from_dict(stored["recipe"])
    changed: dict[str, Any] = {"rounds": recipe.rounds}
    if isinstance(recipe.threshold, LatencyShare):
        goal = recipe.threshold.share
        if stored["violation"] is not None and 1 + stored["violation"] > goal * (1 + ROUGH):
            return None
        changed["latency"] = goal
    if not all(name in trial.params and _has(trial.distributions[name], value) for name, value in changed.items()):
        return None
    return trial.params | changed


def _has(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # none of the choices
        return False


def _add(study: optuna.Study, trial: Trial, found: Round, stored: dict[str, Any], workspace: Workspace) -> None:
    """Adds a round as a trial, unless the study has the network: from another trial, or from another attempt at this
    one."""
    outcome = Outcome.OK if stored["feasible"] else Outcome.OVER_BUDGET
    spec, params = workspace.spec, _params(trial, stored)
    sparsity = workspace.pipeline.sparsity(Recipe.from_dict(stored["recipe"]))
    constraints = {spec.latency_name(target): violation for target, violation in stored["violations"].items()}
    if spec.early_stopping:
        constraints[UNFINISHED] = 0.0
    told = {
        **stored,
        ROUND_OF: trial.number,
        "sparsity_lambda": sparsity.coefficient,
        "sparsity_pull": sparsity.pull,
        "outcome": outcome.value,
        "reason": "" if outcome is Outcome.OK else f"{100 * stored['violation']:.0f} % over the budget",
        "worker": trial.user_attrs.get("worker"),
    }

    def act() -> None:
        with alone(study):
            trials = study.get_trials(deepcopy=False)
            complete = [other for other in trials if other.state == TrialState.COMPLETE]
            if memory(study, EqualNetworks).with_stage(complete, found.candidate.stage.digest) is not None:
                return
            files = _files(found, workspace, f"trial-{len(trials)}")
            added = create_trial(
                values=[stored["accuracy"]["map50_95"], *judged(stored, spec)],
                params=params or {},
                distributions=trial.distributions if params else {},
                user_attrs=told | files,
                constraints=constraints or None,
            )
            study.add_trial(added)

    patiently_store(study, act)


def _files(found: Round, workspace: Workspace, name: str) -> dict[str, Any]:
    """Keeps a network's files; returns the attributes that say where they are."""
    return {
        "bytes": found.candidate.checkpoint.stat().st_size,
        "checkpoint": workspace.keep_checkpoint(found.candidate.stage, name),
        "gammas": workspace.keep_records("gammas", found.gammas, name),
        "curves": workspace.keep_records("curves", found.curves, name),
    }


def _stages(workspace: Workspace, candidate: Candidate) -> list[dict[str, Any]]:
    """The stages of a trial up to a network. An earlier attempt at it may have come further."""
    stages = workspace.stages.ledger.stages
    last = max(place for place, stage in enumerate(stages) if stage["digest"] == candidate.stage.digest)
    return list(stages[: last + 1])
