"""Real trainings of YOLOv5n on tiny images: schedules, state, sparsity, failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.pruning import Detector, TrainingFailureError, TrainingSetup
from prunetune.pruning.loaders import DataLoaders
from prunetune.pruning.sparsity import resolve, sparse_phase
from prunetune.pruning.surgery import apply_plan, channel_config
from prunetune.pruning.trainer import TrainingState, train
from prunetune.pruning.training import Accuracy, Phase, recovery_phase
from prunetune.spaces import Threshold

NAMES = ("square", "disc")


@pytest.fixture(scope="module")
def setup(shapes: Path) -> TrainingSetup:
    return TrainingSetup(str(shapes), "shapes", imgsz=64, batch=8)


@pytest.fixture(scope="module")
def loaders(setup: TrainingSetup) -> DataLoaders:
    return DataLoaders(setup)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("yolov5n.yaml", NAMES)


def sparse(epochs: int, pull: float = 0.15) -> Phase:
    return sparse_phase(epochs, resolve(pull, "pull", 3, 3, 0.001))


def stored(state: TrainingState, folder: Path) -> TrainingState:
    """The state after a way through a file, as a resumed run gets it."""
    torch.save(state.as_dict(), folder / "state.pt")
    return TrainingState.from_dict(torch.load(folder / "state.pt", weights_only=True))


def assert_equal(one: Detector, other: Detector) -> None:
    expected = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("phase", [sparse, lambda epochs: recovery_phase(3, "map50_95")], ids=["sparse", "recovery"])
def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    phase: Any, detector: Detector, setup: TrainingSetup, loaders: DataLoaders, tmp_path: Path
) -> None:
    states: list[TrainingState] = []
    whole, _ = train(detector, phase(3), setup, loaders, on_state=states.append)
    resumed, state = train(detector, phase(3), setup, loaders, state=stored(states[0], tmp_path))
    assert [record["epoch"] for record in state.history] == [1, 2, 3]
    assert_equal(resumed, whole)


def test_a_shorter_sparse_phase_is_on_the_way_of_a_longer_one(
    detector: Detector, setup: TrainingSetup, loaders: DataLoaders
) -> None:
    short, state = train(detector, sparse(1), setup, loaders)
    longer, _ = train(detector, sparse(2), setup, loaders, state=state)
    whole, _ = train(detector, sparse(2), setup, loaders)
    assert_equal(longer, whole)
    assert not torch.equal(gammas(short), gammas(longer))


def gammas(detector: Detector) -> torch.Tensor:
    norms = [module for module in detector.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    return torch.cat([norm.weight.detach() for norm in norms])


def test_sparse_training_shrinks_gammas_and_says_so(
    detector: Detector, setup: TrainingSetup, loaders: DataLoaders
) -> None:
    before = detector.copy()
    trained, state = train(detector, sparse(3, pull=0.15), setup, loaders)
    free, _ = train(detector, sparse(3, pull=0.0), setup, loaders)
    assert float(gammas(trained).median()) == pytest.approx(float(gammas(free).median()) - 0.15, abs=0.05)
    for record in state.history:
        assert record["losses"]["sl_loss"] > 0
        assert sum(record["gammas"]["counts"]["backbone"]) > 0
    assert_equal(detector, before)


def test_a_pruned_network_stays_pruned(detector: Detector, setup: TrainingSetup, loaders: DataLoaders) -> None:
    from prunetune.pruning import plan_pruning

    model = detector.copy().model
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight)
    plan = plan_pruning(model, Threshold.everywhere(0.6), 8)
    pruned = Detector(apply_plan(model, plan), "pruned")
    trained, _ = train(pruned, recovery_phase(1, "map50_95"), setup, loaders)
    assert channel_config(trained.model) == plan.channels


@pytest.mark.parametrize(("choose", "epoch"), [("map50_95", 2), ("f1", 1)])
def test_the_chosen_epoch_is_kept(
    choose: Any,
    epoch: int,
    detector: Detector,
    setup: TrainingSetup,
    loaders: DataLoaders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = iter([Accuracy(0.5, 0.1, 0.9, 0.9), Accuracy(0.5, 0.3, 0.5, 0.5), Accuracy(0.5, 0.2, 0.4, 0.4)])
    monkeypatch.setattr("prunetune.pruning.trainer.accuracy_from", lambda metrics: next(scores))
    averages: list[dict[str, torch.Tensor]] = []
    chosen, state = train(
        detector, recovery_phase(3, choose), setup, loaders, on_state=lambda state: averages.append(state.ema)
    )
    assert state.best is not None
    assert state.best["epoch"] == epoch
    for name, value in chosen.model.state_dict().items():
        assert torch.equal(value, averages[epoch - 1][name]), name


def test_a_diverged_training_is_named(detector: Detector, setup: TrainingSetup, loaders: DataLoaders) -> None:
    poisoned = detector.copy()
    with torch.no_grad():
        next(poisoned.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingFailureError, match="epoch 1") as failure:
        train(poisoned, recovery_phase(2, "map50_95"), setup, loaders)
    assert failure.value.cause == "DIVERGED"


def test_no_memory_is_named_and_the_batch_stays(
    detector: Detector, setup: TrainingSetup, loaders: DataLoaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def forward(self: Any, batch: dict[str, Any], *rest: Any) -> None:
        batches.append(len(batch["img"]))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ultralytics.nn.tasks.DetectionModel.loss", forward)
    with pytest.raises(TrainingFailureError, match="smaller batch") as failure:
        train(detector, recovery_phase(2, "map50_95"), setup, loaders)
    assert failure.value.cause == "OUT_OF_MEMORY"
    assert batches == [8]
