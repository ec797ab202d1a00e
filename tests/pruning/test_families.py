"""Every family that is offered, on its smallest network: plan, surgery, a training step, saving, loading, exporting."""

from __future__ import annotations

import copy
import itertools
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from families.tiers import in_tiers
from torch import Tensor, nn

from prunetune.pruning.planning.plan import PruningPlan, plan_pruning
from prunetune.pruning.structure.blocks import split_halves, splits
from prunetune.pruning.structure.groups import ChannelGroup, first_channel, module_of
from prunetune.pruning.structure.layers import channel_config, is_depthwise
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.batchnorm import recalibrate
from prunetune.pruning.training.evaluation import evaluate
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.sparsity import Sparsity, sparse_phase
from prunetune.pruning.training.trainer import TrainingState, train
from prunetune.pruning.training.values import Phase, TrainingSetup, recovery_phase
from prunetune.pruning.yolo.detector import Detector, read_description, scaled_width
from prunetune.spaces import ModelError, Threshold

NAMES = ("square", "disc")
IMGSZ = 64
STRENGTHS = (0.3, 0.6, 0.9)
SMALL = {"scale": "l", "scales": {"l": [0.5, 0.25, 1024]}}
"""What ultralytics' code adds to the large scales of a family, at the width of the small one."""

MODELS = Path(__file__).parent / "models"
AUTHORS, GROUPED = str(MODELS / "yolov12n-authors.yaml"), str(MODELS / "grouped.yaml")
"""Descriptions that ultralytics does not ship."""

DETECTORS = (
    "yolov5n.yaml",
    "yolov5n-deconv.yaml",
    "yolov8n.yaml",
    "yolo11n.yaml",
    "yolo11l.yaml",
    "yolo12n.yaml",
    "yolo12l.yaml",
    "yolo26n.yaml",
    "yolo26l.yaml",
    AUTHORS,
    GROUPED,
)
OTHER_HEADS = (
    "yolov8n-seg.yaml",
    "yolo26n-seg.yaml",
    "yolo11n-pose.yaml",
    "yolo26n-pose.yaml",
    "yolov8n-obb.yaml",
    "yolo26n-obb.yaml",
)
EXPORTED = (
    "yolov8n.yaml",
    "yolo11n.yaml",
    "yolo12n.yaml",
    AUTHORS,
    GROUPED,
    *(name for name in (*DETECTORS, *OTHER_HEADS) if "26n" in name),
)
"""Other tests compare the exports of YOLOv5; the rest has no block of its own."""


@dataclass(frozen=True)
class Family:
    """A network with random gammas, betas and statistics, and what surgery makes of it."""

    dense: Detector

    @classmethod
    def build(cls, name: str) -> Family:
        description = read_description(name)
        detector = Detector.build(description | (SMALL if description.get("scale") == "l" else {}), NAMES, source=name)
        generator = torch.Generator().manual_seed(0)
        for norm in norms_of(detector.model).values():
            norm.weight.data.uniform_(0, 1, generator=generator)
            norm.bias.data.normal_(0, 0.1, generator=generator)
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
        return cls(detector)

    @property
    def name(self) -> str:
        return stem(self.dense.source)

    @cached_property
    def groups(self) -> tuple[ChannelGroup, ...]:
        return channel_groups(self.dense.model)

    def plan(self, strength: float, alignment: int = 8) -> PruningPlan:
        return plan_pruning(self.dense.model, Threshold.everywhere(strength), alignment, groups=self.groups)

    def pruned(self, strength: float) -> Detector:
        return Detector(apply_plan(self.dense.model, self.plan(strength), groups=self.groups), self.dense.source)

    def silenced(self, plan: PruningPlan) -> nn.Module:
        """The dense network, with gamma and beta of all channels at zero that a plan does not keep."""
        model = copy.deepcopy(self.dense.model)
        keep, norms = dict(plan.keep), norms_of(model)
        for group in (group for group in self.groups if group.root in keep):
            for name in group.norms:
                first = first_channel(name, group.width)
                lost = [first + channel for channel in range(group.width) if channel not in keep[group.root]]
                norms[module_of(name)].weight.data[lost] = 0
                norms[module_of(name)].bias.data[lost] = 0
        return model


def stem(name: str) -> str:
    return Path(name).stem


_built: dict[str, Family] = {}


@pytest.fixture(params=in_tiers([*DETECTORS, *OTHER_HEADS]))
def family(request: pytest.FixtureRequest) -> Family:
    return _family(request.param)


@pytest.fixture(params=in_tiers(DETECTORS))
def detector(request: pytest.FixtureRequest) -> Family:
    return _family(request.param)


def _family(name: str) -> Family:
    if name not in _built:
        _built[name] = Family.build(name)
    return _built[name]


def norms_of(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}


def images(count: int) -> Tensor:
    return torch.rand(count, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """All tensors that a network computes of images: what it finds, and what its branches say before decoding."""
    return tensors_in(copy.deepcopy(model).eval()(batch))


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return tensors_in([part for name, part in value.items() if name != "feats"])  # feats are channels, not results
    return [tensor for part in value for tensor in tensors_in(part)]


def assert_equal_outputs(one: nn.Module, other: nn.Module, tolerance: float) -> None:
    for ours, theirs in zip(outputs(one, images(2)), outputs(other, images(2)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=1e-5)


def labelled(task: str) -> dict[str, Tensor]:
    """Two images with an object each, as a loader gives them for a task."""
    boxes = torch.tensor([[0.5, 0.5, 0.6, 0.5], [0.4, 0.6, 0.5, 0.7]])
    batch = {
        "img": images(2),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": boxes,
    }
    if task == "obb":
        batch["bboxes"] = torch.cat([boxes, torch.tensor([[0.3], [-0.2]])], dim=1)
    elif task == "pose":
        batch["keypoints"] = torch.rand(2, 17, 3, generator=torch.Generator().manual_seed(2))
    elif task == "segment":
        batch["masks"] = torch.zeros(2, IMGSZ // 4, IMGSZ // 4)
        batch["masks"][:, 4:12, 4:12] = 1.0
        batch["sem_masks"] = torch.zeros(2, IMGSZ // 4, IMGSZ // 4)
    return batch


# Before pruning


def test_split_convolutions_compute_the_same(family: Family) -> None:
    model = copy.deepcopy(family.dense.model)
    split_halves(model)
    has_splitting_blocks = any(splits(block) for block in family.dense.model.modules())
    assert any("parts" in name for name, _ in model.named_modules()) == has_splitting_blocks
    assert has_splitting_blocks == ("yolov5" not in family.name)
    assert_equal_outputs(model, family.dense.model, 1e-5)


def test_halves_keep_equally_many_channels_of_their_own(family: Family) -> None:
    halves = [group for group in family.groups if any(":" in layer for layer in group.layers)]
    keep = dict(family.plan(0.6).keep)
    assert all(len(group.even_with) == 1 for group in halves)
    for group in halves:
        for other in group.even_with:
            assert len(keep.get(group.root, ())) == len(keep.get(other, ()))
    chosen = {(keep[group.root], keep[group.even_with[0]]) for group in halves if group.root in keep}
    if halves:
        assert any(one != other for one, other in chosen)


# Surgery


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_pruned_network_computes_what_the_dense_one_does_without_the_channels(
    family: Family, strength: float
) -> None:
    plan, pruned = family.plan(strength), family.pruned(strength)
    assert pruned.channels == plan.channels
    assert pruned.channels.removed(family.dense.channels) > 0.05
    assert_equal_outputs(pruned.model, family.silenced(plan), 1e-4)


@pytest.mark.parametrize("alignment", [4, 16])
def test_stronger_pruning_keeps_whole_blocks_of_what_weaker_pruning_keeps(family: Family, alignment: int) -> None:
    dense = family.dense.channels
    plans = [family.plan(strength, alignment) for strength in (0.0, *STRENGTHS, 2.0)]
    assert plans[0].keep == ()
    for plan in plans:
        assert all(width == dense[name] or width % alignment == 0 for name, width in plan.channels.items())
    for weaker, stronger in itertools.pairwise(plans):
        assert all(stronger.channels[name] <= weaker.channels[name] for name in dense)
        assert all(set(dict(stronger.keep)[root]) <= set(kept) for root, kept in weaker.keep)


def test_attention_keeps_its_width_and_depthwise_convolutions_that_of_what_they_read(family: Family) -> None:
    dense, pruned = family.dense.model, family.pruned(2.0).model
    for name, module in pruned.named_modules():
        before: Any = dense.get_submodule(name)
        if type(module).__name__ in ("Attention", "AAttn"):
            assert module.qkv.conv.out_channels == before.qkv.conv.out_channels
            assert module.pe.conv.out_channels == before.pe.conv.out_channels
            assert module.proj.conv.in_channels == before.proj.conv.in_channels
        if is_depthwise(before):
            assert module.groups == module.in_channels == module.out_channels == len(module.weight)
        elif isinstance(module, nn.Conv2d):
            assert module.groups == before.groups
        if splits(module):
            assert module.cv1.conv.out_channels == 2 * module.c
    narrowed = channel_config(pruned).removed(channel_config(dense))
    assert narrowed > (0.4 if "12" in family.name else 0.6)


def test_what_is_no_width_stays_as_it_was(family: Family) -> None:
    pruned = family.pruned(0.6).model
    assert all((norm.eps, norm.momentum) == (1e-3, 0.03) for norm in norms_of(pruned).values())
    assert all(norm.num_features == len(norm.running_var) for norm in norms_of(pruned).values())
    assert {weight.dtype for weight in pruned.parameters()} == {torch.float32}
    assert torch.equal(pruned.stride, family.dense.model.stride)
    assert b"prunetune" not in pickle.dumps(pruned)


def test_a_pruned_network_can_be_pruned_again(family: Family) -> None:
    once = family.pruned(0.6)
    groups = channel_groups(once.model)
    assert [group.layers for group in groups] == [group.layers for group in family.groups]
    plan = plan_pruning(once.model, Threshold.everywhere(0.8), 8, groups=groups)
    twice = Detector(apply_plan(once.model, plan, groups=groups), "twice")
    assert twice.params < once.params
    assert all(tensor.isfinite().all() for tensor in outputs(twice.model, images(1)))


def test_a_pruned_network_learns(family: Family) -> None:
    from ultralytics.cfg import get_cfg

    pruned = family.pruned(0.6)
    model = pruned.model.train()
    model.args = get_cfg()
    loss, _ = model.loss(labelled(pruned.task))
    loss.sum().backward()
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    fixed = {name for name, _ in model.named_parameters()} - set(trainable)
    assert all(".dfl." in name for name in fixed)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trainable.values())
    head = f"model.{len(model.model) - 1}."
    idle = {name for name, weight in trainable.items() if not weight.grad.any()}
    assert all(name.startswith(head) for name in idle), "only a level without an object may learn nothing"
    before = {name: weight.detach().clone() for name, weight in trainable.items()}
    torch.optim.SGD(trainable.values(), lr=0.01).step()
    moved = {name for name, weight in trainable.items() if not torch.equal(before[name], weight)}
    assert {"model.0.conv.weight", "model.0.bn.weight", f"{head}cv3.0.2.weight"} <= moved
    assert pruned.channels == family.plan(0.6).channels


def find_small_boxes(head: Any) -> None:
    """Lets an untrained Detect be sure of boxes about a cell wide, where it would find what covers the whole image."""
    for boxes, classes in zip(head.cv2, head.cv3, strict=True):
        classes[-1].bias.data += 5.0
        boxes[-1].weight.data *= 0.2
        side = [0.0, 0.0, *[-9.0] * (head.reg_max - 2)] if head.reg_max > 1 else [0.5]
        boxes[-1].bias.data = torch.tensor(side * 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", in_tiers(["yolov5n.yaml", "yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml", AUTHORS])
)
def test_surgery_itself_costs_no_accuracy(name: str, shapes: Path, tmp_path: Path) -> None:
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    family = _family(name)
    plan = family.plan(0.6)
    silenced = Detector(family.silenced(plan), name)
    recalibrate(silenced.model, [images(8)])
    find_small_boxes(silenced.model.model[-1])
    pruned = Detector(apply_plan(silenced.model, plan, groups=family.groups), name)

    # No untrained network finds what people label, so what this one finds is made the truth.
    shutil.copytree(shapes.parent, tmp_path / "data")
    setup = TrainingSetup(str(tmp_path / "data" / "data.yaml"), "own", imgsz=IMGSZ, batch=8)
    (batch,) = DataLoaders(setup).evaluation("val", stride=32)
    with torch.no_grad():
        found = non_max_suppression(copy.deepcopy(silenced.model).eval()(batch["img"] / 255)[0], 0.001, 0.7)
    for index, (file, boxes) in enumerate(zip(batch["im_file"], found, strict=True)):
        corners = scale_boxes(batch["img"].shape[2:], boxes[:, :4], (IMGSZ, IMGSZ), batch["ratio_pad"][index]) / IMGSZ
        inside = ((corners > 0) & (corners < 1)).all(dim=1) & (corners[:, 2:] > corners[:, :2]).all(dim=1)
        rows = [
            f"{int(kind)} {(left + right) / 2} {(top + bottom) / 2} {right - left} {bottom - top}"
            for (left, top, right, bottom), kind in zip(corners[inside].tolist(), boxes[inside, 5], strict=True)
        ]
        label = tmp_path / "data" / "labels" / "val" / f"{Path(file).stem}.txt"
        label.write_text("\n".join(rows) + "\n")
    (tmp_path / "data" / "labels" / "val.cache").unlink(missing_ok=True)
    loaders = DataLoaders(setup)
    before, after = (evaluate(detector, setup, loaders) for detector in (silenced, pruned))
    assert before.recall > 0.5
    assert before.map50_95 > 0.005, "what it finds beyond the image keeps this low"
    for figure in ("map50", "map50_95", "precision", "recall"):
        assert getattr(after, figure) == pytest.approx(getattr(before, figure), abs=1e-4)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", [recovery_phase(3, "map50_95"), sparse_phase(3, Sparsity(0.1, 0.1, 0.01))], ids=["recovery", "sparse"]
)
def test_a_training_of_two_heads_goes_on_where_it_was_cut_off(shapes: Path, phase: Phase) -> None:
    setup = TrainingSetup(str(shapes), "shapes", imgsz=IMGSZ, batch=8)
    loaders, dense = DataLoaders(setup), Detector.load("yolo26n.yaml", NAMES)
    states: list[TrainingState] = []
    trained, _ = train(dense, phase, setup, loaders, on_state=states.append)
    again, _ = train(dense, phase, setup, loaders, state=states[1])
    weights = again.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in trained.model.state_dict().items())
    if phase.extensible():
        _, shorter = train(dense, replace(phase, epochs=1), setup, loaders)
        assert all(torch.equal(shorter.model[name], value) for name, value in states[0].model.items())


@pytest.mark.parametrize(
    "name", in_tiers(["yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo12s.yaml", "yolo26n.yaml", AUTHORS])
)
def test_half_and_quarter_of_the_width(name: str) -> None:
    dense, half, quarter = (
        Detector.build(scaled_width(read_description(name), factor), NAMES) for factor in (1, 0.5, 0.25)
    )
    assert half.params < 0.4 * dense.params
    assert quarter.params < 0.6 * half.params
    assert half.channels.keys() == quarter.channels.keys() == dense.channels.keys()


# What leaves prunetune


def test_a_saved_network_is_the_same(family: Family, tmp_path: Path) -> None:
    pruned = family.pruned(0.6)
    pruned.save(tmp_path / "pruned.pt", {"epochs": 1}, {"task": pruned.task, "imgsz": IMGSZ})
    loaded = Detector.load(tmp_path / "pruned.pt")
    assert (loaded.task, loaded.channels, loaded.names) == (pruned.task, pruned.channels, NAMES)
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in pruned.model.state_dict().items())
    assert_equal_outputs(loaded.model, pruned.model, 0.0)


@pytest.mark.faults
@pytest.mark.slow
def test_stock_ultralytics_computes_the_same_without_prunetune(
    tmp_path: Path, stock_ultralytics: Callable[..., dict[str, Any]]
) -> None:
    for name in (*DETECTORS, *OTHER_HEADS):
        pruned = _family(name).pruned(0.6)
        pruned.save(tmp_path / f"{stem(name)}.pt", {}, {"task": pruned.task, "imgsz": IMGSZ})
        torch.save(outputs(pruned.model, images(1))[0], tmp_path / f"{stem(name)}.expected")
    torch.save(images(1), tmp_path / "images")
    differences = stock_ultralytics("compare", tmp_path)
    assert set(differences) == {stem(name) for name in (*DETECTORS, *OTHER_HEADS)}
    assert all(difference == 0.0 for difference in differences.values()), differences


@pytest.mark.slow
@pytest.mark.parametrize("name", in_tiers(EXPORTED))
def test_an_exported_network_computes_the_same(name: str, tmp_path: Path) -> None:
    pruned = _family(name).pruned(0.6)
    recalibrate(pruned.model, [images(8)])
    pruned.export_onnx(tmp_path / "pruned.onnx", IMGSZ)
    session = onnxruntime.InferenceSession(tmp_path / "pruned.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: images(1).numpy()})
    model = copy.deepcopy(pruned.model).eval()
    model.model[-1].export = True
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in tensors_in(model(images(1)))]
        exact = [tensor.numpy() for tensor in tensors_in(model.double()(images(1).double()))]
    assert len(got) == len(expected)
    for ours, theirs, best in zip(got, expected, exact, strict=True):
        # Boxes of random weights reach hundreds of px, where fp32 itself errs by more than 1e-3 px.
        error = np.abs(theirs - best).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3 + 3 * error)


# Sizes and refusals


@pytest.mark.parametrize(
    "name",
    [
        "yolov5s.yaml",
        *[pytest.param(f"yolov5{size}.yaml", marks=[pytest.mark.faults, pytest.mark.slow]) for size in "mlx"],
    ],
)
def test_larger_networks_of_yolov5(name: str) -> None:
    family = Family.build(name)
    plan = family.plan(0.6)
    pruned = Detector(apply_plan(family.dense.model, plan, groups=family.groups), name)
    assert_equal_outputs(pruned.model, family.silenced(plan), 1e-4)


@pytest.mark.parametrize(
    ("name", "place", "block"),
    [
        ("yolov8n-ghost.yaml", "model.1", "GhostConv"),
        ("yolov9t.yaml", "model.2", "ELAN1"),
        ("yolov10n.yaml", "model.5", "SCDown"),
    ],
)
def test_other_blocks_are_refused_by_name_and_place(name: str, place: str, block: str) -> None:
    with pytest.raises(ModelError, match=rf"{place}: a {block} block cannot be pruned yet; supported are YOLOv5 "):
        channel_groups(Detector.load(name, NAMES).model)


def test_a_block_within_a_block_is_refused_by_name_and_place() -> None:
    class Strange(nn.Conv2d):
        pass

    Strange.__module__ = "ultralytics.nn.modules.strange"
    model = Detector.load("yolov8n.yaml", NAMES).model
    model.model[4].m[1].cv1.conv = Strange(32, 32, 3, padding=1)
    with pytest.raises(ModelError, match=r"model\.4\.m\.1\.cv1\.conv: a Strange block cannot be pruned yet"):
        channel_groups(model)
