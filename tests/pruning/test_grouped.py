"""Grouped convolutions: each group keeps as many channels as the next, of what it writes and of what it reads."""

from __future__ import annotations

import copy
import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import softmax

from prunetune.pruning.planning.importance import create_judge
from prunetune.pruning.planning.plan import PruningPlan, Scores, plan_pruning
from prunetune.pruning.planning.threshold_search import PlanLadder
from prunetune.pruning.stages.restarts import renew
from prunetune.pruning.structure.groups import ChannelGroup, first_of_parts
from prunetune.pruning.structure.layers import channel_config, convolutions, is_depthwise, is_grouped
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.splicing import Donor, Remains, compose, splice
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.yolo.area_attention import join_attention
from prunetune.pruning.yolo.descriptions import width_multiples
from prunetune.pruning.yolo.detector import Detector, read_description, scaled_width
from prunetune.spaces import Alignment, ModelError, Threshold

NAMES = ("square", "disc")
MODELS = Path(__file__).parent / "models"
BUILT = ("grouped.yaml", "yolov12n-authors.yaml")

Groups = tuple[ChannelGroup, ...]


@cache
def built(name: str) -> tuple[Detector, Groups]:
    """A network with random gammas, and its groups. Neither is to be changed."""
    detector = Detector.load(MODELS / name, NAMES)
    spread(detector.model, 0)
    return detector, channel_groups(detector.model)


def small(*backbone: list[Any]) -> Detector:
    """A network of two convolutions on an image, and more blocks in its backbone behind them."""
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], *backbone]
    head = [[[1, len(rows) - 1], 1, "Detect", ["nc"]]]
    detector = Detector.build({"nc": 2, "backbone": rows, "head": head}, NAMES)
    spread(detector.model, 0)
    return detector


def spread(model: nn.Module, seed: int) -> None:
    """Random gammas and betas."""
    generator = torch.Generator().manual_seed(seed)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0, 1, generator=generator)
        norm.bias.data.normal_(0, 0.1, generator=generator)


def group_of(groups: Groups, layer: str) -> ChannelGroup:
    return next(group for group in groups if layer in group.layers)


def kept_of_parts(group: ChannelGroup, plan: PruningPlan) -> list[int]:
    """How many channels each part of a group keeps."""
    part = group.width // group.parts
    kept = dict(plan.keep).get(group.root, range(group.width))
    return [sum(index // part == number for index in kept) for number in range(group.parts)]


def silenced(model: nn.Module, groups: Groups, plan: PruningPlan) -> nn.Module:
    """The dense network, with gamma and beta of all channels at zero that a plan does not keep; of no halves."""
    quiet, keep = copy.deepcopy(model), dict(plan.keep)
    for group in (group for group in groups if group.root in keep):
        lost = sorted(set(range(group.width)) - set(keep[group.root]))
        for name in group.norms:
            norm: Any = quiet.get_submodule(name)
            norm.weight.data[lost] = norm.bias.data[lost] = 0
    return quiet


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found: Tensor = copy.deepcopy(model).eval()(image.to(next(model.parameters()).dtype))[0]
    return found


# Tracing


def test_what_is_written_or_read_in_groups_is_in_parts() -> None:
    _, groups = built("grouped.yaml")
    parts = {group.root: (group.width, group.parts, group.even_with) for group in groups}
    assert parts["model.0.conv"] == (16, 4, ()), "is read in groups, and written without"
    assert parts["model.1.conv"] == (32, 4, ())
    assert parts["model.3.conv"] == (48, 2, ()), "is written in groups, and read without"
    assert parts["model.4.cv2.conv"] == (24, 1, ())
    # An addition ties a grouped convolution to a plain one, or to the half of one.
    assert group_of(groups, "model.4.m.0.cv2.conv").layers == ("model.4.cv1.conv", "model.4.m.0.cv2.conv")
    assert parts["model.4.cv1.conv"] == (24, 3, ())
    assert group_of(groups, "model.2.m.0.cv2.conv").root == "model.2.cv1.conv:1"
    assert parts["model.2.cv1.conv:1"] == (32, 4, ("model.2.cv1.conv:0",))
    # Of 96 and 48 channels in a row, each of four groups reads 36.
    assert parts["model.6.cv2.conv"] == (96, 8, ("model.4.cv3.conv",))
    assert parts["model.4.cv3.conv"] == (48, 4, ("model.6.cv2.conv",))


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([[-1, 1, "Conv", [24, 3, 2, 1, 2]], [-1, 1, "Conv", [24, 3, 1, 1, 3]]], 6),  # written in 2, read in 3
        ([[-1, 1, "Conv", [24, 3, 2, 1, 4]], [-1, 1, "Conv", [32, 3, 1, 1, 2]]], 4),
        ([[-1, 1, "Conv", [24, 3, 2]], [-1, 1, "Conv", [24, 3, 1, 1, 8]]], 8),
    ],
)
def test_parts_suit_who_writes_and_who_reads(rows: list[Any], parts: int) -> None:
    groups = channel_groups(small(*rows).model)
    assert group_of(groups, "model.2.conv").parts == parts
    assert group_of(groups, "model.2.conv").can_shrink


@pytest.mark.parametrize("groups", [16, 32])
def test_groups_of_one_or_two_channels_stay(groups: int) -> None:
    """With fewer they would be depthwise, as no other network of the family is."""
    found = channel_groups(small([-1, 1, "Conv", [64, 3, 2, 1, groups]]).model)
    assert not group_of(found, "model.1.conv").can_shrink
    assert group_of(found, "model.2.conv").can_shrink == (groups == 16)


def test_groups_may_read_the_image() -> None:
    rows = [[-1, 1, "Conv", [24, 3, 2, 1, 3]], [-1, 1, "Conv", [32, 3, 2]]]
    detector = Detector.build({"nc": 2, "backbone": rows, "head": [[[0, 1], 1, "Detect", ["nc"]]]}, NAMES)
    groups = channel_groups(detector.model)
    plan = plan_pruning(detector.model, Threshold.everywhere(2.0), Alignment.parse({"default": 4, "first": 2}))
    assert group_of(groups, "model.0.conv").parts == 3
    assert plan.channels["model.0.conv"] == 6, "the first layer's alignment, and two channels to each group"
    assert outputs(apply_plan(detector.model, plan, groups=groups)).isfinite().all()


# Plans


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(BUILT),
    thresholds=st.lists(st.floats(0, 1.2), min_size=2, max_size=3).map(sorted),
    alignment=st.sampled_from([1, 2, 3, 4, 8, 12, 16]),
)
def test_a_higher_threshold_keeps_a_part_of_the_same_and_groups_divide_all(
    name: str, thresholds: list[float], alignment: int
) -> None:
    detector, groups = built(name)
    plans = [plan_pruning(detector.model, Threshold.everywhere(t), alignment, groups=groups) for t in thresholds]
    for group, plan in itertools.product(groups, plans):
        kept = sum(kept_of_parts(group, plan))
        assert len(set(kept_of_parts(group, plan))) == 1
        assert kept == group.width or kept % math.lcm(alignment, group.parts) == 0
        for other in (other for other in groups if other.root in group.even_with):
            assert kept_of_parts(group, plan)[0] == kept_of_parts(other, plan)[0]
    for name, layer in convolutions(detector.model):
        if is_grouped(layer):
            assert all(plan.channels[name] % layer.groups == 0 for plan in plans)
            assert all(plan.channels[name] >= 2 * layer.groups for plan in plans)
    for lower, higher in itertools.pairwise(plans):
        assert all(higher.channels[name] <= width for name, width in lower.channels.items())
        assert all(set(dict(higher.keep)[root]) <= set(kept) for root, kept in lower.keep)


@settings(max_examples=6, deadline=None)
@given(threshold=st.floats(0.1, 1.1), alignment=st.sampled_from([1, 3, 4, 8]))
def test_surgery_does_what_was_planned_and_layers_stay_of_their_kind(threshold: float, alignment: int) -> None:
    detector, groups = built("grouped.yaml")
    plan = plan_pruning(detector.model, Threshold.everywhere(threshold), alignment, groups=groups)
    pruned = apply_plan(detector.model, plan, groups=groups)
    assert channel_config(pruned) == plan.channels
    for name, layer in convolutions(detector.model):
        after: Any = pruned.get_submodule(name)
        assert (is_grouped(after), is_depthwise(after)) == (is_grouped(layer), is_depthwise(layer))
        if is_grouped(layer):
            assert after.groups == layer.groups
            assert after.weight.shape[:2] == (after.out_channels, after.in_channels // layer.groups)
    again = channel_groups(pruned)
    assert [(group.layers, group.parts, group.even_with, group.readers != ()) for group in again] == [
        (group.layers, group.parts, group.even_with, group.readers != ()) for group in groups
    ]


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("alignment", [1, 4, 8])
def test_a_part_keeps_its_own_best_channels(groups: int, alignment: int) -> None:
    detector = small([-1, 1, "Conv", [64, 3, 2, 1, groups]])
    traced = channel_groups(detector.model)
    gammas = detector.model.get_submodule("model.2.bn").weight.detach().view(groups, -1)
    plan = plan_pruning(detector.model, Threshold.everywhere(0.7), alignment, groups=traced)
    kept = dict(plan.keep)["model.2.conv"]
    most = int((gammas >= 0.7).sum(dim=1).max())
    block = math.lcm(alignment, groups) // groups
    count = max(2, -(-most // block) * block)
    best = [sorted(row.argsort(descending=True)[:count].tolist()) for row in gammas]
    assert kept == tuple(part * (64 // groups) + index for part, row in enumerate(best) for index in row)
    pruned = apply_plan(detector.model, plan, groups=traced)
    torch.testing.assert_close(outputs(pruned), outputs(silenced(detector.model, traced, plan)), atol=1e-4, rtol=1e-5)


def test_halves_of_unlike_kinds_keep_to_both_alignments() -> None:
    detector = Detector.load("yolo11n.yaml", NAMES)
    spread(detector.model, 0)
    groups = channel_groups(detector.model)
    alignment = Alignment.parse({"default": 6, "depthwise": 4})
    for item in Scores.of(detector.model, alignment, groups).groups:
        assert item.alignment % 6 == 0 or not any(":" in layer for layer in item.group.layers)


@pytest.mark.parametrize(
    ("name", "alignment", "floor"), [(BUILT[0], 8, 0.0), (BUILT[0], 1, 0.3), (BUILT[0], 12, 0.1), (BUILT[1], 8, 0.3)]
)
def test_a_ladder_leaves_no_plan_out_and_ends_with_the_least(name: str, alignment: int, floor: float) -> None:
    detector, groups = built(name)
    scores = Scores.of(detector.model, alignment, groups, floor=floor)
    ladder = PlanLadder(scores)
    plans = [ladder.plan(index) for index in range(len(ladder))]
    for threshold in (0.2, 0.5, 0.8):
        assert scores.plan(Threshold.everywhere(threshold)).keep in {plan.keep for plan in plans}
    assert scores.is_least(plans[-1])
    assert {root: len(kept) for root, kept in plans[-1].keep} == {
        item.group.root: item.least for item in scores.groups if item.least < item.group.width
    }


# What follows a surgery


@pytest.mark.parametrize("name", BUILT)
def test_splices_keep_what_each_group_reads(name: str) -> None:
    detector, groups = built(name)
    dense = detector.model
    donors = []
    for seed in (1, 2):
        left, model = Remains(), copy.deepcopy(dense)
        for threshold in (0.4, 0.3):
            spread(model, seed)
            plan = plan_pruning(model, Threshold.everywhere(threshold), 8)
            left, model = compose(left, plan, groups), apply_plan(model, plan)
        donors.append(Donor(model, left))
    one, other = donors
    spliced = splice(dense, one, other, groups)
    assert outputs(spliced).isfinite().all()
    itself = splice(dense, one, Donor(copy.deepcopy(one.model), one.left), groups).state_dict()
    assert all(torch.equal(value, itself[key]) for key, value in one.model.state_dict().items())
    half = Detector.build(scaled_width(dense.yaml, 0.5), NAMES).model
    narrow = channel_config(splice(dense, Donor.narrow(half, groups), other, groups))
    assert narrow["model.1.conv"] == channel_config(half)["model.1.conv"]


def test_where_the_neck_reads_the_backbone_in_groups() -> None:
    """model.9 reads model.6 and model.4 in four groups; it keeps its weights for what its own network had there."""
    detector, groups = built("grouped.yaml")
    donors = []
    for seed in (1, 2):
        model = copy.deepcopy(detector.model)
        spread(model, seed)
        plan = plan_pruning(model, Threshold.everywhere(0.6), 1, groups=groups)
        donors.append(Donor(apply_plan(model, plan, groups=groups), Remains(dict(plan.keep))))
    backbone, head = donors
    inputs = [reading(groups, donor.left.kept) for donor in donors]
    weight, given = (
        model.get_submodule("model.9.conv").weight for model in (splice(detector.model, *donors, groups), head.model)
    )
    assert backbone.left.kept != head.left.kept
    for row in range(len(weight)):
        group = row // (len(weight) // 4)
        for column, position in enumerate(inputs[0][group]):
            if position in inputs[1][group]:
                assert torch.equal(weight[row, column], given[row, inputs[1][group].index(position)])
            else:
                assert not weight[row, column].any()


def reading(groups: Groups, kept: Any) -> list[list[int]]:
    """For each of model.9's four groups, the input channels that are left of its 36."""
    found: list[list[int]] = [[], [], [], []]
    for offset, root, width in ((0, "model.6.cv2.conv", 96), (96, "model.4.cv3.conv", 48)):
        for channel in kept.get(root, range(width)):
            found[(offset + channel) // 36].append(offset + channel)
    return found


def test_first_channels_are_of_every_part_alike() -> None:
    group = ChannelGroup(12, ("model.0.conv",), ("model.0.bn",), (), parts=3)
    assert first_of_parts(group, 6) == (0, 1, 4, 5, 8, 9)
    assert first_of_parts(group, 12) == tuple(range(12))
    with pytest.raises(ModelError, match=r"model\.0\.conv: 4 channels are no multiple of the 3 parts of it"):
        first_of_parts(group, 4)


@pytest.mark.parametrize("importance", ["gamma", "l1", "l2", "lamp"])
def test_all_judges_score_every_channel(importance: Any) -> None:
    detector, groups = built("grouped.yaml")
    scores = Scores.of(detector.model, 8, groups, create_judge(importance))
    assert all(len(item.scores) == item.group.width and item.scores.isfinite().all() for item in scores.groups)
    plan = scores.plan(Threshold.everywhere(0.9))
    assert channel_config(apply_plan(detector.model, plan, groups=groups)) == plan.channels


def test_a_network_with_new_weights_has_its_groups() -> None:
    detector, _ = built("grouped.yaml")
    renewed = renew(detector.model, seed=3)
    assert channel_config(renewed) == detector.channels
    assert not torch.equal(renewed.get_submodule("model.1.conv").weight, detector.model.model[1].conv.weight)


# Narrow controls


@pytest.mark.parametrize("factor", [0.5, 0.25])
@pytest.mark.parametrize("name", BUILT)
def test_half_and_quarter_of_the_width_keep_the_groups(name: str, factor: float) -> None:
    detector, _ = built(name)
    narrow = Detector.build(scaled_width(detector.model.yaml, factor), NAMES)
    assert narrow.channels.keys() == detector.channels.keys()
    assert narrow.params < (0.51 if factor == 0.5 else 0.37) * detector.params
    for name, layer in convolutions(detector.model):
        assert is_depthwise(layer) or narrow.model.get_submodule(name).groups == layer.groups


@pytest.mark.parametrize("scales", [{}, {"scales": {"n": [1.0, 1.0, 1024]}}, {"scales": {"n": [1.0, 1.0, 80]}}])
@pytest.mark.parametrize(
    ("groups", "dense", "half_of_it"),
    [(3, (48, 72), (24, 48)), (5, (40, 80), (40, 40)), (7, (56, 56), (56, 56)), (16, (48, 80), (32, 48))],
)
def test_groups_that_eights_do_not_divide(
    groups: int, dense: tuple[int, int], half_of_it: tuple[int, int], scales: dict[str, Any]
) -> None:
    rows = [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [dense[0], 3, 2]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [-1, 1, "Conv", [dense[1], 3, 2, 1, groups]],
    ]
    for factor, (read, written) in ((1.0, dense), (0.5, half_of_it)):
        head = [[[1, 3], 1, "Detect", ["nc"]]]
        description = {"nc": 2, "backbone": copy.deepcopy(rows), "head": head, **scales}
        made = Detector.build(scaled_width(description, factor), NAMES)
        assert (made.channels["model.1.conv"], made.channels["model.3.conv"]) == (read, written)
        assert made.model.get_submodule("model.3.conv").groups == groups


def test_multiples_of_widths() -> None:
    rows = [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [48, 3, 2, 1, 3]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 0], 1, "Concat", [1]],
        [-1, 1, "Conv", [40, 3, 1, 1, 5]],
        [-1, 1, "C3", [48, True, 3]],
        [-1, 1, "A2C2f", [128, True, 4]],
    ]
    assert width_multiples(rows) == [120, 120, 8, 8, 40, 24, 64]
    for name in ("yolov5n.yaml", "yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml"):
        description = read_description(name)
        assert set(width_multiples([*description["backbone"], *description["head"]])) == {8}


# The authors' area attention


class TwoConvolutions(nn.Module):
    """Area attention by its definition (arXiv 2502.12524), from queries and keys of one convolution and values of
    another."""

    def __init__(self, joined: Any) -> None:
        super().__init__()
        from ultralytics.nn.modules import Conv

        width = joined.all_head_dim
        self.num_heads, self.head_dim, self.area = joined.num_heads, joined.head_dim, joined.area
        self.qk, self.v = Conv(width, 2 * width, 1, act=False), Conv(width, width, 1, act=False)
        self.proj, self.pe = joined.proj, Conv(width, width, 5, 1, 2, g=width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """For each area and each head: softmax of queries times keys, times values."""
        values = self.v(x)
        queries, keys = self.qk(x).chunk(2, dim=1)
        q, k, v = (
            features.flatten(2).unflatten(2, (self.area, -1)).unflatten(1, (self.num_heads, self.head_dim))
            for features in (queries, keys, values)
        )
        weights = softmax(torch.einsum("bhcam,bhcan->bhamn", q, k) / self.head_dim**0.5, dim=-1)
        found = torch.einsum("bhamn,bhcan->bhcam", weights, v).flatten(3).flatten(1, 2).reshape(values.shape)
        return self.proj(found + self.pe(values))


TwoConvolutions.__name__ = "AAttn"


def as_published(detector: Detector) -> Detector:
    """The same network with the authors' attention, and random weights in it."""
    model = copy.deepcopy(detector.model)
    torch.manual_seed(0)
    for name, block in [(name, block) for name, block in model.named_modules() if type(block).__name__ == "AAttn"]:
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, TwoConvolutions(block))
    spread(model, 1)
    return Detector(model, "published.pt")


def test_attention_of_two_convolutions_computes_the_same_with_one() -> None:
    published = as_published(built("yolov12n-authors.yaml")[0])
    joined = copy.deepcopy(published.model)
    join_attention(joined, "published.pt")
    for name, block in joined.named_modules():
        if type(block).__name__ == "AAttn":
            assert not hasattr(block, "qk"), name
            assert block.qkv.conv.out_channels == block.qkv.bn.num_features == 3 * block.num_heads * block.head_dim
    run_by_ultralytics(joined)
    torch.testing.assert_close(outputs(joined.double()), outputs(published.model.double()))


def run_by_ultralytics(model: nn.Module) -> None:
    """Gives the authors' attention the class that their checkpoints name."""
    from ultralytics.nn.modules.block import AAttn

    for block in model.modules():
        if type(block).__name__ == "AAttn":
            block.__class__ = AAttn
            block.all_head_dim = block.num_heads * block.head_dim


def test_a_checkpoint_of_the_authors_is_pruned_like_any_other(tmp_path: Path) -> None:
    published = as_published(built("yolov12n-authors.yaml")[0])
    expected = outputs(published.model)
    run_by_ultralytics(published.model)
    published.save(tmp_path / "published.pt", {}, {"imgsz": 64})
    loaded = Detector.load(tmp_path / "published.pt")
    torch.testing.assert_close(outputs(loaded.model), expected, atol=1e-3, rtol=1e-5)
    plan = plan_pruning(loaded.model, Threshold.everywhere(0.6), 8)
    pruned = Detector(apply_plan(loaded.model, plan), "pruned")
    assert pruned.channels.removed(loaded.channels) > 0.2
    pruned.save(tmp_path / "pruned.pt", {}, {"imgsz": 64})
    assert torch.equal(outputs(Detector.load(tmp_path / "pruned.pt").model), outputs(pruned.model))


@pytest.mark.parametrize("left", ["qk", "v"])
def test_attention_of_neither_kind_is_refused_by_place(left: str) -> None:
    published = as_published(built("yolov12n-authors.yaml")[0])
    delattr(published.model.get_submodule("model.6.m.0.0.attn"), left)
    with pytest.raises(ModelError, match=r"published\.pt: model\.6\.m\.0\.0\.attn is neither ultralytics' area"):
        join_attention(published.model, "published.pt")
