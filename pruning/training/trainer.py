"""Training by ultralytics' own loop, with what pruning needs done differently.

Left to itself, `YOLO.train` rebuilds the network from its yaml, so that a pruned network comes back dense; scans the
data set, plots, and validates once more for every short phase; keeps its checkpoints in fp16; and halves the batch
when memory runs out. Here the given network is trained as it is, on loaders that stay, and after every epoch the
whole state goes to the caller, who can continue it later: an epoch's result depends on the state before it and on
its number, not on when the process started.

Which weights a phase ends with is decided here. A phase that chooses among its epochs, as every training of a candidate
does, ends with the moving average: it is what ultralytics validates and ships, and so what the choice was made by. A
phase that keeps its last epoch ends with the raw weights. That is meant for sparse phases: pruning reads the gammas,
and the average only follows them (after 130 steps its median gamma was 0.0066 where the raw one was 0), so that a
threshold near 0 would find nothing. Both are fp32 in mixed precision as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy, deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prunetune.pruning.training.batchnorm import follow_within_an_epoch, gamma_distribution
from prunetune.pruning.training.distillation import (
    average_of,
    projections_of,
    student_of,
    with_teacher,
    without_teacher,
)
from prunetune.pruning.training.evaluation import accuracy_from
from prunetune.pruning.training.loaders import DataLoaders, arguments
from prunetune.pruning.training.penalty import add_subgradient, penalized_gammas, penalty, penalty_layers, shrink
from prunetune.pruning.training.values import (
    EpochListener,
    EpochRecord,
    Occupy,
    Phase,
    TrainingFailureError,
    TrainingSetup,
    check_finite,
    learning_rate,
    warmup_steps,
)
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.errors import ModelError

prepare_ultralytics()
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.utils.torch_utils import init_seeds, unwrap_model  # noqa: E402

MOST_GRADIENT = 10.0
"""Norm to which a step's gradient is clipped, as in ultralytics."""


@dataclass
class TrainingState:
    """Everything needed to go on after an epoch, on the CPU.

    Attributes:
        epoch: Finished epochs.
        model: fp32 weights of the network that is trained.
        ema: fp32 weights of its moving average.
        optimizer: The optimizer's state, with the scaler's and the average's count.
        best: The chosen epoch so far: `epoch`, `score` and fp32 `weights`; None before the first.
        history: The records of the finished epochs.
        projections: fp32 weights of what joins student and teacher; empty without a teacher.
    """

    epoch: int
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Any] | None
    history: tuple[EpochRecord, ...]
    projections: dict[str, torch.Tensor] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For `torch.save`: tensors and plain values only."""
        return {**vars(self), "history": [record.as_dict() for record in self.history]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingState:
        """The state that `as_dict` wrote.

        Raises:
            ValueError: It is damaged.
        """
        history = tuple(record for record in map(EpochRecord.parse, values["history"]) if record is not None)
        if len(history) != values["epoch"]:
            raise ValueError(f"{len(history)} records of {values['epoch']} epochs")
        return cls(**{**values, "history": history})


StateSaver = Callable[[TrainingState], None]


def train(
    detector: Detector,
    phase: Phase,
    setup: TrainingSetup,
    loaders: DataLoaders,
    *,
    teacher: Detector | None = None,
    state: TrainingState | None = None,
    on_state: StateSaver | None = None,
    on_epoch: EpochListener | None = None,
    occupy: Occupy = nullcontext,
) -> tuple[Detector, TrainingState]:
    """Trains a copy of a detector for one phase.

    Args:
        detector: Where to start from; it is not changed.
        phase: What to do.
        setup: What all trainings share.
        loaders: The study's loaders.
        teacher: Whose features guide the training, where the phase has `distillation`. It is not changed.
        state: Goes on from here, if given.
        on_state: Gets the state after every epoch.
        on_epoch: Gets the record of every epoch.
        occupy: Every batch is trained or validated within its context.

    Returns:
        The detector with the weights of the chosen epoch, and the state at the end.

    Raises:
        TrainingFailureError: `DIVERGED` or `OUT_OF_MEMORY`.
        ModelError: The network's channels changed during training.
        ConfigError: A side of the input is no multiple of the detector's stride.
    """
    options: dict[str, Any] = {"teacher": teacher, "on_state": on_state, "on_epoch": on_epoch, "occupy": occupy}
    with in_parts(detector, phase, setup, loaders, state=state, **options) as advance:
        end = advance(phase.end)
    return chosen(detector, end), end


Advance = Callable[[int], TrainingState]
"""Trains up to an epoch; returns the state there, or the one that was given, where that is further."""


@contextmanager
def in_parts(
    detector: Detector,
    phase: Phase,
    setup: TrainingSetup,
    loaders: DataLoaders,
    *,
    teacher: Detector | None = None,
    state: TrainingState | None = None,
    on_state: StateSaver | None = None,
    on_epoch: EpochListener | None = None,
    occupy: Occupy = nullcontext,
) -> Iterator[Advance]:
    """What `train` does, for whoever decides on the way whether to go on. Set up once, when something is to do."""
    detector.require_size(setup.size)
    loop: _Loop | None = None
    with ExitStack() as stack:

        def advance(epoch: int) -> TrainingState:
            nonlocal loop
            if state is not None and state.epoch >= epoch:
                return state
            try:
                if loop is None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prunetune-")))
                    loop = _Loop(detector.copy(), phase, setup, loaders, state, on_state, on_epoch, folder, teacher)
                    stack.enter_context(loop.hold_for_batches(occupy))
                return loop.advance(epoch)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    message = f"out of memory with batch={setup.batch}, imgsz={setup.imgsz}; try a smaller batch"
                    raise TrainingFailureError("OUT_OF_MEMORY", message) from error
                raise

        yield advance


def chosen(detector: Detector, state: TrainingState) -> Detector:
    """A copy of a detector with the weights of the epoch that its training chose."""
    trained = detector.copy()
    trained.model.load_state_dict(state.best["weights"] if state.best else state.model)
    return trained


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(
        sign in text for sign in ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
    )


class _Loop(DetectionTrainer):
    """ultralytics' training loop over a given network and resident loaders."""

    ema: Any
    tloss: Any

    def __init__(
        self,
        detector: Detector,
        phase: Phase,
        setup: TrainingSetup,
        loaders: DataLoaders,
        state: TrainingState | None,
        on_state: StateSaver | None,
        on_epoch: EpochListener | None,
        folder: Path,
        teacher: Detector | None = None,
    ) -> None:
        self._detector, self._phase, self._setup, self._loaders = detector, phase, setup, loaders
        if phase.distillation and teacher is None:
            raise ValueError("a phase with distillation needs a teacher")
        self._teacher = teacher.copy() if teacher is not None and phase.distillation else None
        self._start_state, self._on_state, self._on_epoch = state, on_state, on_epoch
        self.end: TrainingState | None = None
        """After the last finished epoch."""
        self._best = state.best if state else None
        self._history = state.history if state else ()
        self._channels = detector.channels
        self._layers = penalty_layers(detector.model) if phase.sparse else ()
        self._clock = self._validated_s = 0.0
        self._until = phase.end
        options = {
            **arguments(setup),
            "lr0": phase.lr_factor * learning_rate(setup.hyperparameters, loaders.classes),
            "epochs": phase.epochs,
            "cos_lr": False,
            "close_mosaic": 0 if phase.extensible() else min(10, phase.epochs // 2),
            "val": phase.choose != "last",
            "save_dir": str(folder),
            "model": detector.source,
            "distill_model": None,  # `setup_model` brings the teacher
        }
        if self._teacher is not None:
            options |= {"dis": phase.distillation, "compile": False}
        super().__init__(overrides=options)
        self.model = detector.model
        self.add_callback("on_train_epoch_start", _Loop._begin_epoch)

    def advance(self, epoch: int) -> TrainingState:
        """Trains up to an epoch; another call goes on from there."""
        if self.end is None or self.end.epoch < epoch:
            self._until, self.stop = epoch, False
            self.train()
        assert self.end is not None  # an epoch was trained
        return self.end

    def _setup_train(self) -> None:
        if self.end is None:
            super()._setup_train()
        else:
            self.start_epoch = self.end.epoch

    @contextmanager
    def hold_for_batches(self, occupy: Occupy) -> Iterator[None]:
        """Enters `occupy` for each batch of training and, as the validator has the same callbacks, of validation."""
        held = ExitStack()
        for kind in ("train", "val"):
            self.add_callback(f"on_{kind}_batch_start", lambda _: held.enter_context(occupy()))
            self.add_callback(f"on_{kind}_batch_end", lambda _: held.close())
        with held:  # a batch that fails has no end
            yield

    # What the loop is given instead of building it

    def get_dataset(self) -> dict[str, Any]:
        return dict(self._loaders.data)

    def setup_model(self) -> None:
        for parameter in self.model.parameters():
            parameter.requires_grad = parameter.dtype.is_floating_point
        self.model.criterion = None
        if self._teacher is not None:
            self.model.args = self.args
            self.model = with_teacher(self.model, self._teacher.model, self._setup.seed)

    @property
    def _network(self) -> Any:
        """The network that ships."""
        return student_of(unwrap_model(self.model))

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        return self._loaders.train() if mode == "train" else self._loaders.evaluation("val", self.stride)

    def build_optimizer(self, model: Any, **options: Any) -> torch.optim.Optimizer:
        if self._phase.extensible():
            options["iterations"] = 0  # `auto` chooses by them, and a longer run could not go on from a shorter one
        optimizer: torch.optim.Optimizer = super().build_optimizer(without_teacher(model), **options)
        if self._phase.gamma_lr is not None:
            for group in optimizer.param_groups:
                if group.get("param_group") == "bn":  # ultralytics' group of all norm scales, without decay
                    group["lr"] = self._phase.gamma_lr
        return optimizer

    def _setup_scheduler(self) -> None:
        if self._phase.schedule == "linear":
            super()._setup_scheduler()
            return
        self.lf = _constant
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_lambda=self.lf)

    def _get_warmup_iterations(self, num_batches: int) -> int:
        return warmup_steps(self._phase.warmup_epochs, num_batches)

    # What an epoch and a step do differently

    def resume_training(self, ckpt: Any) -> None:
        """Starts from the given state. Called when optimizer and average exist."""
        follow_within_an_epoch(self._network, len(self.train_loader), self._setup.batch)
        self._penalized = penalized_gammas(self._network, self._layers)
        if self._teacher is not None:  # only what ships is averaged
            self.ema = average_of(unwrap_model(self.model))
        if self._phase.sparse:
            self.ema.decay = _no_decay
        state = self._start_state
        if state is None:
            return
        self._network.load_state_dict(state.model)
        if (projections := projections_of(unwrap_model(self.model))) is not None:
            projections.load_state_dict(state.projections)
        self.ema.ema.load_state_dict(state.ema)
        self.ema.updates = state.optimizer["updates"]
        self.optimizer.load_state_dict(deepcopy(state.optimizer["optimizer"]))
        if state.optimizer["scaler"]:
            self.scaler.load_state_dict(state.optimizer["scaler"])
        self.start_epoch = state.epoch

    def _begin_epoch(self) -> None:
        self._oom_retries = 3  # a smaller batch would be another training: fail instead
        init_seeds(self._setup.seed * 100_003 + self.epoch)
        self.train_loader.generator.manual_seed(self._setup.seed * 100_003 + self.epoch)
        self.train_loader.reset()  # order and augmentation of the epoch follow from this seed, in processes too
        # Where a shorter run is a part of a longer one, nothing may depend on how long it is.
        _weigh_heads(unwrap_model(self.model), self._phase.epochs if self._phase.extensible() else self.epoch)
        self._clock, self._validated_s = time.perf_counter(), 0.0

    def optimizer_step(self) -> None:
        """ultralytics' own, with the penalty: a subgradient has to come after unscaling and before clipping."""
        self.scaler.unscale_(self.optimizer)
        is_proximal = self._phase.shrinkage == "proximal"
        if self._phase.penalty and not is_proximal:
            add_subgradient(self._penalized, self._phase.penalty)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=MOST_GRADIENT)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self._phase.penalty and is_proximal:
            lr = next(group["lr"] for group in self.optimizer.param_groups if group.get("param_group") == "bn")
            shrink(self._penalized, self._phase.penalty * lr)
        self.ema.update(self._network)

    def validate(self) -> tuple[dict[str, Any], float]:
        if self._phase.choose == "last":
            return {}, 0.0
        check_finite(self._losses(), self.epoch + 1)
        start = time.perf_counter()
        metrics, fitness = super().validate()
        self._validated_s = time.perf_counter() - start
        return metrics, fitness

    def get_validator(self) -> Any:
        validator = super().get_validator()
        validator.args = copy(validator.args)
        return validator

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Ends an epoch: chooses, records, hands the state over."""
        record = EpochRecord(
            epoch=self.epoch + 1,
            losses=self._losses(),
            train_s=time.perf_counter() - self._clock - self._validated_s,
            validate_s=self._validated_s,
            accuracy=accuracy_from(self.validator) if self._phase.choose != "last" else None,
            gammas=gamma_distribution(self._network) if self._phase.sparse else None,
        )
        check_finite(record.losses, record.epoch)
        self._history += (record,)
        self.stop = record.epoch >= self._until
        if record.accuracy is not None:
            score = record.accuracy.score(self._phase.choose)
            if self._best is None or score >= self._best["score"]:
                weights = _weights(self.ema.ema)
                self._best = {"epoch": record.epoch, "score": score, "weights": weights}
        self.end = self._state()
        if self._on_state is not None:
            self._on_state(self.end)
        if self._on_epoch is not None:
            self._on_epoch(record)

    def _losses(self) -> dict[str, float]:
        losses = {name: float(value) for name, value in (self.tloss or {}).items()}
        if self._phase.sparse:
            losses["sl_loss"] = self._phase.penalty * penalty(self._penalized)
        return losses

    def _state(self) -> TrainingState:
        model, projections = self._network, projections_of(unwrap_model(self.model))
        if Detector(model, self._detector.source).channels != self._channels:
            raise ModelError(f"{self._detector.source}: training changed the network's channels")
        return TrainingState(
            epoch=self._history[-1].epoch,
            model=_weights(model),
            ema=_weights(self.ema.ema),
            optimizer={
                "optimizer": _on_cpu(self.optimizer.state_dict()),
                "scaler": self.scaler.state_dict(),
                "updates": self.ema.updates,
            },
            best=self._best,
            history=self._history,
            projections={} if projections is None else _weights(projections),
        )

    # What is left out

    def save_model(self) -> bool:
        """Saves nothing: the state goes to the caller."""
        return False

    def final_eval(self) -> None:
        """Leaves the evaluation to the caller."""

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Does not go back silently: `check_finite` ends a training that diverged."""
        return False


def _weigh_heads(model: Any, epoch: int) -> None:
    """Gives the losses of YOLO26's two heads the weights that ultralytics' schedule has after so many epochs.

    It counts the epochs from when a process started; past the last one the weights stay as they are.
    """
    model = getattr(model, "student_model", model)
    if getattr(model.model[-1], "one2one_cv2", None) is None:
        return
    if model.criterion is None:
        model.criterion = model.init_criterion()
    model.criterion.updates = epoch - 1
    model.criterion.update()


def _constant(epoch: int) -> float:
    return 1.0


def _no_decay(updates: int) -> float:
    return 0.0


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: _on_cpu(value) for name, value in model.state_dict().items()}


def _on_cpu(value: Any) -> Any:
    """A copy on the CPU of a tensor, or of an optimizer's state."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value
