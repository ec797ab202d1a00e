"""Latency tables of real detectors: the skeleton against the surgery, and the command."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from families.tiers import in_tiers
from rich.console import Console

from prunetune.pruning import Detector, apply_plan, plan_pruning
from prunetune.pruning.surgery.surgery import ChannelGroup, channel_groups
from prunetune.search.callbacks import views
from prunetune.search.commands import profile as profiling
from prunetune.spaces import Threshold
from prunetune.targets import LatencyTable, Network, OnnxRuntimeSpec, create_target, read_conv_graph
from prunetune.targets.latency_model.latency_table import FeatureModel, Grid
from prunetune.targets.latency_model.profiling import random_widths
from prunetune.targets.latency_model.synthesis import write_resized

Prunetune = Callable[..., Any]
IMGSZ = 64


GROUPED = str(Path(__file__).parents[1] / "pruning" / "models" / "grouped.yaml")
FAMILIES = ["yolov5n.yaml", "yolov5n-deconv.yaml", "yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml"]


@pytest.fixture(scope="module", params=in_tiers([*FAMILIES, GROUPED]))
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Path]:
    """A detector and its ONNX file."""
    detector = Detector.load(request.param, names=("square", "disc"))
    file = tmp_path_factory.mktemp("dense") / "dense.onnx"
    detector.export_onnx(file, IMGSZ)
    return detector, file


@cache
def groups_of(source: str) -> tuple[ChannelGroup, ...]:
    return channel_groups(Detector.load(source, names=("square", "disc")).model)


def pruned(detector: Detector, seed: int) -> Detector:
    """The detector, cut by random gammas at a random threshold for each region."""
    groups = groups_of(detector.source)
    copy, generator = detector.copy(), torch.Generator().manual_seed(seed)
    for module in copy.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator)
    backbone, head = torch.rand(2, generator=generator).tolist()
    plan = plan_pruning(copy.model, Threshold(backbone, head), 8, groups=groups)
    return Detector(apply_plan(copy.model, plan, groups=groups), copy.source)


def test_input_widths_are_those_of_the_pruned_network(dense: tuple[Detector, Path]) -> None:
    detector, file = dense
    skeleton = read_conv_graph(file)
    left = {name for name in detector.channels if name not in skeleton.widths}
    # Beyond the skeleton are the decoder, whose width is fixed, and a head that is not exported.
    assert all(".dfl." in name or "one2one" in name for name in left)
    model = FeatureModel(skeleton, [Grid(layer.shape, (8,), (8,), ((1.0,),)) for layer in skeleton.layers])
    for seed in range(8):
        network = pruned(detector, seed)
        widths = [network.channels[layer.name] for layer in skeleton.layers]
        read = [network.model.get_submodule(layer.name).in_channels for layer in skeleton.layers]
        assert model.input_widths(numpy.array([widths])).tolist() == [read]
        for layer, width in zip(skeleton.layers, widths, strict=True):
            assert layer.shape.groups_of(width) == network.model.get_submodule(layer.name).groups


def test_multiply_adds_are_those_that_a_counter_of_modules_finds(dense: tuple[Detector, Path]) -> None:
    detector, file = dense
    skeleton, networks = read_conv_graph(file), [detector, *(pruned(detector, seed) for seed in range(4))]
    counted = [network.gflops(IMGSZ) * 1e9 / 2 for network in networks]  # with BatchNorm, and the decoder
    assert [skeleton.multiply_adds(network.channels) for network in networks] == pytest.approx(counted, rel=0.1)


def test_groups_are_those_that_surgery_ties(dense: tuple[Detector, Path]) -> None:
    detector, file = dense
    groups = {group.root: group for group in groups_of(detector.source)}
    # Widths of their own may follow each other: what a grouped convolution reads of a concatenation.
    even = [
        [group, *(other for other in map(groups.get, group.even_with) if other and other.width == group.width)]
        for group in groups.values()
        if group.can_shrink
    ]
    traced = {frozenset(layer for group in tied for layer in group.layers) for tied in even}
    exported = {frozenset(layer for layer in tied if "one2one" not in layer) for tied in traced}
    assert exported - {frozenset()} <= {frozenset(group) for group in read_conv_graph(file).groups}


def test_a_resized_network_is_the_export_of_a_pruned_one(dense: tuple[Detector, Path], tmp_path: Path) -> None:
    import onnx

    detector, file = dense
    skeleton, network = read_conv_graph(file), pruned(detector, seed=5)
    network.export_onnx(tmp_path / "exported.onnx", IMGSZ)
    write_resized(file, tmp_path / "resized.onnx", skeleton, network.channels)
    found, expected = (read_conv_graph(tmp_path / f"{name}.onnx") for name in ("resized", "exported"))
    assert found == expected
    operations = [
        sorted(node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node)
        for name in ("resized", "exported")
    ]
    assert operations[0] == operations[1]
    networks = [Network(name, (1, 3, IMGSZ, IMGSZ), onnx=tmp_path / f"{name}.onnx") for name in ("resized", "exported")]
    create_target(OnnxRuntimeSpec(runs=6, warmup=0)).measure(networks, reference="exported")


@pytest.mark.slow
def test_profile_writes_a_table_that_predicts(
    prunetune: Prunetune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(profiling, "PACE", {"runs": 6, "warmup": 0, "tolerance": 0.5})
    monkeypatch.setattr(profiling, "BLOCKS", (1, 8))
    out = tmp_path / "tables" / "table.json"
    answer = prunetune("profile", "yolov5n.yaml", "--imgsz", IMGSZ, "--networks", 6, "--out", out, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["out"] == str(out)
    assert told["networks"] == 6
    assert 0 <= told["mape"] <= told["error"]
    table = LatencyTable.load(out)
    table.require_device(create_target(OnnxRuntimeSpec()).fingerprint())
    wide = table.predict(table.graph.widths)
    narrow = table.predict(min(random_widths(table.graph, 8, 20, seed=0), key=lambda widths: sum(widths.values())))
    assert 0 < narrow.latency_ms < wide.latency_ms
    assert wide.error_ms == pytest.approx(wide.latency_ms * told["error"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "torch"], ["--target torch", "ONNX"]),
        (["--target", "tpu"], ["kind", "onnxruntime"]),
        (["--align", "8", "--imgsz", "96"], ["--imgsz 96", "64 x 64"]),
    ],
)
def test_a_profile_that_cannot_be_is_refused_before_anything_is_measured(
    prunetune: Prunetune, dense: tuple[Detector, Path], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    answer = prunetune("profile", dense[1], "--out", tmp_path / "table.json", *arguments)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert all(word in answer.err for word in words)
    assert not (tmp_path / "table.json").exists()


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    bar = profiling._Bar(Console(file=out))
    bar.show("layers", 1, 820)
    assert out.getvalue() == ""
    monkeypatch.setattr(views, "PLAIN_SECONDS", 0.0)
    bar.show("layers", 2, 820)
    assert out.getvalue() == "layers: 2 of 820\n"
