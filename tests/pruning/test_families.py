"""Every family that is offered, on its smallest network: the public conformance tests, and what its blocks need."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from families.tiers import in_tiers
from torch import nn

from prunetune.pruning.structure.blocks import split_halves, splits
from prunetune.pruning.structure.layers import channel_config
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.testing import Family, FamilyTestCase
from prunetune.pruning.testing.family import NAMES, outputs
from prunetune.pruning.training.batchnorm import recalibrate
from prunetune.pruning.training.evaluation import evaluate
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.sparsity import Sparsity, sparse_phase
from prunetune.pruning.training.trainer import TrainingState, train
from prunetune.pruning.training.values import Phase, TrainingSetup, recovery_phase
from prunetune.pruning.yolo.detector import Detector, read_description, scaled_width
from prunetune.spaces import ModelError

IMGSZ = 64
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
ALL = (*DETECTORS, *OTHER_HEADS)

EXPORTED = (
    "yolov8n.yaml",
    "yolo11n.yaml",
    "yolo12n.yaml",
    AUTHORS,
    GROUPED,
    *(name for name in ALL if "26n" in name),
)
"""Other tests compare the exports of YOLOv5; the rest has no block of its own."""


@cache
def built(name: str) -> Family:
    """The network of a yaml. Tests share it."""
    description = read_description(name)
    return Family.build(description | (SMALL if description.get("scale") == "l" else {}))


@pytest.fixture(params=in_tiers(ALL))
def family(request: pytest.FixtureRequest) -> Family:
    return built(request.param)


class TestFamily(FamilyTestCase):
    @pytest.fixture(params=in_tiers(EXPORTED))
    def family(self, request: pytest.FixtureRequest) -> Family:
        return built(request.param)

    @pytest.mark.slow
    def test_an_exported_network_computes_the_same(self, family: Family, tmp_path: Path) -> None:
        super().test_an_exported_network_computes_the_same(family, tmp_path)


class TestRelated(FamilyTestCase):
    """Networks whose blocks the others have, too."""

    test_an_exported_network_computes_the_same = None  # type: ignore[assignment]

    @pytest.fixture(params=in_tiers([name for name in ALL if name not in EXPORTED]))
    def family(self, request: pytest.FixtureRequest) -> Family:
        return built(request.param)


def stem(name: str) -> str:
    return Path(name).stem


# Before pruning


def test_split_convolutions_compute_the_same(family: Family) -> None:
    model = copy.deepcopy(family.dense.model)
    split_halves(model)
    has_splitting_blocks = any(splits(block) for block in family.dense.model.modules())
    assert any("parts" in name for name, _ in model.named_modules()) == has_splitting_blocks
    assert has_splitting_blocks == ("yolov5" not in family.name)
    family.assert_equal_outputs(model, family.dense.model, 1e-5)


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


def test_attention_keeps_its_width_and_blocks_know_their_halves(family: Family) -> None:
    dense, pruned = family.dense.model, family.pruned(2.0).model
    for name, module in pruned.named_modules():
        before: Any = dense.get_submodule(name)
        if type(module).__name__ in ("Attention", "AAttn"):
            assert module.qkv.conv.out_channels == before.qkv.conv.out_channels
            assert module.pe.conv.out_channels == before.pe.conv.out_channels
            assert module.proj.conv.in_channels == before.proj.conv.in_channels
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.03), "ultralytics' own"
        if splits(module):
            assert module.cv1.conv.out_channels == 2 * module.c
    narrowed = channel_config(pruned).removed(channel_config(dense))
    assert narrowed > (0.4 if "12" in family.name else 0.6)


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

    family = built(name)
    plan = family.plan(0.6)
    silenced = Detector(family.silenced(plan), name)
    recalibrate(silenced.model, [family.images(8)])
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
def test_half_and_quarter_of_the_width_have_far_fewer_parameters(name: str) -> None:
    dense = built(name).dense
    half, quarter = (Detector.build(scaled_width(read_description(name), factor), NAMES) for factor in (0.5, 0.25))
    assert half.params < 0.4 * dense.params
    assert quarter.params < 0.6 * half.params
    assert half.channels.keys() == quarter.channels.keys() == dense.channels.keys()


# What leaves prunetune


@pytest.mark.faults
@pytest.mark.slow
def test_stock_ultralytics_computes_the_same_without_prunetune(
    tmp_path: Path, stock_ultralytics: Callable[..., dict[str, Any]]
) -> None:
    """`TestFamily` compares in this process, where prunetune mends what it needs of ultralytics."""
    images = built(EXPORTED[0]).images(1)
    for name in EXPORTED:
        pruned = built(name).pruned(0.6)
        pruned.save(tmp_path / f"{stem(name)}.pt", {}, {"task": pruned.task, "imgsz": IMGSZ})
        torch.save(outputs(pruned.model, images)[0], tmp_path / f"{stem(name)}.expected")
    torch.save(images, tmp_path / "images")
    differences = stock_ultralytics("compare", tmp_path)
    assert set(differences) == {stem(name) for name in EXPORTED}
    assert all(difference == 0.0 for difference in differences.values()), differences


# Sizes and refusals


@pytest.mark.parametrize(
    "name",
    [
        "yolov5s.yaml",
        *[pytest.param(f"yolov5{size}.yaml", marks=[pytest.mark.faults, pytest.mark.slow]) for size in "mlx"],
    ],
)
def test_larger_networks_of_yolov5(name: str) -> None:
    family = Family.build(read_description(name))
    family.assert_equal_outputs(family.pruned(0.6).model, family.silenced(family.plan(0.6)), 1e-4)


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
