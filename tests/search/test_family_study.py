"""A study of other families than YOLOv5: a candidate, a narrow control, results."""

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
from prunetune.search.study.study_spec import StudySpec

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SPACE: dict[str, Any] = {"sparsity": 0.3, "sparse_epochs": 1, "threshold": 0.8, "recovery_epochs": 1}


def test_a_study_of_another_family(make_spec: Callable[..., StudySpec], shapes: Path) -> None:
    model = "yolo26n.yaml"  # it has blocks of all kinds
    options = {"budget": {"latency": "<= 100 x dense"}, "controls": ["half-width"], "trials": 1}
    spec = make_spec(model=model, data=str(shapes), space=SPACE, **options)
    run_study(spec, Console(file=io.StringIO(), width=200))

    found = load_study(spec.folder)
    half, untrained = found.baselines["half-width"].figures, Detector.load(model, ("square", "disc"))
    dense, pruned = untrained.channels, found.candidate(0).load().channels
    assert pruned.keys() == dense.keys()
    assert all(pruned[name] == width or pruned[name] % 8 == 0 for name, width in dense.items())
    assert pruned.removed(dense) > 0.1
    assert 0 < half.params < untrained.params
    figure = found.figures.channels(0)
    assert figure is not None
    assert set(figure.data[0].y) <= set(dense)
    assert (spec.folder / "report.html").stat().st_size > 0
