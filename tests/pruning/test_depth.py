"""Residual blocks that go whole: every family, what is lost, what plans and later surgeries make of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import pytest
import torch
from families.tiers import in_tiers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics import YOLO

from prunetune.pruning import Detector, PlanLadder, PruningPlan, apply_plan, plan_pruning
from prunetune.pruning.planning.plan import Scores
from prunetune.pruning.recipe_planning import least_blocks
from prunetune.pruning.structure.depth import folded_inputs, name_after, name_before, residual_blocks, without_blocks
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.layers import channel_config
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.splicing import Donor, Remains, compose, cut_to, splice
from prunetune.spaces import ModelError, Threshold

NAMES = ("square", "disc")
FAMILIES = {"yolov5n": 7, "yolov8n": 6, "yolo11n": 11, "yolo12n": 10, "yolo26n": 12}
"""Residual blocks of the smallest detector of each family."""


def detector_of(family: str) -> Detector:
    """One whose outputs depend on the image, with gammas of all sizes and in double precision."""
    torch.manual_seed(0)
    detector = Detector.load(f"{family}.yaml", NAMES)
    for norm in norms(detector.model):
        nn.init.uniform_(norm.weight, 1, 3)
        nn.init.uniform_(norm.bias, -0.1, 0.1)
    detector.model.double().eval()
    return detector


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def last_norm(model: nn.Module, block: str) -> Any:
    return model.get_submodule(f"{block}.cv2.bn")


def silenced(model: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """The same network, with last gammas and biases at 0: SiLU of 0 is 0."""
    quiet = deepcopy(model)
    for block in blocks:
        nn.init.zeros_(last_norm(quiet, block).weight)
        nn.init.zeros_(last_norm(quiet, block).bias)
    return quiet


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    found: torch.Tensor = model(image.to(next(model.parameters()).dtype))[0]
    return found


@pytest.fixture(scope="module", params=in_tiers(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[Detector, tuple[ChannelGroup, ...], int]:
    detector = detector_of(request.param)
    return detector, channel_groups(deepcopy(detector.model).float()), FAMILIES[request.param]


Family = tuple[Detector, tuple[ChannelGroup, ...], int]


# Surgery


def test_a_block_that_adds_nothing_goes_without_a_trace(family: Family) -> None:
    detector, _, count = family
    blocks = residual_blocks(detector.model)
    assert len(blocks) == count
    for gone in (blocks, blocks[:1], blocks[-1:], blocks[::2]):
        quiet = silenced(detector.model, gone)
        whole, short = outputs(quiet), outputs(without_blocks(quiet, gone))
        assert float((whole - short).abs().max()) < 1e-5
    assert float((outputs(without_blocks(detector.model, blocks)) - outputs(detector.model)).abs().max()) > 1e-3


def test_layers_are_renamed_there_and_back(family: Family) -> None:
    detector, _, _ = family
    blocks = residual_blocks(detector.model)
    for gone in (blocks, blocks[:1], blocks[1::2]):
        there = {name_after(name, gone): name for name in detector.channels}
        there.pop(None, None)
        assert there.keys() == channel_config(without_blocks(detector.model, gone)).keys()
        assert all(name is not None and name_before(name, gone) == before for name, before in there.items())


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_higher_threshold_removes_more_and_apply_does_what_was_planned(family: Family, data: st.DataObject) -> None:
    detector, groups, _ = family
    model = deepcopy(detector.model).float()
    blocks = residual_blocks(model)
    scores = Scores.of(model, 8, groups, blocks=blocks)
    values = sorted(data.draw(st.lists(st.floats(0, 3.2), min_size=2, max_size=3)))
    plans = [scores.plan(Threshold.everywhere(value)) for value in values]
    for less, more in itertools.pairwise(plans):
        assert set(less.blocks) <= set(more.blocks)
        wide, narrow = left_of(less, groups), left_of(more, groups)
        assert all(set(kept) <= set(wide[root]) for root, kept in narrow.items())
    for value, plan in zip(values, plans, strict=True):
        assert plan.blocks == tuple(
            block for block in blocks if float(last_norm(model, block).weight.detach().double().abs().max()) < value
        )
        assert channel_config(apply_plan(model, plan, groups)) == plan.channels
        assert PruningPlan.from_dict(plan.as_dict()) == plan


def left_of(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> dict[str, tuple[int, ...]]:
    """What is left of each group; of those in blocks that went nothing."""
    whole = {group.root: tuple(range(group.width)) for group in groups}
    return {
        root: () if name_after(root, plan.blocks) is None else kept
        for root, kept in {**whole, **dict(plan.keep)}.items()
    }


@pytest.mark.slow
def test_what_is_left_is_stock(family: Family, tmp_path: Path) -> None:
    """Stock ultralytics loads it, its ONNX file computes the same, and it is pruned and shortened further."""
    detector, groups, _ = family
    model = deepcopy(detector.model).float()
    plan = Scores.of(model, 8, groups, blocks=residual_blocks(model)).plan(Threshold.everywhere(2.9))
    assert plan.blocks
    pruned = Detector(apply_plan(model, plan, groups), detector.source)
    pruned.save(tmp_path / "short.pt", {}, {"imgsz": 64})
    stock: Any = YOLO(tmp_path / "short.pt").model.eval()
    assert torch.equal(outputs(stock), outputs(pruned.model.eval()))
    pruned.export_onnx(tmp_path / "short.onnx", 64)
    session = onnxruntime.InferenceSession(tmp_path / "short.onnx", providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = pruned.deployed.eval()(image)[0].numpy()
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    assert numpy.abs(found - wanted).max() < 1e-3 * max(1.0, numpy.abs(wanted).max())
    again = without_blocks(stock, residual_blocks(stock))
    further = plan_pruning(again, Threshold.everywhere(2.95), 8)
    assert outputs(apply_plan(again, further)).isfinite().all()


def test_a_plan_of_another_detector_is_refused() -> None:
    model = detector_of("yolov5n").model.float()
    plan = PruningPlan((), channel_config(model), None, plan_pruning(model, Threshold.everywhere(0), 8).alignment)
    with pytest.raises(ModelError, match=r"model\.13\.m\.0"):
        apply_plan(model, replace(plan, blocks=("model.13.m.0",)))  # the neck's have no shortcut


# Plans


def test_a_shortened_network_s_plan_is_told_in_the_names_of_the_whole_one(family: Family) -> None:
    detector, groups, _ = family
    model = deepcopy(detector.model).float()
    blocks = residual_blocks(model)
    gone = blocks[:1] + blocks[-1:]
    short = without_blocks(model, gone)
    planned = Scores.of(short, 8, channel_groups(short), blocks=residual_blocks(short)).plan(Threshold.everywhere(2.85))
    whole = planned.after(gone)
    assert set(gone) <= set(whole.blocks)
    one, other = apply_plan(short, planned), apply_plan(model, whole, groups)
    assert channel_config(one) == channel_config(other) == planned.channels
    assert torch.allclose(outputs(one), outputs(other), atol=1e-4)


def test_a_ladder_ends_without_any_block(family: Family) -> None:
    detector, groups, _ = family
    model = deepcopy(detector.model).float()
    blocks = residual_blocks(model)
    scores = Scores.of(model, 8, groups, blocks=blocks)
    ladder = PlanLadder(scores)
    plans = [ladder.plan(index) for index in range(len(ladder))]
    assert (plans[0].blocks, plans[-1].blocks) == ((), blocks)
    assert scores.is_least(plans[-1])
    assert not scores.is_least(plans[0])
    for less, more in itertools.pairwise(plans):
        assert set(less.blocks) <= set(more.blocks)
    steps = [set(more.blocks) - set(less.blocks) for less, more in itertools.pairwise(plans)]
    assert all(len(step) <= 1 for step in steps)


def without(channels: Mapping[str, int], blocks: Sequence[str]) -> dict[str, int]:
    return {name: width for name, width in channels.items() if name_after(name, blocks) is not None}


def test_the_least_blocks_are_those_that_change_the_loss_least() -> None:
    detector = detector_of("yolov5n")
    detector.model.float()
    quiet = ["model.6.m.2", "model.2.m.0"]
    for block in quiet:
        last_norm(detector.model, block).weight.data *= 1e-6
        last_norm(detector.model, block).bias.data *= 1e-6

    def losses(model: nn.Module) -> Any:
        for seed in range(2):
            image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
            yield model(image)[0].square().mean()

    assert set(least_blocks(detector, 2, losses)) == set(quiet)
    assert len(least_blocks(detector, 100, losses)) == 7


# Later surgeries


def rounds(model: nn.Module, groups: tuple[ChannelGroup, ...], *steps: tuple[Sequence[str], float]) -> Donor:
    """Takes blocks and channels away, round by round; blocks are named as in the whole network."""
    left = Remains()
    for gone, threshold in steps:
        now = [name for block in gone if (name := name_after(block, left.blocks)) is not None]
        planned = plan_pruning(short := without_blocks(model, now), Threshold.everywhere(threshold), 8)
        plan = planned.after(now)
        assert channel_config(apply_plan(short, planned)) == plan.channels
        left, model = compose(left, plan, groups), apply_plan(model, plan)
    return Donor(model, left)


def test_rounds_are_told_in_the_dense_network_s_names(family: Family) -> None:
    detector, groups, _ = family
    model = deepcopy(detector.model).float()
    blocks = residual_blocks(model)
    donor = rounds(model, groups, (blocks[:1], 1.5), (blocks[1:2], 1.8))
    assert donor.left.blocks == blocks[:2]
    assert channel_config(cut_to(model, donor.left, groups)) == channel_config(donor.model)
    assert Remains.from_dict(donor.left.as_dict()) == donor.left


def test_splices_take_each_part_s_blocks_from_its_donor(family: Family) -> None:
    detector, groups, _ = family
    model = deepcopy(detector.model).float()
    blocks = residual_blocks(model)
    one = rounds(model, groups, (blocks[::2], 1.5), (blocks[1:2], 1.7))
    other = rounds(model, groups, (blocks[-1:], 1.8))
    spliced = splice(model, one, other, groups)
    assert outputs(spliced).isfinite().all()
    itself = splice(model, one, Donor(deepcopy(one.model), one.left), groups).state_dict()
    assert all(torch.equal(value, itself[key]) for key, value in one.model.state_dict().items())
    backbone = {name for name in residual_blocks(spliced) if int(name.split(".")[1]) <= 10}
    assert backbone == {name for name in residual_blocks(one.model) if int(name.split(".")[1]) <= 10}


def test_folded_inputs_are_those_that_a_concatenation_loses() -> None:
    model = detector_of("yolov8n").model
    width = model.get_submodule("model.4").c
    assert list(folded_inputs(model, ["model.4.m.1"])) == [("model.4.cv2.conv", range(3 * width, 4 * width))]
    assert list(folded_inputs(detector_of("yolov5n").model, ["model.4.m.1"])) == []
