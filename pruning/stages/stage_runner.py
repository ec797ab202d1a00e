"""How one stage is run: found, or leased, continued from what is there, and published.

A stage's name says what it does and what it starts from. Which stages a recipe needs, and in which order, the pipeline
knows; it asks for one after the other. `StageRunner.train` gives the stages that are trained, `StageRunner.make` all
others. Both read back what is stored, and return the stage with what it cost. `StageRunner.train_in_parts` pauses on
the way, for whoever decides then whether the rest is worth its price.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from prunetune.pruning.stages.cost_meter import CostMeter, Section
from prunetune.pruning.stages.lease import StageLease
from prunetune.pruning.stages.stage import Stage, training_stage, trunk
from prunetune.pruning.stages.stage_files import (
    CHECKPOINT,
    HISTORY,
    STATE,
    read_history,
    read_state,
    save_state,
    write_history,
)
from prunetune.pruning.stages.store import StageStore, StoredStage
from prunetune.pruning.training.batchnorm import recalibrate
from prunetune.pruning.training.evaluation import Listener, Predictor, evaluate, evaluate_predictor, losses
from prunetune.pruning.training.loaders import DataLoaders, arguments
from prunetune.pruning.training.trainer import TrainingState, chosen, in_parts
from prunetune.pruning.training.values import EpochRecord, Occupy, Phase, StageListener, TrainingSetup
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.cost import Cost, StageUse
from prunetune.spaces.deployment import ImageSize
from prunetune.spaces.errors import ModelError, StoreError


@dataclass(frozen=True)
class Untrained:
    """A network with its initial weights, from which a training may start. Not stored: it costs nothing to make.

    Attributes:
        description: ultralytics' model description, as plain values.
        names: Class names of the data set.
        seed: Of the weights.
    """

    description: Mapping[str, Any]
    names: tuple[str, ...]
    seed: int

    @property
    def digest(self) -> str:
        """The name by which a stage knows it as its parent."""
        settings = {"description": self.description, "names": list(self.names), "seed": self.seed}
        return Stage("untrained", "", settings).digest

    def build(self) -> Detector:
        """The network."""
        return Detector.build(self.description, self.names, self.seed)


@dataclass(frozen=True)
class Restart:
    """A pruned network with other weights than its surgery left it, from which a recovery may start. Not stored.

    Attributes:
        digest: The name by which a stage knows it as its parent.
        build: Makes the network.
    """

    digest: str
    build: Callable[[], Detector] = field(compare=False)


Parent: TypeAlias = StoredStage | Untrained | Restart
"""What a training starts from."""


@dataclass(frozen=True)
class StageResult:
    """A finished stage."""

    stage: StoredStage
    cost: Cost
    """What it took to get it."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    history: tuple[EpochRecord, ...]
    """The records of its epochs so far."""
    is_whole: bool
    """Whether the whole training is stored, so that going on costs nothing."""


class StageRunner:
    """Runs single stages on one data set, each once for all who use the store.

    Args:
        setup: What all trainings share.
        store: Where stages are kept.
        meter: Counts what the stages cost; by default one of its own.
        checkpoints: Epochs at which a longer extensible phase leaves a stage for those who stop there.
        listener: Hears of every training and its epochs.
        occupy: Networks run, for training or validation, within its context.
        safe_point: Called whenever all that was computed is stored; may raise to stop there.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        store: StageStore,
        *,
        meter: CostMeter | None = None,
        checkpoints: frozenset[int] = frozenset(),
        listener: StageListener | None = None,
        occupy: Occupy = nullcontext,
        safe_point: Callable[[], None] = lambda: None,
    ) -> None:
        self.setup, self.store, self.meter = setup, store, meter or CostMeter()
        self._safe_point = safe_point
        self._checkpoints, self._listener, self._occupy = checkpoints, listener, occupy
        self._sizes: dict[ImageSize, StageRunner] = {}

    def at(self, imgsz: ImageSize | None) -> StageRunner:
        """The runner for another input size, over the same store and with the same listeners; each is made once.

        It trains, recalibrates and evaluates at that size, and has loaders of its own, built when first used.

        Args:
            imgsz: Side of a square or (height, width) in px; None for the runner's own. A rectangle is trained on
                squares of its longer side.
        """
        setup = self.setup if imgsz is None else self.setup.at(imgsz)
        if setup.size == self.setup.size:
            return self
        self._sizes[self.setup.size] = self
        if setup.size not in self._sizes:
            made = StageRunner(
                setup,
                self.store,
                meter=self.meter,
                checkpoints=self._checkpoints,
                listener=self._listener,
                occupy=self._occupy,
                safe_point=self._safe_point,
            )
            made._sizes = self._sizes
            self._sizes[setup.size] = made
        return self._sizes[setup.size]

    @cached_property
    def loaders(self) -> DataLoaders:
        """The data set, read when a stage first needs it."""
        with self.meter.part("load"):
            return DataLoaders(self.setup)

    # What is asked of a network

    def load(self, parent: Parent) -> Detector:
        """The network of a stage."""
        if not isinstance(parent, StoredStage):
            return parent.build()
        with self.meter.part("load"):
            try:
                return Detector.load(parent.file(CHECKPOINT))
            except ModelError as error:
                raise StoreError(
                    f"{parent.folder}: this stage is damaged ({error}); run: prunetune store verify --remove, and then "
                    "the same command again, which makes anew what was removed"
                ) from error

    def recalibrate(self, detector: Detector) -> None:
        """Computes a network's BatchNorm statistics again, on training images."""
        loaders = self.loaders
        with self.meter.part("recalibrate"), self._occupy():
            recalibrate(detector.model, loaders.calibration())

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """A network's loss per image on batches of training images that are always the same; gradients flow."""
        loaders = self.loaders
        with self._occupy():
            yield from losses(model, self.setup, loaders)

    def evaluate(self, detector: Detector, split: str = "val", listener: Listener | None = None) -> Accuracy:
        """The accuracy of a network on `val` or `test`."""
        with self.meter.part("validate"), self._occupy():
            return evaluate(detector, self.setup, self.loaders, split, listener)

    def evaluate_predictor(
        self, predict: Predictor, names: tuple[str, ...], split: str = "val", listener: Listener | None = None
    ) -> Accuracy:
        """The accuracy of what a runtime makes of an exported network on `val` or `test`."""
        with self.meter.part("validate"), self._occupy():
            return evaluate_predictor(predict, names, self.setup, self.loaders, split, listener)

    # Stages

    def make(self, stage: Stage, build: Callable[[], Detector], extra: Mapping[str, Any] | None = None) -> StageResult:
        """A stage without training: read back, or built, evaluated and published.

        Args:
            stage: What it is.
            build: Makes its network. Not called where the stage is stored.
            extra: Further plain values for its record.
        """
        before = self.meter.reading()
        made = self.store.find(stage.digest)
        if made is None:
            detector = build()
            made = self._publish(stage, detector, accuracy=self.evaluate(detector), extra=extra)
        self.meter.count(StageUse(stage.kind, stage.digest, was_stored=made.reused))
        if not made.reused:
            self._safe_point()
        return StageResult(made, self.meter.reading() - before)

    def train(self, kind: str, parent: Parent, phase: Phase, passing: Phase | None = None) -> StageResult:
        """A training: read back, continued from its furthest epoch that is stored, or begun.

        Args:
            kind: `original`, `early`, `sparse`, `recovery` or `control`.
            parent: What it starts from.
            phase: What to do.
            passing: The beginning of `phase`: the stage of kind `early` that it gives is left on the way.

        Raises:
            TrainingFailureError: It diverged or ran out of memory.
            StageBusyError: Another process trains it. The same call later goes on from there.
        """
        parts = self.train_in_parts(kind, parent, phase, passing=passing)
        try:
            next(parts)
        except StopIteration as end:
            result: StageResult = end.value
            return result
        raise AssertionError("there is no pause")

    def train_in_parts(
        self, kind: str, parent: Parent, phase: Phase, pauses: Collection[int] = (), passing: Phase | None = None
    ) -> Generator[Progress, None, StageResult]:
        """The same with pauses, for whoever decides there whether the rest is worth its price. Closing it stops it.

        Args:
            kind: As in `train`.
            parent: What it starts from.
            phase: The whole training.
            pauses: The epochs after which it pauses; those that do not lie within it are none.
            passing: As in `train`.

        Raises:
            TrainingFailureError, StageBusyError: As in `train`.
        """
        before = self.meter.reading()
        training = _Training(kind, parent, phase, self.setup, passing)
        within = sorted({epoch for epoch in pauses if 0 < epoch < phase.end})
        stage = self.store.find(training.stage.digest)
        if stage is None:
            with self._lease(training) as lease:
                # Again: who had the lease until now may have published it.
                stage = self.store.find(training.stage.digest)
                if stage is None:
                    stage = yield from self._train_leased(training, lease, within)
                    return StageResult(stage, self.meter.reading() - before)
        for epoch in within:
            yield Progress(read_history(stage)[:epoch], is_whole=True)
        self.meter.count(StageUse(kind, stage.digest, reused=phase.end, was_stored=True))
        return StageResult(stage, self.meter.reading() - before)

    def _lease(self, training: _Training) -> StageLease:
        return self.store.lease(training.trunk, training.stage.digest)

    def _train_leased(
        self, training: _Training, lease: StageLease, pauses: Sequence[int]
    ) -> Generator[Progress, None, StoredStage]:
        """Trains under the lease, and keeps every epoch before the training's last."""
        end, state = training.phase.end, self._furthest_state(training)
        done = state.epoch if state else 0
        ran = reached = 0
        start, teacher = self.load(training.parent), self._teacher(training.phase)
        listener = self._listener(training.kind, end, done) if self._listener else None
        section: Section

        def keep(state: TrainingState) -> None:
            nonlocal ran
            ran = state.epoch - done
            section.give("train", state.history[-1].train_s)
            section.give("validate", state.history[-1].validate_s)
            if state.epoch < end:
                with self.meter.part("store"):
                    self._keep(training, lease, start, state)

        def told(record: EpochRecord) -> None:
            if listener is not None:
                listener(record)
            if record.epoch < end:  # the last one is not stored before the stage is
                self._safe_point()

        parts = in_parts(
            start,
            training.phase,
            self.setup,
            self.loaders,
            teacher=teacher,
            state=state,
            on_state=keep,
            on_epoch=told,
            occupy=self._occupy,
        )
        try:
            with parts as advance:
                for reached in (*pauses, end):
                    with self.meter.part("setup") as section:
                        state = advance(reached)
                    if reached < end:
                        yield Progress(state.history[:reached], is_whole=False)
        except BaseException:  # also where nobody asks for the rest
            self.meter.count(StageUse(training.kind, training.trunk, ran, min(done, reached)))
            raise
        assert state is not None  # the last part ends with one
        trained = chosen(start, state)
        accuracy = None if training.kind in ("sparse", "early") else self.evaluate(trained)
        published = self._publish(training.stage, trained, state, accuracy)
        self.store.forget_progress(training.trunk)
        self.meter.count(StageUse(training.kind, published.digest, end - done, done))
        self._safe_point()
        return published

    def _teacher(self, phase: Phase) -> Detector | None:
        if not phase.distillation:
            return None
        found = self.store.find(phase.teacher)
        if found is None:
            raise StoreError(
                f"{self.store.root}: {phase.teacher}, whose network teaches, was removed; run the same command again, "
                "which makes it anew"
            )
        return self.load(found)

    def _keep(self, training: _Training, lease: StageLease, start: Detector, state: TrainingState) -> None:
        """Stores an epoch before the last, and the stage of whoever stops there."""
        # A process that was suspended may have lost its lease, and been overtaken.
        if lease.confirm() or not self._is_further(training, state.epoch):
            self.store.save_progress(training.trunk, partial(save_state, state))
        for digest in (training.parent.digest, training.phase.teacher):
            self.store.touch_line(digest)  # while it trains, nothing else says that they are used
        if training.phase.extensible() and state.epoch in self._checkpoints:
            self._publish(training.shorter(state.epoch), _stopped(start, state), state)
        if training.passing is not None and state.epoch == training.passing.end:
            early = training_stage("early", training.parent.digest, training.setup, training.passing)
            self._publish(early, _stopped(start, state), state)

    def _is_further(self, training: _Training, epoch: int) -> bool:
        """Whether the store has what a training would come to after an epoch, or more."""
        progress = read_state(self.store.progress(training.trunk))
        return self.store.find(training.stage.digest) is not None or (progress is not None and progress.epoch >= epoch)

    def _furthest_state(self, training: _Training) -> TrainingState | None:
        """The furthest state on the way to the end of a training, if any was kept."""
        states = []
        progress = read_state(self.store.progress(training.trunk))
        if progress is not None and progress.epoch <= training.phase.end:
            states.append(progress)
        if training.phase.extensible():
            for epochs in range(training.phase.epochs - 1, 0, -1):
                found = self.store.find(training.shorter(epochs).digest)
                state = read_state(found.file(STATE)) if found else None
                if state is not None:
                    states.append(state)
                    break
        return max(states, key=lambda state: state.epoch, default=None)

    def _publish(
        self,
        stage: Stage,
        detector: Detector,
        state: TrainingState | None = None,
        accuracy: Accuracy | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> StoredStage:
        record = {
            "kind": stage.kind,
            "parent": stage.parent,
            "settings": dict(stage.settings),
            "channels": detector.channels.as_dict(),
            "params": detector.params,
            "gflops": detector.gflops(self.setup.size),
            "accuracy": accuracy.as_dict() if accuracy else None,
            "epochs": state.epoch if state else 0,
            "best_epoch": state.best["epoch"] if state and state.best else None,
            "versions": {name: version(name) for name in ("prunetune", "torch", "ultralytics", "torch-pruning")},
            **(extra or {}),
        }
        train_args = {key: arguments(self.setup)[key] for key in ("task", "data", "batch")}
        train_args["imgsz"] = self.setup.size
        files: dict[str, Callable[[Path], None]] = {
            CHECKPOINT: lambda path: detector.save(path, record, {**train_args, "model": detector.source})
        }
        if state is not None:
            files[HISTORY] = partial(write_history, state.history)
            if stage.kind == "sparse":
                files[STATE] = partial(save_state, state)
        with self.meter.part("store"):
            return self.store.publish(stage.digest, record, files)


@dataclass(frozen=True)
class _Training:
    """A training with the names of its stage, of its trunk, and of the stages on its way."""

    kind: str
    parent: Parent
    phase: Phase
    setup: TrainingSetup
    passing: Phase | None = None

    @cached_property
    def stage(self) -> Stage:
        return training_stage(self.kind, self.parent.digest, self.setup, self.phase)

    @cached_property
    def trunk(self) -> str:
        return trunk(self.kind, self.parent.digest, self.setup, self.phase)

    def shorter(self, epochs: int) -> Stage:
        return training_stage(self.kind, self.parent.digest, self.setup, replace(self.phase, epochs=epochs))


def _stopped(start: Detector, state: TrainingState) -> Detector:
    """The network as it was when a training had come to a state."""
    stopped = start.copy()
    stopped.model.load_state_dict(state.model)
    return stopped
