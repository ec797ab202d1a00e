"""Carries out a recipe: sparse training, surgery, the gate, recovery, round after round.

Right after the last surgery a network's latency is exact, so a candidate over the budget ends there, before its
recovery is paid. One that another trial has recovered takes that result over. What is recovered is judged at rungs on
its way, and between two rounds. However the trial ends, its record has the networks that it came to: the front is drawn
over them.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeAlias, assert_never

from prunetune.pruning.pipeline import Pruned, Recovered, Trained
from prunetune.pruning.stages.stage_files import read_history
from prunetune.pruning.training.trainer import is_out_of_memory
from prunetune.pruning.training.values import TrainingFailureError
from prunetune.results.findings.histories import read_curves
from prunetune.results.record import NetworkFigures, NetworkFiles, NetworkResult, RungDecision, TrialRecord
from prunetune.search.interruption import StopAskedError, TrialLostError, stop_is_asked
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.deployments import further_networks
from prunetune.search.trial.duplicates import (
    Duplicate,
    recovered_duplicates,
    trial_over_budget,
    trial_with_channels,
    trial_with_stage,
)
from prunetune.search.trial.early_stopping import decided_after, judge, rungs_of, values_at
from prunetune.search.trial.figures import excess_text, missed_share, network_figures
from prunetune.search.trial.trial_files import CURVES, GAMMAS
from prunetune.spaces import LatencyShare, MeasurementError, Outcome, PrunetuneError, Recipe
from prunetune.spaces.files import place_error

_log = logging.getLogger(__name__)

End: TypeAlias = tuple[Outcome, str]
"""How a trial ends, and why."""


def run_trial(recipe: Recipe, context: TrialContext) -> TrialRecord:
    """Carries out a recipe, and says what it found and what that cost.

    A failure of the recipe is an outcome of its record. What is raised leaves the recipe to a later attempt, which
    begins it anew and reads back every stage that is finished.

    Args:
        recipe: What to do.
        context: The study's, for this trial.

    Raises:
        StageBusyError: Another process trains a stage of the recipe.
        StopAskedError: A stop was asked for, and came to a safe point.
        TrialLostError: The trial was given to another process meanwhile.
        PrunetuneError: The user must mend something before any trial can run.
    """
    meter, run = context.cost_meter, _Run(recipe, context)
    began = meter.reading()
    with meter.part("other"):
        record = _end_of(run)
    return replace(record, cost=meter.reading() - began)


def _end_of(run: _Run) -> TrialRecord:
    """The record of a run; of one that failed, with the failure's name."""
    try:
        return run.carry_out()
    except TrainingFailureError as error:
        return replace(run.record, outcome=Outcome(error.cause), reason=str(error))
    except MeasurementError as error:
        return replace(run.record, outcome=Outcome.NOT_MEASURED, reason=str(error))
    except (PrunetuneError, TrialLostError):  # a busy stage is a PrunetuneError, a stop no Exception at all
        raise
    # Whatever else a foreign library raises fails this trial, by name and with its text, and not the study.
    except Exception as error:
        if stop_is_asked():  # a signal to the whole group also ends the processes that load images
            raise StopAskedError from error
        if isinstance(error, OSError) and (told := place_error(error)):  # that says nothing of the recipe
            raise told from error
        outcome = Outcome.OUT_OF_MEMORY if is_out_of_memory(error) else Outcome.ERROR
        if outcome is Outcome.ERROR:
            _log.warning("%s failed", run.context.title, exc_info=True)
        return replace(run.record, outcome=outcome, reason=f"{type(error).__name__}: {error}")


class _Run:
    """One attempt at a recipe."""

    def __init__(self, recipe: Recipe, context: TrialContext) -> None:
        self.recipe, self.context = recipe, context
        self._settings = context.spec.early_stopping or None
        self._rungs = rungs_of(self._settings, recipe.recovery_epochs)
        self._attempts = context.peers.earlier_attempts()  # before this one shows anything under the same number
        self._deployment = context.deployment(recipe)
        self._record = TrialRecord(recipe)
        self._candidate: NetworkResult | None = None
        """The last round's network, from its surgery on."""
        self._further: tuple[NetworkResult, ...] = ()
        """The same at further deployments."""
        self._surgery = ""
        self._stages: set[str] = set()
        self._gammas: list[dict[str, Any]] = []
        self._curves: list[dict[str, Any]] = []

    @property
    def record(self) -> TrialRecord:
        """What was found so far."""
        last = () if self._candidate is None else (self._candidate, *self._further)
        return replace(self._record, networks=(*self._record.networks, *last))

    def carry_out(self) -> TrialRecord:
        """Takes step after step until one of them ends the trial; shows other trials what each has brought."""
        sparsity = self.context.pipeline.sparsity(self.recipe)
        self._note(sparsity_lambda=sparsity.coefficient, sparsity_pull=sparsity.pull)
        with closing(self.context.pipeline.run(self.recipe, [epoch for epoch in self._rungs if epoch])) as steps:
            for step in steps:
                match step:
                    case Pruned():
                        end = self._after_surgery(step)
                    case Trained():
                        end = self._at_rung(step)
                    case Recovered():
                        end = self._after_recovery(step)
                    case _:
                        assert_never(step)
                if end is not None:
                    outcome, reason = end
                    return replace(self.record, outcome=outcome, reason=reason)
                self.context.peers.publish(self._record)
        raise AssertionError("a recipe ends with a recovered network")

    # A surgery

    def _after_surgery(self, step: Pruned) -> End | None:
        """Gates the last round's network. A round before it can only end at its floor: when every layer is as narrow
        as it may be and the recipe's latency is still missed, no further round helps."""
        self._note_surgery(step)
        by_share = isinstance(self.recipe.threshold, LatencyShare)
        if not step.last and not (step.at_floor and by_share):
            return None
        figures = network_figures(step.load(), step.checkpoint, self.context, self._deployment)
        missed = missed_share(figures, self.recipe, self.context)
        if not step.last and missed is None:
            return None
        self._candidate = NetworkResult(
            deployment=self._deployment,
            figures=figures,
            accuracy=step.accuracy,
            recovered=False,
            round=step.round,
            surgery=step.stage.digest,
            stage=step.stage.digest,
        )
        if step.last and not figures.feasible:
            self._note(duplicate_of=trial_over_budget(step.stage.digest, self.context.peers.records()))
            if self._record.duplicate_of is None:
                self._note_channels(self._candidate)
            return Outcome.OVER_BUDGET, excess_text(figures)
        if missed is not None:
            self._candidate = replace(self._candidate, figures=replace(figures, violations=missed.violations))
            return Outcome.OVER_BUDGET, missed.reason
        if self._took_over(self._candidate):
            return Outcome.OK, ""
        if self._record.duplicate_of is None:
            self._note_channels(self._candidate)
        return self._stopped_at(0, self._candidate)

    def _note_surgery(self, step: Pruned) -> None:
        """Notes thresholds, warnings and the sparse phase's gammas. A warning is said once: often it is true of all."""
        self._surgery = step.stage.digest
        self._stages |= {step.stage.digest, *(() if step.sparse is None else (step.sparse.digest,))}
        if isinstance(self.recipe.threshold, LatencyShare) and step.plan.threshold is not None:
            self._note(thresholds=(*self._record.thresholds, step.plan.threshold))
        if step.warning is not None:
            if not any(record.warnings for record in (self._record, *self.context.peers.records().values())):
                advice = "train sparse for longer, or with more sparsity"
                _log.warning("%s: %s; %s", self.context.title, step.warning, advice)
            where = "" if step.last and step.round == 1 else f"round {step.round}: "
            self._note(warnings=(*self._record.warnings, f"{where}{step.warning}"))
        if step.sparse is not None:
            self._gammas += [
                {
                    "round": step.round,
                    "epoch": epoch.epoch,
                    "sl_loss": epoch.losses["sl_loss"],
                    "histogram": epoch.gammas and epoch.gammas.as_dict(),
                }
                for epoch in read_history(step.sparse)
            ]
            self._note(gammas=self.context.files.keep_history(GAMMAS, self._gammas, self.context.name))

    def _note_channels(self, network: NetworkResult) -> None:
        self._note(latency_from=trial_with_channels(network, self.context.peers.records()))

    def _took_over(self, candidate: NetworkResult) -> bool:
        """Takes over what another trial has recovered of an equal network, if its checkpoint is still there."""
        for duplicate in recovered_duplicates(candidate.surgery, self.recipe, self.context.peers.records()):
            self._note(duplicate_of=duplicate.trial)
            checkpoint = duplicate.network.files.checkpoint
            if checkpoint is not None and (self.context.folder / checkpoint).is_file():
                self._take_over(candidate, duplicate, checkpoint)
                return True
        return False

    def _take_over(self, candidate: NetworkResult, duplicate: Duplicate, checkpoint: str) -> None:
        known = duplicate.network
        files = NetworkFiles(self.context.files.keep_checkpoint(self.context.folder / checkpoint, self.context.name))
        figures = replace(candidate.figures, bytes=known.figures.bytes)
        self._candidate = replace(known, figures=figures, round=candidate.round, files=files)
        self._further = tuple(
            replace(network, round=candidate.round, files=files)
            for network in duplicate.record.networks
            if network.round == known.round and network != known
        )
        self._note_curve(candidate.round, read_curves(duplicate.record, self.context.folder).get(known.round, ()))
        for use in duplicate.recovery:
            self.context.cost_meter.count(use)

    # A recovery

    def _at_rung(self, step: Trained) -> End | None:
        """Judges the candidate within its recovery. One whose whole recovery is stored goes on for nothing."""
        assert self._candidate is not None  # rungs lie behind the last surgery
        stopped = self._stopped_at(step.epoch, replace(self._candidate, accuracy=step.accuracy))
        if stopped is None or step.is_whole:
            return None
        self._candidate = replace(self._candidate, accuracy=step.accuracy)
        self._note_curve(step.round, step.curve)
        return stopped

    def _after_recovery(self, step: Recovered) -> End | None:
        """Keeps a recovered network, the last one or that of a round before it."""
        self._note_curve(step.round, step.curve)
        self._stages.add(step.stage.digest)
        if step.last:
            assert self._candidate is not None  # its surgery was gated
            self._candidate = self._recovered(step, self._candidate.figures)
            self._further = further_networks(self._candidate, step.load(), self.context, self._record.networks)
            return Outcome.OK, ""
        try:
            figures = network_figures(step.load(), step.checkpoint, self.context, self._deployment)
        except MeasurementError as error:  # that is this network's end, and not the trial's
            _log.warning("%s, round %d: %s", self.context.title, step.round, error)
            return None
        network = self._recovered(step, figures)
        further = further_networks(network, step.load(), self.context, self._record.networks)
        self._note(networks=(*self._record.networks, network, *further))
        end = self._needless(step, network) or self._outclassed(step, network)
        if end is not None:
            self._note(duplicate_of=trial_with_stage(network.stage, self.context.peers.records()))
        return end

    def _recovered(self, step: Recovered, figures: NetworkFigures) -> NetworkResult:
        """A recovered network with its accuracy as it ships, and its checkpoint among the study's files."""
        shipping, name, deployment = self.context.shipping, self.context.name, self._deployment
        name = name if step.last else f"{name}-round-{step.round}"
        return NetworkResult(
            deployment=deployment,
            figures=replace(figures, bytes=step.checkpoint.stat().st_size),
            accuracy=shipping.evaluate(step.load(), deployment) if shipping.quantises(deployment) else step.accuracy,
            round=step.round,
            surgery=self._surgery,
            stage=step.stage.digest,
            files=NetworkFiles(self.context.files.keep_checkpoint(step.checkpoint, name)),
        )

    def _needless(self, step: Recovered, network: NetworkResult) -> End | None:
        """The end of a recipe whose further rounds would remove nothing. Without early stopping it does them all."""
        if self._settings is None:
            return None
        cut, removed_nothing = self.recipe.cut(step.round), not step.plan.keep
        if isinstance(cut, LatencyShare):
            if not network.figures.violations or missed_share(network.figures, self.recipe, self.context) is not None:
                return None
            reason = "its latency is met"
        elif removed_nothing and self.recipe.cut(step.round + 1) == cut:
            reason = "it removed nothing"
        else:
            return None
        outcome = Outcome.OK if network.figures.feasible else Outcome.OVER_BUDGET
        return outcome, f"after round {step.round} of {self.recipe.rounds}: {reason}"

    def _outclassed(self, step: Recovered, network: NetworkResult) -> End | None:
        """The end of a recipe whose network is far behind others at the highest rung, among all that are recovered: of
        two rounds that begin from it none comes to the front, most likely."""
        if self._settings is None:
            return None
        decision = decided_after(step.round, self._attempts)
        if decision is None:
            others = {
                other.stage: self.context.values(other)
                for record in self.context.peers.records().values()
                for other in record.trained
                if other.recovered and other.stage not in self._stages
            }
            rung, reduction = self._settings.rungs + 1, self._settings.reduction
            values, epochs = self.context.values(network), self.recipe.recovery_epochs
            decision = judge(rung, epochs, values, [*others.values()], reduction, step.round)
        self._note(decisions=(*self._record.decisions, decision))
        if decision.goes_on:
            return None
        return Outcome.STOPPED_EARLY if network.figures.feasible else Outcome.OVER_BUDGET, decision.reason

    # What is noted

    def _stopped_at(self, epochs: int, candidate: NetworkResult) -> End | None:
        """Judges the candidate where a rung lies after so many epochs of recovery."""
        if self._settings is None or epochs not in self._rungs:
            return None
        rung, values = self._rungs[epochs], self.context.values(candidate)
        others = values_at(rung, self.context.peers.records())
        decision: RungDecision = judge(rung, epochs, values, others, self._settings.reduction)
        self._note(decisions=(*self._record.decisions, decision))
        return None if decision.goes_on else (Outcome.STOPPED_EARLY, decision.reason)

    def _note_curve(self, round_number: int, curve: tuple[float, ...]) -> None:
        if curve:
            self._curves.append({"round": round_number, "map50_95": curve})
            self._note(curves=self.context.files.keep_history(CURVES, self._curves, self.context.name))

    def _note(self, **found: Any) -> None:
        self._record = replace(self._record, **found)
