"""The report opens without a network, whatever the study holds."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from prunetune.pruning.accuracy.sensitivity import GroupSensitivity, Removal, Sensitivity, write_sensitivity
from prunetune.results import (
    Comparison,
    Confirmation,
    ConfirmedNetwork,
    Interval,
    front,
    front_figure,
    nearest,
    write_report,
)
from prunetune.results.dashboard.notes import trial_note
from prunetune.results.figures.networks import ANIMATED, FRAMES, Networks, animation_document
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.histories import GammaHistogram, read_curves, read_gammas
from prunetune.results.record import RungDecision, TrialRecord
from prunetune.spaces import Alignment, ConfigError, LatencyShare, Recipe, StoreError, Threshold
from prunetune.targets import NormalizedLatency

Builder = Any
RECIPE = Recipe(0.3, 4, Threshold(0.1, 0.2))
SECTIONS = [
    "front", "table", "network", "progress", "recoveries", "parameters", "time", "failures", "trials", "origins",
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: sections, loaded addresses, words and figures; and whether tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.figures: dict[str, Any] = {}
        self.networks: dict[str, Any] = {}
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
        loaded = [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        self.addresses += [address for address in loaded if not address.startswith("#")]
        self._figure = (found.get("data-figure") or found.get("id")) if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._figure = None

    def handle_data(self, data: str) -> None:
        if self._figure == "networks":
            self.networks = json.loads(data)
        elif self._figure:
            self.figures[self._figure] = json.loads(data)
        elif self._open and self._open[-1] not in ("script", "style"):
            self.words += data


def report(study: Any, folder: Path, trial: int | str | None = None) -> Page:
    path = write_report(study, folder, folder / "report.html", trial)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_full_report_has_every_section_and_loads_nothing(filled: Builder, tmp_path: Path) -> None:
    filled.store(test={"0": filled.accuracy(0.897), "half-width": filled.accuracy(0.868)})
    page = report(filled.study, tmp_path)
    assert page.sections == SECTIONS
    assert page.addresses == []
    drawn = ["front", "progress-epochs", "progress-hours", "recoveries", "parallel", "slice-0", "slice-1", "time"]
    assert list(page.figures) == [f"figure-{name}" for name in drawn]
    assert page.networks["first"] == "0"
    assert page.networks["front"] == ["1", "0"]
    assert list(page.networks["gammas"]) == ["0"]
    assert "trial 0: mAP50-95 0.905 at 0.800 ms" in page.words
    assert "Against half-width (0.875, 1.00 ms) it is 3.0 points above and 1.25 times as fast" in page.words
    assert "On the test split, which chose nothing, it has 0.897 (half-width 0.868)" in page.words
    assert "Failed: 1 of 7 trials" in page.words
    assert "loss is NaN in epoch 3" in page.words
    assert "10 min 18 s in all: train 88 %, validate 8 %, measure 3 %, other 1 %, surgery under 1 %." in page.words
    assert "all but training, validating and measuring: 1.5 %." in page.words
    assert "60 epochs were trained, 24 were reused from earlier trials, which saved about 3 min 56 s." in page.words


@pytest.mark.parametrize(
    ("alignment", "told"),
    [
        (Alignment.everywhere(8), "target cpu (onnxruntime, channels in multiples of 8)"),
        (
            Alignment.parse({"default": 16, "first": 8}),
            "target cpu (onnxruntime, channels in multiples of 16 (first: 8))",
        ),
        (None, "target cpu (onnxruntime)"),
    ],
)
def test_the_alignment_is_told(filled: Builder, tmp_path: Path, alignment: Alignment | None, told: str) -> None:
    filled.store(targets=[filled.target("cpu", None, alignment=alignment)])
    assert told in report(filled.study, tmp_path).words


def test_a_sensitivity_that_lies_in_the_folder_has_a_panel(filled: Builder, tmp_path: Path) -> None:
    removals = (Removal(0.25, 12, 0.39), Removal(0.75, 8, 0.1))
    groups = (GroupSensitivity(("model.0.conv",), "backbone", 16, removals), GroupSensitivity(("<b>",), "neck", 2, ()))
    write_sensitivity(Sensitivity("dense", "taylor", Alignment.everywhere(8), 64, 0.5, 0.4, groups), tmp_path)
    page = report(filled.study, tmp_path)
    place = SECTIONS.index("time")
    assert page.sections == [*SECTIONS[:place], "sensitivity", *SECTIONS[place:]]
    quarter, most = page.figures["figure-sensitivity"]["data"]
    assert (quarter["y"], most["y"]) == (["model.0.conv"], ["model.0.conv"])
    assert (quarter["x"], most["x"]) == ([pytest.approx(0.01)], [pytest.approx(0.3)])
    assert "without a removal it has 0.400" in page.words
    (tmp_path / "sensitivity.json").write_text("{")
    assert report(filled.study, tmp_path).sections == SECTIONS


def test_plotly_is_written_once(filled: Builder, tmp_path: Path) -> None:
    report(filled.study, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("* plotly.js v") == 1


def test_another_trial_can_be_chosen(filled: Builder, tmp_path: Path) -> None:
    page = report(filled.study, tmp_path, trial=3)
    assert page.networks["first"] == "3"
    (mark,) = [trace for trace in page.figures["figure-front"]["data"] if trace["name"] == "selected: trial 3"]
    assert mark["yaxis"] == "y2"
    with pytest.raises(ConfigError, match="99: is no trial of this study"):
        report(filled.study, tmp_path, trial=99)


@pytest.mark.parametrize(
    "odd", ['<b>"x"&</script><img src=http://x>$name', "条码检测 'ü' <!-- </SCRIPT >", "{{ 7 * 7 }}"]
)
def test_odd_names_are_text(make_builder: Callable[..., Builder], tmp_path: Path, odd: str) -> None:
    builder = make_builder(odd)
    accuracy = builder.accuracy(0.9, classes={odd: {"map50": 0.9, "map50_95": 0.9}})
    target = builder.target(
        odd, (odd, 1.0), kind=odd, alignment=None, fingerprint={odd: odd}, references={"dense": 2.0}
    )
    builder.context(
        baselines={odd: builder.baseline(accuracy, {"cpu": 1.0}, channels={odd: 8})},
        targets=[target],
        spec={"model": odd, "data": odd, odd: odd},
        channels_dense={odd: 16},
        channels_half={odd: 8},
        regions={odd: odd},
        version=odd,
        versions={odd: odd},
        data_fingerprint=odd,
    )
    network = {"latencies": {odd: NormalizedLatency(0.8)}, "files": odd}
    builder.trial(accuracy, 0.8, reason=odd, channels={odd: 8}, recipe=replace(RECIPE, importance=odd),
                  seconds={odd: 3.0}, network=network, warnings=(odd,), worker={"host": odd})  # fmt: skip
    builder.trial(None, None, outcome="ERROR", state=TrialState.FAIL, reason=odd)
    page = report(builder.study, tmp_path)
    assert page.sections == SECTIONS
    assert page.addresses == []
    assert "b" not in page.tags
    assert "img" not in page.tags
    assert page.words.count(odd) > 10
    for figure in page.figures.values():
        assert "<img" not in json.dumps(figure)
        assert "<!--" not in json.dumps(figure)
    shown = escape(odd, quote=False)
    assert page.networks["layers"] == [shown], "plotly reads markup"
    assert page.networks["classes"] == [shown]
    assert page.networks["networks"]["0"]["facts"]["reason"] == odd, "the page writes this as text"


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
    builder.trial(None, None, outcome="OUT_OF_MEMORY", state=TrialState.FAIL)
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
    builder.context()
    builder.confirm({"0": 1.04})
    builder.trial(0.9, 0.99)
    builder.trial(0.8, 0.9)
    assert [item.trial for item in front(builder.study)] == [1]
    words = report(builder.study, tmp_path).words
    assert "over the budget <= half-width (1.00 ms) when measured again: trial 0 (1.04 ms)" in words


def test_a_front_that_falls_over_the_budget_leaves_its_nearest(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    builder.confirm({"0": 1.04})
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
    assert traces["without pruning"] == [1.0, 2.0]
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == 1.0


def networks(builder: Builder, folder: Path) -> dict[str, Any]:
    found = Findings.of(builder.study)
    return Networks(found, folder, None).as_dict()


def test_panels_know_every_layer_and_the_removed_share(filled: Builder, tmp_path: Path) -> None:
    half = filled.baseline(0.875, channels={"model.0.conv": 8}, epochs=90)
    filled.store(baselines={"half-width": half})
    told = networks(filled, tmp_path)
    study = Findings.of(filled.study).study
    assert told["layers"] == list(study.channels_dense)
    assert told["dense"] == list(study.channels_dense.values())
    assert told["half"] == list(study.channels_half.values())
    assert set(told["regions"]) == {"backbone", "head"}
    first = told["networks"]["0"]
    assert first["removed"] == {"backbone": "50.0 %", "head": "75.0 %"}
    assert first["kept"][0] == 8
    assert told["networks"]["1"]["kept"] == [9, *[0] * 35], "layers that the trial lacks went with their blocks"
    assert told["networks"]["1"]["removed"]["head"] == "100.0 %"
    assert told["networks"]["half-width"]["kept"][0] == 8
    assert told["networks"]["half-width"]["facts"]["ended"] == "control, trained for 90 epochs"


def test_panels_and_notes_tell_where_a_threshold_separates_nothing(builder: Builder, tmp_path: Path) -> None:
    told = ("round 1: nothing separates at threshold 0.5: 20% of the gammas are within 0.1 of it 0 ▁█|█▁ 1",)
    builder.context()
    builder.trial(0.9, 0.8, warnings=told)
    builder.trial(0.9, 0.8)
    shown = networks(builder, tmp_path)["networks"]
    assert shown["0"]["facts"]["warning"] == told[0]
    assert "warning" not in shown["1"]["facts"]
    found = Findings.of(builder.study)
    notes = [trial_note(found, trial) for trial in found.trials]
    assert "nothing separates at threshold 0.5" in notes[0]
    assert "nothing separates" not in notes[1]


def test_panels_of_another_detector_show_the_layers_that_it_shares(filled: Builder, tmp_path: Path) -> None:
    number = filled.trial(0.9, 0.8, channels={"model.0.conv": 12, "model.99.conv": 4})
    told = networks(filled, tmp_path)["networks"][str(number)]
    assert told["kept"] == [12, *[None] * 35]
    assert told["removed"] == {"backbone": "25.0 %"}


def test_panels_need_no_widths(builder: Builder, tmp_path: Path) -> None:
    builder.trial(0.9, 0.8)
    told = networks(builder, tmp_path)
    assert told["layers"] == []
    assert "kept" not in told["networks"]["0"]


def test_panels_show_accuracy_per_class_where_it_is_known(filled: Builder, tmp_path: Path) -> None:
    dense = filled.accuracy(0.94, classes={"RBC": {"map50_95": 0.7}, "Platelets": {"map50_95": 0.2}})
    filled.store(baselines={"dense": filled.baseline(dense)})
    own = filled.accuracy(0.5, classes={"RBC": {"map50": 0.9, "map50_95": 0.6}, "WBC": {"map50": None}})
    number = filled.trial(own, 0.5)
    page = networks(filled, tmp_path)
    assert page["classes"] == ["RBC", "Platelets"]
    told = page["networks"]
    assert told[str(number)]["classes"] == [0.6, None]
    assert told["dense"]["classes"] == [0.7, 0.2]
    assert "classes" not in told["0"]


def histograms(builder: Builder, folder: Path) -> tuple[GammaHistogram, ...]:
    return read_gammas(Findings.of(builder.study).records[0], folder)


def test_gammas_move_and_end_with_the_last_epoch_and_the_threshold(filled: Builder, tmp_path: Path) -> None:
    read = histograms(filled, tmp_path)
    assert len(read) == 16
    moving = animation_document(read, TrialRecord(RECIPE))
    assert moving is not None
    assert moving["regions"] == ["backbone", "head"]
    assert [(frame["round"], frame["epoch"]) for frame in moving["frames"]] == [
        (number, epoch) for number in (1, 2) for epoch in range(1, 9)
    ]
    last = moving["frames"][-1]
    assert last["thresholds"] == {"backbone": 0.1, "head": 0.2}
    assert len(last["shares"]["head"]) == len(moving["edges"]) - 1
    assert math.fsum(last["shares"]["head"]) == pytest.approx(100, abs=0.3)


def test_gammas_have_the_threshold_that_was_found_in_each_round(filled: Builder, tmp_path: Path) -> None:
    recipe = replace(RECIPE, threshold=LatencyShare(0.8), rounds=2)
    record = TrialRecord(recipe, thresholds=(Threshold.everywhere(0.1), Threshold(0.2, 0.3)))
    moving = animation_document(histograms(filled, tmp_path), record)
    assert moving is not None
    marks = {frame["round"]: frame["thresholds"] for frame in moving["frames"]}
    assert marks == {1: {"backbone": 0.1, "head": 0.1}, 2: {"backbone": 0.2, "head": 0.3}}


def test_long_animations_are_thinned_but_keep_what_surgery_saw() -> None:
    epochs = [(number, epoch) for number in (1, 2, 3) for epoch in range(1, 601)]
    moving = animation_document(
        [GammaHistogram(*place, (0.0, 1.0), {"head": (5.0,)}) for place in epochs], TrialRecord()
    )
    assert moving is not None
    drawn = [(frame["round"], frame["epoch"]) for frame in moving["frames"]]
    assert len(drawn) <= FRAMES + 3
    assert {(1, 600), (2, 600), (3, 600)} <= set(drawn)
    assert drawn == sorted(drawn)


def test_a_round_has_a_panel_of_its_own(builder: Builder, tmp_path: Path) -> None:
    builder.context(test={"0.1": builder.accuracy(0.88)})
    write_gammas = [
        {"round": number, "epoch": 1, "histogram": {"edges": [0, 1], "counts": {"head": [3]}}} for number in (1, 2)
    ]
    (tmp_path / "gammas.json").write_text(json.dumps(write_gammas))
    curves = [{"round": 1, "map50_95": [0.1, 0.2]}, {"round": 2, "map50_95": [0.2, 0.3, 0.25]}]
    (tmp_path / "curves.json").write_text(json.dumps(curves))
    first = builder.network(0.9, 0.95, channels={"model.0.conv": 12}, files="trials/0/round-1")
    builder.trial(0.6, 0.7, rounds=[first], gammas="gammas.json", curves="curves.json", reason="why")
    builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, reason="loss is NaN")
    page = report(builder.study, tmp_path)
    told = page.networks
    assert list(told["networks"]) == ["dense", "half-width", "0.1", "0", "1"]
    assert (told["first"], told["front"], list(told["gammas"])) == ("0.1", ["0", "0.1"], ["0.1", "0"])
    panel, last = told["networks"]["0.1"], told["networks"]["0"]
    assert (panel["title"], panel["kept"][0], panel["curve"]) == ("trial 0, round 1", 12, [[1, 0.1], [2, 0.2]])
    assert panel["facts"]["recipe"].endswith("after round 1 of 2")
    assert panel["facts"]["mAP50-95 on test"] == "0.880"
    assert panel["facts"]["file"] == "trials/0/round-1/pruned.pt"
    assert "reason" not in panel["facts"]
    assert (last["facts"]["reason"], last["curve"][-1]) == ("why", [3, 0.25])
    assert [len(told["gammas"][name]["frames"]) for name in ("0.1", "0")] == [1, 2]
    assert told["networks"]["1"]["facts"]["reason"] == "loss is NaN"
    front = next(trace for trace in page.figures["figure-front"]["data"] if trace["name"] == "front")
    assert (front["text"], [values[1] for values in front["customdata"]]) == (["0", "0.1"], ["0", "0.1"])
    assert "ok, on the front, round 1 on the front" in page.words
    assert report(builder.study, tmp_path, "0").networks["first"] == "0"
    assert report(builder.study, tmp_path, 1).networks["first"] == "1"
    assert report(builder.study, tmp_path, "dense").networks["first"] == "dense"


def test_a_round_over_the_budget_is_recovered(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 1.3, violations={"cpu": 0.3})])
    traces = {trace.name: trace for trace in front_figure(builder.study).data}
    slow = traces["over budget after an earlier round"]
    assert (list(slow.x), list(slow.y), slow.yaxis) == ([1.3], [0.9], "y")
    assert [values[1] for values in slow.customdata] == ["0.1"]
    assert report(builder.study, tmp_path).networks["networks"]["0.1"]["facts"]["ended"] == "recovered, and pruned on"


def test_only_some_networks_have_their_gammas_in_the_report(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    record = {"round": 1, "epoch": 1, "histogram": {"edges": [0, 1], "counts": {"head": [3]}}}
    (tmp_path / "gammas.json").write_text(json.dumps([record]))
    for number in range(ANIMATED + 8):
        builder.trial(0.5 + number / 100, 0.5 + number / 100, gammas="gammas.json")
    page = report(builder.study, tmp_path)
    assert len(page.networks["gammas"]) == ANIMATED
    assert page.networks["first"] in page.networks["gammas"]


def test_curves_of_recoveries_are_read_back(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    told = [{"round": 1, "map50_95": [0.1, 0.2]}, {"round": 2, "map50_95": [0.2, 0.3, 0.25]}, {"round": "x"}]
    (tmp_path / "curves.json").write_text(json.dumps(told))
    rung = RungDecision(1, 1, (0.2, 0.8), 0, 3, goes_on=True)
    builder.trial(0.9, 0.8, curves="curves.json", decisions=(rung,))
    builder.trial(0.7, 0.9, decisions=(rung,))
    stopped = replace(rung, values=(0.05, 0.85), goes_on=False)
    builder.trial(0.05, 0.85, outcome="STOPPED_EARLY", decisions=(stopped,))
    assert read_curves(Findings.of(builder.study).records[0], tmp_path) == {1: (0.1, 0.2), 2: (0.2, 0.3, 0.25)}
    page = report(builder.study, tmp_path)
    traces = {trace["name"]: trace for trace in page.figures["figure-recoveries"]["data"]}
    assert traces["front"]["y"] == [0.2, 0.3, 0.25, None]
    assert traces["complete"]["x"] == [1, 6, None], "without a curve: the rung, and the end of its 6 epochs"
    assert traces["stopped early"]["y"] == [0.05, None]
    assert traces["ended at a rung"]["y"] == [0.05]
    assert len(traces["goes on from a rung"]["x"]) == 2
    assert "after 1 epoch of recovery among the best" in traces["goes on from a rung"]["customdata"][0][0]
    assert page.networks["networks"]["0"]["curve"] == [[1, 0.2], [2, 0.3], [3, 0.25]]


def test_the_report_says_what_was_known_and_what_was_predicted(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    builder.trial(0.9, 0.8)
    builder.trial(0.9, 0.8, duplicate_of=0)
    builder.trial(0.2, NormalizedLatency(1.5, 0.75, predicted=True), outcome="OVER_BUDGET", violation=0.5)
    words = report(builder.study, tmp_path).words
    assert "ok, duplicate of trial 0" in words
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
    assert page.networks["gammas"] == {}
    assert bool(caplog.records) == (content in (None, "{"))


def test_each_of_several_targets_has_a_front(make_builder: Callable[..., Builder], tmp_path: Path) -> None:
    builder = make_builder(latencies=2)
    builder.context(targets=[builder.target("cpu"), builder.target("[b]oard", ("<= 3 ms", 3.0), kind="command")])
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
    builder.context(baselines={"dense": builder.baseline(0.003)})
    builder.confirm({"0": NormalizedLatency(0.9, uncertainty=0.198)})
    builder.trial(0.9, 0.8)
    page = report(builder.study, tmp_path)
    assert "that of trial 0 is known to 19.8 % only" in page.words
    assert "0.900 ms (0.45x) ±20 %" in page.words
    assert "The dense network has hardly learnt (mAP50-95 0.003)" in page.words


@pytest.mark.parametrize(
    "content",
    ["empty", "running", "one", "one over budget", "infeasible", "failed only", "interrupted only", "nothing stored"],
)
def test_reports_of_little_are_whole(builder: Builder, tmp_path: Path, content: str) -> None:
    if content != "nothing stored":
        builder.context(baselines={})
    if content == "running":
        builder.trial(None, None, outcome="", state=TrialState.RUNNING)
    elif content == "one":
        builder.trial(0.9, 0.8)
    elif content == "one over budget":
        builder.trial(0.2, 1.5, outcome="OVER_BUDGET", violation=0.5)
    elif content == "infeasible":
        for number in range(8):
            builder.trial(0.2, 1.5 + number, outcome="OVER_BUDGET", violation=0.5 + number)
    elif content == "failed only":
        for reason in ("loss is NaN", "loss is NaN", "loss is infinite"):
            builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, reason=reason)
    elif content == "interrupted only":
        builder.trial(None, None, outcome="INTERRUPTED", state=TrialState.FAIL, reason="the run was interrupted")
    elif content == "nothing stored":
        bare = optuna.trial.create_trial(state=TrialState.COMPLETE, values=[0.5, 1.0])
        builder.study.add_trial(bare)
    page = report(builder.study, tmp_path)
    assert page.sections == SECTIONS
    assert page.addresses == []
    told = {
        "empty": "No trial has started yet",
        "running": "No trial has finished yet",
        "one": "The most accurate network within the budget is trial 0",
        "one over budget": "The nearest is trial 0 at 1.50 ms",
        "infeasible": "No trial met the budget",
        "failed only": "No trial gave a network: 3 failed",
        "interrupted only": "the run was interrupted",
        "nothing stored": "No trial met the conditions",
    }
    assert told[content] in page.words
    if content == "failed only":
        assert "diverged20, 1loss is NaN" in "".join(page.words.split("\n")), "failures that are alike share a line"


def test_the_report_says_how_sure_it_is(filled: Builder, tmp_path: Path) -> None:
    words = report(filled.study, tmp_path).words
    assert "It was not evaluated on a test split" in words
    assert "prunetune confirm resamples the images" in words
    assert "with one seed" in words
    latency = Interval(0.8, 0.79, 0.81)
    against = Comparison(None, Interval(0.03, -0.01, 0.07), {"cpu": Interval(0.8, 0.79, 0.82)})
    network = ConfirmedNetwork(None, Interval(0.9, 0.85, 0.94), {"cpu": latency}, {"half-width": against})
    told = Confirmation("test", 72, 1000, 0, 0.95, "2026-01-01T00:00:00", 0.01, {"0": network})
    filled.store(confirmation=told)
    page = report(filled.study, tmp_path)
    assert "On the 72 images of the test split, which chose nothing, it has 0.900 (95 % interval 0.850 to 0.940)" in (
        page.words
    )
    assert "+3.0 points of mAP50-95 (-1.0 to +7.0: within its uncertainty)" in page.words
    assert "0.800 times its latency (0.790 to 0.820: sure)" in page.words
    assert "prunetune confirm" not in page.words
    traces = {trace["name"]: trace for trace in page.figures["figure-front"]["data"]}
    tested = traces["on the test split, with 95 % intervals"]
    assert (tested["x"], tested["y"]) == ([0.8], [0.9])
    assert tested["error_y"]["array"] == [pytest.approx(0.04)]
    assert tested["error_y"]["arrayminus"] == [pytest.approx(0.05)]
    assert page.networks["networks"]["0"]["facts"]["mAP50-95 on test"] == "0.900 (0.850 to 0.940)"


def test_the_front_has_bars_of_what_is_known_of_latency(builder: Builder) -> None:
    builder.context()
    builder.trial(0.9, NormalizedLatency(0.8, uncertainty=0.05))
    builder.trial(0.8, 0.7)
    (line,) = [trace for trace in front_figure(builder.study).data if trace.name == "front"]
    assert list(line.error_x.array) == [0, pytest.approx(0.04)]
    assert [values[1] for values in line.customdata] == ["1", "0"]


def test_an_address_with_a_password_is_not_told(builder: Builder, tmp_path: Path) -> None:
    builder.context(spec={"model": "yolov5n.yaml", "storage": "postgresql://me:secret@host/db", "seed": 3})
    report(builder.study, tmp_path)
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "secret" not in written
    assert "yolov5n.yaml" in written
