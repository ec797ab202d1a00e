"""A study of other families than YOLOv5: a threshold from a budget, a narrow control, results."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prunetune.pruning import Detector
from prunetune.results import load_study
from prunetune.search.runner import run_study
from prunetune.search.spec import StudySpec

pytestmark = pytest.mark.slow

SPACE: dict[str, Any] = {"sparsity": 0.3, "sparse_epochs": 1, "latency": 0.04, "recovery_epochs": 1}


@pytest.mark.parametrize("model", ["yolov8n.yaml", "yolo26n.yaml"])
def test_a_study_of_another_family(make_spec: Callable[..., StudySpec], shapes: Path, model: str) -> None:
    options = {"budget": {"latency": "<= 10 x half-width"}, "controls": ["half-width"], "trials": 1}
    spec = make_spec(model=model, data=str(shapes), space=SPACE, **options)
    run_study(spec, Console(file=io.StringIO(), width=200))

    found = load_study(spec.folder)
    (point,), half = found.front(), found.controls["half-width"]
    dense, pruned = Detector.load(model, ("square", "disc")).channels, found.candidate(point.trial).load().channels
    assert pruned.keys() == dense.keys()
    assert all(pruned[name] == width or pruned[name] % 8 == 0 for name, width in dense.items())
    assert pruned.removed(dense) > 0.1
    assert 0 < half.params < Detector.load(model, ("square", "disc")).params
    figure = found.figures.channels(point.trial)
    assert figure is not None
    assert set(figure.data[0].y) <= set(dense)
    assert (spec.folder / "best.onnx").stat().st_size > 0
    assert (spec.folder / "report.html").stat().st_size > 0
