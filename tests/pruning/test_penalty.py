"""The arithmetic of the penalty: soft thresholds, subgradients, and which gammas are penalised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.training.penalty import (
    Gammas,
    add_subgradient,
    penalized_gammas,
    penalty,
    penalty_layers,
    shrink,
)
from prunetune.pruning.yolo.detector import Detector

GAMMA = st.floats(-2, 2)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(GAMMA, st.floats(0, 1))
def test_shrinking_is_the_proximal_operator(gamma: float, step: float) -> None:
    """It minimises step * |x| + (x - gamma)^2 / 2, found here by trying every x."""
    candidates = np.linspace(-2, 2, 40_001)
    best = candidates[np.argmin(step * np.abs(candidates) + (candidates - gamma) ** 2 / 2)]
    value = vector(gamma)
    shrink([Gammas(value)], step)
    assert float(value) == pytest.approx(best, abs=1.01e-4)


def test_a_shrunk_gamma_is_exactly_zero_and_stays() -> None:
    gamma = nn.Parameter(torch.tensor([0.01, -0.01, 0.5]))
    for _ in range(2):
        shrink([Gammas(gamma)], 0.02)
    assert gamma.tolist() == pytest.approx([0.0, 0.0, 0.46])
    assert gamma.requires_grad
    assert gamma.grad is None


@given(st.lists(GAMMA, min_size=1, max_size=5))
def test_the_subgradient_is_the_gradient_of_the_penalty(values: list[float]) -> None:
    layer = nn.Parameter(vector(*values))
    layer.abs().sum().backward()
    expected, layer.grad = layer.grad, torch.ones_like(layer)
    add_subgradient([Gammas(layer)], 0.5)
    assert expected is not None
    assert torch.allclose(layer.grad, 1 + 0.5 * expected)


def test_the_penalty_is_the_sum_of_sizes() -> None:
    assert penalty([Gammas(vector(1.0, -2.0)), Gammas(vector(3.0), slice(0, 1))]) == pytest.approx(6.0)


def test_what_can_go_is_penalised() -> None:
    model = Detector.load("yolov5n.yaml", ("square", "disc")).model
    layers = penalty_layers(model)
    assert set(layers) == {name for group in channel_groups(model) if group.can_shrink for name in group.norms}
    assert layers.index("model.2.cv1.bn") < layers.index("model.10.bn")
    assert len(penalized_gammas(model, layers)) == len(layers)


def test_each_half_of_a_split_is_penalised_alone() -> None:
    model = Detector.load("yolov8n.yaml", ("square", "disc")).model
    layers = penalty_layers(model)
    assert {"model.2.cv1.bn:0", "model.2.cv1.bn:1"} <= set(layers)
    split = model.model[2].cv1.bn.weight
    second = penalized_gammas(model, layers)[layers.index("model.2.cv1.bn:1")]
    width = len(second.values)
    split.grad = torch.zeros_like(split)
    add_subgradient([second], 1.0)
    assert split.grad.tolist() == [0.0] * width + [1.0] * width
    shrink([second], 10.0)
    assert split.tolist() == [1.0] * width + [0.0] * width


def test_what_attention_holds_is_not_pulled() -> None:
    model = Detector.load("yolo11n.yaml", ("square", "disc")).model
    assert not any(".attn." in name for name in penalty_layers(model))
