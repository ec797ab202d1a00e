"""`prunetune splice`: the backbone of one network of a study and the head of another, as a trial of the study."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from prunetune.pruning.detector import Detector
from prunetune.pruning.ledger import Ledger
from prunetune.pruning.pipeline import accuracy_curve
from prunetune.pruning.plan import PruningPlan
from prunetune.pruning.splicing import Donor, Kept, compose, splice, spliced_kept
from prunetune.pruning.stage_files import CHECKPOINT, read_history
from prunetune.pruning.stages import Stage
from prunetune.pruning.store import StoredStage, file_sha256
from prunetune.pruning.surgery import ChannelGroup, channel_groups
from prunetune.pruning.training import TrainingFailureError, recovery_phase
from prunetune.results.entries import SPLICE, splice_of
from prunetune.results.findings import Findings
from prunetune.results.study_results import Candidate, StudyResults
from prunetune.search.aside import patiently
from prunetune.search.attributes import FINISHED
from prunetune.search.engine import measure_references
from prunetune.search.finish import finish
from prunetune.search.interruption import Interruption
from prunetune.search.objective import describe, excess
from prunetune.search.options import named
from prunetune.search.outcome import Outcome
from prunetune.search.progress import Progress
from prunetune.search.rungs import UNFINISHED
from prunetune.search.study import spec_here, stored_spec, study_lock
from prunetune.search.workspace import Workspace
from prunetune.spaces import ConfigError, PrunetuneError, Splice, StoreError


def splice_networks(
    study: optuna.Study, folder: Path, backbone: str, head: str, recovery_epochs: int | None, console: Console
) -> FrozenTrial:
    """Puts a network together, recovers, evaluates and measures it, and adds it to the study as a trial.

    The trial is complete, has no parameters, and is marked by its attribute `splice`. The same splice asked for again
    is found; after a stop it goes on.

    Args:
        study: The study.
        folder: Its folder.
        backbone: Whose backbone: a trial's number, or a control's name.
        head: Whose neck and head.
        recovery_epochs: Epochs of recovery; None: as many as the longest recovery of the space.
        console: Where progress is shown.

    Returns:
        The trial.

    Raises:
        PrunetuneError: Something the user must mend; what was finished is kept.
        StopAskedError: As asked for.
    """
    longest = int(stored_spec(study).space.recovery_epochs.largest)
    wanted = Splice(backbone, head, longest if recovery_epochs is None else recovery_epochs)
    donors = [
        _candidate(study, folder, option, name) for option, name in (("backbone-from", backbone), ("head-from", head))
    ]
    if backbone == head:
        raise ConfigError(f"--backbone-from {backbone}, --head-from {head}: that is the network itself; give two")
    if (known := _known(study, wanted)) is not None:
        return known
    spec = spec_here(study, folder)
    progress = Progress(console, spec.trials)
    with Interruption():
        try:
            progress.begin("checking model and data")
            workspace = Workspace(spec, progress.epochs)
            measure_references(study, workspace, progress)
            trial = _Splicing(study, workspace, progress).carry_out(wanted, *donors)
            if study.user_attrs.get(FINISHED) is not None:  # else its end will do it
                finish(study, workspace, progress)
            return trial
        except TrainingFailureError as error:
            raise PrunetuneError(f"{wanted}: {error.cause}: {error}") from error
        finally:
            progress.end()


def _candidate(study: optuna.Study, folder: Path, option: str, name: str) -> Candidate:
    with named(f"--{option}"):
        return StudyResults(Findings.of(study), folder).candidate(name)


def _known(study: optuna.Study, wanted: Splice) -> FrozenTrial | None:
    """The trial of an equal splice."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((trial for trial in trials if splice_of(trial) == wanted), None)


class _Splicing:
    """One splice of a study."""

    def __init__(self, study: optuna.Study, workspace: Workspace, progress: Progress) -> None:
        self._study, self._workspace, self._progress = study, workspace, progress
        self._ledger = workspace.stages.ledger = Ledger()

    def carry_out(self, wanted: Splice, backbone: Candidate, head: Candidate) -> FrozenTrial:
        """Carries it out. A network over the budget is not recovered, as in the search."""
        workspace, stored = self._workspace, dict[str, Any]()
        self._ledger.begin_attempt()
        with self._ledger.clock.part("other"):
            spliced = self._spliced(backbone, head)
            detector = Detector.load(spliced.file(CHECKPOINT))
            self._progress.begin("measuring it")
            stored |= describe(detector, spliced.file(CHECKPOINT), workspace.gauge(detector), workspace)
            stored |= {"accuracy": spliced.record["accuracy"], "rung": 0}
            recovered = None
            if stored["feasible"]:
                self._progress.begin(str(wanted))
                recovered = self._recovered(spliced, wanted.recovery_epochs)
                stored["accuracy"], stored["rung"] = recovered.record["accuracy"], 1
                if workspace.quantises:
                    stored["accuracy"] = workspace.evaluate(Detector.load(recovered.file(CHECKPOINT))).as_dict()
        return self._add(wanted, stored, recovered)

    def _recovered(self, spliced: StoredStage, epochs: int) -> StoredStage:
        if not epochs:
            return spliced
        phase = recovery_phase(epochs, self._workspace.spec.choose)
        train = partial(self._workspace.stages.train, "recovery", spliced, phase)
        return patiently(train, "splice", self._workspace.store, self._progress)

    def _spliced(self, backbone: Candidate, head: Candidate) -> StoredStage:
        workspace = self._workspace
        original = patiently(workspace.pipeline.original, "dense network", workspace.store, self._progress)
        dense = workspace.stages.load(original).model
        groups = channel_groups(dense)
        parts = (self._donor(backbone, groups), self._donor(head, groups))
        self._progress.begin("splicing")

        def build() -> Detector:
            with self._ledger.clock.part("surgery"):
                built = Detector(splice(dense, *parts, groups), backbone.load().source)
            workspace.stages.recalibrate(built)
            return built

        settings = {
            "backbone": file_sha256(backbone.checkpoint),
            "head": file_sha256(head.checkpoint),
            "setup": workspace.stages.setup.identity(),
        }
        kept = spliced_kept(parts[0].kept, parts[1].kept, dense, groups)
        extra = {
            "kept": {root: list(left) for root, left in kept.items()},
            "is_pruned": all(part.is_pruned for part in parts),
        }
        return workspace.stages.make(Stage("splicing", original.digest, settings), build, extra)

    def _donor(self, candidate: Candidate, groups: Sequence[ChannelGroup]) -> Donor:
        model = candidate.load().model
        if candidate.entry.trial is None:
            return Donor(model) if candidate.name == "dense" else Donor.narrow(model, groups)
        trial = self._study.get_trials(deepcopy=False)[candidate.entry.trial]
        kept: Kept = {}
        recipe = trial.user_attrs["recipe"]
        is_pruned = recipe.get("start") != "scratch" or not recipe["recovery_epochs"]
        for told in trial.user_attrs["stages"]:
            if told["kind"] not in ("pruning", "splicing"):
                continue
            stage = self._workspace.store.find(told["digest"])
            if stage is None:
                raise StoreError(
                    f"trial {candidate.name}: cannot be spliced: its stage {told['digest']}, which knows the channels "
                    "that it kept, is no longer in the store"
                )
            if told["kind"] == "splicing":
                kept = {root: tuple(left) for root, left in stage.record["kept"].items()}
                is_pruned = is_pruned and stage.record["is_pruned"]
            else:
                kept = compose(kept, PruningPlan.from_dict(stage.record["plan"]), groups)
        return Donor(model, kept, is_pruned)

    def _add(self, wanted: Splice, stored: dict[str, Any], recovered: StoredStage | None) -> FrozenTrial:
        """Adds the trial: complete at once, so that no other process ever takes it up."""
        workspace, spec, ledger = self._workspace, self._workspace.spec, self._ledger
        outcome = Outcome.OVER_BUDGET if recovered is None else Outcome.OK
        stored |= {
            "recipe": wanted.as_dict(),
            SPLICE: wanted.as_dict(),
            "outcome": outcome.value,
            "reason": excess(stored) if recovered is None else "",
            "seconds": {part: round(seconds, 3) for part, seconds in ledger.clock.seconds.items()},
            "epochs": {"trained": ledger.epochs_trained, "reused": ledger.epochs_reused},
            "stages": ledger.stages,
        }
        constraints = {spec.latency_name(target): violation for target, violation in stored["violations"].items()}
        if spec.early_stopping:
            constraints[UNFINISHED] = 0.0
        with study_lock(workspace.folder, always=True):
            if (known := _known(self._study, wanted)) is not None:
                return known
            number = len(self._study.get_trials(deepcopy=False))
            if recovered is not None:
                stored["bytes"] = recovered.file(CHECKPOINT).stat().st_size
                stored["checkpoint"] = workspace.keep_checkpoint(recovered, f"trial-{number}")
                if curve := accuracy_curve(read_history(recovered)):
                    curves = [{"round": 1, "map50_95": curve}]
                    stored["curves"] = workspace.keep_records("curves", curves, f"trial-{number}")
            latencies = [stored["latencies"][target]["latency_ms"] for target in spec.judged]
            trial = create_trial(
                values=[stored["accuracy"]["map50_95"], *latencies], user_attrs=stored, constraints=constraints or None
            )
            if trial.datetime_complete is not None:
                trial.datetime_start = trial.datetime_complete - timedelta(seconds=sum(ledger.clock.seconds.values()))
            self._study.add_trial(trial)
            return self._study.get_trials(deepcopy=False)[number]
