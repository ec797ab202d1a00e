"""From a recipe to small detectors: which stages it needs, in which order.

The pipeline yields and the caller decides. `Pruned` comes after each surgery, `Trained` at the rungs of the last
round's recovery, `Recovered` at its end; whoever does not want to pay for what follows stops asking. How one stage is
run, or read back, is the stage runner's business.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

from prunetune.pruning.planning.plan import PruningPlan
from prunetune.pruning.planning.threshold_search import LatencyShares
from prunetune.pruning.recipe_planning import Planned, Planning
from prunetune.pruning.stages.restarts import Restarts
from prunetune.pruning.stages.stage import Stage
from prunetune.pruning.stages.stage_files import CHECKPOINT, read_history
from prunetune.pruning.stages.stage_runner import Parent, Restart, StageRunner, Untrained
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.sparsity import Sparsity, resolve, sparse_phase
from prunetune.pruning.training.values import (
    EpochRecord,
    Phase,
    continued_phase,
    early_phase,
    learning_rate,
    recovery_phase,
)
from prunetune.pruning.yolo.detector import Detector, read_description, scaled_width
from prunetune.spaces import (
    Accuracy,
    Alignment,
    Choice,
    ConfigError,
    LatencyShare,
    ModelError,
    Recipe,
    Threshold,
)
from prunetune.spaces.files import file_sha256
from prunetune.spaces.named_networks import REFERENCES


def is_checkpoint(model: str) -> bool:
    """Whether a model is given as a checkpoint, and not as a description."""
    return Path(model).suffix.lower() == ".pt"


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
        return is_checkpoint(self.model)

    def mismatch(self, detector: Detector) -> str | None:
        """See `mismatch`."""
        return mismatch(detector, self.names, self.channels)

    def description(self, name: str) -> dict[str, Any]:
        """The model description of `dense`, `half-width`, `quarter-width` or a file's, for the data set's images."""
        factor = {"half-width": 0.5, "quarter-width": 0.25}.get(name, 1.0)
        file = self.model if name in REFERENCES else name
        described = Detector.load(file).model.yaml if is_checkpoint(file) else read_description(file)
        if described.get("channels", 3) != self.channels:
            described = {**described, "channels": self.channels}
        return dict(described) if factor == 1 else scaled_width(described, factor)

    def reference(self, name: str) -> Detector:
        """The network of that name whose latency others refer to: its weights do not matter."""
        if name == "dense" and self.is_checkpoint:
            return Detector.load(self.model)
        return Detector.build(self.description(name), self.names)


@dataclass(frozen=True)
class _Network:
    """A network that a recipe has come to."""

    stage: StoredStage
    """Where it is stored."""
    round: int
    """From 1."""
    last: bool
    """Whether the recipe ends with this round."""
    plan: PruningPlan
    """The surgery that made it, with its threshold: the one that was found, where the recipe has none."""
    accuracy: Accuracy
    """On the validation split."""

    @property
    def checkpoint(self) -> Path:
        """The fp32 checkpoint."""
        return self.stage.file(CHECKPOINT)

    def load(self) -> Detector:
        """The network."""
        return Detector.load(self.checkpoint)


@dataclass(frozen=True)
class Pruned(_Network):
    """A network after surgery, with recalibrated BatchNorm, before any training."""

    warning: str | None = None
    """Why its threshold may have cut at random (`prunetune.pruning.planning.separation`)."""
    at_floor: bool = False
    """Whether every layer has as few channels as it may have."""
    sparse: StoredStage | None = None
    """The sparse phase before the surgery."""


@dataclass(frozen=True)
class Trained:
    """A recovery at a rung, before its end."""

    round: int
    epoch: int
    """Epochs done."""
    epochs: int
    """Epochs of the whole recovery."""
    accuracy: Accuracy
    """Of the best epoch so far: what the network would have if the recovery ended here."""
    curve: tuple[float, ...]
    """map50_95 after each epoch so far."""
    is_whole: bool
    """Whether the whole recovery is stored, so that going on costs nothing."""


@dataclass(frozen=True)
class Recovered(_Network):
    """A network after its recovery."""

    curve: tuple[float, ...] = ()
    """map50_95 after each epoch; empty where the recipe recovers nothing."""


Step: TypeAlias = Pruned | Trained | Recovered
"""What a recipe comes to, one after the other."""


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
        latencies: What networks take at each input size, for recipes whose threshold is found from it.
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
        rewinds: bool = False,
    ) -> None:
        self.source, self.stages = source, stages
        self.alignment, self.choose = Alignment.parse(alignment), choose
        self._longest_sparse_epochs = longest_sparse_epochs
        self._latencies = latencies
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
            return self._imported(Path(self.source.model))
        phase = recovery_phase(self.source.dense_epochs, self.choose)
        passing = early_phase(phase) if self.rewinds else None
        return self.stages.train("original", self._untrained("dense"), phase, passing).stage

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
        return self.stages.train("early", self._untrained("dense"), phase).stage

    def control(self, name: str, epochs: int) -> StoredStage:
        """A network to compare with: the original trained on, one with fewer channels in every layer, or any other.

        Args:
            name: `dense`, `half-width` or `quarter-width`, or the file of a description or of a checkpoint.
            epochs: Epochs of training after the original's own. What starts from scratch, or from a checkpoint of
                other classes, gets the original's epochs as well.
        """
        trained = self.original() if name == "dense" else self.given(name)
        if trained is not None:
            return self.stages.train("control", trained, continued_phase(epochs, self.choose)).stage
        phase = recovery_phase(self.source.dense_epochs + epochs, self.choose)
        start = self._transferred(Path(name)) if is_checkpoint(name) else self._untrained(name)
        return self.stages.train("control", start, phase).stage

    def given(self, control: str) -> StoredStage | None:
        """A control as the user gave it, a checkpoint of the data set's classes; None for what is trained here."""
        if control == "dense":
            return self.original() if self.source.is_checkpoint else None
        if is_checkpoint(control) and self.source.mismatch(Detector.load(control)) is None:
            return self._imported(Path(control))
        return None

    def run(self, recipe: Recipe, rungs: Collection[int] = ()) -> Generator[Step, None, None]:
        """Carries out a recipe step by step. Going on is asking for the next step.

        Where the recipe gives a latency instead of a threshold, its rounds come nearer to it by equal factors, and
        the last one meets it. The same recipe asked for again goes on where its stages end, from a rung as well.

        Sparse phases are trained at the study's input size, so that recipes of all sizes share them. Surgery is planned
        for the recipe's size, and judges channels by images of that size where it needs any; there networks are
        recalibrated, recovered and evaluated.

        Args:
            recipe: What to do.
            rungs: Epochs of the last round's recovery after which it pauses.

        Raises:
            TrainingFailureError: A training diverged or ran out of memory.
            StageBusyError: Another process trains one of its stages. The same call later goes on from there.
            ConfigError: The recipe gives a latency, and the pipeline was made without `latencies`; or its input size is
                no multiple of the detector's stride.
        """
        original = parent = self.original()
        stages = self._at(recipe, original)
        restarts = None
        if recipe.start != "current" and recipe.recovery_epochs:
            restarts = Restarts(recipe.start, stages, original, self.early)
        recovery = recovery_phase(recipe.recovery_epochs, self.choose, recipe.recovery_lr)
        recovery = recovery.taught(recipe.distillation, original.digest)
        for number in range(1, recipe.rounds + 1):
            last, sparse = number == recipe.rounds, None
            if recipe.sparse_epochs:
                phase = sparse_phase(recipe.sparse_epochs, self.sparsity(recipe), shrinkage=recipe.shrinkage).taught(
                    recipe.sparse_distillation, original.digest
                )
                parent = sparse = self.stages.train("sparse", parent, phase).stage
            cut, way = recipe.cut(number), number / recipe.rounds
            pruned, planned = self._prune(stages, parent, recipe, cut, way, first=number == 1)
            plan, at_floor, warning = planned
            yield Pruned(pruned, number, last, plan, pruned.require_accuracy(), warning, at_floor, sparse)
            parent = pruned
            if recipe.recovery_epochs:
                start = pruned if restarts is None else restarts.after(pruned, plan)
                parent = yield from self._recover(stages, start, recovery, number, rungs if last else ())
            yield Recovered(parent, number, last, plan, parent.require_accuracy(), accuracy_curve(read_history(parent)))

    def _at(self, recipe: Recipe, original: StoredStage) -> StageRunner:
        """The runner for a recipe's input size. ultralytics would train at the next multiple of the stride instead."""
        if recipe.imgsz is not None:
            self.stages.load(original).require_size(recipe.imgsz)
        return self.stages.at(recipe.imgsz)

    def _recover(
        self, stages: StageRunner, start: Parent, phase: Phase, number: int, rungs: Collection[int]
    ) -> Generator[Trained, None, StoredStage]:
        with closing(stages.train_in_parts("recovery", start, phase, rungs)) as parts:
            while True:
                try:
                    progress = next(parts)
                except StopIteration as end:
                    recovered: StoredStage = end.value.stage
                    return recovered
                history = progress.history
                best, curve = _best(history, self.choose), accuracy_curve(history)
                yield Trained(number, len(history), phase.epochs, best, curve, progress.is_whole)

    def _imported(self, file: Path) -> StoredStage:
        detector = Detector.load(file)  # first: a missing or damaged file is the user's to mend
        if problem := self.source.mismatch(detector):
            raise ModelError(f"{file}: {problem}")
        settings = {"checkpoint": file_sha256(file), "data": self.stages.setup.data_fingerprint}
        return self.stages.make(Stage("original", "", settings), lambda: detector).stage

    def _transferred(self, file: Path) -> Restart:
        """A checkpoint of other classes, with a new head's last layers for the data set's, as ultralytics does it."""
        names, seed = self.source.names, self.stages.setup.seed

        def build() -> Detector:
            given = Detector.load(file)
            built = Detector.build({**given.model.yaml, "channels": self.source.channels}, names, seed, given.source)
            built.model.load(given.model, verbose=False)  # what fits by name and shape
            return built

        settings = {"checkpoint": file_sha256(file), "names": list(names), "seed": seed}
        return Restart(Stage("transferred", "", settings).digest, build)

    def _untrained(self, name: str) -> Untrained:
        plain = json.loads(json.dumps(self.source.description(name)))
        return Untrained(plain, self.source.names, self.stages.setup.seed)

    def _prune(
        self,
        stages: StageRunner,
        parent: StoredStage,
        recipe: Recipe,
        cut: Threshold | LatencyShare,
        way: float,
        first: bool,
    ) -> tuple[StoredStage, Planned]:
        detector, meter = stages.load(parent), stages.meter
        latencies = self._latencies and self._latencies.at(recipe.imgsz)
        planning = Planning(stages, self.alignment, latencies)
        dense = self.original().channels if recipe.floor else None
        with meter.part("surgery"):
            groups = channel_groups(detector.model)
            planned = planning.plan(detector, groups, recipe, cut, way, dense, first=first)
            plan = planned.plan

        def build() -> Detector:
            with meter.part("surgery"):
                pruned = Detector(apply_plan(detector.model, plan, groups=groups), detector.source)
            stages.recalibrate(pruned)
            return pruned

        # Named by what is kept, not by what chose it: two thresholds that keep the same channels are one surgery.
        settings = {"plan": plan.digest(), "setup": stages.setup.identity()}
        stage = Stage("pruning", parent.digest, settings)
        return stages.make(stage, build, {"plan": plan.as_dict()}).stage, planned


def accuracy_curve(history: Sequence[EpochRecord]) -> tuple[float, ...]:
    """map50_95 after each epoch of a training that validates; up to the first that was not validated."""
    validated = takewhile(lambda accuracy: accuracy is not None, (record.accuracy for record in history))
    return tuple(accuracy.map50_95 for accuracy in validated if accuracy is not None)


def _best(history: Sequence[EpochRecord], choose: Choice) -> Accuracy:
    """The accuracy of the epoch that a training which ended here would keep: of equal ones the last."""
    accuracies = [record.accuracy for record in history if record.accuracy is not None]
    return max(reversed(accuracies), key=lambda accuracy: accuracy.score(choose))
