"""Training of real networks: what is kept, what is chosen, how it goes on, how it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from prunetune.pruning.pipeline import accuracy_curve
from prunetune.pruning.planning.plan import plan_pruning
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training import trainer
from prunetune.pruning.training.batchnorm import norm_layers
from prunetune.pruning.training.evaluation import evaluate
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.penalty import Gammas, shrink
from prunetune.pruning.training.sparsity import Sparsity, resolve, sparse_phase
from prunetune.pruning.training.trainer import TrainingState, train
from prunetune.pruning.training.values import (
    EpochRecord,
    Phase,
    TrainingFailureError,
    TrainingSetup,
    continued_phase,
    learning_rate,
    recovery_phase,
)
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces import Threshold
from prunetune.spaces.accuracy import Accuracy

prepare_ultralytics()
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402

pytestmark = pytest.mark.slow

LONGEST = 3


@pytest.fixture(scope="module")
def dense() -> Detector:
    return Detector.load("yolov5n.yaml", ("square", "disc"))


@pytest.fixture(scope="module")
def sparsity(loaders: DataLoaders) -> Sparsity:
    return resolve(0.1, "pull", LONGEST, loaders.steps_per_epoch, 0.001)


class Sparse:
    """A sparse phase of the longest length, run at once, with the state after every epoch."""

    def __init__(self, detector: Detector, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders) -> None:
        self.states: list[TrainingState] = []
        self.epochs: list[EpochRecord] = []
        self.steps: list[float] = []
        self.groups: list[dict[str, Any]] = []

        def shrinking(blocks: list[Gammas], step: float) -> None:
            self.steps.append(step)
            shrink(blocks, step)

        class Loop(trainer._Loop):
            def build_optimizer(loop, model: Any, **options: Any) -> torch.optim.Optimizer:
                optimizer = super().build_optimizer(model, **options)
                self.groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
                self.gammas = [norm.weight for norm in norm_layers(model).values()]
                return optimizer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "shrink", shrinking)
            patch.setattr(trainer, "_Loop", Loop)
            self.detector, self.end = train(
                detector,
                sparse_phase(LONGEST, sparsity),
                setup,
                loaders,
                on_state=self.states.append,
                on_epoch=self.epochs.append,
            )


@pytest.fixture(scope="module")
def sparse(dense: Detector, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders) -> Sparse:
    return Sparse(dense, sparsity, setup, loaders)


def through_a_file(state: TrainingState, folder: Path) -> TrainingState:
    torch.save(state.as_dict(), folder / "state.pt")
    return TrainingState.from_dict(torch.load(folder / "state.pt", weights_only=True))


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two trees of plain values and tensors differ in any bit. Times are left out."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: keys"]
        keys = [key for key in one if key not in ("train_s", "validate_s")]
        return [text for key in keys for text in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list):
        if len(one) != len(other):
            return [f"{path}: length"]
        pairs = enumerate(zip(one, other, strict=True))
        return [text for index, pair in pairs for text in differences(*pair, f"{path}/{index}")]
    return [] if one == other else [f"{path}: {one} and {other}"]


# Going on


def test_extending_a_sparse_phase_is_running_it_at_once(
    dense: Detector, sparse: Sparse, sparsity: Sparsity, setup: TrainingSetup, tmp_path: Path
) -> None:
    loaders = DataLoaders(setup)  # as a new process has them
    _, short = train(dense, sparse_phase(1, sparsity), setup, loaders)
    assert differences(short.as_dict(), sparse.states[0].as_dict()) == []
    state = through_a_file(short, tmp_path)
    extended, end = train(dense, sparse_phase(LONGEST, sparsity), setup, loaders, state=state)
    assert differences(end.as_dict(), sparse.end.as_dict()) == []
    assert differences(extended.model.state_dict(), sparse.detector.model.state_dict()) == []


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("cache", "processes"), [("ram", 0), ("", 0), ("ram", 2)])
def test_a_recovery_that_was_cut_off_ends_the_same(
    dense: Detector, setup: TrainingSetup, monkeypatch: pytest.MonkeyPatch, cache: str, processes: int, tmp_path: Path
) -> None:
    monkeypatch.setattr(DataLoaders, "processes", processes)
    phase = recovery_phase(5, "map50_95")  # without mosaic from the fourth epoch on
    whole, end = train(dense, phase, setup, DataLoaders(setup))

    setup = replace(setup, cache=cache)  # images in memory or not: the result is the same
    kept: list[TrainingState] = []

    def dies(state: TrainingState) -> None:
        kept.append(through_a_file(state, tmp_path))
        if state.epoch in (2, 4):
            raise KilledError

    state: TrainingState | None = None
    for _ in range(2):
        with pytest.raises(KilledError):
            train(dense, phase, setup, DataLoaders(setup), state=state, on_state=dies)
        state = kept[-1]
    resumed, resumed_end = train(dense, phase, setup, DataLoaders(setup), state=state)
    assert [state.epoch for state in kept] == [1, 2, 3, 4]
    assert differences(resumed_end.as_dict(), end.as_dict()) == []
    assert differences(resumed.model.state_dict(), whole.model.state_dict()) == []


def test_a_finished_phase_is_not_trained_again(
    dense: Detector, sparse: Sparse, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders
) -> None:
    heard: list[EpochRecord] = []
    phase = sparse_phase(LONGEST, sparsity)
    again, state = train(dense, phase, setup, loaders, state=sparse.end, on_epoch=heard.append)
    assert heard == []
    assert state is sparse.end
    assert differences(again.model.state_dict(), sparse.detector.model.state_dict()) == []


def test_every_epoch_is_handed_over(sparse: Sparse) -> None:
    assert [state.epoch for state in sparse.states] == [1, 2, 3]
    assert [record.epoch for record in sparse.epochs] == [1, 2, 3]
    assert [len(state.history) for state in sparse.states] == [1, 2, 3]
    assert sparse.end.history == tuple(sparse.epochs)
    assert all(record.train_s > 0 for record in sparse.epochs)


# Sparse training


def test_sparse_training_shrinks_gammas_by_about_the_pull(dense: Detector, sparse: Sparse, sparsity: Sparsity) -> None:
    before, after = (
        torch.cat([gamma.detach().abs() for gamma in [norm.weight for norm in norm_layers(detector.model).values()]])
        .median()
        .item()
        for detector in (dense, sparse.detector)
    )
    assert before == 1.0
    assert before - after == pytest.approx(sparsity.pull, rel=0.5)


def test_the_loop_applies_exactly_the_pull(sparse: Sparse, sparsity: Sparsity, loaders: DataLoaders) -> None:
    assert len(sparse.steps) == LONGEST * loaders.steps_per_epoch
    assert sum(sparse.steps) == pytest.approx(sparsity.pull)


def test_gammas_have_a_group_and_a_learning_rate_of_their_own(sparse: Sparse, sparsity: Sparsity) -> None:
    own = [group for group in sparse.groups if group["lr"] == sparsity.gamma_lr]
    assert len(own) == 1
    assert own[0]["weight_decay"] == 0
    assert {id(weight) for weight in own[0]["params"]} == {id(gamma) for gamma in sparse.gammas}
    assert {group["lr"] for group in sparse.groups} == {learning_rate({}, 2), sparsity.gamma_lr}


@pytest.mark.parametrize(
    ("given", "classes", "rate"),
    [
        ({}, 147, 6.6e-5),
        ({}, 80, 0.000119),
        ({}, 1, 0.002),
        ({"optimizer": "nadam"}, 6, 0.001),
        ({"optimizer": "SGD"}, 147, 0.01),
        ({"optimizer": "MuSGD"}, 1, 0.01),
        ({"lr0": 0.003}, 147, 0.003),
        ({"optimizer": "SGD", "lr0": 0.02}, 1, 0.02),
    ],
)
def test_the_learning_rate_fits_the_detector(given: dict[str, Any], classes: int, rate: float) -> None:
    assert learning_rate(given, classes) == rate


@pytest.mark.parametrize("classes", [1, 3, 20, 147])
def test_the_learning_rate_is_that_of_ultralytics_own_rule(classes: int) -> None:
    trainer = object.__new__(DetectionTrainer)
    trainer.data, trainer.args = {"nc": classes}, SimpleNamespace(lr0=0.01, optimizer="auto", warmup_bias_lr=0.1)
    optimizer = trainer.build_optimizer(nn.Conv2d(1, 1, 1), name="auto", lr=0.01, momentum=0.9, decay=0, iterations=100)
    assert {group["lr"] for group in optimizer.param_groups} == {learning_rate({}, classes)}


@pytest.mark.parametrize(("given", "factor"), [({}, 1.0), ({}, 0.3), ({"lr0": 0.002}, 2.0)])
def test_a_recovery_multiplies_the_learning_rate(
    dense: Detector, setup: TrainingSetup, given: dict[str, Any], factor: float
) -> None:
    own = replace(setup, hyperparameters={**setup.hyperparameters, **given})
    trained, state = train(dense, recovery_phase(1, "last", factor), own, DataLoaders(own))
    assert {norm.momentum for norm in norm_layers(trained.model).values()} == {0.03}, "as it was, for who trains on"
    rate = factor * given.get("lr0", learning_rate({}, 2))
    (initial,) = {group["initial_lr"] for group in state.optimizer["optimizer"]["param_groups"]}
    assert initial == pytest.approx(rate)


@pytest.fixture(scope="module")
def converged(
    write_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Detector, TrainingSetup, float]:
    """A detector of 120 classes, two of which there are, that has converged; and its map50_95."""
    data = write_data(tmp_path_factory.mktemp("many"), {"train": 32, "val": 16})
    others = "".join(f"  {number}: other {number}\n" for number in range(2, 120))
    data.write_text(data.read_text() + others)
    easy = {"mosaic": 0.0, "translate": 0.0, "scale": 0.0, "fliplr": 0.0}
    setup = TrainingSetup(str(data), "many", imgsz=64, batch=4, hyperparameters=easy)
    quick = replace(setup, hyperparameters={**easy, "lr0": 0.003})
    names = ("square", "disc", *(f"other {number}" for number in range(2, 120)))
    phase = recovery_phase(30, "map50_95")
    detector, _ = train(Detector.load("yolov5n.yaml", names), phase, quick, loaders := DataLoaders(quick))
    return detector, setup, evaluate(detector, setup, loaders).map50_95


def test_an_epoch_leaves_a_detector_that_has_converged_as_good_as_it_was(
    converged: tuple[Detector, TrainingSetup, float],
) -> None:
    detector, setup, given = converged
    phase, after = replace(continued_phase(6, "map50_95"), until=1), {}
    for rate in ({}, {"lr0": 0.01}):
        own = replace(setup, hyperparameters={**setup.hyperparameters, **rate})
        _, state = train(detector, phase, own, DataLoaders(own))
        (after[rate.get("lr0")],) = accuracy_curve(state.history)
    assert after[None] > 0.9 * given
    assert after[None] > after[0.01], "it is the rate"


def test_every_sparse_epoch_records_penalty_and_histogram(sparse: Sparse, sparsity: Sparsity) -> None:
    for record, state in zip(sparse.epochs, sparse.states, strict=True):
        gammas = torch.cat([weight for name, weight in state.model.items() if name.endswith("bn.weight")])
        assert record.losses["sl_loss"] == pytest.approx(sparsity.coefficient * gammas.abs().sum().item(), rel=1e-4)
        assert {"box_loss", "cls_loss", "dfl_loss", "sl_loss"} <= record.losses.keys()
        assert record.gammas is not None
        assert record.gammas.quantiles["50"] == pytest.approx(gammas.abs().median().item(), abs=1e-3)
        counted = sum(sum(counts) for counts in record.gammas.counts.values())
        assert counted == len(gammas)
    medians = [record.gammas.quantiles["50"] for record in sparse.epochs if record.gammas]
    assert medians == sorted(medians, reverse=True)


def test_sparse_training_ends_with_the_raw_weights(sparse: Sparse) -> None:
    assert differences(sparse.detector.model.state_dict(), sparse.end.model) == []
    assert sparse.end.best is None
    for name, value in sparse.end.ema.items():
        assert not value.is_floating_point() or torch.equal(value, sparse.end.model[name]), "nothing lags behind"


# What stays as it is


@pytest.mark.parametrize("source", ["yolov5n.yaml", "yolov5n-deconv.yaml"])
def test_a_pruned_network_stays_pruned(
    source: str, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders, tmp_path: Path
) -> None:
    detector = Detector.load(source, ("square", "disc"))
    generator = torch.Generator().manual_seed(0)
    for gamma in [norm.weight for norm in norm_layers(detector.model).values()]:
        gamma.data.uniform_(0, 1, generator=generator)
    plan = plan_pruning(detector.model, Threshold.everywhere(0.5), alignment=8)
    Detector(apply_plan(detector.model, plan), source).save(tmp_path / "pruned.pt", {}, {})
    pruned = Detector.load(tmp_path / "pruned.pt")
    before = {name: value.clone() for name, value in pruned.model.state_dict().items()}
    for phase in (recovery_phase(1, "map50_95"), sparse_phase(1, sparsity)):
        trained, state = train(pruned, phase, setup, loaders)
        assert trained.channels == pruned.channels == plan.channels
        weights = trained.model.state_dict()
        assert {name: value.shape for name, value in weights.items()} == {
            name: value.shape for name, value in before.items()
        }
        moved = [name for name, _ in trained.model.named_parameters() if not torch.equal(weights[name], before[name])]
        assert len(moved) > 0.9 * len(list(trained.model.named_parameters())), "all of it was trained"
        assert {value.dtype for value in state.model.values()} <= {torch.float32, torch.int64}
    assert differences(pruned.model.state_dict(), before) == []


def test_the_given_detector_is_unchanged(dense: Detector, sparse: Sparse, setup: TrainingSetup) -> None:
    fresh = Detector.load("yolov5n.yaml", ("square", "disc"))
    assert differences(dense.model.state_dict(), fresh.model.state_dict()) == []
    assert all(weight.grad is None for weight in dense.model.parameters())
    assert [module.training for module in dense.model.modules()] == [
        module.training for module in fresh.model.modules()
    ]
    moved = differences(sparse.detector.model.state_dict(), dense.model.state_dict())
    assert len(moved) > 100


def test_evaluating_changes_nothing(sparse: Sparse, setup: TrainingSetup, loaders: DataLoaders) -> None:
    before = {name: value.clone() for name, value in sparse.detector.model.state_dict().items()}
    modes = [module.training for module in sparse.detector.model.modules()]
    first = evaluate(sparse.detector, setup, loaders)
    assert evaluate(sparse.detector, setup, loaders) == first
    assert differences(sparse.detector.model.state_dict(), before) == []
    assert [module.training for module in sparse.detector.model.modules()] == modes


def test_loaders_with_processes_serve_one_stage_after_the_other(
    dense: Detector, setup: TrainingSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = replace(setup, batch=4)  # a single batch would be read without them
    expected = evaluate(dense, setup, DataLoaders(setup))
    monkeypatch.setattr(DataLoaders, "processes", 2)  # as on a GPU
    loaders = DataLoaders(setup)
    for _ in range(2):
        train(dense, recovery_phase(1, "map50_95"), setup, loaders)  # ultralytics ends the processes with it
        assert evaluate(dense, setup, loaders) == expected


# Which epoch is kept


@pytest.mark.parametrize(("choice", "best"), [("map50_95", 2), ("f1", 1), ("both", 3)])
def test_the_best_epoch_is_kept(
    dense: Detector, setup: TrainingSetup, loaders: DataLoaders, monkeypatch: pytest.MonkeyPatch, choice: Any, best: int
) -> None:
    scores = iter(
        [Accuracy(0.5, 0.1, 0.9, 0.9, 0.9), Accuracy(0.5, 0.4, 0.2, 0.2, 0.2), Accuracy(0.5, 0.3, 0.6, 0.6, 0.6)],
    )
    monkeypatch.setattr(trainer, "accuracy_from", lambda metrics: next(scores))
    averages: list[dict[str, torch.Tensor]] = []
    trained, end = train(
        dense, recovery_phase(3, choice), setup, loaders, on_state=lambda state: averages.append(state.ema)
    )
    assert end.best is not None
    assert end.best["epoch"] == best
    assert differences(trained.model.state_dict(), averages[best - 1]) == []
    assert differences(trained.model.state_dict(), averages[best - 2]) != []


def test_the_last_epoch_is_kept_without_validation(dense: Detector, setup: TrainingSetup, loaders: DataLoaders) -> None:
    trained, end = train(dense, recovery_phase(1, "last"), setup, loaders)
    assert end.best is None
    assert end.history[0].accuracy is None
    assert differences(trained.model.state_dict(), end.model) == []
    assert differences(end.model, end.ema) != []


# Failures


def poisoned(detector: Detector) -> Detector:
    copy = detector.copy()
    next(copy.model.parameters()).data[0] = float("nan")
    return copy


@pytest.mark.parametrize("kind", ["recovery", "sparse"])
def test_a_loss_that_is_nan_ends_the_training(
    dense: Detector, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders, kind: str
) -> None:
    phase = recovery_phase(3, "map50_95") if kind == "recovery" else sparse_phase(3, sparsity)
    heard: list[Any] = []
    with pytest.raises(TrainingFailureError, match="not finite in epoch 1") as caught:
        train(poisoned(dense), phase, setup, loaders, on_epoch=heard.append, on_state=heard.append)
    assert caught.value.cause == "DIVERGED"
    assert heard == [], "nobody gets weights that are of no use"


def test_a_learning_rate_that_is_far_too_high(dense: Detector, setup: TrainingSetup, loaders: DataLoaders) -> None:
    phase = Phase(4, "constant", warmup_epochs=0.0, gamma_lr=1e30)
    with pytest.raises(TrainingFailureError) as caught:
        train(dense, phase, setup, loaders)
    assert caught.value.cause == "DIVERGED"


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_memory_that_runs_out_ends_the_training(
    dense: Detector,
    setup: TrainingSetup,
    loaders: DataLoaders,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    batches: list[int] = []

    def fail(model: nn.Module, batch: dict[str, Any], *rest: Any) -> Any:
        batches.append(len(batch["img"]))
        raise error

    monkeypatch.setattr(type(dense.model), "loss", fail)
    with pytest.raises(TrainingFailureError, match="out of memory with batch=8, imgsz=64; try a smaller") as caught:
        train(dense, recovery_phase(2, "map50_95"), setup, loaders)
    assert caught.value.cause == "OUT_OF_MEMORY"
    assert batches == [8], "a smaller batch would be another training"


def test_another_error_is_not_taken_for_a_lack_of_memory(
    dense: Detector, setup: TrainingSetup, loaders: DataLoaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(type(dense.model), "loss", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        train(dense, recovery_phase(1, "last"), setup, loaders)


def test_a_failure_does_not_spoil_the_loaders(
    dense: Detector, sparse: Sparse, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders
) -> None:
    with pytest.raises(TrainingFailureError):
        train(poisoned(dense), sparse_phase(1, sparsity), setup, loaders)
    _, state = train(dense, sparse_phase(1, sparsity), setup, loaders)
    assert differences(state.as_dict(), sparse.states[0].as_dict()) == []


class Occupation:
    """Counts who is inside, and how often somebody came."""

    def __init__(self) -> None:
        self.inside, self.entries = 0, 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.inside, self.entries = self.inside + 1, self.entries + 1
        assert self.inside == 1
        try:
            yield
        finally:
            self.inside -= 1


def test_every_batch_is_trained_and_validated_within_the_context(
    dense: Detector, setup: TrainingSetup, loaders: DataLoaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupation, forwards = Occupation(), []
    forward = type(dense.model).forward

    def watched(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        forwards.append(occupation.inside)
        return forward(model, *arguments, **options)

    monkeypatch.setattr(type(dense.model), "forward", watched)
    outside: list[int] = []
    train(
        dense,
        recovery_phase(2, "map50_95"),
        setup,
        loaders,
        on_state=lambda _: outside.append(occupation.inside),
        occupy=occupation,
    )
    assert occupation.entries == 2 * (loaders.steps_per_epoch + len(loaders.evaluation("val", stride=32)))
    assert forwards.count(1) >= occupation.entries
    assert outside == [0, 0], "saving disturbs nobody's measurement for long"
    assert occupation.inside == 0


def test_a_batch_that_fails_leaves_the_context(dense: Detector, setup: TrainingSetup, loaders: DataLoaders) -> None:
    occupation = Occupation()
    with pytest.raises(TrainingFailureError):
        train(poisoned(dense), recovery_phase(1, "last"), setup, loaders, occupy=occupation)
    assert (occupation.inside, occupation.entries) == (0, loaders.steps_per_epoch)


@pytest.fixture(autouse=True)
def _current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Training leaves nothing in the current folder."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []
