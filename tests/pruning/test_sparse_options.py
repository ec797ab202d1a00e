"""Sparse trainings of real networks with each option, and in mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from prunetune.pruning.training import trainer
from prunetune.pruning.training.batchnorm import norm_layers
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.sparsity import Sparsity, resolve, sparse_phase
from prunetune.pruning.training.trainer import TrainingState, train
from prunetune.pruning.training.values import Phase, TrainingSetup, recovery_phase
from prunetune.pruning.yolo.detector import Detector, scaled_width

pytestmark = [pytest.mark.slow, pytest.mark.core]

EPOCHS = 2


@pytest.fixture(scope="module")
def dense() -> Detector:
    return Detector.load("yolov5n.yaml", ("square", "disc"))


@pytest.fixture(scope="module")
def sparsity(loaders: DataLoaders) -> Sparsity:
    return resolve(0.1, "pull", EPOCHS, loaders.steps_per_epoch, 0.001)


def same(one: TrainingState, other: TrainingState) -> bool:
    return all(torch.equal(one.model[name], other.model[name]) for name in one.model)


def gammas_of(state: TrainingState) -> dict[str, torch.Tensor]:
    return {name.removesuffix(".weight"): value for name, value in state.model.items() if name.endswith("bn.weight")}


OPTIONS: dict[str, Callable[[Phase], Phase]] = {
    "subgradient": lambda phase: replace(phase, shrinkage="subgradient"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_trains_and_a_shorter_phase_is_on_its_way(
    option: str, dense: Detector, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders
) -> None:
    plain = sparse_phase(EPOCHS, sparsity)
    phase = OPTIONS[option](plain)
    assert phase.extensible()
    states: list[TrainingState] = []
    _, end = train(dense, phase, setup, loaders, on_state=states.append)
    _, short = train(dense, replace(phase, epochs=1), setup, loaders)
    assert same(short, states[0])
    assert short.history[0].losses == states[0].history[0].losses
    _, other = train(dense, replace(plain, epochs=1), setup, loaders)
    assert not same(short, other), "it is not the training without the option"
    penalties = [record.losses["sl_loss"] for record in end.history]
    assert penalties[1] < penalties[0]


# Mixed precision


class Mixed:
    """Trains on a CPU as a GPU does: with a scaler, and under autocast (to bfloat16) if asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scale: float, autocast: bool = False) -> None:
        class Loop(trainer._Loop):
            def resume_training(loop, ckpt: Any) -> None:
                loop.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
                loop.amp = autocast
                super().resume_training(ckpt)

        monkeypatch.setattr(trainer, "_Loop", Loop)


@pytest.mark.parametrize("shrinkage", ["proximal", "subgradient"])
def test_the_penalty_does_not_depend_on_the_scale_of_gradients(
    shrinkage: Any,
    dense: Detector,
    sparsity: Sparsity,
    setup: TrainingSetup,
    loaders: DataLoaders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A subgradient that came before unscaling would be divided by the scale."""
    momentum = replace(setup, hyperparameters={"optimizer": "SGD"})  # Adam hides the size of gradients
    phase = sparse_phase(1, sparsity, shrinkage=shrinkage)
    _, plain = train(dense, phase, momentum, loaders)
    with monkeypatch.context() as patch:
        Mixed(patch, scale=1024.0)
        _, scaled = train(dense, phase, momentum, loaders)
    for name, value in plain.model.items():
        assert torch.allclose(scaled.model[name], value, rtol=1e-5, atol=1e-6), name
    assert scaled.optimizer["scaler"]["scale"] == 1024.0
    _, without = train(dense, replace(phase, penalty=0.0), momentum, loaders)
    assert not same(plain, without)


@pytest.mark.parametrize("kind", ["recovery", "sparse", "taught"])
def test_mixed_precision_trains_fp32_weights_as_well(
    kind: str,
    dense: Detector,
    sparsity: Sparsity,
    setup: TrainingSetup,
    loaders: DataLoaders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    phase = sparse_phase(2, sparsity) if kind == "sparse" else recovery_phase(2, "map50_95")
    teacher = dense if kind == "taught" else None
    phase = phase.taught(6.0 if teacher else 0.0, "original-0")
    start = Detector.build(scaled_width(dense.model.yaml, 0.5), ("square", "disc"), seed=1) if teacher else dense
    setup = replace(setup, hyperparameters={"lr0": 0.001})  # small: the two grow apart with every step
    _, full = train(start, phase, setup, loaders, teacher=teacher)
    states: list[TrainingState] = []
    Mixed(monkeypatch, scale=64.0, autocast=True)
    trained, mixed = train(start, phase, setup, loaders, teacher=teacher, on_state=states.append)
    assert not same(full, mixed), "it was mixed precision"
    stored = [*mixed.model.values(), *mixed.ema.values(), *mixed.projections.values()]
    assert {value.dtype for value in stored} <= {torch.float32, torch.int64}
    assert {weight.dtype for weight in trained.model.parameters()} == {torch.float32}
    for name, loss in full.history[-1].losses.items():
        assert mixed.history[-1].losses[name] == pytest.approx(loss, rel=0.1), name
    if kind == "sparse":
        medians = [torch.cat(list(gammas_of(state).values())).median().item() for state in (full, mixed)]
        assert medians[1] == pytest.approx(medians[0], abs=0.01)
    _, again = train(start, phase, setup, loaders, teacher=teacher, state=states[0])
    assert same(again, mixed), "the scaler's state is part of it"


def test_gammas_of_all_norms_are_pulled(dense: Detector) -> None:
    assert len(norm_layers(dense.model)) == len([norm.weight for norm in norm_layers(dense.model).values()])
