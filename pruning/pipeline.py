"""From a recipe to small detectors: the stages in order, each run once and then read back.

The pipeline yields and the caller decides: after each surgery comes a `Candidate`, and whoever does not want to
pay for its recovery stops asking.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from prunetune.pruning.batchnorm import recalibrate
from prunetune.pruning.claims import StageClaim
from prunetune.pruning.clock import Clock
from prunetune.pruning.detector import Detector, as_os_error, read_description, scaled_width
from prunetune.pruning.evaluation import Predictor, evaluate, evaluate_predictor
from prunetune.pruning.loaders import DataLoaders, arguments
from prunetune.pruning.plan import PruningPlan, plan_pruning
from prunetune.pruning.sparsity import Sparsity, resolve, sparse_phase
from prunetune.pruning.stages import Stage, training_stage, trunk
from prunetune.pruning.store import StageStore, StoredStage, file_sha256
from prunetune.pruning.surgery import ChannelGroup, apply_plan, channel_groups
from prunetune.pruning.threshold_search import LatencyShares, PlanLadder, find_plan, round_goal
from prunetune.pruning.trainer import TrainingState, train
from prunetune.pruning.training import (
    Accuracy,
    Choice,
    EpochListener,
    EpochRecord,
    GoesOn,
    Occupy,
    Phase,
    RecoveryProgress,
    RecoveryStoppedError,
    TrainingSetup,
    recovery_phase,
)
from prunetune.spaces import Alignment, ConfigError, LatencyShare, ModelError, Recipe, Threshold

_log = logging.getLogger(__name__)

CHECKPOINT, STATE, HISTORY = "checkpoint.pt", "state.pt", "history.json"


@dataclass(frozen=True)
class Source:
    """The detector that a study starts from.

    Attributes:
        model: A yaml, which is trained first, or a .pt, which is taken as it is.
        names: Class names of the data set.
        dense_epochs: Epochs of the dense training of a yaml.
    """

    model: str
    names: tuple[str, ...]
    dense_epochs: int

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
    """

    stage: StoredStage
    round: int
    last: bool
    recovered: bool
    plan: PruningPlan
    accuracy: Accuracy

    @property
    def checkpoint(self) -> Path:
        """The fp32 checkpoint."""
        return self.stage.file(CHECKPOINT)

    def load(self) -> Detector:
        """The network."""
        return Detector.load(self.checkpoint)


@dataclass
class Ledger:
    """What carrying out a recipe took.

    Attributes:
        clock: Seconds by part.
        epochs_trained: Epochs that ran.
        epochs_reused: Epochs that were read back.
        stages: Each stage with its digest, epochs, and whether it was read back.
        noted_before: Stages that an earlier attempt at the recipe has noted.
    """

    clock: Clock = field(default_factory=Clock)
    epochs_trained: int = 0
    epochs_reused: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)
    noted_before: frozenset[str] = frozenset()

    def begin_attempt(self) -> None:
        """Prepares for carrying out the recipe from its beginning: what was noted stays, and is not noted again."""
        self.noted_before = frozenset(stage["digest"] for stage in self.stages)


def classes_problem(detector: Detector, names: tuple[str, ...]) -> str | None:
    """What is wrong with a detector whose classes are not as many as the data set's."""
    if len(detector.names) == len(names):
        return None
    given, wanted = len(detector.names), len(names)
    return f"has {given} classes, but the data set has {wanted}; train the detector on this data set first"


class Pipeline:
    """Carries out recipes on one detector and data set.

    Args:
        source: The detector to start from.
        setup: What all trainings share.
        store: Where stages are kept.
        alignment: Channels are kept in multiples of this; a number holds for all kinds of layers.
        longest_sparse_epochs: The run over which sparsity in the unit `pull` is meant.
        choose: Which epoch of a dense training or recovery is kept.
        sparse_checkpoints: Epochs at which a longer sparse phase leaves a stage for recipes that stop there.
        listener: Hears of every epoch with the stage's kind.
        occupy: Networks run, for training or validation, within its context.
        latencies: What networks take, for recipes whose threshold is found from it.
        safe_point: Called whenever all that was computed is stored; may raise to stop there.
    """

    def __init__(
        self,
        source: Source,
        setup: TrainingSetup,
        store: StageStore,
        *,
        alignment: Alignment | int,
        longest_sparse_epochs: int,
        choose: Choice = "map50_95",
        sparse_checkpoints: frozenset[int] = frozenset(),
        listener: Callable[[str], EpochListener] | None = None,
        occupy: Occupy = nullcontext,
        latencies: LatencyShares | None = None,
        safe_point: Callable[[], None] = lambda: None,
    ) -> None:
        self.source, self.setup, self.store = source, setup, store
        self.alignment, self.choose = Alignment.parse(alignment), choose
        self._longest_sparse_epochs = longest_sparse_epochs
        self._sparse_checkpoints = sparse_checkpoints
        self._listener = listener
        self.occupy = occupy
        self._latencies = latencies
        self._safe_point = safe_point
        self.ledger = Ledger()

    @cached_property
    def loaders(self) -> DataLoaders:
        """The data set, read when a stage first needs it."""
        with self.ledger.clock.part("load"):
            return DataLoaders(self.setup)

    def sparsity(self, recipe: Recipe) -> Sparsity:
        """The recipe's sparsity in both units."""
        lr0 = float(arguments(self.setup)["lr0"])
        return resolve(
            recipe.sparsity,
            recipe.sparsity_unit,
            self._longest_sparse_epochs,
            self.loaders.steps_per_epoch,
            lr0,
        )

    # The stages

    def original(self) -> StoredStage:
        """The dense detector: trained from its yaml, or the given checkpoint."""
        if self.source.is_checkpoint:
            return self._imported()
        description = read_description(self.source.model)
        phase = recovery_phase(self.source.dense_epochs, self.choose)
        return self._train("original", self._untrained(description), phase)

    def control(self, name: str, epochs: int) -> StoredStage:
        """A network to compare with: the original trained on, or one with fewer channels in every layer.

        Args:
            name: `dense`, `half-width` or `quarter-width`.
            epochs: Epochs of training after the original's own; the narrow ones start from scratch and get
                the original's epochs as well.
        """
        if name == "dense":
            return self._train("control", self.original(), recovery_phase(epochs, self.choose))
        phase = recovery_phase(self.source.dense_epochs + epochs, self.choose)
        return self._train("control", self._untrained(self.narrow_description(name)), phase)

    def narrow_description(self, name: str) -> dict[str, Any]:
        """The model description of `half-width` or `quarter-width`."""
        factor = {"half-width": 0.5, "quarter-width": 0.25}[name]
        if self.source.is_checkpoint:
            return Detector.load(self.source.model).scaled_width(factor)
        return scaled_width(read_description(self.source.model), factor)

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
            ConfigError: The recipe gives a latency, and the pipeline was made without `latencies`.
        """
        sparsity = self.sparsity(recipe)
        parent = self.original()
        for number in range(1, recipe.rounds + 1):
            last = number == recipe.rounds
            if recipe.sparse_epochs:
                parent = self._train("sparse", parent, sparse_phase(recipe.sparse_epochs, sparsity))
            pruned, plan = self._prune(parent, recipe.threshold, number / recipe.rounds)
            yield Candidate(pruned, number, last, False, plan, _accuracy(pruned))
            parent = pruned
            if recipe.recovery_epochs:
                parent = self._recover(pruned, recipe.recovery_epochs, number, goes_on)
            yield Candidate(parent, number, last, True, plan, _accuracy(parent))

    def _recover(self, pruned: StoredStage, epochs: int, number: int, goes_on: GoesOn | None) -> StoredStage:
        phase = recovery_phase(epochs, self.choose)
        if goes_on is None:
            return self._train("recovery", pruned, phase)

        def ask(history: Sequence[Mapping[str, Any]]) -> None:
            progress = RecoveryProgress(number, len(history), epochs, _best(history, self.choose))
            if progress.epoch < epochs and not goes_on(progress):
                raise RecoveryStoppedError(progress)

        stage = self._train("recovery", pruned, phase, after_epoch=ask)
        if stage.reused:
            history = read_history(stage)
            for epoch in range(1, epochs):
                goes_on(RecoveryProgress(number, epoch, epochs, _best(history[:epoch], self.choose)))
        return stage

    def evaluate(self, detector: Detector, split: str = "val") -> Accuracy:
        """The accuracy of a network on `val` or `test`."""
        with self.ledger.clock.part("validate"), self.occupy():
            return evaluate(detector, self.setup, self.loaders, split)

    def evaluate_predictor(self, predict: Predictor, split: str = "val") -> Accuracy:
        """The accuracy of what a runtime makes of an exported network on `val` or `test`."""
        with self.ledger.clock.part("validate"), self.occupy():
            return evaluate_predictor(predict, self.source.names, self.setup, self.loaders, split)

    # How a stage is run

    def _imported(self) -> StoredStage:
        file = Path(self.source.model)
        detector = Detector.load(file)  # first: a missing or damaged file is the user's to mend
        if problem := classes_problem(detector, self.source.names):
            raise ModelError(f"{file}: {problem}")
        stage = Stage("original", "", {"checkpoint": file_sha256(file), "data": self.setup.data_fingerprint})
        found = self._find(stage, epochs=0)
        if found:
            return found
        return self._publish(stage, detector, evaluate_split=True)

    def _untrained(self, description: Mapping[str, Any]) -> StoredStage:
        """A network with its initial weights; not stored, for it costs nothing to make."""
        plain = json.loads(json.dumps(description))
        settings = {"description": plain, "names": list(self.source.names), "seed": self.setup.seed}
        record = {"description": plain, "channels": {}}
        return StoredStage(Stage("untrained", "", settings).digest, Path(), record, reused=False)

    def _load(self, stage: StoredStage) -> Detector:
        description = stage.record.get("description")
        if description is not None:
            return Detector.build(description, self.source.names, self.setup.seed)
        with self.ledger.clock.part("load"):
            return Detector.load(stage.file(CHECKPOINT))

    def _train(
        self, kind: str, parent: StoredStage, phase: Phase, after_epoch: AfterEpoch | None = None
    ) -> StoredStage:
        stage = training_stage(kind, parent.digest, self.setup, phase)
        found = self._find(stage, phase.epochs)
        if found:
            return found
        base = trunk(kind, parent.digest, self.setup, phase)
        with self.store.claim(base, stage.digest, parent.digest) as claim:
            # Again: who had the claim until now may have published it.
            found = self._find(stage, phase.epochs)
            return found or self._train_claimed(kind, parent, phase, base, claim, after_epoch)

    def _train_claimed(
        self,
        kind: str,
        parent: StoredStage,
        phase: Phase,
        base: str,
        claim: StageClaim,
        after_epoch: AfterEpoch | None,
    ) -> StoredStage:
        stage = training_stage(kind, parent.digest, self.setup, phase)
        state = self._state_before(kind, parent, phase, base)
        done = state.epoch if state else 0
        detector = self._load(parent)
        clock = self.ledger.clock

        history = list(state.history) if state else []

        def keep(state: TrainingState) -> None:
            history[:] = state.history
            with clock.part("store"):
                # A process that was suspended may have lost its claim, and been overtaken.
                if state.epoch < phase.epochs and (
                    claim.confirm() or not self._is_further(stage.digest, base, state.epoch)
                ):
                    self.store.save_progress(base, lambda path: _save_state(state, path))
                if phase.extensible() and state.epoch in self._sparse_checkpoints and state.epoch < phase.epochs:
                    shorter = replace(phase, epochs=state.epoch)
                    stopped = detector.copy()
                    stopped.model.load_state_dict(state.model)
                    self._publish(training_stage(kind, parent.digest, self.setup, shorter), stopped, state)
            if after_epoch is not None:
                after_epoch(history)

        listener = self._listener(kind) if self._listener else None

        def told(record: EpochRecord) -> None:
            if listener is not None:
                listener(record)
            if record.epoch < phase.epochs:  # the last one is not stored before the stage is
                self._safe_point()

        try:
            if after_epoch is not None:  # what was decided when these epochs ran may be decided otherwise now
                for epoch in range(1, done + 1):
                    after_epoch(history[:epoch])
            with clock.part("setup"):
                loaders = self.loaders
                trained, state = train(
                    detector,
                    phase,
                    self.setup,
                    loaders,
                    state=state,
                    on_state=keep,
                    on_epoch=told,
                    occupy=self.occupy,
                )
        except RecoveryStoppedError as stopped:
            read_back = min(done, stopped.progress.epoch)
            self._count(kind, base, stopped.progress.epoch - read_back, read_back, reused=False)
            raise
        finally:
            for part in ("train", "validate"):
                clock.move("setup", part, sum(record[f"{part}_s"] for record in history[done:]))
        published = self._publish(stage, trained, state, evaluate_split=kind != "sparse")
        self.store.forget_progress(base)
        self._note(published, phase.epochs - done, done)
        self._safe_point()
        return published

    def _is_further(self, digest: str, base: str, epoch: int) -> bool:
        """Whether the store has what a training would come to after an epoch, or more."""
        progress = _read_state(self.store.progress(base))
        return self.store.find(digest) is not None or (progress is not None and progress.epoch >= epoch)

    def _state_before(self, kind: str, parent: StoredStage, phase: Phase, base: str) -> TrainingState | None:
        """The furthest state on the way to the end of this phase, if any was kept."""
        states = []
        progress = _read_state(self.store.progress(base))
        if progress is not None and progress.epoch <= phase.epochs:
            states.append(progress)
        if phase.extensible():
            for epochs in range(phase.epochs - 1, 0, -1):
                shorter = training_stage(kind, parent.digest, self.setup, replace(phase, epochs=epochs))
                found = self.store.find(shorter.digest)
                state = _read_state(found.file(STATE)) if found else None
                if state is not None:
                    states.append(state)
                    break
        return max(states, key=lambda state: state.epoch, default=None)

    def _prune(self, parent: StoredStage, cut: Threshold | LatencyShare, way: float) -> tuple[StoredStage, PruningPlan]:
        detector = self._load(parent)
        with self.ledger.clock.part("surgery"):
            groups = channel_groups(detector.model)
            if isinstance(cut, Threshold):
                plan = plan_pruning(detector.model, cut, self.alignment, groups=groups)
            else:
                plan = self._find_plan(detector, groups, cut, way)
        # Named by the plan, not by the threshold: two thresholds that keep the same channels are one surgery.
        stage = Stage("pruning", parent.digest, {"plan": plan.digest(), "setup": self.setup.identity()})
        found = self._find(stage, epochs=0)
        if found:
            return found, plan
        with self.ledger.clock.part("surgery"):
            pruned = Detector(apply_plan(detector.model, plan, groups=groups), detector.source)
        loaders = self.loaders
        with self.ledger.clock.part("recalibrate"), self.occupy():
            recalibrate(pruned.model, loaders.calibration())
        published = self._publish(stage, pruned, evaluate_split=True, extra={"plan": plan.as_dict()})
        self._note(published, 0, 0)
        self._safe_point()
        return published, plan

    def _find_plan(
        self, detector: Detector, groups: Sequence[ChannelGroup], cut: LatencyShare, way: float
    ) -> PruningPlan:
        """The plan that just meets a latency, or what a round aims at on its way there."""
        if self._latencies is None:
            raise ConfigError(f"{cut}: a threshold can be found where latencies are known; give the pipeline latencies")

        def build(plan: PruningPlan) -> Detector:
            return Detector(apply_plan(detector.model, plan, groups=groups), detector.source)

        goal = round_goal(self._latencies.dense, cut.share, way)
        ladder = PlanLadder.of(detector.model, self.alignment, groups, cut.balance)
        return find_plan(ladder, self._latencies, build, goal, exact=way >= 1)

    def _publish(
        self,
        stage: Stage,
        detector: Detector,
        state: TrainingState | None = None,
        *,
        evaluate_split: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> StoredStage:
        accuracy = None
        if evaluate_split:
            accuracy = self.evaluate(detector)
        record = {
            "kind": stage.kind,
            "parent": stage.parent,
            "settings": dict(stage.settings),
            "channels": detector.channels.as_dict(),
            "params": detector.params,
            "gflops": detector.gflops(self.setup.imgsz),
            "accuracy": accuracy.as_dict() if accuracy else None,
            "epochs": state.epoch if state else 0,
            "best_epoch": state.best["epoch"] if state and state.best else None,
            "versions": {name: version(name) for name in ("prunetune", "torch", "ultralytics", "torch-pruning")},
            **(extra or {}),
        }
        train_args = {key: arguments(self.setup)[key] for key in ("task", "data", "imgsz", "batch")}
        files: dict[str, Callable[[Path], None]] = {
            CHECKPOINT: lambda path: detector.save(path, record, {**train_args, "model": detector.source})
        }
        if state is not None:
            history = json.dumps(state.history)
            files[HISTORY] = lambda path: _write(path, history)
            if stage.kind == "sparse":
                files[STATE] = lambda path: _save_state(state, path)
        with self.ledger.clock.part("store"):
            return self.store.publish(stage.digest, record, files)

    def _find(self, stage: Stage, epochs: int) -> StoredStage | None:
        found = self.store.find(stage.digest)
        if found is not None:
            self._note(found, 0, epochs)
        return found

    def _note(self, stage: StoredStage, trained: int, reused: int) -> None:
        if stage.record["kind"] == "original":
            return  # every recipe starts from it; it is no part of any
        if stage.digest not in self.ledger.noted_before:
            self._count(stage.record["kind"], stage.digest, trained, reused, stage.reused)

    def _count(self, kind: str, digest: str, trained_epochs: int, reused_epochs: int, reused: bool) -> None:
        self.ledger.epochs_trained += trained_epochs
        self.ledger.epochs_reused += reused_epochs
        epochs = trained_epochs + reused_epochs
        self.ledger.stages.append({"kind": kind, "digest": digest, "epochs": epochs, "reused": reused})


def read_history(stage: StoredStage) -> list[dict[str, Any]]:
    """The epochs of a training stage; empty for any other stage."""
    file = stage.file(HISTORY)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


AfterEpoch: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], None]
"""Gets the records of all epochs so far; may raise to stop the training."""


def _best(history: Sequence[Mapping[str, Any]], choose: Choice) -> Accuracy:
    """The accuracy of the epoch that a training which ended here would keep: of equal ones the last."""
    accuracies = [Accuracy.from_dict(record["accuracy"]) for record in history]
    return max(reversed(accuracies), key=lambda accuracy: accuracy.score(choose))


def _accuracy(stage: StoredStage) -> Accuracy:
    return Accuracy.from_dict(stage.record["accuracy"])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _save_state(state: TrainingState, path: Path) -> None:
    try:
        torch.save(state.as_dict(), path)
    except RuntimeError as error:
        raise as_os_error(path, error) from error


def _read_state(file: Path) -> TrainingState | None:
    if not file.is_file():
        return None
    try:
        return TrainingState.from_dict(torch.load(file, map_location="cpu", weights_only=True))
    # Damaged progress is no reason to fail: the training starts over, which is what progress saves.
    except Exception as error:
        _log.warning("%s: cannot be read (%s); training starts over", file, error)
        return None
