"""From a recipe to small detectors: which stages it needs, in which order.

The pipeline yields and the caller decides: after each surgery comes a `Candidate`, and whoever does not want to
pay for its recovery stops asking. How one stage is run, or read back, is the stage runner's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from prunetune.pruning.channel_costs import ChannelCosts, penalty_weights
from prunetune.pruning.detector import Detector, read_description, scaled_width
from prunetune.pruning.plan import PruningPlan
from prunetune.pruning.planning import Planned, Planning
from prunetune.pruning.restarts import Restarts
from prunetune.pruning.sparsity import Sparsity, resolve, sparse_phase
from prunetune.pruning.stage_files import CHECKPOINT, read_history
from prunetune.pruning.stage_runner import Parent, StageRunner, Untrained
from prunetune.pruning.stages import Stage
from prunetune.pruning.store import StoredStage, file_sha256
from prunetune.pruning.surgery import apply_plan, channel_groups
from prunetune.pruning.threshold_search import LatencyShares
from prunetune.pruning.training import (
    Accuracy,
    Choice,
    GoesOn,
    Phase,
    RecoveryProgress,
    RecoveryStoppedError,
    continued_phase,
    early_phase,
    learning_rate,
    recovery_phase,
)
from prunetune.spaces import Alignment, ConfigError, LatencyShare, ModelError, Recipe, Threshold


@dataclass(frozen=True)
class Source:
    """The detector that a study starts from.

    Attributes:
        model: A yaml, which is trained first, or a .pt, which is taken as it is.
        names: Class names of the data set.
        dense_epochs: Epochs of the dense training of a yaml.
        channels: Of the data set's images.
    """

    model: str
    names: tuple[str, ...]
    dense_epochs: int
    channels: int = 3

    @property
    def is_checkpoint(self) -> bool:
        """Whether the detector is trained already."""
        return Path(self.model).suffix.lower() == ".pt"


@dataclass(frozen=True)
class Candidate:
    """A network after surgery (`recovered` false), or after its recovery.

    Attributes:
        stage: Where it is stored.
        round: Its round, from 1.
        last: Whether the recipe ends with this round.
        recovered: Whether recovery is done.
        plan: The surgery that made it, with its threshold: the one that was found, where the recipe has none.
        accuracy: On the validation split. After surgery: with recalibrated BatchNorm, before any training.
        warning: After surgery: why its threshold may have cut at random (`prunetune.pruning.separation`).
        at_floor: After surgery: whether every layer has as few channels as it may have.
    """

    stage: StoredStage
    round: int
    last: bool
    recovered: bool
    plan: PruningPlan
    accuracy: Accuracy
    warning: str | None = None
    at_floor: bool = False

    @property
    def checkpoint(self) -> Path:
        """The fp32 checkpoint."""
        return self.stage.file(CHECKPOINT)

    def load(self) -> Detector:
        """The network."""
        return Detector.load(self.checkpoint)


def mismatch(detector: Detector, names: tuple[str, ...], channels: int) -> str | None:
    """What is wrong with a detector whose classes or images are not those of the data set.

    Classes that are called by their numbers have no names to compare.
    """
    if detector.image_channels != channels:
        return (
            f"takes {detector.image_channels}-channel images, but the data set gives {channels}-channel ones "
            "(`channels` in its yaml, 3 by default); correct that, or train the detector on this data set first"
        )
    given, wanted = len(detector.names), len(names)
    if given != wanted:
        return f"has {given} classes, but the data set has {wanted}; train the detector on this data set first"
    for place, (own, other) in enumerate(zip(detector.names, names, strict=True)):
        if own not in (other, str(place)):
            return f"finds {own!r} as class {place}, which is {other!r} in the data set; name both alike, in one order"
    return None


class Pipeline:
    """Carries out recipes on one detector and data set.

    Args:
        source: The detector to start from.
        stages: Runs the stages.
        alignment: Channels are kept in multiples of this; a number holds for all kinds of layers.
        longest_sparse_epochs: The run over which sparsity in the unit `pull` is meant.
        choose: Which epoch of a dense training or recovery is kept.
        latencies: What networks take, for recipes whose threshold is found from it.
        costs: What networks take, for recipes whose sparsity goes where time is spent.
        rewinds: Whether recipes may go back to early weights: a dense training then leaves them on its way.
    """

    def __init__(
        self,
        source: Source,
        stages: StageRunner,
        *,
        alignment: Alignment | int,
        longest_sparse_epochs: int,
        choose: Choice = "map50_95",
        latencies: LatencyShares | None = None,
        costs: ChannelCosts | None = None,
        rewinds: bool = False,
    ) -> None:
        self.source, self.stages = source, stages
        self.alignment, self.choose = Alignment.parse(alignment), choose
        self._longest_sparse_epochs = longest_sparse_epochs
        self._planning, self._costs = Planning(stages, self.alignment, latencies), costs
        self.rewinds = rewinds

    def sparsity(self, recipe: Recipe) -> Sparsity:
        """The recipe's sparsity in both units."""
        loaders = self.stages.loaders
        lr0 = learning_rate(self.stages.setup.hyperparameters, loaders.classes)
        longest = self._longest_sparse_epochs
        return resolve(recipe.sparsity, recipe.sparsity_unit, longest, loaders.steps_per_epoch, lr0)

    def original(self) -> StoredStage:
        """The dense detector: trained from its yaml, or the given checkpoint."""
        if self.source.is_checkpoint:
            return self._imported()
        phase = recovery_phase(self.source.dense_epochs, self.choose)
        passing = early_phase(phase) if self.rewinds else None
        return self.stages.train("original", self._untrained("dense"), phase, passing=passing)

    def early(self) -> StoredStage:
        """The dense detector after the beginning of its training; the trained one if that has a single epoch.

        An original that left none on its way has its beginning trained again.

        Raises:
            ConfigError: The detector was given as a checkpoint, whose training is not known.
        """
        if self.source.is_checkpoint:
            raise ConfigError(
                f"start: rewind needs a model that is trained here, unlike {self.source.model}; give a yaml"
            )
        phase = early_phase(recovery_phase(self.source.dense_epochs, self.choose))
        if phase is None:
            return self.original()
        return self.stages.train("early", self._untrained("dense"), phase)

    def control(self, name: str, epochs: int) -> StoredStage:
        """A network to compare with: the original trained on, or one with fewer channels in every layer.

        Args:
            name: `dense`, `half-width` or `quarter-width`.
            epochs: Epochs of training after the original's own; the narrow ones start from scratch and get
                the original's epochs as well.
        """
        if name == "dense":
            return self.stages.train("control", self.original(), continued_phase(epochs, self.choose))
        phase = recovery_phase(self.source.dense_epochs + epochs, self.choose)
        return self.stages.train("control", self._untrained(name), phase)

    def description(self, name: str) -> dict[str, Any]:
        """The model description of `dense`, `half-width` or `quarter-width`, for the data set's images."""
        model, factor = self.source.model, {"dense": 1.0, "half-width": 0.5, "quarter-width": 0.25}[name]
        described = Detector.load(model).model.yaml if self.source.is_checkpoint else read_description(model)
        if described.get("channels", 3) != self.source.channels:
            described = {**described, "channels": self.source.channels}
        return dict(described) if name == "dense" else scaled_width(described, factor)

    def run(self, recipe: Recipe, goes_on: GoesOn | None = None) -> Iterator[Candidate]:
        """Carries out a recipe, one yield after each surgery and each recovery.

        Where the recipe gives a latency instead of a threshold, its rounds come nearer to it by equal factors, and
        the last one meets it.

        Args:
            recipe: What to do.
            goes_on: Asked after every epoch of a recovery but the last; False stops it. A recovery that is read back
                whole is told as well, and costs nothing: its answers do not matter.

        Raises:
            TrainingFailureError: A training diverged or ran out of memory.
            RecoveryStoppedError: `goes_on` said no.
            StageClaimedError: Another process trains one of its stages. The same call later goes on from there.
            ConfigError: The recipe gives a latency, and the pipeline was made without `latencies`; or asks for
                its layers' costs, and they cannot be told.
        """
        original = parent = self.original()
        restarts = None
        if recipe.start != "current" and recipe.recovery_epochs:
            restarts = Restarts(recipe.start, self.stages, original, self.early)
        recovery = recovery_phase(recipe.recovery_epochs, self.choose, recipe.recovery_lr)
        recovery = recovery.taught(recipe.distillation, original.digest)
        for number in range(1, recipe.rounds + 1):
            last = number == recipe.rounds
            if recipe.sparse_epochs:
                phase = self._sparse_phase(recipe, parent).taught(recipe.sparse_distillation, original.digest)
                parent = self.stages.train("sparse", parent, phase)
            pruned, planned = self._prune(parent, recipe, recipe.cut(number), number / recipe.rounds)
            plan, at_floor, warning = planned
            yield Candidate(pruned, number, last, False, plan, _accuracy(pruned), warning, at_floor)
            parent = pruned
            if recipe.recovery_epochs:
                start = pruned if restarts is None else restarts.after(pruned, plan)
                parent = self._recover(start, recovery, number, goes_on)
            yield Candidate(parent, number, last, True, plan, _accuracy(parent))

    def _sparse_phase(self, recipe: Recipe, parent: StoredStage) -> Phase:
        sparsity = self.sparsity(recipe)
        weights = self._penalty_weights(parent, sparsity) if recipe.penalty_weights == "latency" else ()
        tied = recipe.penalty == "group"
        return sparse_phase(recipe.sparse_epochs, sparsity, shrinkage=recipe.shrinkage, tied=tied, weights=weights)

    def _penalty_weights(self, parent: StoredStage, sparsity: Sparsity) -> tuple[tuple[str, float], ...]:
        if self._costs is None:
            raise ConfigError("penalty_weights: latency needs to know what channels cost; give the pipeline costs")
        detector = self.stages.load(parent)
        return penalty_weights(channel_groups(detector.model), detector.channels, self._costs, sparsity.coefficient)

    def _recover(self, start: Parent, phase: Phase, number: int, goes_on: GoesOn | None) -> StoredStage:
        epochs = phase.epochs
        if goes_on is None:
            return self.stages.train("recovery", start, phase)

        def ask(history: Sequence[Mapping[str, Any]]) -> None:
            progress = RecoveryProgress(number, len(history), epochs, _best(history, self.choose))
            if progress.epoch < epochs and not goes_on(progress):
                raise RecoveryStoppedError(progress, accuracy_curve(history))

        stage = self.stages.train("recovery", start, phase, after_epoch=ask)
        if stage.reused:
            history = read_history(stage)
            for epoch in range(1, epochs):
                goes_on(RecoveryProgress(number, epoch, epochs, _best(history[:epoch], self.choose)))
        return stage

    def _imported(self) -> StoredStage:
        file = Path(self.source.model)
        detector = Detector.load(file)  # first: a missing or damaged file is the user's to mend
        if problem := mismatch(detector, self.source.names, self.source.channels):
            raise ModelError(f"{file}: {problem}")
        settings = {"checkpoint": file_sha256(file), "data": self.stages.setup.data_fingerprint}
        return self.stages.make(Stage("original", "", settings), lambda: detector)

    def _untrained(self, name: str) -> Untrained:
        plain = json.loads(json.dumps(self.description(name)))
        return Untrained(plain, self.source.names, self.stages.setup.seed)

    def _prune(
        self, parent: StoredStage, recipe: Recipe, cut: Threshold | LatencyShare, way: float
    ) -> tuple[StoredStage, Planned]:
        detector = self.stages.load(parent)
        clock = self.stages.ledger.clock
        dense = self.original().record["channels"] if recipe.floor else None
        with clock.part("surgery"):
            groups = channel_groups(detector.model)
            planned = self._planning.plan(detector, groups, recipe, cut, way, dense)
            plan = planned.plan

        def build() -> Detector:
            with clock.part("surgery"):
                pruned = Detector(apply_plan(detector.model, plan, groups=groups), detector.source)
            self.stages.recalibrate(pruned)
            return pruned

        # Named by what is kept, not by what chose it: two thresholds that keep the same channels are one surgery.
        settings = {"plan": plan.digest(), "setup": self.stages.setup.identity()}
        stage = self.stages.make(Stage("pruning", parent.digest, settings), build, {"plan": plan.as_dict()})
        return stage, planned


def accuracy_curve(history: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """map50_95 after each epoch of a training that validates; up to the first that was not validated.

    Args:
        history: The records of its epochs.
    """
    validated = takewhile(lambda record: record["accuracy"] is not None, history)
    return tuple(record["accuracy"]["map50_95"] for record in validated)


def _best(history: Sequence[Mapping[str, Any]], choose: Choice) -> Accuracy:
    """The accuracy of the epoch that a training which ended here would keep: of equal ones the last."""
    accuracies = [Accuracy.from_dict(record["accuracy"]) for record in history]
    return max(reversed(accuracies), key=lambda accuracy: accuracy.score(choose))


def _accuracy(stage: StoredStage) -> Accuracy:
    return Accuracy.from_dict(stage.record["accuracy"])
