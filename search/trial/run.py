"""Carries out a recipe: sparse training, surgery, the gate, recovery, round after round.

Right after a surgery a network's latency is exact, so a candidate over the budget ends there, before its recovery is
paid. One that an earlier trial had takes that result over. What is recovered is judged at rungs on its way, and between
two rounds. However the trial ends, its record has the networks that it came to: the front is drawn over them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prunetune.pruning.pipeline import Pruned, Recovered, Trained
from prunetune.pruning.stage_files import read_history
from prunetune.pruning.trainer import is_out_of_memory
from prunetune.pruning.training import TrainingFailureError
from prunetune.results.histories import read_curves
from prunetune.results.record import NetworkFigures, NetworkFiles, NetworkResult, RungDecision, TrialRecord
from prunetune.search.interruption import StopAskedError, TrialLostError, stop_is_asked
from prunetune.search.latency.study_target import violations
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.duplicates import (
    Duplicate,
    over_budget_before,
    recovered_before,
    with_channels,
    with_stage,
)
from prunetune.search.trial.early_stopping import decided_after, judge, rungs_of, values_at
from prunetune.search.trial.figures import excess_text, network_figures, over_share
from prunetune.search.trial.files import CURVES, GAMMAS
from prunetune.spaces import Accuracy, LatencyShare, MeasurementError, Outcome, PrunetuneError, Recipe

_log = logging.getLogger(__name__)


def run_trial(recipe: Recipe, context: TrialContext) -> TrialRecord:
    """Carries out a recipe, and says what it found and what that cost.

    A failure of the recipe is an outcome of its record. What is raised leaves the recipe to a later attempt.

    Args:
        recipe: What to do.
        context: The study's, for this trial.

    Raises:
        StageClaimedError: Another process trains a stage of the recipe.
        StopAskedError: A stop was asked for, and came to a safe point.
        TrialLostError: The trial was given to another process meanwhile.
        PrunetuneError: The user must mend something before any trial can run.
    """
    meter, run = context.cost_meter, _Run(recipe, context)
    began = meter.reading()
    with meter.part("other"):
        record = _end_of(run)
        sparsity = context.pipeline.sparsity(recipe)
    return replace(
        record,
        sparsity_lambda=sparsity.coefficient,
        sparsity_pull=sparsity.pull,
        cost=meter.reading() - began,
    )


def _end_of(run: _Run) -> TrialRecord:
    """The record of a run; of one that failed, with the failure's name."""
    try:
        return run.carry_out()
    except TrainingFailureError as error:
        return replace(run.record, outcome=Outcome(error.cause), reason=str(error))
    except MeasurementError as error:
        return replace(run.record, outcome=Outcome.NOT_MEASURED, reason=str(error))
    except (PrunetuneError, TrialLostError):
        raise
    # Whatever else a foreign library raises fails this trial, by name and with its text, and not the study.
    except Exception as error:
        if stop_is_asked():  # a signal to the whole group also ends the processes that load images
            raise StopAskedError from error
        outcome = Outcome.OUT_OF_MEMORY if is_out_of_memory(error) else Outcome.ERROR
        if outcome is Outcome.ERROR:
            _log.warning("%s failed", run.context.title, exc_info=True)
        return replace(run.record, outcome=outcome, reason=f"{type(error).__name__}: {error}")


class _Run:
    """One attempt at a recipe.

    Attributes:
        record: What it has found so far.
    """

    def __init__(self, recipe: Recipe, context: TrialContext) -> None:
        self.recipe, self.context = recipe, context
        self.record = TrialRecord(recipe)
        self._began = context.cost_meter.reading()
        self._rungs = rungs_of(context.spec.early_stopping or None, recipe.recovery_epochs)
        self._surgery = ""
        self._gammas: list[dict[str, Any]] = []
        self._curves: list[dict[str, Any]] = []

    def carry_out(self) -> TrialRecord:
        """Takes step after step until one of them ends the trial."""
        for step in self.context.pipeline.run(self.recipe, [epoch for epoch in self._rungs if epoch]):
            match step:
                case Pruned():
                    ended = self._after_surgery(step)
                case Trained():
                    ended = self._at_rung(step)
                case Recovered():
                    ended = self._after_recovery(step)
            if ended:
                return self.record
        raise AssertionError("a recipe ends with a recovered network")

    # A surgery

    def _after_surgery(self, step: Pruned) -> bool:
        """Gates the network; whether that ends the trial."""
        self._surgery = step.stage.digest
        self._note_surgery(step)
        if not step.last:
            return self._is_stuck(step)
        network = self._unrecovered(step, network_figures(step.load(), step.checkpoint, self.context))
        self.record = replace(self.record, networks=(*self.record.networks, network))
        self._keep(GAMMAS)
        if not network.figures.feasible:
            duplicate_of = over_budget_before(network.surgery, self._peers)
            latency_from = None if duplicate_of is not None else with_channels(network.figures, self._peers)
            self.record = replace(self.record, duplicate_of=duplicate_of, latency_from=latency_from)
            return self._end(Outcome.OVER_BUDGET, excess_text(network.figures))
        if (missed := over_share(network.figures, self.recipe, self.context)) is not None:
            figures, reason = missed
            self._replace_last(replace(network, figures=figures))
            return self._end(Outcome.OVER_BUDGET, reason)
        duplicate = recovered_before(network.surgery, self.recipe, self._peers)
        if duplicate is not None:
            self.record = replace(self.record, duplicate_of=duplicate.trial)
            if self._take_over(duplicate):
                return self._end(Outcome.OK)
        else:
            self.record = replace(self.record, latency_from=with_channels(network.figures, self._peers))
        decision = self._decide(0, step.accuracy)
        return decision is not None and not decision.goes_on and self._end(Outcome.STOPPED_EARLY, decision.reason)

    def _note_surgery(self, step: Pruned) -> None:
        """Notes thresholds, warnings and the sparse phase's gammas. A warning is said once: often it is true of all."""
        record = self.record
        if isinstance(self.recipe.threshold, LatencyShare) and step.plan.threshold is not None:
            record = replace(record, thresholds=(*record.thresholds, step.plan.threshold))
        if step.warning is not None:
            if not record.warnings and not any(peer.warnings for peer in self._peers.values()):
                advice = "train sparse for longer, or with more sparsity"
                _log.warning("%s: %s; %s", self.context.title, step.warning, advice)
            where = "" if step.last and step.round == 1 else f"round {step.round}: "
            record = replace(record, warnings=(*record.warnings, f"{where}{step.warning}"))
        self.record = record
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

    def _is_stuck(self, step: Pruned) -> bool:
        """Whether a round before the last found every layer at its floor on its way to a latency: no further one helps.
        The trial ends with its network then."""
        if not step.at_floor or not isinstance(self.recipe.threshold, LatencyShare):
            return False
        figures = network_figures(step.load(), step.checkpoint, self.context)
        if (missed := over_share(figures, self.recipe, self.context)) is None:
            return False
        figures, reason = missed
        network = self._unrecovered(step, figures)
        self.record = replace(self.record, networks=(*self.record.networks, network))
        self._keep(GAMMAS)
        return self._end(Outcome.OVER_BUDGET, reason)

    def _unrecovered(self, step: Pruned, figures: NetworkFigures) -> NetworkResult:
        return NetworkResult(
            deployment=self.context.shipping.deployment,
            figures=figures,
            accuracy=step.accuracy,
            recovered=False,
            round=step.round,
            surgery=step.stage.digest,
            stage=step.stage.digest,
        )

    def _take_over(self, duplicate: Duplicate) -> bool:
        """Takes over the result of an equal network; False if its checkpoint is gone, and the recipe is carried out."""
        found, checkpoint = duplicate.network, duplicate.network.files.checkpoint
        if checkpoint is None or not (file := self.context.folder / checkpoint).is_file():
            return False
        network = self.record.networks[-1]
        self._replace_last(
            replace(
                network,
                accuracy=found.accuracy,
                recovered=True,
                stage=found.stage,
                figures=replace(network.figures, bytes=found.figures.bytes),
                files=NetworkFiles(self.context.files.keep_checkpoint(file, self.context.name)),
            )
        )
        curves = read_curves(duplicate.record, self.context.folder)
        self._note_curve(network.round, curves.get(found.round, ()))
        for use in duplicate.recovery:
            self.context.cost_meter.count(use)
        return True

    # A recovery

    def _at_rung(self, step: Trained) -> bool:
        """Judges a candidate within its recovery; whether that ends the trial. One whose whole recovery is stored goes
        on for nothing."""
        decision = self._decide(step.epoch, step.accuracy)
        if decision is None or decision.goes_on or step.is_whole:
            return False
        self._replace_last(replace(self.record.networks[-1], accuracy=step.accuracy))
        self._note_curve(step.round, step.curve)
        return self._end(Outcome.STOPPED_EARLY, decision.reason)

    def _after_recovery(self, step: Recovered) -> bool:
        """Adds the recovered network; whether that ends the trial."""
        self._note_curve(step.round, step.curve)
        if step.last:
            self._replace_last(self._with_file(self._recovered(step, self.record.networks[-1].figures), step))
            return self._end(Outcome.OK)
        try:
            network = self._recovered(step, network_figures(step.load(), step.checkpoint, self.context))
        except MeasurementError as error:  # that is this network's end, and not the trial's
            _log.info("%s, round %d: %s", self.context.title, step.round, error)
            return False
        known = with_stage(network.stage, self._peers)
        ended = self._end_after_round(step, network)
        if ended or known is None:  # else the study has it already
            network = self._with_file(network, step)
            self.record = replace(self.record, networks=(*self.record.networks, network))
        if ended is None:
            self.context.peers.publish(self.record)
            return False
        self._keep(GAMMAS)
        self.record = replace(self.record, duplicate_of=known)
        return self._end(*ended)

    def _recovered(self, step: Recovered, figures: NetworkFigures) -> NetworkResult:
        """A recovered network with its accuracy as it ships."""
        shipping = self.context.shipping
        return NetworkResult(
            deployment=shipping.deployment,
            figures=replace(figures, bytes=step.checkpoint.stat().st_size),
            accuracy=shipping.evaluate(step.load()) if shipping.quantises else step.accuracy,
            round=step.round,
            surgery=self._surgery,
            stage=step.stage.digest,
        )

    def _with_file(self, network: NetworkResult, step: Recovered) -> NetworkResult:
        """The network with its checkpoint among the study's files."""
        name = self.context.name if step.last else f"{self.context.name}-round-{step.round}"
        return replace(network, files=NetworkFiles(self.context.files.keep_checkpoint(step.checkpoint, name)))

    def _end_after_round(self, step: Recovered, network: NetworkResult) -> tuple[Outcome, str] | None:
        """How the trial ends, and why, if no further round follows; None if one does.

        What a latency asks for may be met already. A threshold that removed nothing removes nothing when the same is
        done again. Else the network is judged at the highest rung, among all that are recovered: of two rounds that
        begin from it none comes to the front, most likely, if it is far behind.
        """
        settings = self.context.spec.early_stopping
        if not settings:
            return None
        after, cut = f"after round {step.round} of {self.recipe.rounds}", self.recipe.cut(step.round)
        outcome = Outcome.OK if network.figures.feasible else Outcome.OVER_BUDGET
        if isinstance(cut, LatencyShare):
            over = violations(self.context.meter.targets, network.figures.latencies, cut.share)
            if over and max(over.values()) <= 0:
                return outcome, f"{after}: its latency is met"
        elif not step.plan.keep and self.recipe.cut(step.round + 1) == cut:
            return outcome, f"{after}: it removed nothing"
        decision = decided_after(step.round, self.context.peers.earlier_attempts())
        if decision is None:
            own = {use.digest for use in (self.context.cost_meter.reading() - self._began).stages}
            others = [
                self.context.values(other)
                for record in self._peers.values()
                for other in record.networks
                if other.recovered and other.stage not in own
            ]
            values, epochs = self.context.values(network), self.recipe.recovery_epochs
            decision = judge(settings.rungs + 1, epochs, values, others, settings.reduction, step.round)
        self._note(decision)
        if decision.goes_on:
            return None
        return Outcome.STOPPED_EARLY if network.figures.feasible else outcome, decision.reason

    # What is noted

    @property
    def _peers(self) -> Mapping[int, TrialRecord]:
        return self.context.peers.records()

    def _decide(self, epochs: int, accuracy: Accuracy) -> RungDecision | None:
        """Judges the last network at a rung, and shows the others how it stood there; None where there is no rung."""
        settings = self.context.spec.early_stopping
        if not settings or epochs not in self._rungs:
            return None
        rung, network = self._rungs[epochs], replace(self.record.networks[-1], accuracy=accuracy)
        values = self.context.values(network)
        decision = judge(rung, epochs, values, values_at(rung, self._peers), settings.reduction)
        self._note(decision)
        return decision

    def _note(self, decision: RungDecision) -> None:
        self.record = replace(self.record, decisions=(*self.record.decisions, decision))
        self.context.peers.publish(self.record)

    def _note_curve(self, round_number: int, curve: tuple[float, ...]) -> None:
        if curve:
            self._curves.append({"round": round_number, "map50_95": curve})
            self._keep(CURVES)

    def _keep(self, kind: str) -> None:
        """Writes what the trial's trainings recorded so far."""
        records = self._gammas if kind == GAMMAS else self._curves
        path = self.context.files.keep_history(kind, records, self.context.name)
        self.record = replace(self.record, gammas=path) if kind == GAMMAS else replace(self.record, curves=path)

    def _replace_last(self, network: NetworkResult) -> None:
        self.record = replace(self.record, networks=(*self.record.networks[:-1], network))

    def _end(self, outcome: Outcome, reason: str = "") -> bool:
        self.record = replace(self.record, outcome=outcome, reason=reason)
        return True
