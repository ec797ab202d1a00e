"""The report in a real browser without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from prunetune.results import RungDecision, StudyRecord, write_report
from prunetune.spaces import Deployment

pytestmark = pytest.mark.faults

Builder = Any
Open = Callable[[Path], Any]

ODD = "<img src=x onerror=document.title='hacked'>\"'</script> 条码"


def classes(value: float) -> dict[str, dict[str, float]]:
    return {"code": {"map50": value, "map50_95": value}, ODD: {"map50": 0.5, "map50_95": 0.5}}


@pytest.fixture
def rich(filled: Builder, tmp_path: Path) -> Path:
    """The report of a study in which every panel has something to show."""
    study = StudyRecord.of(filled.study)
    pruned = {layer: max(8, width // 2) for layer, width in study.channels_dense.items()}
    rung = RungDecision(1, 2, (0.3, 0.6), 0, 3, goes_on=True)
    (tmp_path / "curves.json").write_text(json.dumps([{"round": 1, "map50_95": [0.1, 0.3, 0.5, 0.6]}]))
    for number in range(6):
        value = 0.6 + number / 50
        filled.trial(
            filled.accuracy(value, classes=classes(value)), 0.60 - number / 50, channels=pruned, curves="curves.json",
            decisions=(rung,), gammas="stages/gammas-0.json",
        )  # fmt: skip
    filled.trial(0.2, 0.9, outcome="STOPPED_EARLY", decisions=(replace(rung, goes_on=False),), reason=ODD)
    filled.trial(None, None, outcome="ERROR", state=TrialState.FAIL, reason=ODD)
    filled.trial(0.1, 0.4, rounds=[filled.network(0.9, 0.95, channels=pruned)])
    half = filled.baseline(filled.accuracy(0.5, classes=classes(0.5)), 1.0, channels=study.channels_half)
    filled.store(baselines={**study.baselines, "half-width": half})
    return write_report(filled.study, tmp_path, tmp_path / "report.html", trial=7)


def test_every_panel_has_data_and_nothing_is_loaded(rich: Path, opened: Open) -> None:
    page = opened(rich)
    page.look_through()
    assert page.empty == []
    assert set(page.drawn) >= {
        "figure-front", "figure-channels", "figure-gammas", "figure-classes", "figure-progress-epochs",
        "figure-progress-hours", "figure-recoveries", "figure-importances", "figure-parallel", "figure-slice-0",
        "figure-time",
    }  # fmt: skip
    assert page.complaints() == []
    assert page.loaded == []
    assert page.run("return document.title") == "barcodes: pruning study"
    assert ODD in page.words("#failures")


def test_a_click_on_a_point_changes_the_panels(rich: Path, opened: Open) -> None:
    page = opened(rich)
    page.look_through()
    assert page.run("return document.getElementById('choice').value") == "7"
    before = {name: page.data(name) for name in ("figure-channels", "figure-classes", "figure-recoveries")}
    page.click_point("figure-front", "0")
    page.look_through()
    assert page.run("return document.getElementById('choice').value") == "0"
    assert "mAP50-950.905" in page.words("#details")
    (ring,) = [trace for trace in page.data("figure-front") if trace["name"].startswith("selected")]
    assert (ring["name"], ring["x"], ring["y"]) == ("selected: trial 0", [0.8], [0.905])
    assert page.data("figure-channels") != before["figure-channels"]
    assert page.run("return document.getElementById('figure-classes').hidden") is True
    assert "not recorded" in page.words("[data-empty=figure-classes]")
    page.click_point("figure-front", "half-width")
    page.look_through()
    assert page.run("return document.getElementById('choice').value") == "half-width"
    assert [trace["name"] for trace in page.data("figure-classes")] == ["half-width"]
    assert page.complaints() == []


def test_a_row_and_the_list_select_too(rich: Path, opened: Open) -> None:
    page = opened(rich)
    page.look_through()
    page.run("document.querySelector('#trials tr[data-network=\"3\"]').click()")
    assert "1.30 ms" in page.words("#details")
    selected = page.run("return [...document.querySelectorAll('tr.selected')].map((row) => row.dataset.network)")
    assert set(selected) == {"3"}
    page.run(
        "const list = document.getElementById('choice'); list.value = 'dense';list.dispatchEvent(new Event('change'));"
    )
    assert "control" in page.words("#details")
    assert page.complaints() == []


def test_the_gammas_are_played(rich: Path, opened: Open) -> None:
    page = opened(rich)
    page.look_through()
    assert page.words("#moment") == "round 1, epoch 8", "those of its own round and of the ones before"
    last = page.data("figure-gammas")[0]["y"]
    page.run(
        "const frame = document.getElementById('frame'); frame.value = 2; frame.dispatchEvent(new Event('input'));"
    )
    page.settle()
    assert page.words("#moment") == "round 1, epoch 3"
    assert page.data("figure-gammas")[0]["y"] != last
    page.run("document.getElementById('frame').value = 15; document.getElementById('play').click();")
    assert page.words("#moment") == "round 1, epoch 1", "from its end it starts again"
    assert page.words("#play") == "Pause"
    page.browser.execute_async_script(
        "const done = arguments[0], place = document.getElementById('moment');"
        "new MutationObserver((_, watch) => { watch.disconnect(); done(); }).observe(place, {childList: true});"
    )
    assert page.words("#moment") == "round 1, epoch 2"
    assert page.complaints() == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_no_screen_has_to_be_scrolled_sideways(rich: Path, opened: Open, width: int, scheme: str) -> None:
    page = opened(rich)
    page.show_on(width, scheme)
    page.open()
    page.look_through()
    assert page.run("return document.documentElement.scrollWidth") <= width
    wide = page.run(
        "return [...document.querySelectorAll('.js-plotly-plot')].filter((div) => !div.closest('.scroll') && "
        "div.querySelector('svg').getBoundingClientRect().right > innerWidth + 1).map((div) => div.id)"
    )
    assert wide == []
    assert page.complaints() == []


def test_the_report_prints_with_all_its_figures(rich: Path, opened: Open) -> None:
    page = opened(rich)
    told = page.browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    pdf = base64.b64decode(told["data"])
    assert pdf.startswith(b"%PDF")
    assert page.empty == [], "all figures were drawn, though nobody had scrolled to them"
    assert page.complaints() == []


@pytest.mark.parametrize("content", ["empty", "one", "failed"])
def test_reports_of_little_make_no_error(builder: Builder, tmp_path: Path, opened: Open, content: str) -> None:
    builder.context(baselines={})
    if content == "one":
        builder.trial(0.9, 0.8)
    if content == "failed":
        builder.trial(None, None, outcome="ERROR", state=TrialState.FAIL, reason=ODD)
    page = opened(write_report(builder.study, tmp_path, tmp_path / "report.html"))
    page.look_through()
    assert page.empty == []
    assert page.complaints() == []
    assert page.run("return document.title") == "barcodes: pruning study"


def test_a_further_deployment_has_the_panels_of_its_network(rich: Path, opened: Open, filled: Builder) -> None:
    study = StudyRecord.of(filled.study)
    dense = filled.accuracy(0.7, classes=classes(0.7))
    small = Deployment(96)
    widths = {layer: max(8, width // 2) for layer, width in study.channels_dense.items()}
    filled.store(baselines={**study.baselines, "dense@96": filled.baseline(dense, 1.2, deployment=small)})
    own = filled.accuracy(0.87, classes=classes(0.87))
    further = filled.network(filled.accuracy(0.8, classes=classes(0.8)), 0.45, deployment=small, channels=widths)
    number = filled.trial(own, 0.7, channels=widths, gammas="stages/gammas-0.json", deployed=[further])
    page = opened(write_report(filled.study, rich.parent, rich, trial=f"{number}@96"))
    page.look_through()
    assert page.run("return document.getElementById('choice').value") == f"{number}@96"
    assert "input96 px fp32" in page.words("#details")
    assert [trace["name"] for trace in page.data("figure-classes")] == [f"trial {number} at 96 px", "dense@96"]
    drawn = {name: page.data(name) for name in ("figure-channels", "figure-gammas")}
    page.click_point("figure-front", str(number))
    page.look_through()
    assert drawn == {name: page.data(name) for name in drawn}
    assert page.empty == []
    assert page.complaints() == []
