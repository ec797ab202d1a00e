"""Sensitivity analysis: which channels go, that nothing else does, and what is stored of it."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunetune.pruning import Detector, TrainingSetup
from prunetune.pruning.accuracy.sensitivity import (
    FILE,
    GroupSensitivity,
    Removal,
    Sensitivity,
    read_sensitivity,
    write_sensitivity,
)
from prunetune.pruning.accuracy.sensitivity_analysis import SHARES, analyse, kept_of_part
from prunetune.pruning.planning.plan import Scores
from prunetune.pruning.structure.groups import ChannelGroup, module_of
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.spaces import Accuracy, Alignment

MODELS = Path(__file__).parent / "models"
NAMES = ("square", "disc")


@cache
def built(name: str) -> tuple[Detector, tuple[ChannelGroup, ...]]:
    """A detector with gammas from 0 to 1 in random order, and its groups. Neither is to be changed."""
    detector = Detector.load(str(MODELS / name) if (MODELS / name).is_file() else name, names=NAMES)
    generator = torch.Generator().manual_seed(0)
    for module in detector.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator)
    return detector, channel_groups(detector.model)


# How many channels


@pytest.mark.parametrize("name", ["yolov5n.yaml", "yolov8n.yaml", "grouped.yaml"])
@settings(deadline=None, max_examples=25)
@given(
    alignment=st.integers(1, 64),
    shares=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=5).map(sorted),
)
def test_widths_are_aligned_nested_and_less_wherever_any_can_go(name: str, alignment: int, shares: list[float]) -> None:
    detector, groups = built(name)
    exact, aligned = (Scores.of(detector.model, each, groups).tied for each in (1, alignment))
    assert sum(map(len, exact)) == sum(group.can_shrink for group in groups)
    for some, blocks in zip(exact, aligned, strict=True):
        parts = some[0].group.parts
        width, least = some[0].group.width // parts, max(item.least // item.group.parts for item in some)
        block = max(item.alignment // item.group.parts for item in blocks)
        kept = [kept_of_part(some, blocks, share) for share in shares]
        assert all(more >= less for more, less in pairwise(kept))
        for share, count in zip(shares, kept, strict=True):
            wanted = math.ceil((1 - share) * width - 1e-9)
            assert max(least, wanted) <= count <= width
            in_blocks = -(-max(wanted, least) // block) * block
            assert count == (in_blocks if in_blocks < width else max(wanted, least))


@pytest.mark.parametrize(
    ("width", "alignment", "kept"),
    [(64, 8, [48, 32, 16]), (16, 8, [12, 8, 8]), (40, 16, [32, 32, 16]), (8, 8, [6, 4, 2]), (1, 1, [1, 1, 1])],
)
def test_widths_of_one_layer(width: int, alignment: int, kept: list[int]) -> None:
    def scored(multiple: int) -> Any:
        group = ChannelGroup(width, ("conv",), ("bn",), ())
        block = min(width, multiple)
        return type("Scored", (), {"group": group, "alignment": multiple, "least": block})

    assert [kept_of_part([scored(1)], [scored(alignment)], share) for share in SHARES] == kept


# Which channels, and nothing else


class Recording:
    """Judges networks by their channels: each that is missing costs a thousandth."""

    def __init__(self, dense: Detector, setup: TrainingSetup) -> None:
        self.setup, self._whole = setup, sum(dense.channels.values())
        self.recalibrated: list[Detector] = []
        self.evaluated: list[Detector] = []

    def recalibrate(self, detector: Detector) -> None:
        self.recalibrated.append(detector)

    def evaluate(self, detector: Detector) -> Accuracy:
        self.evaluated.append(detector)
        value = 0.9 - (self._whole - sum(detector.channels.values())) / 1000
        return Accuracy(value, value, value, value, value)

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        raise AssertionError("gammas need no images")


@pytest.mark.parametrize("name", ["yolov8n.yaml", "grouped.yaml"])
def test_each_group_alone_loses_its_least_important_channels(name: str, setup: TrainingSetup) -> None:
    detector, groups = built(name)
    before, networks = (
        {key: value.clone() for key, value in detector.model.state_dict().items()},
        Recording(detector, setup),
    )
    told: list[tuple[int, int]] = []
    found = analyse(detector, networks, 8, "gamma", progress=lambda *now: told.append(now))
    assert all(torch.equal(value, before[key]) for key, value in detector.model.state_dict().items())
    assert (found.importance, found.alignment, found.imgsz) == ("gamma", Alignment.everywhere(8), setup.size)
    assert networks.evaluated[0] is detector
    assert networks.recalibrated == networks.evaluated[1:], "all but the network as it is"
    assert not any(network is detector for network in networks.recalibrated)
    cut = [network.channels for network in networks.evaluated[2:]]
    assert len(set(cut)) == len(cut), "no network is judged twice"
    assert told == [(number + 1, len(cut) + 2) for number in range(len(cut) + 2)]
    by_layers = {frozenset(group.layers): group for group in found.groups}
    shrinking = [layer for group in groups if group.can_shrink for layer in group.layers]
    assert sorted(layer for layers in by_layers for layer in layers) == sorted(shrinking)
    for network in networks.evaluated[2:]:
        narrowed = {layer for layer, width in network.channels.items() if width < detector.channels[layer]}
        (owner,) = [group for layers, group in by_layers.items() if narrowed == set(map(module_of, layers))]
        lost = sum(detector.channels.values()) - sum(network.channels.values())
        assert any(removal.map50_95 == pytest.approx(0.9 - lost / 1000) for removal in owner.removals)
        assert _keeps_the_best(detector, network, owner, groups)
    for group in found.groups:
        assert [removal.share for removal in group.removals] == sorted({*(item.share for item in group.removals)})
        assert all(removal.kept < group.channels for removal in group.removals)


def _keeps_the_best(detector: Detector, network: Detector, owner: GroupSensitivity, groups: Any) -> bool:
    """Whether a group of one part, that one BatchNorm judges, has its largest gammas left."""
    (group,) = [group for group in groups if group.root == owner.name]
    if len(owner.layers) > 1 or group.parts > 1 or ":" in group.norms[0]:
        return True
    (norm,) = group.norms
    whole, left = (each.model.get_submodule(norm).weight.abs() for each in (detector, network))
    return torch.equal(left.sort().values, whole.sort(descending=True).values[: len(left)].sort().values)


# What is stored

FOUND = Sensitivity(
    "dense",
    "taylor",
    Alignment.parse({"default": 16, "first": 8}),
    (64, 96),
    0.5,
    0.4,
    (
        GroupSensitivity(("model.0.conv",), "backbone", 16, (Removal(0.5, 8, 0.1), Removal(0.75, 8, 0.1))),
        GroupSensitivity(("model.2.cv1.conv", "model.2.cv2.conv"), "neck", 2, ()),
    ),
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_sensitivity(tmp_path) is None
    assert write_sensitivity(FOUND, tmp_path) == tmp_path / FILE
    assert read_sensitivity(tmp_path) == FOUND
    assert FOUND.lost(FOUND.groups[0].removals[0]) == pytest.approx(0.3)
    hash(FOUND)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "null", '{"model": 1}'])
def test_a_damaged_file_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read_sensitivity(tmp_path) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("key", ["alignment", "imgsz", "map50_95", "groups"])
def test_a_file_that_lacks_something_is_none(tmp_path: Path, key: str) -> None:
    (tmp_path / FILE).write_text(json.dumps({**FOUND.as_dict(), key: None}))
    assert read_sensitivity(tmp_path) is None


def test_as_a_table_for_programs() -> None:
    rows = list(csv.DictReader(io.StringIO(FOUND.as_csv())))
    assert [(row["group"], row["share"], row["kept"]) for row in rows] == [
        ("model.0.conv", "0.5", "8"),
        ("model.0.conv", "0.75", "8"),
    ]
    assert [float(row["lost"]) for row in rows] == [0.3, 0.3]
    assert rows[0]["region"] == "backbone"
