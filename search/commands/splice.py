"""`prunetune splice`: the backbone of one network of a study and the head of another, as a trial of the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from prunetune.pruning.pipeline import accuracy_curve
from prunetune.pruning.planning.plan import PruningPlan
from prunetune.pruning.stages.stage import Stage
from prunetune.pruning.stages.stage_files import CHECKPOINT, read_history
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.splicing import Donor, Remains, compose, splice, spliced_remains
from prunetune.pruning.training.values import TrainingFailureError, recovery_phase
from prunetune.pruning.yolo.detector import Detector
from prunetune.results.findings.findings import Findings
from prunetune.results.record import NetworkFiles, NetworkResult, StudyRecord, TrialRecord
from prunetune.results.study_results import Candidate, StudyResults
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.aside import patiently
from prunetune.search.engine.engine import check, prepare_context
from prunetune.search.engine.finish import finish
from prunetune.search.interruption import Interruption
from prunetune.search.options.options import named
from prunetune.search.study.open_study import spec_here, stored_spec, study_lock
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.figures import excess_text, network_figures
from prunetune.search.trial.objective import constraints
from prunetune.search.trial.trial_files import CURVES
from prunetune.spaces import Accuracy, ConfigError, Outcome, PrunetuneError, Recipe, Splice, StoreError
from prunetune.spaces.files import file_sha256


def splice_networks(
    study: optuna.Study, folder: Path, backbone: str, head: str, recovery_epochs: int | None, console: Console
) -> FrozenTrial:
    """Puts a network together, recovers, evaluates and measures it, and adds it to the study as a trial.

    The trial is complete, and has no parameters. The same splice asked for again is found; after a stop it goes on.

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
    donors = [
        _candidate(study, folder, option, name) for option, name in (("backbone-from", backbone), ("head-from", head))
    ]
    backbone, head = (donor.network.own_name for donor in donors)  # widths are the same at each deployment
    wanted = Splice(backbone, head, longest if recovery_epochs is None else recovery_epochs)
    if backbone == head:
        raise ConfigError(f"--backbone-from {backbone}, --head-from {head}: that is the network itself; give two")
    if (known := _known(study, wanted)) is not None:
        return known
    spec = spec_here(study, folder)
    progress = Progress(console, spec.trials)
    with Interruption():
        try:
            context = prepare_context(study, check(spec, progress), progress)
            trial = _Splicing(study, context, progress).carry_out(wanted, *donors)
            if StudyRecord.of(study).finished is not None:  # else its end will do it
                finish(study, context, progress)
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
    return next((trial for trial in trials if TrialRecord.from_trial(trial).recipe == wanted), None)


class _Splicing:
    """One splice of a study."""

    def __init__(self, study: optuna.Study, context: TrialContext, progress: Progress) -> None:
        self._study, self._context, self._progress = study, context, progress

    def carry_out(self, wanted: Splice, backbone: Candidate, head: Candidate) -> FrozenTrial:
        """Carries it out. A network over the budget is not recovered, as in the search."""
        meter = self._context.cost_meter
        began = meter.reading()
        with meter.part("other"):
            record, recovered = self._carried_out(wanted, backbone, head)
        return self._add(replace(record, cost=meter.reading() - began), recovered)

    def _carried_out(
        self, wanted: Splice, backbone: Candidate, head: Candidate
    ) -> tuple[TrialRecord, StoredStage | None]:
        spliced = self._spliced(backbone, head)
        checkpoint = spliced.file(CHECKPOINT)
        self._progress.begin("measuring it")
        deployment = self._context.shipping.deployment
        figures = network_figures(Detector.load(checkpoint), checkpoint, self._context, deployment)
        network = NetworkResult(
            deployment=deployment,
            figures=figures,
            accuracy=_accuracy(spliced),
            recovered=False,
            surgery=spliced.digest,
            stage=spliced.digest,
        )
        if not figures.feasible:
            return TrialRecord(wanted, Outcome.OVER_BUDGET, excess_text(figures), (network,)), None
        self._progress.begin(str(wanted))
        recovered = self._recovered(spliced, wanted.recovery_epochs)
        checkpoint, shipping = recovered.file(CHECKPOINT), self._context.shipping
        ships_int8 = shipping.quantises(deployment)
        network = replace(
            network,
            figures=replace(figures, bytes=checkpoint.stat().st_size),
            accuracy=shipping.evaluate(Detector.load(checkpoint), deployment) if ships_int8 else _accuracy(recovered),
            recovered=True,
            stage=recovered.digest,
        )
        return TrialRecord(wanted, Outcome.OK, networks=(network,)), recovered

    def _recovered(self, spliced: StoredStage, epochs: int) -> StoredStage:
        if not epochs:
            return spliced
        context = self._context
        phase = recovery_phase(epochs, context.spec.choose)
        train = partial(context.stages.train, "recovery", spliced, phase)
        return patiently(train, "splice", context.store, self._progress).stage

    def _spliced(self, backbone: Candidate, head: Candidate) -> StoredStage:
        context, stages = self._context, self._context.stages
        original = patiently(context.pipeline.original, "dense network", context.store, self._progress)
        dense = stages.load(original).model
        groups = channel_groups(dense)
        parts = (self._donor(backbone, groups), self._donor(head, groups))
        self._progress.begin("splicing")

        def build() -> Detector:
            with context.cost_meter.part("surgery"):
                built = Detector(splice(dense, *parts, groups), backbone.load().source)
            stages.recalibrate(built)
            return built

        settings = {
            "backbone": file_sha256(backbone.checkpoint),
            "head": file_sha256(head.checkpoint),
            "setup": stages.setup.identity(),
        }
        left = spliced_remains(parts[0].left, parts[1].left, dense, groups)
        extra = {**left.as_dict(), "is_pruned": all(part.is_pruned for part in parts)}
        return stages.make(Stage("splicing", original.digest, settings), build, extra).stage

    def _donor(self, candidate: Candidate, groups: Sequence[ChannelGroup]) -> Donor:
        model, network = candidate.load().model, candidate.network
        if network.trial is None:
            channels, dense = network.figures.channels, self._context.dense_channels
            if channels.keys() != dense.keys():
                raise ConfigError(f"{network.name}: is another detector than the study's; no splice takes it")
            return Donor(model) if channels == dense.as_dict() else Donor.narrow(model, groups)
        record = TrialRecord.from_trial(self._study.get_trials(deepcopy=False)[network.trial])
        recipe = record.recipe
        left = Remains()
        is_pruned = not isinstance(recipe, Recipe) or recipe.start != "scratch" or not recipe.recovery_epochs
        for use in record.cost.stages:
            if use.kind not in ("pruning", "splicing"):
                continue
            stage = self._context.store.find(use.digest)
            if stage is None:
                raise StoreError(
                    f"trial {candidate.name}: cannot be spliced: its stage {use.digest}, which knows the channels "
                    "that it kept, is no longer in the store"
                )
            if use.kind == "splicing":
                left = Remains.from_dict(stage.record)
                is_pruned = is_pruned and stage.record["is_pruned"]
            else:
                left = compose(left, PruningPlan.from_dict(stage.record["plan"]), groups)
            if use.digest == network.result.surgery:
                break
        return Donor(model, left, is_pruned)

    def _add(self, record: TrialRecord, recovered: StoredStage | None) -> FrozenTrial:
        """Adds the trial: complete at once, so that no other process ever takes it up."""
        context, network = self._context, record.networks[-1]
        with study_lock(context.folder, always=True):
            assert isinstance(record.recipe, Splice)
            if (known := _known(self._study, record.recipe)) is not None:
                return known
            number = len(self._study.get_trials(deepcopy=False))
            if recovered is not None:
                name = f"trial-{number}"
                checkpoint = context.files.keep_checkpoint(recovered.file(CHECKPOINT), name)
                curve = accuracy_curve(read_history(recovered))
                curves = [{"round": 1, "map50_95": curve}] if curve else []
                record = replace(
                    record,
                    networks=(replace(network, files=NetworkFiles(checkpoint)),),
                    curves=context.files.keep_history(CURVES, curves, name),
                )
            trial = create_trial(
                values=list(context.values(network)),
                user_attrs=record.to_attrs(),
                constraints=constraints(record, context.spec) or None,
            )
            if trial.datetime_complete is not None:
                trial.datetime_start = trial.datetime_complete - timedelta(seconds=record.cost.total_s)
            self._study.add_trial(trial)
            return self._study.get_trials(deepcopy=False)[number]


def _accuracy(stage: StoredStage) -> Accuracy:
    assert stage.accuracy is not None  # every stage that a trial ends with is evaluated
    return stage.accuracy
