"""Real detectors without some residual blocks: their graphs, and how their latencies are known by channels alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.structure.depth import lacks_only_blocks, residual_blocks, without_blocks
from prunetune.pruning.yolo.detector import Detector
from prunetune.results.record import StudiedFigure
from prunetune.search.latency.meter import LatencyMeter
from prunetune.search.latency.network_files import NetworkExporter
from prunetune.search.latency.shares import BudgetShares
from prunetune.search.latency.study_target import StudyTarget
from prunetune.search.trial.deployments import measured_figures
from prunetune.search.trial.figures import blocks_removed
from prunetune.spaces import Deployment
from prunetune.spaces.errors import MeasurementError, TargetError
from prunetune.targets import ConvGraph, LatencyTable, OnnxRuntimeSpec, read_conv_graph
from prunetune.targets.latency_model.latency_table import FEATURES, Grid

pytestmark = pytest.mark.slow

IMGSZ = 64


def graph_of(detector: Detector, folder: Path) -> ConvGraph:
    detector.export_onnx(folder / "network.onnx", IMGSZ)
    return read_conv_graph(folder / "network.onnx")


def shorter(detector: Detector, pattern: str) -> Detector:
    """The detector without the blocks of a regular expression."""
    blocks = [block for block in residual_blocks(detector.model) if re.fullmatch(pattern, block)]
    return Detector(without_blocks(detector.model, blocks), detector.source)


def content(graph: ConvGraph) -> object:
    """What a graph says but for its order, which exporters choose."""
    groups = {frozenset(group) for group in graph.groups}
    return graph.size, {layer.name: layer for layer in graph.layers}, Counter(graph.transfers), groups


SOME = {
    "yolov5n": (r".*", r"model\.(4\.m\.1|6\.m\.[12]|8\..*)"),
    "yolov8n": (r".*", r"model\.(4\.m\.1|6\..*)"),
    "yolo11n": (r".*", r"model\.(2|13|6\.m\.0\.m\.1|8)\b.*"),
    "yolo12n": (r".*", r"model\.(4|11\.m\.0\.m\.1|14)\b.*"),
    "yolo26n": (r".*", r"model\.(2|6\.m\.0\.m\.1|13)\b.*"),
}
"""Of each family, the last residual blocks of some containers: those before them would change names."""


@pytest.mark.parametrize("family", SOME)
def test_the_graph_without_blocks_is_that_of_the_network_without_them(family: str, tmp_path: Path) -> None:
    detector = Detector.load(f"{family}.yaml")
    graph, blocks = graph_of(detector, tmp_path), residual_blocks(detector.model)
    for pattern in SOME[family]:
        network = shorter(detector, pattern)
        assert lacks_only_blocks(network.channels, detector.channels, blocks)
        assert len(network.channels) < len(detector.channels)
        exported = graph_of(network, tmp_path)
        assert content(graph.only(network.channels)) == content(exported)
        assert graph.multiply_adds(network.channels) == exported.multiply_adds(network.channels)


def test_a_network_whose_names_are_others_is_no_shorter_one(tmp_path: Path) -> None:
    detector = Detector.load("yolo26n.yaml")
    network = Detector(without_blocks(detector.model, ["model.22.m.0.0"]), detector.source)  # attention takes its name
    assert not lacks_only_blocks(network.channels, detector.channels, residual_blocks(detector.model))
    with pytest.raises(TargetError, match=r"layer model\.22\.m\.0\.1\.attn"):
        graph_of(detector, tmp_path).only(network.channels)


def test_blocks_are_missing_as_a_whole_and_from_the_end() -> None:
    dense = ["stem", *(f"m.{block}.{part}" for block in range(3) for part in ("cv1", "cv2")), "out"]
    blocks = [f"m.{block}" for block in range(3)]

    def missing(*gone: str) -> bool:
        left = [name for name in dense if not name.startswith(gone)]
        return lacks_only_blocks(left, dense, blocks)

    assert lacks_only_blocks(dense, dense, blocks)
    assert missing("m.2")
    assert missing("m.1", "m.2")
    assert missing("m.0", "m.1", "m.2")
    assert not missing("m.0")
    assert not missing("m.2.cv2")
    assert not missing("m.2", "out")
    assert not lacks_only_blocks([*dense, "decoder"], dense, blocks)


# Latencies

OWN = Deployment(IMGSZ)
PATTERN = r"model\.(4\.m\.1|6\..*)"


@pytest.fixture(scope="module")
def dense() -> Detector:
    return Detector.load("yolov5n.yaml")


@pytest.fixture
def meter(dense: Detector, tmp_path: Path) -> LatencyMeter:
    networks = NetworkExporter(tmp_path, {"dense": dense}, OWN, CostMeter())
    spec = OnnxRuntimeSpec(runs=6, warmup=1, tolerance=0.5)
    target = replace(StudyTarget.create(spec, "<= 0.5 x dense", (), True), references_ms={"dense": 2.0})
    return LatencyMeter((target,), networks)


def law(graph: ConvGraph, millions: float) -> LatencyTable:
    """A table by which a network takes 0.3, and 1 for so many millions of multiply-adds."""
    ends, grids = (1, 2048), []
    for shape in dict.fromkeys(layer.shape for layer in graph.layers):
        pixels = next(layer.pixels for layer in graph.layers if layer.shape == shape)
        cost = math.prod(shape.kernel) * pixels / (1e6 * millions)
        grids.append(Grid(shape, ends, ends, tuple(tuple(cost * a * b for b in ends) for a in ends)))
    coefficients = {**dict.fromkeys(FEATURES, 0.0), "fixed": 0.3, "layers": 1.0}
    return LatencyTable({}, graph, tuple(grids), coefficients, anchor_ms=1.0, error=0.05, mape=0.05, networks=8)


@pytest.mark.parametrize("has_table", [False, True])
def test_networks_of_several_structures_are_predicted_at_once(
    dense: Detector, meter: LatencyMeter, has_table: bool
) -> None:
    graph = meter.networks.conv_graph
    assert graph is not None
    fixed = 0.3 if has_table else 0.0
    if has_table:
        meter = replace(meter, targets=tuple(replace(target, table=law(graph, 10)) for target in meter.targets))
    networks = [shorter(dense, PATTERN), dense, shorter(dense, ".*"), shorter(dense, PATTERN)]
    work = [fixed + graph.only(network.channels).multiply_adds(network.channels) / 1e7 for network in networks]
    found = BudgetShares(meter).predicted_many([network.channels for network in networks])
    assert found is not None
    assert found[:, 0].tolist() == pytest.approx([2 * one / work[1] for one in work])
    assert found[2, 0] < found[0, 0] == found[3, 0] < found[1, 0] == 2
    with pytest.raises(TargetError, match="layer model"):
        BudgetShares(meter).predicted(Detector.load("yolov8n.yaml").channels)


def test_no_table_stands_in_where_memory_counts(dense: Detector, meter: LatencyMeter) -> None:
    graph = meter.networks.conv_graph
    assert graph is not None
    meter = replace(meter, targets=tuple(replace(target, table=law(graph, 10)) for target in meter.targets))
    (predicted,) = meter.normalized(dense).values()
    (measured,) = replace(meter, predicts=False).normalized(dense).values()
    assert (predicted.predicted, measured.predicted) == (True, False)


def test_a_shorter_network_is_measured_once_by_its_channels(
    dense: Detector, meter: LatencyMeter, tmp_path: Path
) -> None:
    network, built = shorter(dense, PATTERN), list[Detector]()

    def build() -> Detector:
        built.append(network)
        return network

    (target,) = meter.targets
    assert BudgetShares(meter).measured(network.channels, build) > 0
    latency = meter.measure_channels(network.channels, build, [target])[target.name]
    assert built == [network]
    assert list((tmp_path / "networks").iterdir()) == []
    network.save(tmp_path / "network.pt", {}, {})
    context: Any = SimpleNamespace(meter=meter, dense_channels=dense.channels, dense_params=dense.params, figures=())
    figures = measured_figures(network, tmp_path / "network.pt", OWN, context)
    assert figures.latencies[target.name] == target.normalized(latency)
    assert len(list((tmp_path / "latencies").iterdir())) == 1
    left = sum(network.channels.values()) / sum(dense.channels.values())
    assert figures.channels_removed == pytest.approx(1 - left)
    assert left < 0.95
    context.figures = (StudiedFigure("memory_mb"),)
    with pytest.raises(MeasurementError, match="memory_mb"):
        measured_figures(network, tmp_path / "network.pt", OWN, context)
    assert figures.blocks_removed == 4, "one of model.4 and all three of model.6"
    assert blocks_removed(dense, context) == 0
    assert blocks_removed(Detector.load("yolov8n.yaml"), context) is None, "another family's"
