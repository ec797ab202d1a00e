"""The arithmetic of the penalty: soft thresholds of gammas and of groups, subgradients, weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunetune.pruning.channel_costs import MOST, MOST_LAMBDA, balanced, penalty_weights
from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.detector import Detector
from prunetune.pruning.groups import ChannelGroup
from prunetune.pruning.penalty import Block, add_subgradient, penalty, penalty_blocks, penalty_layers, shrink
from prunetune.pruning.tracing import channel_groups
from prunetune.pruning.training import Phase

GAMMA = st.floats(-2, 2)
STEP = st.floats(0, 1)
WEIGHT = st.floats(0.125, 2)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(GAMMA, STEP, WEIGHT)
def test_shrinking_is_the_proximal_operator(gamma: float, step: float, weight: float) -> None:
    """It minimises step * weight * |x| + (x - gamma)^2 / 2, found here by trying every x."""
    candidates = np.linspace(-2, 2, 40_001)
    best = candidates[np.argmin(step * weight * np.abs(candidates) + (candidates - gamma) ** 2 / 2)]
    value = vector(gamma)
    shrink([Block.of(value, weight=weight)], step)
    assert float(value) == pytest.approx(best, abs=1.01e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(GAMMA, min_size=2, max_size=4), st.floats(0, 0.5), WEIGHT, st.integers(0, 2**31))
def test_shrinking_a_group_is_its_proximal_operator(gammas: list[float], step: float, weight: float, seed: int) -> None:
    """No point of many around it has a smaller step * penalty + |x - gammas|^2 / 2."""
    block = Block.of(*map(vector, gammas), weight=weight)
    shrink([block], step)
    found, start = np.array([float(gamma.values) for gamma in block.gammas]), np.array(gammas)

    def objective(points: np.ndarray) -> np.ndarray:
        pulls = step * weight * math.sqrt(len(gammas)) * np.linalg.norm(points, axis=-1)
        distances: np.ndarray = pulls + ((points - start) ** 2).sum(axis=-1) / 2
        return distances

    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(500, len(gammas)))
    for radius in (1e-3, 0.1, 1.0):
        assert objective(found) <= objective(found + radius * directions).min() + 1e-9
    assert objective(found) <= objective(np.zeros(len(gammas))) + 1e-9


@given(st.floats(0.01, 2), STEP, st.integers(2, 4))
def test_equal_gammas_are_pulled_as_strongly_with_ties_as_without(gamma: float, step: float, count: int) -> None:
    tied, alone = tuple(vector(gamma) for _ in range(count)), vector(gamma)
    shrink([Block.of(*tied)], step)
    shrink([Block.of(alone)], step)
    assert [float(value) for value in tied] == pytest.approx([float(alone)] * count, abs=1e-9)


def test_a_tied_channel_goes_as_a_whole() -> None:
    one, other = vector(0.1, 1.0), vector(0.2, 0.01)
    shrink([Block.of(one, other)], 0.2)
    assert (one[0], other[0]) == (0, 0), "its norm is below the root of 2 times the step"
    assert one[1] > 0
    assert other[1] > 0, "a small gamma stays where its channel is needed elsewhere"


def test_a_shrunk_gamma_is_exactly_zero_and_stays() -> None:
    gamma = nn.Parameter(torch.tensor([0.01, -0.01, 0.5]))
    for _ in range(2):
        shrink([Block.of(gamma)], 0.02)
    assert gamma.tolist() == pytest.approx([0.0, 0.0, 0.46])
    assert gamma.requires_grad
    assert gamma.grad is None


def test_a_group_at_zero_stays_there() -> None:
    zeros = (torch.zeros(2), torch.zeros(2))
    shrink([Block.of(*zeros)], 0.1)
    assert all(torch.equal(gamma, torch.zeros(2)) for gamma in zeros)


@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(-2, -0.01)), min_size=1, max_size=3), st.booleans(), WEIGHT)
def test_the_subgradient_is_the_gradient_of_the_penalty(
    gammas: list[tuple[float, float]], tied: bool, weight: float
) -> None:
    layers = [nn.Parameter(vector(*values)) for values in gammas]
    blocks = [Block.of(*layers, weight=weight)] if tied else [Block.of(layer, weight=weight) for layer in layers]
    sum(block.scale * block.norms.sum() for block in blocks).backward()  # type: ignore[union-attr]
    expected = [layer.grad for layer in layers]
    for layer in layers:
        layer.grad = torch.ones_like(layer)
    add_subgradient(blocks, 0.5)
    for layer, gradient in zip(layers, expected, strict=True):
        assert layer.grad is not None
        assert gradient is not None
        assert torch.allclose(layer.grad, 1 + 0.5 * gradient)


@pytest.mark.parametrize("count", [1, 2])
def test_the_subgradient_at_zero_is_zero(count: int) -> None:
    layers = tuple(nn.Parameter(torch.zeros(3)) for _ in range(count))
    for layer in layers:
        layer.grad = torch.zeros(3)
    add_subgradient([Block.of(*layers)], 0.5)
    assert all(layer.grad is not None and torch.equal(layer.grad, torch.zeros(3)) for layer in layers)


def test_the_penalty_is_the_sum_over_blocks() -> None:
    one, tied = vector(1.0, -2.0), (vector(3.0), vector(4.0))
    assert penalty([Block.of(one), Block.of(*tied, weight=0.5)]) == pytest.approx(3.0 + 0.5 * math.sqrt(2) * 5.0)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("yolov5n.yaml", ("square", "disc"))


def test_ties_are_those_of_additions(detector: Detector) -> None:
    phase = Phase(1, "constant", 0.0, gamma_lr=0.1)
    alone = penalty_layers(detector.model, phase)
    tied = penalty_layers(detector.model, Phase(1, "constant", 0.0, gamma_lr=0.1, tied=True))
    assert all(len(names) == 1 for names in alone)
    assert {name for names in tied for name in names} == {name for (name,) in alone}
    assert sorted(len(names) for names in tied if len(names) > 1) == [2, 2, 3, 4]
    assert ("model.2.cv1.bn", "model.2.m.0.cv2.bn") in tied
    blocks = penalty_blocks(detector.model, tied, {"model.2.cv1.bn": 2.0, "model.2.m.0.cv2.bn": 2.0})
    assert [block.weight for block in blocks if block.weight != 1.0] == [2.0]
    assert sum(len(block.gammas) for block in blocks) == len(alone)


# Weights

COSTS = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1e-3, 1e3), min_size=1)
WIDTHS = st.fixed_dictionaries({name: st.integers(2, 512) for name in "abcdefgh"})


@given(COSTS, WIDTHS, st.floats(1.01, MOST))
def test_weights_have_mean_1_over_the_channels_and_bounds(
    costs: dict[str, float], widths: dict[str, int], most: float
) -> None:
    weights = balanced(costs, widths, most)
    total = sum(widths[name] for name in costs)
    assert sum(weights[name] * widths[name] for name in costs) / total == pytest.approx(1, abs=1e-4)
    if max(costs.values()) > 0 and len(costs) > 1:
        assert max(weights.values()) / min(weights.values()) <= most * MOST * 1.4143
    for one in costs:
        for other in costs:
            if costs[one] <= costs[other]:
                assert weights[one] <= weights[other]


@given(COSTS, WIDTHS)
def test_the_unit_of_time_does_not_matter(costs: dict[str, float], widths: dict[str, int]) -> None:
    assert balanced({name: 1024 * cost for name, cost in costs.items()}, widths) == balanced(costs, widths)


def test_noise_in_a_table_changes_no_weight() -> None:
    costs = {"a": 4.0, "b": 1.0, "c": 0.25, "d": 1.0}
    widths = {"a": 16, "b": 64, "c": 256, "d": 64}
    noisy = {
        name: cost * (1 + noise) for (name, cost), noise in zip(costs.items(), (0.02, -0.03, 0.01, 0), strict=True)
    }
    assert balanced(noisy, widths) == balanced(costs, widths)


def test_without_any_cost_all_are_pulled_alike() -> None:
    assert balanced({"a": 0.0, "b": -1e-9}, {"a": 8, "b": 8}) == {"a": 1.0, "b": 1.0}


class MultiplyAdds:
    """Counts those of a chain of 3 x 3 convolutions; each layer has a quarter of the positions of the one before."""

    def time(self, channels: ChannelConfig) -> float:
        widths = [3, *channels.values()]
        pairs = enumerate(itertools.pairwise(widths))
        return sum(9 * read * written / 4**number for number, (read, written) in pairs)


def test_a_channels_cost_is_what_the_network_gains_without_it() -> None:
    channels = ChannelConfig({"model.0.conv": 16, "model.1.conv": 16, "model.2.conv": 16})
    groups = [ChannelGroup(16, (name,), (name.replace("conv", "bn"),), ()) for name in channels]
    weights = dict(penalty_weights(groups, channels, MultiplyAdds(), 0.1))
    assert list(weights) == ["model.0.bn", "model.1.bn", "model.2.bn"]
    assert weights["model.0.bn"] > weights["model.1.bn"] > weights["model.2.bn"]
    assert sum(weights.values()) == pytest.approx(3, abs=1e-4)


def test_layers_without_norm_have_no_weight(detector: Detector) -> None:
    class Costs:
        def time(self, channels: ChannelConfig) -> float:
            return float(sum(channels.values()))

    groups = channel_groups(detector.model)
    weights = dict(penalty_weights(groups, detector.channels, Costs(), 0.1))
    assert set(weights) == {name for group in groups for name in group.norms}
    tied = next(group for group in groups if len(group.norms) > 1)
    assert len({weights[name] for name in tied.norms}) == 1


@pytest.mark.parametrize("coefficient", [0.05, 0.2, 0.39, 0.4, 2.0, 0.0])
def test_no_layer_is_pulled_beyond_what_its_gammas_can_resist(coefficient: float) -> None:
    channels = ChannelConfig({"model.0.conv": 8, "model.1.conv": 64, "model.2.conv": 256})
    groups = [ChannelGroup(width, (name,), (name,), ()) for name, width in channels.items()]
    weights = dict(penalty_weights(groups, channels, MultiplyAdds(), coefficient))
    assert bool(weights) == (0 < coefficient < MOST_LAMBDA)
    assert all(coefficient * weight < 1.42 * MOST_LAMBDA for weight in weights.values())


def test_each_half_of_a_split_is_tied_to_what_is_added_to_it() -> None:
    model = Detector.load("yolov8n.yaml", ("square", "disc")).model
    layers = penalty_layers(model, Phase(1, "constant", 0.0, gamma_lr=0.1, tied=True))
    assert ("model.2.cv1.bn:0",) in layers
    assert ("model.2.cv1.bn:1", "model.2.m.0.cv2.bn") in layers
    blocks = dict(zip(layers, penalty_blocks(model, layers, {}), strict=True))
    block = blocks["model.2.cv1.bn:1", "model.2.m.0.cv2.bn"]
    width = len(block.norms)
    split, other = model.model[2].cv1.bn.weight, model.model[2].m[0].cv2.bn.weight
    for gamma in (split, other):
        gamma.grad = torch.zeros_like(gamma)
    add_subgradient([block], 1.0)
    assert [float(split.grad[:width].abs().sum()), float(split.grad[width:].min())] == [0.0, pytest.approx(1.0)]
    shrink([block], 10.0)
    assert split[:width].tolist() == [1.0] * width
    assert (split[width:].abs().max(), other.abs().max()) == (0, 0)


def test_what_attention_holds_is_not_pulled() -> None:
    model = Detector.load("yolo11n.yaml", ("square", "disc")).model
    pulled = {name for (name,) in penalty_layers(model, Phase(1, "constant", 0.0, gamma_lr=0.1))}
    assert not any(".attn." in name for name in pulled)
    assert len(pulled) > 60
