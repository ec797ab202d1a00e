"""What is stored with a study for optuna-dashboard, as the stock dashboard serves it and a real browser shows it."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands.command import Command
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from PIL import Image

from prunetune.results.dashboard import dashboard
from prunetune.results.dashboard.dashboard import ARTIFACTS, show_study, shown_on_dashboard
from prunetune.results.figures import trial_images
from prunetune.results.record import RungDecision, TrialRecord
from prunetune.results.storage.place import sqlite_url
from prunetune.search.commands.dashboard import create_server
from prunetune.spaces import ConfigError, MissingExtraError

optuna_dashboard = pytest.importorskip("optuna_dashboard")

RUNG = RungDecision(1, 2, (0.3, 0.8), 0, 3, goes_on=True)


@pytest.fixture(scope="module")
def build(make_builder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study in an SQLite file with one trial of each kind. Only read it."""
    made = make_builder(folder=tmp_path_factory.mktemp("runs") / "barcodes")
    made.context()
    made.study.set_metric_names(["map50_95", "latency"])
    made.carry_out(0.8, 0.9, decisions=(RUNG,))
    made.carry_out(0.7, 0.7)
    made.carry_out(0.95, 0.6, outcome="OVER_BUDGET", violation=0.4)
    made.carry_out(0.7, 0.7, duplicate_of=1, rounds=[made.network(0.85, 0.6, channels={"model.0.conv": 12})])
    made.carry_out(None, None, outcome="DIVERGED", state=TrialState.FAIL, reason="<b>no</b>")
    return made


@pytest.fixture
def own(write_study: Callable[..., Any]) -> Any:
    """Another one, to do something with."""
    made = write_study()
    made.context()
    return made


@contextmanager
def serving(build: Any) -> Iterator[str]:
    """Gives the address of a study's stock dashboard."""
    with create_server(sqlite_url(build.folder), build.folder, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def address(build: Any) -> Iterator[str]:
    """Where the stock dashboard of the study is."""
    with serving(build) as found:
        yield found


def read(address: str) -> bytes:
    with urllib.request.urlopen(address) as answer:
        body: bytes = answer.read()
    return body


def page(address: str) -> Any:
    """All that the dashboard knows of the study."""
    return json.loads(read(f"{address}/api/studies/1"))


def test_the_study_has_verdict_table_front_and_names(address: str) -> None:
    shown = page(address)
    note = shown["note"]["body"]
    assert note.startswith("**At 0.600 ms: 0.850; without pruning, none is that fast, and the best within the budget")
    assert "The most accurate network within the budget is trial 3, round 1: mAP50-95 0.850" in note
    assert "| half-width |" in note
    assert "[trial 3, round 1](trials?numbers=3)" in note
    (figure,) = shown["plotly_graph_objects"]
    assert {"front", "without pruning"} <= {trace.get("name") for trace in json.loads(figure["graph_object"])["data"]}
    assert shown["objective_names"] == ["map50_95", "latency"]


def test_a_trial_s_note_has_recipe_figures_budget_duplicate_and_failure(address: str) -> None:
    notes = [trial["note"]["body"] for trial in page(address)["trials"]]
    assert notes[0].startswith("**ok**\n\nRecipe: pull 0.3")
    assert "within the budget, 10.0 % below 1.00 ms" in notes[0]
    assert "goes on at mAP50-95 0.300: after 2 epochs of recovery among the best: 0 of 3 are ahead" in notes[0]
    assert notes[2].startswith("**over budget**")
    assert "duplicate of [trial 1](trials?numbers=1)" in notes[3]
    assert "| trial 3, round 1 | 0.850 |" in notes[3]
    assert notes[4].startswith("**diverged**, ")
    assert "<b>" not in notes[4]


def test_a_trial_has_pictures(address: str) -> None:
    drawn = [
        {item["filename"]: read(f"{address}/artifacts/1/{trial['trial_id']}/{item['artifact_id']}")
         for item in trial["artifacts"]}
        for trial in page(address)["trials"]
    ]  # fmt: skip
    assert [set(files) for files in drawn] == [
        {"recovery.png", "channels.png"},
        {"channels.png"},
        {"channels.png"},
        {"channels.png", "channels-round-1.png"},
        set(),
    ]
    assert len({content for files in drawn for content in files.values()}) == 3
    for content in drawn[3].values():
        assert Image.open(io.BytesIO(content)).width > 500


def test_gammas_and_curves_are_drawn_from_the_study_s_folder(own: Any) -> None:
    histogram = {"edges": [0.0, 0.5, 1.0], "counts": {"backbone": [3, 5], "head": [6, 2]}}
    told = [{"round": number, "epoch": epoch, "histogram": histogram} for number in (1, 2) for epoch in range(1, 9)]
    (own.folder / "gammas.json").write_text(json.dumps(told))
    (own.folder / "curves.json").write_text(json.dumps([{"round": 1, "map50_95": [0.1, 0.3, 0.4]}]))
    sizes = []
    for gammas, curves in (("gammas.json", "curves.json"), ("lost.json", "lost.json")):
        trial = own.carry_out(0.6, 0.5, gammas=gammas, curves=curves)
        drawn = {item.filename: item.artifact_id for item in get_all_artifact_meta(trial)}
        assert set(drawn) == {"recovery.png", "channels.png", "gammas.png"}
        sizes.append(Image.open(own.folder / ARTIFACTS / drawn["gammas.png"]).height)
    assert sizes[0] > sizes[1], "a row for each round; an empty picture, and no error"


def test_the_stock_dashboard_reads_no_named_constraints(address: str, build: Any) -> None:
    # docs/results.md tells it. Once this fails, optuna-dashboard reads them, and its sentence can go.
    shown = page(address)
    assert build.study.trials[2].constraints == {"latency": 0.4}
    assert shown["trials"][2]["constraints"] == []
    assert [trial["number"] for trial in shown["best_trials"]] == [2]
    assert [trial.number for trial in build.study.best_trials] != [2]


def test_a_note_that_a_reader_edited_stays(own: Any) -> None:
    own.carry_out(0.8, 0.9)
    with serving(own) as address:
        edit = json.dumps({"version": 2, "body": "the one to ship"}).encode()
        trial_id = page(address)["trials"][0]["trial_id"]
        request = urllib.request.Request(f"{address}/api/studies/1/{trial_id}/note", edit, method="PUT")
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request).close()
        own.carry_out(0.9, 0.95)
        shown = page(address)
    assert shown["trials"][0]["note"]["body"] == "the one to ship"
    assert "The most accurate network within the budget is trial 1" in shown["note"]["body"]


def test_what_cannot_be_shown_costs_no_trial_and_is_logged_once(
    own: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def draw(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trial_images, "_channels", draw)
    dashboard._complain.cache_clear()
    with caplog.at_level(logging.WARNING, dashboard.__name__):
        trials = [own.carry_out(0.8, 0.9, decisions=(RUNG,)) for _ in range(2)]
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert [trial.state for trial in own.study.trials] == [TrialState.COMPLETE] * 2
    assert all(optuna_dashboard.get_note(trial).startswith("**ok**") for trial in trials)


def test_a_trial_that_is_not_told_has_no_note(own: Any) -> None:
    trial = own.study.ask()
    with pytest.raises(KeyboardInterrupt), shown_on_dashboard(own.study, trial, TrialRecord(), own.folder):
        raise KeyboardInterrupt
    assert optuna_dashboard.get_note(trial) == ""


def test_without_optuna_dashboard_a_study_runs_and_nothing_is_stored(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    trial = own.carry_out(0.8, 0.9)
    show_study(own.study, own.folder)
    assert own.study.trials[0].state is TrialState.COMPLETE
    assert get_all_artifact_meta(trial) == []
    assert [path.name for path in own.folder.iterdir()] == ["study.db"]
    with pytest.raises(MissingExtraError, match=r"pip install 'prunetune\[dashboard\]'"):
        create_server(sqlite_url(own.folder), own.folder, "127.0.0.1", 0)
    monkeypatch.undo()
    assert optuna_dashboard.get_note(own.study) == ""


def test_names_are_no_markup(make_builder: Callable[..., Any], tmp_path: Path) -> None:
    made = make_builder("<img src=x> | 条码 $x$", folder=tmp_path)
    made.context()
    trial = made.carry_out(0.8, 0.9, reason="a | b <script>")
    assert "<script>" not in optuna_dashboard.get_note(trial)
    assert "<img" not in optuna_dashboard.get_note(made.study)


# The command


def test_a_port_in_use_is_told(build: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: cannot be used .*give another port, or 0"):
            create_server(sqlite_url(build.folder), build.folder, "127.0.0.1", port)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(build: Any, start: Callable[..., Command]) -> None:
    served = start("dashboard", "barcodes", "--runs", build.folder.parent, "--port", 0)
    served.until(lambda: "/dashboard/\n" in served.said)
    command, address = served.said.splitlines()
    assert command.startswith(
        f"optuna-dashboard {sqlite_url(build.folder)} --artifact-dir {build.folder / ARTIFACTS} --host"
    )
    assert [trial["number"] for trial in page(address.removesuffix("/dashboard/"))["trials"]] == [0, 1, 2, 3, 4]
    listening = {item.laddr.ip for item in psutil.Process(served.pid).net_connections() if item.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    os.kill(served.pid, signal.SIGINT)
    assert served.wait() == 0, served.said
    assert "Traceback" not in served.said


# In a browser


@pytest.fixture
def online(browser: Any) -> Iterator[Any]:
    """The browser, with this machine as its whole network."""
    browser.set_network_conditions(offline=False, latency=0, throughput=-1)
    screen = {"width": 1280, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get_log("browser")  # of the page before
    yield browser
    browser.get("about:blank")
    browser.set_network_conditions(offline=True, latency=0, throughput=0)


def wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(f"return {script}"), script)


def wait_for_text(browser: Any, *words: str) -> None:
    for word in words:
        wait(browser, f"document.body.innerText.includes({json.dumps(word)})")


@pytest.mark.faults
def test_a_browser_shows_front_notes_and_pictures(online: Any, own: Any) -> None:
    own.carry_out(0.7, 0.7)
    own.carry_out(0.7, 0.7, duplicate_of=0, rounds=[own.network(0.85, 0.6, channels={"model.0.conv": 12})])
    with serving(own) as address:
        study = f"{address}/dashboard/studies/1"
        online.get(study)
        drawn = "[...document.querySelectorAll('.js-plotly-plot')].flatMap((div) => div.data.map((item) => item.name))"
        wait(online, f"['front', 'without pruning'].every((name) => {drawn}.includes(name))")

        online.get(f"{study}/note")
        wait_for_text(online, "The most accurate network within the budget is trial 1, round 1", "half-width")
        wait(online, "document.querySelectorAll('table tr').length >= 4")

        online.get(f"{study}/trials?numbers=1")
        wait_for_text(online, "Trial 1", "parameters removed", "duplicate of trial 0", "channels-round-1.png")
        wait(online, "[...document.querySelectorAll('img')].some((image) => image.naturalWidth > 500)")
        online.execute_script("[...document.querySelectorAll('a')].find((a) => a.textContent === 'trial 0').click()")
        wait_for_text(online, "Trial 0", "within the budget, 30.0 % below")

        own.carry_out(0.9, 0.95)  # while the page is open
        online.get(f"{study}/trials?numbers=2")
        wait_for_text(online, "Trial 2", "within the budget, 5.0 % below", "channels.png")
        assert [entry["message"] for entry in online.get_log("browser") if entry["level"] == "SEVERE"] == []
