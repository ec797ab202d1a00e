"""Plans and surgery on real YOLOv5 n and s, with and without deconvolution, with random gammas."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunetune.pruning.planning.plan import PruningPlan, group_alignment, layer_kinds, plan_pruning
from prunetune.pruning.stages.stage import Stage
from prunetune.pruning.structure.groups import ChannelGroup, Reader
from prunetune.pruning.structure.layers import channel_config, layer_regions
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.values import TrainingSetup
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.pruning.yolo.detector import SHIPPED_MODELS
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import ConfigError, ModelError
from prunetune.spaces.recipe import Threshold

IMGSZ = 64
HALF = Threshold.everywhere(0.5)
DECONV = SHIPPED_MODELS / "yolov5-deconv.yaml"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Builds a detector of two classes with random gammas, betas and statistics."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
    prepare_ultralytics()
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import ROOT

    def make(kind: str, scale: str = "n", seed: int = 0) -> Any:
        file = DECONV if kind == "deconv" else ROOT / "cfg" / "models" / kind.removeprefix("yolo") / f"{kind}.yaml"
        torch.manual_seed(seed)
        model = DetectionModel(yaml.safe_load(file.read_text()) | {"scale": scale}, nc=2, verbose=False)
        model.args = get_cfg()
        for norm in norms_of(model).values():
            nn.init.uniform_(norm.weight)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
        return model

    return make


@pytest.fixture(
    scope="module", params=[("yolov5", "n"), ("yolov5", "s"), ("deconv", "n"), ("deconv", "s")], ids="-".join
)
def detector(request: pytest.FixtureRequest, build: Callable[..., Any]) -> Any:
    kind, scale = request.param
    return build(kind, scale)


@pytest.fixture(scope="module")
def groups(detector: Any) -> tuple[ChannelGroup, ...]:
    return channel_groups(detector)


@pytest.fixture(scope="module")
def nano(build: Callable[..., Any]) -> Any:
    return build("yolov5")


def norms_of(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that surgery must leave alone in the original."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": {name: weight.requires_grad for name, weight in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "channels": channel_config(model),
    }


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert {name: one[name] for name in one if name != "weights"} == {
        name: other[name] for name in other if name != "weights"
    }
    assert one["weights"].keys() == other["weights"].keys()
    assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])


def infer(model: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(image)[0]


def training_batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "img": torch.rand(2, 3, IMGSZ, IMGSZ),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.6, 0.5], [0.4, 0.6, 0.5, 0.7]]),
    }


# The plan


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    thresholds=st.lists(st.floats(0, 1.2), min_size=2, max_size=4).map(sorted),
    alignment=st.sampled_from([1, 4, 8, 16, 32]),
)
def test_plans_keep_whole_blocks_and_shrink_with_the_threshold(
    detector: Any, groups: tuple[ChannelGroup, ...], thresholds: list[float], alignment: int
) -> None:
    dense = channel_config(detector)
    plans = [plan_pruning(detector, Threshold.everywhere(t), alignment, groups=groups) for t in thresholds]
    for plan in plans:
        for name, width in plan.channels.items():
            assert width == dense[name] or width % alignment == 0, name
            assert min(alignment, dense[name]) <= width <= dense[name], name
        for root, kept in plan.keep:
            assert list(kept) == sorted(set(kept))
            assert len(kept) == plan.channels[root] < dense[root]
    for lower, higher in itertools.pairwise(plans):
        assert all(higher.channels[name] <= lower.channels[name] for name in dense)
        for root, kept in lower.keep:
            assert set(dict(higher.keep)[root]) <= set(kept)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    thresholds=st.lists(st.floats(0, 1.2), min_size=2, max_size=3).map(sorted),
    alignment=st.builds(Alignment, *[st.integers(1, 40)] * 3),
)
def test_each_group_keeps_to_its_own_alignment(
    detector: Any, groups: tuple[ChannelGroup, ...], thresholds: list[float], alignment: Alignment
) -> None:
    dense, kinds = channel_config(detector), layer_kinds(detector, groups)
    plans = [plan_pruning(detector, Threshold.everywhere(t), alignment, groups=groups) for t in thresholds]
    for group, plan in itertools.product(groups, plans):
        block = group_alignment(group, kinds, alignment)
        kept = plan.channels[group.root]
        assert kept == dense[group.root] or kept % block == 0
        assert min(block, dense[group.root]) <= kept <= dense[group.root]
    for lower, higher in itertools.pairwise(plans):
        assert all(higher.channels[name] <= lower.channels[name] for name in dense)
        assert all(set(dict(higher.keep)[root]) <= set(kept) for root, kept in lower.keep)


def test_the_first_layer_is_the_one_that_reads_the_image(detector: Any, groups: tuple[ChannelGroup, ...]) -> None:
    kinds = layer_kinds(detector, groups)
    assert [name for name, kind in kinds.items() if kind == "first"] == ["model.0.conv"]
    assert set(kinds.values()) == {"first", "default"}
    plan = plan_pruning(detector, Threshold.everywhere(2.0), Alignment.parse({"default": 8, "first": 4}), groups=groups)
    assert plan.channels["model.0.conv"] == 4
    assert plan.channels["model.1.conv"] == 8


def test_a_group_of_several_kinds_keeps_the_least_common_multiple(build: Callable[..., Any]) -> None:
    model = build("yolov5")
    model.model[1].conv = nn.Conv2d(16, 16, 3, groups=16)  # depthwise, so tied to the channels that it reads
    mixed = ("model.0.conv", "model.1.conv", "model.2.cv1.conv")
    readers = tuple(Reader(layer, (0,), (0,)) for layer in ("model.1.conv", "model.2.cv1.conv"))
    group = ChannelGroup(16, mixed, ("model.0.bn",), readers)
    kinds = layer_kinds(model, [group])
    assert kinds == dict(zip(mixed, ("first", "depthwise", "default"), strict=True))
    for one in itertools.product((1, 4, 6, 16), repeat=3):
        assert group_alignment(group, kinds, Alignment(*one)) == math.lcm(*one)
    tied = ChannelGroup(16, ("model.0.conv", "model.2.cv1.conv"), ("model.0.bn", "model.2.cv1.bn"), readers)
    plan = plan_pruning(model, Threshold.everywhere(2.0), Alignment.parse({"default": 6, "first": 4}), groups=[tied])
    assert plan.channels["model.0.conv"] == plan.channels["model.2.cv1.conv"] == 12


def test_planning_and_surgery_leave_the_detector_as_it_was(build: Callable[..., Any]) -> None:
    model = build("deconv")
    model.train()
    model.model[3].eval()
    for name, weight in model.named_parameters():
        weight.requires_grad_("model.4." in name)
    before = state_of(model)
    with torch.no_grad():
        plan = plan_pruning(model, HALF, 8)
        assert_same_state(before, state_of(model))
        pruned = apply_plan(model, plan)
        for weight in pruned.parameters():
            weight.zero_()
    assert_same_state(before, state_of(model))


def test_a_plan_survives_json_and_is_named_by_what_it_keeps(nano: Any) -> None:
    plan = plan_pruning(nano, HALF, 8)
    again = PruningPlan.from_dict(json.loads(json.dumps(plan.as_dict(), sort_keys=True)))
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.digest() == plan.digest()
    neighbour = plan_pruning(nano, Threshold(backbone=0.5, head=0.5 + 1e-9), 8)
    assert neighbour != plan
    assert neighbour.digest() == plan.digest()
    assert plan_pruning(nano, Threshold.everywhere(0.7), 8).digest() != plan.digest()
    assert plan_pruning(nano, HALF, 16).digest() != plan.digest()


def test_surgeries_have_the_names_that_stores_know_them_by(nano: Any) -> None:
    model = copy.deepcopy(nano)
    for norm in norms_of(model).values():
        order = torch.arange(norm.num_features)
        norm.weight.data = (order * 37 % norm.num_features + 0.5) / norm.num_features
    plan = plan_pruning(model, Threshold(0.45, 0.6), 8)
    assert plan.digest() == "d701299cbc4b0248"
    settings = {"plan": plan.digest(), "setup": TrainingSetup("data.yaml", "shapes", imgsz=64, batch=8).identity()}
    assert Stage("pruning", "parent", settings).digest == "pruning-15fbb8b313ee9d95c4d0"
    stored = plan.as_dict()
    assert set(stored) == {"keep", "channels", "threshold", "alignment"}, "what it wrote before there were options"
    assert PruningPlan.from_dict(stored) == plan


def test_a_plan_knows_the_alignment_of_each_kind(nano: Any) -> None:
    assert plan_pruning(nano, HALF, 8) == plan_pruning(nano, HALF, Alignment.everywhere(8))
    assert plan_pruning(nano, HALF, 8).as_dict()["alignment"] == 8
    apart = plan_pruning(nano, HALF, Alignment(default=8, first=8, depthwise=4))
    assert apart.keep == plan_pruning(nano, HALF, 8).keep
    assert apart.digest() != plan_pruning(nano, HALF, 8).digest()
    assert PruningPlan.from_dict(json.loads(json.dumps(apart.as_dict()))) == apart


def test_a_threshold_of_zero_removes_nothing(nano: Any) -> None:
    plan = plan_pruning(nano, Threshold.everywhere(0.0), 8)
    assert plan.keep == ()
    assert plan.channels == channel_config(nano)


def test_the_highest_scores_stay_and_ties_go_to_the_lower_index(build: Callable[..., Any]) -> None:
    model = build("yolov5")
    for norm in norms_of(model).values():
        nn.init.constant_(norm.weight, 0.5)
    norm = norms_of(model)["model.0.bn"]
    norm.weight.data[[3, 14]] = torch.tensor([0.8, -0.9])  # a negative gamma scales as much as a positive one
    keep = dict(plan_pruning(model, Threshold.everywhere(0.7), 4).keep)
    assert plan_pruning(model, HALF, 4).keep == ()  # a gamma at the threshold is not below it
    assert keep["model.0.conv"] == (0, 1, 3, 14)
    assert keep["model.1.conv"] == (0, 1, 2, 3)


def test_a_channel_on_a_skip_connection_stays_if_one_of_its_gammas_is_high(build: Callable[..., Any]) -> None:
    model = build("yolov5")
    tied = next(group for group in channel_groups(model) if group.root == "model.4.cv1.conv")
    assert tied.layers == ("model.4.cv1.conv", "model.4.m.0.cv2.conv", "model.4.m.1.cv2.conv")
    norms = norms_of(model)
    for name in tied.norms:
        nn.init.constant_(norms[name].weight, 0.1)
    for channel, name in zip((5, 9, 20), tied.norms, strict=True):
        norms[name].weight.data[channel] = 0.9
    plan = plan_pruning(model, HALF, 1)
    assert dict(plan.keep)["model.4.cv1.conv"] == (5, 9, 20)
    assert {plan.channels[layer] for layer in tied.layers} == {3}


def test_layers_without_batchnorm_keep_their_width(detector: Any) -> None:
    plan = plan_pruning(detector, Threshold.everywhere(2.0), 8)
    dense, scaled = channel_config(detector), set(norms_of(detector))
    bare = [name for name in dense if name.removesuffix("conv") + "bn" not in scaled]
    transposed = [n for n, layer in detector.named_modules() if isinstance(layer, nn.ConvTranspose2d)]
    outputs = [f"model.24.{branch}.{level}.2" for branch in ("cv2", "cv3") for level in range(3)]
    assert bare == [*transposed, *outputs, "model.24.dfl.conv"]
    assert all(plan.channels[name] == dense[name] for name in bare)
    assert all(plan.channels[name] == 8 for name in dense if name not in bare)


def test_a_layer_without_batchnorm_protects_those_it_is_tied_to(nano: Any) -> None:
    tied = ChannelGroup(64, layers=("model.13.cv1.conv", "model.24.cv2.0.2"), norms=("model.13.cv1.bn",), readers=())
    assert plan_pruning(nano, HALF, 8, groups=[tied]).keep == ()


@pytest.mark.parametrize("region", ["backbone", "neck", "head"])
def test_a_region_can_be_pruned_alone(detector: Any, groups: tuple[ChannelGroup, ...], region: str) -> None:
    threshold = Threshold(*(0.6 * (region == part) for part in ("backbone", "head", "neck")))
    plan = plan_pruning(detector, threshold, 8, groups=groups)
    dense, regions = channel_config(detector), layer_regions(detector)
    assert {regions[name] for name in dense if plan.channels[name] < dense[name]} == {region}
    assert regions["model.9.cv2.conv"] == "backbone"
    assert regions["model.10.conv"] == "neck"
    assert regions["model.24.cv2.0.0.conv"] == "head"


def test_a_group_in_both_regions_gets_the_lower_threshold(nano: Any) -> None:
    spanning = ChannelGroup(
        width=32,
        layers=("model.4.cv1.conv", "model.17.cv1.conv"),
        norms=("model.4.cv1.bn", "model.17.cv1.bn"),
        readers=(),
    )
    apart = plan_pruning(nano, Threshold(backbone=0.9, head=0.6), 1, groups=[spanning])
    lower = plan_pruning(nano, Threshold.everywhere(0.6), 1, groups=[spanning])
    assert apart.keep == lower.keep != ()


# The surgery


@pytest.mark.parametrize("alignment", [1, 8])
def test_surgery_does_what_the_plan_says_and_the_result_trains(detector: Any, alignment: int) -> None:
    plan = plan_pruning(detector, HALF, alignment)
    pruned: Any = apply_plan(detector, plan)
    assert channel_config(pruned) == plan.channels != channel_config(detector)
    assert pruned.training == detector.training

    image = torch.rand(1, 3, IMGSZ, IMGSZ)
    assert infer(pruned, image).shape == infer(detector, image).shape

    trainable = {name: weight for name, weight in pruned.named_parameters() if weight.requires_grad}
    assert {name for name, _ in pruned.named_parameters()} - set(trainable) == {"model.24.dfl.conv.weight"}
    before = {name: weight.detach().clone() for name, weight in trainable.items()}
    loss, _ = pruned.train().loss(training_batch())
    loss.sum().backward()
    torch.optim.SGD(trainable.values(), lr=0.01).step()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trainable.values())
    moved = {name for name, weight in trainable.items() if not torch.equal(before[name], weight)}
    assert {"model.0.conv.weight", "model.9.cv2.bn.weight", "model.24.cv3.0.2.weight"} <= moved


@pytest.mark.parametrize("alignment", [1, 8])
def test_removing_dead_channels_changes_nothing(build: Callable[..., Any], alignment: int) -> None:
    for kind, scale in (("yolov5", "n"), ("yolov5", "s"), ("deconv", "n"), ("deconv", "s")):
        model = build(kind, scale, seed=2)
        # Transposed convolutions store their channels the other way round, with a BatchNorm behind them too.
        model.model[10].conv = nn.ConvTranspose2d(*model.model[10].conv.weight.shape[1::-1], 1, bias=False)
        norms = norms_of(model)
        for group in channel_groups(model):
            dead = torch.randperm(group.width)[: group.width // 2 + 1]
            for name in group.norms:
                norms[name].weight.data[dead] = 0.0
                norms[name].bias.data[dead] = 0.0
        pruned = apply_plan(model, plan_pruning(model, Threshold.everywhere(1e-6), alignment))
        assert channel_config(pruned).removed(channel_config(model)) > 0.3
        image = torch.rand(1, 3, IMGSZ, IMGSZ)
        torch.testing.assert_close(infer(pruned, image), infer(model, image), atol=1e-4, rtol=1e-5)


def test_the_weights_are_those_that_torch_pruning_would_keep(detector: Any) -> None:
    plan = plan_pruning(detector, HALF, 8)
    reference = copy.deepcopy(detector).eval()
    graph = torch_pruning.DependencyGraph().build_dependency(reference, (torch.zeros(1, 3, IMGSZ, IMGSZ),))
    for root, kept in plan.keep:
        layer: Any = reference.get_submodule(root)
        gone = sorted(set(range(layer.out_channels)) - set(kept))
        graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, gone).prune()
    pruned = apply_plan(detector, plan)
    assert channel_config(reference) == channel_config(pruned)
    expected, found = reference.state_dict(), pruned.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_is_no_width_stays_as_it_was(nano: Any) -> None:
    model = copy.deepcopy(nano).eval()
    for weight in model.parameters():
        weight.requires_grad_(False)
    model.names = {0: "code", 1: "text"}
    pruned: Any = apply_plan(model, plan_pruning(model, HALF, 8))
    assert not pruned.training
    assert all(norm.eps == 1e-3 and norm.momentum == 0.03 for norm in norms_of(pruned).values())
    assert all(norm.num_features == len(norm.running_var) for norm in norms_of(pruned).values())
    assert torch.equal(pruned.stride, model.stride)
    assert (pruned.names, pruned.yaml, pruned.args) == (model.names, model.yaml, model.args)
    assert {weight.dtype for weight in pruned.parameters()} == {torch.float32}
    assert all(weight.requires_grad != (".dfl." in name) for name, weight in pruned.named_parameters())
    assert b"prunetune" not in pickle.dumps(pruned)


def test_a_pruned_detector_can_be_pruned_again(detector: Any) -> None:
    once = apply_plan(detector, plan_pruning(detector, HALF, 8))
    plan = plan_pruning(once, Threshold.everywhere(0.8), 8)
    twice = apply_plan(once, plan)
    assert channel_config(twice) == plan.channels
    assert channel_config(twice).removed(channel_config(detector)) > channel_config(once).removed(
        channel_config(detector)
    )
    assert infer(twice, torch.rand(1, 3, IMGSZ, IMGSZ)).isfinite().all()


def test_one_trace_serves_plan_and_surgery(nano: Any) -> None:
    groups = channel_groups(nano)
    plan = plan_pruning(nano, HALF, 8, groups=groups)
    assert plan == plan_pruning(nano, HALF, 8)
    shared, alone = apply_plan(nano, plan, groups=groups).state_dict(), apply_plan(nano, plan).state_dict()
    assert all(torch.equal(shared[name], alone[name]) for name in alone)


def test_surgery_works_on_a_trained_detector_in_inference_mode(build: Callable[..., Any]) -> None:
    model = build("yolov5")
    model.train().loss(training_batch())[0].sum().backward()
    with torch.inference_mode():
        model.eval()(torch.rand(1, 3, IMGSZ, IMGSZ))
        pruned: Any = apply_plan(model, plan_pruning(model, HALF, 8))
    assert all(weight.grad is None for weight in pruned.parameters())
    pruned.train().loss(training_batch())[0].sum().backward()


# What is refused


def test_a_fused_detector_is_refused_with_the_remedy(build: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"no BatchNorm.* from training"):
        plan_pruning(build("yolov5").eval().fuse(verbose=False), HALF, 8)


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(ModelError, match="Sequential is no ultralytics DetectionModel"):
        plan_pruning(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), HALF, 8)


def test_a_layer_outside_of_the_traced_network_is_refused_by_name(build: Callable[..., Any]) -> None:
    model = build("yolov5")
    model.model[24].spare = nn.Conv2d(64, 64, 1)
    with pytest.raises(ModelError, match=r"model\.24\.spare: .* 0 groups"):
        plan_pruning(model, HALF, 8)


def test_gammas_that_are_not_finite_are_refused_by_name(build: Callable[..., Any]) -> None:
    model = build("yolov5")
    norms_of(model)["model.6.cv2.bn"].weight.data[3] = float("nan")
    with pytest.raises(ModelError, match=r"model\.6\.cv2\.bn: .* diverged"):
        plan_pruning(model, HALF, 8)


def test_a_threshold_or_alignment_that_is_none_is_refused(nano: Any) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        plan_pruning(nano, Threshold(backbone=0.5, head=float("nan")), 8)
    with pytest.raises(ConfigError, match="alignment"):
        plan_pruning(nano, HALF, 0)


def test_a_plan_for_another_detector_is_refused(build: Callable[..., Any], nano: Any) -> None:
    before = state_of(nano)
    for other in (build("yolov5", "s"), build("deconv")):
        with pytest.raises(ModelError, match="made for another detector"):
            apply_plan(nano, plan_pruning(other, HALF, 8))
    assert_same_state(before, state_of(nano))
