"""The arithmetic of sparse training: both units, and the schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunetune.pruning.training.batchnorm import norm_layers
from prunetune.pruning.training.penalty import Gammas, shrink
from prunetune.pruning.training.sparsity import (
    MOST_GAMMA_LR,
    TRAVEL,
    WARMUP_EPOCHS,
    Sparsity,
    resolve,
    schedule_sum,
    sparse_phase,
)
from prunetune.pruning.training.values import warmup_steps

EPOCHS = st.integers(1, 40)
STEPS = st.integers(1, 60)
LR = st.sampled_from([1e-4, 1e-3, 1e-2])
STRENGTH = st.floats(1e-3, 2.0)


def ultralytics_factors(epochs: int, steps_per_epoch: int) -> list[float]:
    """The learning rate's factor at each step, by the formula of ultralytics' training loop."""
    warmup = warmup_steps(WARMUP_EPOCHS, steps_per_epoch)
    factors = []
    for step in range(epochs * steps_per_epoch):
        in_warmup = warmup and step <= warmup
        factors.append(float(np.interp(step, [0, warmup], [0.0, 1.0])) if in_warmup else 1.0)
    return factors


@given(EPOCHS, STEPS)
def test_the_sum_of_the_schedule_is_the_training_loops(epochs: int, steps: int) -> None:
    assert schedule_sum(epochs, steps) == pytest.approx(sum(ultralytics_factors(epochs, steps)))


@given(STRENGTH, EPOCHS, STEPS, LR)
def test_both_units_agree(pull: float, epochs: int, steps: int, lr0: float) -> None:
    from_pull = resolve(pull, "pull", epochs, steps, lr0)
    from_lambda = resolve(from_pull.coefficient, "lambda", epochs, steps, lr0)
    assert from_pull.pull == pull
    assert from_lambda.pull == pytest.approx(pull)
    assert from_lambda.coefficient == from_pull.coefficient
    assert from_lambda.gamma_lr == from_pull.gamma_lr


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1.5), st.integers(1, 12), st.integers(1, 30), LR)
def test_a_gamma_without_gradient_shrinks_by_the_pull(pull: float, epochs: int, steps: int, lr0: float) -> None:
    sparsity = resolve(pull, "pull", epochs, steps, lr0)
    phase = sparse_phase(epochs, sparsity)
    gammas = torch.tensor([2.0, -2.0], dtype=torch.float64)
    for factor in ultralytics_factors(epochs, steps):
        assert phase.gamma_lr is not None
        shrink([Gammas(gammas)], phase.penalty * phase.gamma_lr * factor)
    assert gammas.tolist() == pytest.approx([2.0 - pull, pull - 2.0])


@given(EPOCHS, STEPS, LR)
def test_gammas_can_travel(epochs: int, steps: int, lr0: float) -> None:
    rate = resolve(0.5, "pull", epochs, steps, lr0).gamma_lr
    assert lr0 <= rate <= MOST_GAMMA_LR
    travelled = rate * schedule_sum(epochs, steps)
    assert travelled >= TRAVEL * (1 - 1e-9) or rate == MOST_GAMMA_LR


def test_the_papers_coefficient_is_taken_as_it_is() -> None:
    assert resolve(6e-4, "lambda", 600, 880, 0.01).coefficient == 6e-4


def test_no_sparsity_is_no_pull() -> None:
    assert resolve(0.0, "pull", 4, 10, 0.001).coefficient == 0.0
    assert resolve(0.0, "lambda", 4, 10, 0.001).pull == 0.0


def test_a_space_without_sparse_training() -> None:
    assert resolve(0.5, "pull", 0, 10, 0.001) == Sparsity(coefficient=0.0, pull=0.5, gamma_lr=0.001)


@given(st.integers(1, 20), st.integers(1, 20), STRENGTH)
def test_a_shorter_phase_is_a_checkpoint_of_a_longer_one(epochs: int, more: int, pull: float) -> None:
    sparsity = resolve(pull, "pull", epochs + more, 10, 0.001)
    shorter, longer = sparse_phase(epochs, sparsity), sparse_phase(epochs + more, sparsity)
    assert shorter.extensible()
    assert (shorter.penalty, shorter.gamma_lr, shorter.warmup_epochs) == (
        longer.penalty,
        longer.gamma_lr,
        longer.warmup_epochs,
    )
    assert ultralytics_factors(epochs, 10) == ultralytics_factors(epochs + more, 10)[: epochs * 10]


def test_gammas_are_the_scales_of_batchnorm_alone() -> None:
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(3)]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *norms, nn.GroupNorm(1, 3), nn.BatchNorm1d(3))
    found = [norm.weight for norm in norm_layers(model).values()]
    assert [id(gamma) for gamma in found] == [id(norms[0].weight), id(norms[2].weight)]
