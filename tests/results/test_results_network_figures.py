"""Figures of one network: channels and gammas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.results.figures.network_figures import channels_figure, gamma_figures
from prunetune.results.figures.networks import Networks
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.histories import GammaHistogram, read_gammas
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import TrialRecord
from prunetune.spaces import LatencyShare, Recipe, Splice, Threshold

Builder = Any


RECIPE = Recipe(0.3, 4, Threshold(0.1, 0.2))
BY_LATENCY = Recipe(0.3, 4, LatencyShare(0.8), rounds=2)


def network(study: Any, name: str) -> StudyNetwork:
    found = Findings.of(study).network(name)
    assert found is not None
    return found


def histograms(builder: Builder, folder: Path) -> tuple[GammaHistogram, ...]:
    return read_gammas(Findings.of(builder.study).records[0], folder)


def test_channels_figure_shows_every_layer_and_the_removed_share(filled: Builder) -> None:
    figure = channels_figure(filled.study, network(filled.study, "0"))
    assert figure is not None
    traces = {trace.name: trace for trace in figure.data}
    backbone, head = (next(t for name, t in traces.items() if name.startswith(r)) for r in ("backbone", "head"))
    assert list(backbone.y) + list(head.y) == list(Findings.of(filled.study).study.channels_dense)
    assert head.name == "head kept (75.0 % removed)"
    assert set(head.x) == {25.0}
    assert backbone.customdata[0] == "8 of 16"
    assert channels_figure(filled.study, network(filled.study, "1")) is not None


def test_layers_that_went_with_their_blocks_keep_nothing(filled: Builder) -> None:
    dense = Findings.of(filled.study).study.channels_dense
    left = dict(list(dense.items())[:-3])
    number = filled.trial(0.9, 0.8, channels=left)
    figure = channels_figure(filled.study, network(filled.study, str(number)))
    assert figure is not None
    head, removed = (next(t for t in figure.data if t.name.startswith(name)) for name in ("head", "removed"))
    assert list(head.y)[-3:] == list(dense)[-3:]
    assert list(head.x) == [100.0] * (len(head.x) - 3) + [0.0] * 3
    assert list(removed.x) == [0.0] * len(left) + [100.0] * 3
    assert head.customdata[-1] == f"0 of {list(dense.values())[-1]}"


@pytest.mark.parametrize(("blocks", "told"), [(0, ""), (1, ", 1 block removed"), (2, ", 2 blocks removed")])
def test_the_channels_figure_and_the_report_tell_removed_blocks(
    filled: Builder, tmp_path: Path, blocks: int, told: str
) -> None:
    dense = Findings.of(filled.study).study.channels_dense
    name = str(filled.trial(0.9, 0.8, channels=dict(dense), network={"blocks_removed": blocks}))
    figure = channels_figure(filled.study, network(filled.study, name))
    assert figure is not None
    assert figure.layout.xaxis.title.text == f"channels kept{told}"
    panel = Networks(Findings.of(filled.study), tmp_path, None).as_dict()["networks"][name]
    assert panel.get("blocks", "") == told
    assert panel["facts"].get("blocks removed") == (str(blocks) if blocks else None)


def test_channels_figure_needs_widths(builder: Builder) -> None:
    builder.trial(0.9, 0.8)
    assert channels_figure(builder.study, network(builder.study, "0")) is None


def test_gamma_figures_end_with_the_last_epoch_and_mark_the_threshold(filled: Builder, tmp_path: Path) -> None:
    read = histograms(filled, tmp_path)
    assert len(read) == 16
    figures = gamma_figures(read, TrialRecord(RECIPE))
    assert list(figures) == [(1, "backbone"), (1, "head"), (2, "backbone"), (2, "head")]
    head = figures[2, "head"]
    assert [head.data[0].name, head.data[-1].name] == ["epoch 1", "epoch 8"]
    assert len(head.data) == 6
    assert head.layout.shapes[0].x0 == 0.2
    assert sum(head.data[-1].y[:-1]) == pytest.approx(100)


def test_only_gammas_have_a_threshold_among_gammas(filled: Builder, tmp_path: Path) -> None:
    read = histograms(filled, tmp_path)
    without = [replace(RECIPE, importance="l1"), Splice("0", "1", 4), None]
    for recipe in without:
        assert all(not figure.layout.shapes for figure in gamma_figures(read, TrialRecord(recipe)).values())
    assert all(figure.layout.shapes for figure in gamma_figures(read, TrialRecord(RECIPE)).values())


def test_gamma_figures_mark_what_was_found_in_each_round(filled: Builder, tmp_path: Path) -> None:
    record = TrialRecord(BY_LATENCY, thresholds=(Threshold.everywhere(0.1), Threshold(0.2, 0.3)))
    figures = gamma_figures(histograms(filled, tmp_path), record)
    marks = {place: figure.layout.shapes[0].x0 for place, figure in figures.items()}
    assert marks == {(1, "backbone"): 0.1, (1, "head"): 0.1, (2, "backbone"): 0.2, (2, "head"): 0.3}
