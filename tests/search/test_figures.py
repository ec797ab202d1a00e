"""What a study minimises or limits beside latency: parameters, bytes, operations, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from heard.events import NETWORK, RECORD

from prunetune.pruning.yolo.detector import Detector
from prunetune.results.record import NetworkResult, StudiedFigure
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.figures import excess_text, studied_figures
from prunetune.search.trial.objective import constraints
from prunetune.spaces import ConfigError
from prunetune.targets import NormalizedLatency

MakeSpec = Callable[..., StudySpec]

LIMITS = {"bytes": "<= 2 MB", "params": "<= 0.5 x half-width", "gflops": "<= 1.2"}


def network(**violations: float) -> NetworkResult:
    return replace(NETWORK, figures=replace(NETWORK.figures, violations=violations))


@pytest.fixture(scope="module")
def references() -> dict[str, Detector]:
    return {"dense": Detector.load("yolov5n.yaml"), "half-width": Detector.load("yolov5n.yaml")}


def test_limits_are_multiples_of_what_the_references_have(make_spec: MakeSpec, references: dict[str, Detector]) -> None:
    dense = references["dense"]
    spec = make_spec(budget={"latency": "<= dense", **LIMITS}, objectives=["map50_95", "gflops"], imgsz=160)
    params, size, gflops = studied_figures(spec, references)
    assert (params.name, params.is_objective, params.limit) == ("params", False, dense.params / 2)
    assert (size.name, size.is_objective, size.limit) == ("bytes", False, 2e6)
    assert (gflops.name, gflops.is_objective, gflops.limit) == ("gflops", True, 1.2)
    assert gflops.dense == pytest.approx(dense.gflops(160))
    assert size.dense == pytest.approx(4 * dense.params, rel=0.05), "fp32 weights"
    assert [StudiedFigure.parse(figure.as_dict()) for figure in (params, size, gflops)] == [params, size, gflops]


BOARD = {"kind": "command", "command": ["bench", "{onnx}"]}


def test_memory_is_what_the_references_took_where_they_took_most(
    make_spec: MakeSpec, references: dict[str, Detector]
) -> None:
    budget = {"latency": "<= dense", "memory_mb": "<= half-width"}
    spec = make_spec(budget=budget, targets=[BOARD], objectives=["map50_95", "memory_mb"])
    told: list[Any] = [
        SimpleNamespace(references_memory_mb=memory)
        for memory in ({"dense": 80.0, "half-width": 60.0}, {}, {"dense": 90.0, "half-width": 50.0})
    ]
    (memory,) = studied_figures(spec, references, told)
    assert (memory.is_objective, memory.limit, memory.dense) == (True, 60.0, 90.0)
    with pytest.raises(ConfigError, match=r"^memory_mb: no target tells it"):
        studied_figures(spec, references, told[1:2])


@pytest.mark.parametrize(("memory_mb", "over"), [(50.0, -0.5), (101.0, 0.0), (103.0, 0.03), (None, 0.0)])
def test_noise_decides_nothing_on_memory(memory_mb: float | None, over: float) -> None:
    latencies = {"cpu": NormalizedLatency(1.0, memory_mb=memory_mb), "other": NormalizedLatency(1.0)}
    figures = replace(NETWORK.figures, latencies=latencies)
    assert figures.memory_mb == memory_mb
    assert StudiedFigure("memory_mb", limit=100.0).violation(figures) == pytest.approx(over)


def test_a_study_of_latency_alone_has_none(make_spec: MakeSpec, references: dict[str, Detector]) -> None:
    assert studied_figures(make_spec(), references) == ()


@pytest.mark.parametrize(("limit", "over"), [(None, 0.0), (1e6, -0.2), (8e5, 0.0), (4e5, 1.0)])
def test_how_far_a_network_is_over_a_limit(limit: float | None, over: float) -> None:
    assert StudiedFigure("bytes", limit=limit).violation(NETWORK.figures) == pytest.approx(over)


def test_a_sampler_hears_of_each_limit_by_its_key(make_spec: MakeSpec) -> None:
    spec = make_spec(budget={"latency": "<= dense", "bytes": "<= 2 MB"}, early_stopping=False)
    record = replace(RECORD, networks=(network(cpu=-0.1, bytes=0.3),))
    assert constraints(record, spec) == {"latency": -0.1, "bytes": 0.3}


def test_the_worst_excess_is_told() -> None:
    assert excess_text(network(cpu=0.1, bytes=0.3).figures) == "800,000 bytes, 30 % over the budget"
    assert excess_text(network(cpu=0.1, gflops=0.3).figures) == "0.105 gflops, 30 % over the budget"
    told = replace(network(memory_mb=0.3).figures, latencies={"cpu": NormalizedLatency(1.0, memory_mb=76.123)})
    assert excess_text(told) == "76.1 memory_mb, 30 % over the budget"
    assert excess_text(network(cpu=0.4, bytes=0.3).figures) == "1.01 ms, 40 % over the budget"
