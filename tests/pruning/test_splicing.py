"""Splicing: widths of two prunings in one network, and weights that go with their channels."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from families.tiers import in_tiers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunetune.pruning.planning.plan import PruningPlan, plan_pruning
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.layers import channel_config, layer_regions
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.splicing import Donor, Remains, compose, splice
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.batchnorm import norm_layers
from prunetune.pruning.yolo.detector import Detector, scaled_width
from prunetune.spaces import ModelError, Threshold

NAMES = ("square", "disc")


def spread(model: nn.Module, seed: int) -> None:
    """Gammas as a sparse phase leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for gamma in (norm.weight for norm in norm_layers(model).values()):
        nn.init.uniform_(gamma, 0.0, 1.0, generator=generator)


@pytest.fixture(scope="module", params=["yolov5n.yaml", "yolov5n-deconv.yaml"])
def dense(request: pytest.FixtureRequest) -> nn.Module:
    model: nn.Module = Detector.load(request.param, NAMES).model.eval()
    spread(model, 0)
    return model


@pytest.fixture(scope="module")
def groups(dense: nn.Module) -> tuple[ChannelGroup, ...]:
    return channel_groups(dense)


def donor(dense: nn.Module, groups: tuple[ChannelGroup, ...], *rounds: tuple[int, float], step: float = 0.0) -> Donor:
    """Prunes in rounds of (seed of the gammas, threshold); afterwards every weight moves by a step."""
    left, model = Remains(), deepcopy(dense)
    for seed, threshold in rounds:
        spread(model, seed)
        plan = plan_pruning(model, Threshold.everywhere(threshold), 8)
        left, model = compose(left, plan, groups), apply_plan(model, plan)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += step
    return Donor(model, left)


def widths_of(model: nn.Module, part: str) -> dict[str, int]:
    places = layer_regions(model)
    return {
        name: width
        for name, width in channel_config(model).items()
        if (places[name] == "backbone") == (part == "backbone")
    }


@pytest.mark.parametrize("rounds", [1, 2])
def test_each_part_has_its_donors_widths_and_weights(
    dense: nn.Module, groups: tuple[ChannelGroup, ...], rounds: int
) -> None:
    backbone = donor(dense, groups, *[(1, 0.4), (2, 0.3)][:rounds], step=0.1)
    head = donor(dense, groups, *[(3, 0.6), (4, 0.4)][:rounds], step=-0.1)
    before = [deepcopy(part.model.state_dict()) for part in (backbone, head)]
    spliced = splice(dense, backbone, head, groups)
    assert widths_of(spliced, "backbone") == widths_of(backbone.model, "backbone")
    assert widths_of(spliced, "head") == widths_of(head.model, "head")
    assert channel_config(spliced) not in (channel_config(backbone.model), channel_config(head.model))
    assert spliced(torch.zeros(1, 3, 64, 64))[0].shape == (1, 6, 84)
    own = spliced.state_dict()
    for key, value in backbone.model.state_dict().items():
        if int(key.split(".")[1]) < 10:
            assert torch.equal(own[key], value), key
    for key, value in head.model.state_dict().items():
        if int(key.split(".")[1]) >= 10 and own[key].shape == value.shape and value.dim() == 1:
            assert torch.equal(own[key], value), key
    for part, state in zip((backbone, head), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in part.model.state_dict().items())


def test_where_the_neck_reads_the_backbone(dense: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    """model.10 reads all of model.9.cv2, and nothing else."""
    backbone, head = donor(dense, groups, (1, 0.5)), donor(dense, groups, (3, 0.5), step=-0.1)
    weight = splice(dense, backbone, head, groups).get_submodule("model.10.conv").weight
    given = head.model.get_submodule("model.10.conv").weight
    there, wanted = head.left.kept["model.9.cv2.conv"], backbone.left.kept["model.9.cv2.conv"]
    common = set(there) & set(wanted)
    assert common
    assert set(wanted) - common, "some are new"
    for index, channel in enumerate(wanted):
        if channel in common:
            assert torch.equal(weight[:, index], given[:, there.index(channel)])
        else:
            assert not weight[:, index].any()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.9))
def test_a_network_spliced_of_itself_is_itself(seed: int, threshold: float) -> None:
    dense = _small()
    groups = channel_groups(dense)
    one = donor(dense, groups, (seed, threshold), (seed + 1, threshold / 2))
    spliced = splice(dense, one, Donor(deepcopy(one.model), one.left), groups)
    state = one.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in spliced.state_dict().items())


def _small() -> nn.Module:
    model: nn.Module = Detector.load("yolov5n.yaml", NAMES).model.eval()
    return model


def test_what_is_left_after_two_rounds(dense: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    first = plan_pruning(dense, Threshold.everywhere(0.5), 8)
    once = apply_plan(dense, first)
    second: PruningPlan = plan_pruning(once, Threshold.everywhere(0.8), 8)
    kept = compose(compose(Remains(), first, groups), second, groups).kept
    twice = apply_plan(once, second)
    for root, left in kept.items():
        assert channel_config(twice)[root] == len(left)
        norm = root.replace(".conv", ".bn")
        if norm != root:
            gammas = [model.get_submodule(norm).weight for model in (dense, twice)]
            assert torch.equal(gammas[0][list(left)], gammas[1])
    assert kept


def test_a_control_that_was_trained_by_itself(dense: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    half = Detector.build(scaled_width(dense.yaml, 0.5), NAMES, seed=5).model.eval()
    pruned = donor(dense, groups, (1, 0.4))
    for backbone, head in ((Donor.narrow(half, groups), pruned), (pruned, Donor.narrow(half, groups))):
        spliced = splice(dense, backbone, head, groups)
        assert widths_of(spliced, "backbone") == widths_of(backbone.model, "backbone")
        assert widths_of(spliced, "head") == widths_of(head.model, "head")
        assert spliced.get_submodule("model.10.conv").weight.any(), "what it reads is new: it cannot begin with zeros"
        assert torch.equal(
            spliced.get_submodule("model.0.conv").weight, backbone.model.get_submodule("model.0.conv").weight
        )
        assert spliced(torch.zeros(1, 3, 64, 64))[0].isfinite().all()


def test_a_stranger(dense: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    pruned = donor(dense, groups, (1, 0.4))
    with pytest.raises(ModelError, match="not pruned from the given dense network"):
        splice(dense, Donor(pruned.model), pruned, groups)


@pytest.mark.parametrize("name", in_tiers(["yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml"]))
def test_other_families(name: str) -> None:
    dense: nn.Module = Detector.load(name, NAMES).model.eval()
    groups = channel_groups(dense)
    backbone, head = donor(dense, groups, (1, 0.4), (2, 0.3)), donor(dense, groups, (3, 0.6))
    spliced = splice(dense, backbone, head, groups)
    assert widths_of(spliced, "backbone") == widths_of(backbone.model, "backbone")
    assert widths_of(spliced, "head") == widths_of(head.model, "head")
    assert spliced(torch.zeros(1, 3, 64, 64))[0].shape == (1, 6, 84)
    state = head.model.state_dict()
    itself = splice(dense, head, Donor(deepcopy(head.model), head.left), groups).state_dict()
    assert all(torch.equal(value, itself[key]) for key, value in state.items())
    half = Detector.build(scaled_width(dense.yaml, 0.5), NAMES).model
    assert widths_of(splice(dense, Donor.narrow(half, groups), head, groups), "backbone") == widths_of(half, "backbone")
