"""Figures of one network: channels and gammas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunetune.results.findings import Findings
from prunetune.results.histories import read_gammas
from prunetune.results.network_figures import channels_figure, gamma_figures

Builder = Any


def test_channels_figure_shows_every_layer_and_the_removed_share(filled: Builder) -> None:
    found = Findings.of(filled.study)
    figure = channels_figure(filled.study, found.trials[0])
    assert figure is not None
    traces = {trace.name: trace for trace in figure.data}
    backbone, head = (next(t for name, t in traces.items() if name.startswith(r)) for r in ("backbone", "head"))
    assert list(backbone.y) + list(head.y) == list(found.dense_channels)
    assert head.name == "head kept (75.0 % removed)"
    assert set(head.x) == {25.0}
    assert backbone.customdata[0] == "8 of 16"
    assert channels_figure(filled.study, found.trials[1]) is not None
    assert channels_figure(filled.study, found.trials[5]) is not None


def test_channels_figure_needs_widths(builder: Builder) -> None:
    builder.trial(0.9, 0.8)
    assert channels_figure(builder.study, builder.study.trials[0]) is None


def test_gamma_figures_end_with_the_last_epoch_and_mark_the_threshold(filled: Builder, tmp_path: Path) -> None:
    histograms = read_gammas(filled.study.trials[0], tmp_path)
    assert len(histograms) == 16
    figures = gamma_figures(histograms, {"threshold": {"backbone": 0.1, "head": 0.2}})
    assert list(figures) == [(1, "backbone"), (1, "head"), (2, "backbone"), (2, "head")]
    head = figures[2, "head"]
    assert [head.data[0].name, head.data[-1].name] == ["epoch 1", "epoch 8"]
    assert len(head.data) == 6
    assert head.layout.shapes[0].x0 == 0.2
    assert sum(head.data[-1].y[:-1]) == pytest.approx(100)


def test_only_gammas_have_a_threshold_among_gammas(filled: Builder, tmp_path: Path) -> None:
    histograms = read_gammas(filled.study.trials[0], tmp_path)
    recipes = [{"threshold": 0.1, "importance": "l1"}, {"latency": 0.8, "planner": "knapsack"}]
    for recipe in recipes:
        assert all(not figure.layout.shapes for figure in gamma_figures(histograms, recipe).values())
    assert all(figure.layout.shapes for figure in gamma_figures(histograms, {"threshold": 0.1}).values())


def test_gamma_figures_mark_what_was_found_in_each_round(filled: Builder, tmp_path: Path) -> None:
    histograms = read_gammas(filled.study.trials[0], tmp_path)
    figures = gamma_figures(histograms, {"latency": 0.8, "threshold_found": [0.1, {"backbone": 0.2, "head": 0.3}]})
    marks = {place: figure.layout.shapes[0].x0 for place, figure in figures.items()}
    assert marks == {(1, "backbone"): 0.1, (1, "head"): 0.1, (2, "backbone"): 0.2, (2, "head"): 0.3}
