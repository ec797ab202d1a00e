"""The report opens without a network, whatever the study holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from prunetune.results import front, front_figure, nearest, write_report
from prunetune.results.findings import Findings
from prunetune.results.gammas import read_gammas
from prunetune.results.network_figures import channels_figure, gamma_figures
from prunetune.spaces import ConfigError, StoreError

Builder = Any
SECTIONS = ["front", "table", "channels", "gammas", "trials", "time"]


class Page(HTMLParser):
    """What a browser would see: sections, loaded addresses, words and figures; and whether tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.figures: dict[str, Any] = {}
        self.words = ""
        self.tags: set[str] = set()
        self._open: list[str] = []
        self._figure: str | None = None
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "section":
            self.sections.append(found["id"] or "")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        self._figure = found.get("data-figure") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._figure = None

    def handle_data(self, data: str) -> None:
        if self._figure:
            self.figures[self._figure] = json.loads(data)
        elif self._open and self._open[-1] not in ("script", "style"):
            self.words += data


def report(study: Any, folder: Path, trial: int | None = None) -> Page:
    path = write_report(study, folder, folder / "report.html", trial)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_full_report_has_every_section_and_loads_nothing(filled: Builder, tmp_path: Path) -> None:
    filled.study.set_user_attr("test", {"0": {"map50_95": 0.897}, "half-width": {"map50_95": 0.868}})
    page = report(filled.study, tmp_path)
    assert page.sections == SECTIONS
    assert page.addresses == []
    gammas = [f"figure-gammas-{number}-{region}" for number in (1, 2) for region in ("backbone", "head")]
    assert list(page.figures) == ["figure-front", "figure-channels", *gammas, "figure-time"]
    assert "trial 0: mAP50-95 0.905 at 0.800 ms" in page.words
    assert "Against half-width (0.875, 1.00 ms) it is 3.0 points above and 1.25 times as fast" in page.words
    assert "On the test split, which chose nothing, it has 0.897 (half-width 0.868)" in page.words
    assert "Failed: 1 of 7 trials" in page.words
    assert "loss is NaN in epoch 3" in page.words
    assert "10 min 18 s in all: train 88 %, validate 8 %, measure 3 %, other 1 %, surgery under 1 %." in page.words


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (8, "target cpu (onnxruntime, channels in multiples of 8)"),
        ({"default": 16, "first": 8}, "target cpu (onnxruntime, channels in multiples of 16 (first: 8))"),
        (None, "target cpu (onnxruntime)"),
    ],
)
def test_the_alignment_is_told(filled: Builder, tmp_path: Path, stored: Any, told: str) -> None:
    filled.study.set_user_attr("targets", [{"name": "cpu", "kind": "onnxruntime", "alignment": stored}])
    assert told in report(filled.study, tmp_path).words


def test_plotly_is_written_once(filled: Builder, tmp_path: Path) -> None:
    report(filled.study, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("* plotly.js v") == 1


def test_another_trial_can_be_chosen(filled: Builder, tmp_path: Path) -> None:
    page = report(filled.study, tmp_path, trial=3)
    assert "No gamma histograms are recorded" in page.words
    (mark,) = [trace for trace in page.figures["figure-front"]["data"] if trace["name"] == "chosen: trial 3"]
    assert mark["yaxis"] == "y2"
    with pytest.raises(ConfigError, match=r"trial: 99 .* on the front: 1, 0"):
        report(filled.study, tmp_path, trial=99)


def test_odd_names_are_text(make_builder: Callable[..., Builder], tmp_path: Path) -> None:
    odd = '<b>"x"&</script><img src=http://x>$name'
    builder = make_builder(odd)
    builder.context(
        controls={odd: {"map50_95": 0.8, "latencies": {"cpu": {"latency_ms": 1.0}}}},
        budget={"text": odd, "limit_ms": 1.0},
        spec={"model": odd, "data": odd},
        target={"name": odd, "kind": odd},
        channels_dense={odd: 16},
        regions={odd: odd},
        version=odd,
    )
    builder.trial(0.9, 0.8, reason=odd, channels={odd: 8}, recipe={odd: odd}, seconds={odd: 3.0})
    page = report(builder.study, tmp_path)
    assert page.sections == SECTIONS
    assert page.addresses == []
    assert "b" not in page.tags
    assert "img" not in page.tags
    assert page.words.count(odd) > 6
    for figure in page.figures.values():
        assert "<img" not in json.dumps(figure)


@pytest.mark.parametrize("context", [False, True])
def test_report_of_a_study_without_trials(builder: Builder, tmp_path: Path, context: bool) -> None:
    if context:
        builder.context()
    page = report(builder.study, tmp_path)
    assert page.sections == SECTIONS
    assert "No trial has started yet" in page.words


def test_report_of_a_study_that_only_runs_or_fails(builder: Builder, tmp_path: Path) -> None:
    builder.trial(None, None, outcome="", state=TrialState.RUNNING)
    assert "No trial has finished yet" in report(builder.study, tmp_path).words
    builder.trial(None, None, outcome="OUT_OF_MEMORY", state=TrialState.FAIL, accuracy=None, seconds=None)
    words = report(builder.study, tmp_path).words
    assert "No trial gave a network: 1 failed." in words
    assert "out of memory" in words


def test_report_names_the_nearest_miss(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    builder.trial(0.3, 1.3, outcome="OVER_BUDGET", violation=0.3)
    builder.trial(0.1, 1.1, outcome="OVER_BUDGET", violation=0.1)
    page = report(builder.study, tmp_path)
    assert "No trial met the budget <= half-width (1.00 ms)." in page.words
    assert "The nearest is trial 1 at 1.10 ms, 10.0 % over the limit" in page.words


def test_report_warns_of_members_that_are_late_when_measured_again(builder: Builder, tmp_path: Path) -> None:
    builder.context(confirmed={"0": {"cpu": {"latency_ms": 1.04, "latency_ratio": 0.52}}})
    builder.trial(0.9, 0.99)
    builder.trial(0.8, 0.9)
    assert [item.trial for item in front(builder.study)] == [1]
    words = report(builder.study, tmp_path).words
    assert "over the budget <= half-width (1.00 ms) when measured again: trial 0 (1.04 ms)" in words


def test_a_front_that_falls_over_the_budget_leaves_its_nearest(builder: Builder, tmp_path: Path) -> None:
    builder.context(confirmed={"0": {"cpu": {"latency_ms": 1.04, "latency_ratio": 0.52}}})
    builder.trial(0.9, 0.99)
    assert front(builder.study) == []
    missed = nearest(builder.study)
    assert missed is not None
    assert (missed.trial, missed.latency_ms) == (0, 1.04)


def test_folder_that_cannot_be_written_is_named(filled: Builder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        write_report(filled.study, tmp_path, tmp_path / "file" / "report.html")


def test_front_figure_separates_what_is_not_recovered(filled: Builder) -> None:
    figure = front_figure(filled.study)
    axes = {trace.name: trace.yaxis for trace in figure.data}
    assert axes["over budget, not recovered"] == "y2"
    traces = {trace.name: list(trace.x) for trace in figure.data}
    assert traces["front"] == [0.7, 0.8]
    assert traces["complete, dominated"] == [0.9]
    assert traces["controls"] == [2.0, 1.0]
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == 1.0


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


def test_gamma_figures_mark_what_was_found_in_each_round(filled: Builder, tmp_path: Path) -> None:
    histograms = read_gammas(filled.study.trials[0], tmp_path)
    figures = gamma_figures(histograms, {"latency": 0.8, "threshold_found": [0.1, {"backbone": 0.2, "head": 0.3}]})
    marks = {place: figure.layout.shapes[0].x0 for place, figure in figures.items()}
    assert marks == {(1, "backbone"): 0.1, (1, "head"): 0.1, (2, "backbone"): 0.2, (2, "head"): 0.3}


def test_the_report_says_what_was_known_and_what_was_predicted(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    builder.trial(0.9, 0.8)
    builder.trial(0.9, 0.8, equals=0)
    over = {"cpu": {"latency_ms": 1.5, "latency_ratio": 0.75, "predicted": True}}
    builder.trial(0.2, 1.5, latencies=over, outcome="OVER_BUDGET", violation=0.5)
    words = report(builder.study, tmp_path).words
    assert "ok, equals trial 0" in words
    assert "1.50 ms (0.75x) predicted" in words


@pytest.mark.parametrize("content", [None, "{", "{}", '[{"round": 1}]', '[{"epoch": 1, "histogram": {"edges": [0]}}]'])
def test_damaged_gamma_files_leave_the_report_whole(
    builder: Builder, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    builder.context()
    builder.trial(0.9, 0.8, gammas="gammas.json")
    if content is not None:
        (tmp_path / "gammas.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        page = report(builder.study, tmp_path)
    assert "No gamma histograms are recorded" in page.words
    assert bool(caplog.records) == (content in (None, "{"))


def test_each_of_several_targets_has_a_front(
    make_builder: Callable[..., Builder], tmp_path: Path, make_target: Callable[..., dict[str, Any]]
) -> None:
    builder = make_builder(latencies=2)
    builder.context(targets=[make_target("cpu"), make_target("[b]oard", ("<= 3 ms", 3.0), kind="command")])
    builder.trial(0.9, 0.8, further={"[b]oard": 2.0})
    builder.trial(0.8, 0.9, further={"[b]oard": 1.0})
    builder.trial(0.7, 0.7, further={"[b]oard": 1.5})
    page = report(builder.study, tmp_path)
    assert [name for name in page.figures if "front" in name] == ["figure-front-0", "figure-front-1"]
    drawn = [
        next(trace for trace in page.figures[f"figure-front-{index}"]["data"] if trace["name"] == "front")
        for index in range(2)
    ]
    assert [trace["text"] for trace in drawn] == [["2", "0", "1"], ["1", "2", "0"]]
    assert "lines" not in drawn[0]["mode"], "a step would cut through members that are ahead on the other target"
    assert page.figures["figure-front-1"]["layout"]["xaxis"]["title"]["text"] == "latency on [b]oard in ms"
    assert "at 0.800 ms on cpu, 2.00 ms on [b]oard" in page.words
    assert "accuracy and latency on cpu or latency on [b]oard" in page.words


def test_report_warns_of_a_busy_machine_and_of_networks_that_learnt_nothing(builder: Builder, tmp_path: Path) -> None:
    dense = {"map50_95": 0.003, "latencies": {"cpu": {"latency_ms": 2.0, "latency_uncertainty": 0.02}}}
    builder.context(
        controls={"dense": dense}, confirmed={"0": {"cpu": {"latency_ms": 0.9, "latency_uncertainty": 0.198}}}
    )
    builder.trial(0.9, 0.8)
    page = report(builder.study, tmp_path)
    assert "that of trial 0 is known to 19.8 % only" in page.words
    assert "0.900 ms (0.45x) ±20 %" in page.words
    assert "The dense network has hardly learnt (mAP50-95 0.003)" in page.words
