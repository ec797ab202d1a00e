"""`prunetune dashboard` as a process, and as a real browser shows it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands.command import Command

from prunetune.search.dashboard import create_server
from prunetune.spaces import ConfigError

pytest.importorskip("optuna_dashboard")
waiting = pytest.importorskip("selenium.webdriver.support.ui")

PATIENCE_S = 60


@pytest.fixture
def build(write_study: Callable[..., Any]) -> Any:
    made = write_study()
    made.context()
    made.trial(0.8, 0.9)
    made.trial(0.95, 1.4, outcome="OVER_BUDGET", violation=0.4)
    made.trial(0.8, 0.9, duplicate_of=0, channels={"model.0.conv": 8})
    return made


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


@pytest.fixture
def address(build: Any, tmp_path: Path) -> Iterator[str]:
    """Where the dashboard of the study is."""
    with create_server(build.study, tmp_path / "runs" / "barcodes", "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/dashboard/studies/{build.study._study_id}"
        server.shutdown()
        thread.join()


def wait(browser: Any, script: str, what: str) -> Any:
    return waiting.WebDriverWait(browser, PATIENCE_S).until(
        lambda driver: driver.execute_script(f"return {script}"), what
    )


def wait_for_text(browser: Any, *words: str) -> None:
    for word in words:
        wait(browser, f"document.body.innerText.includes({json.dumps(word)})", f"no {word!r} on the page")


def test_a_browser_shows_front_trials_notes_and_pictures(online: Any, address: str, build: Any) -> None:
    online.get(address)
    wait_for_text(online, "barcodes", "Best Trial")
    drawn = "[...document.querySelectorAll('.js-plotly-plot')].flatMap((div) => div.data.map((item) => item.name))"
    wait(online, f"['front', 'controls'].every((name) => {drawn}.includes(name))", "our front is not drawn")
    wait_for_text(online, "front.png", "table.csv")
    best = "[...document.querySelectorAll('a')].map((link) => link.getAttribute('href'))"
    assert not online.execute_script(f"return {best}.some((to) => to && to.endsWith('numbers=1'))"), "over the budget"

    online.get(f"{address}/note")
    wait_for_text(online, "The most accurate network within the budget is trial 0", "half-width")
    wait(online, "document.querySelectorAll('table tr').length >= 4", "the note has no table")

    online.get(f"{address}/trials?numbers=2")
    wait_for_text(online, "Trial 2", "parameters removed", "duplicate of trial 0", "channels.png")
    loaded = "[...document.querySelectorAll('img')].some((image) => image.naturalWidth > 500)"
    wait(online, loaded, "no picture was drawn")
    online.execute_script("[...document.querySelectorAll('a')].find((a) => a.textContent === 'trial 0').click()")
    wait_for_text(online, "Trial 0", "on the front")

    online.get(f"{address}/trials?numbers=1")
    wait_for_text(online, "over the budget, 40.0 % above 1.00 ms")
    complaints = [entry["message"] for entry in online.get_log("browser") if entry["level"] == "SEVERE"]
    assert complaints == []


def test_a_browser_sees_trials_that_end_while_it_looks(online: Any, address: str, build: Any) -> None:
    online.get(f"{address}/trials")
    wait_for_text(online, "Trial 2")
    number = build.trial(0.9, 0.95)
    online.get(f"{address}/trials?numbers={number}")
    wait_for_text(online, "on the front", "channels.png")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_asked_to_stop(
    build: Any, tmp_path: Path, start: Callable[..., Command], stop: signal.Signals
) -> None:
    served = start("dashboard", "barcodes", "--runs", tmp_path / "runs", "--port", 0)
    served.until(lambda: "/dashboard/studies/" in served.said)
    address = re.findall(r"http://127\.0\.0\.1:\d+", served.said)[0]
    with urllib.request.urlopen(f"{address}/api/studies/{build.study._study_id}") as answer:
        assert [trial["number"] for trial in json.load(answer)["trials"]] == [0, 1, 2]
    listening = {item.laddr.ip for item in psutil.Process(served.pid).net_connections() if item.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    os.kill(served.pid, stop)
    assert served.wait() == 0, served.said
    assert "Traceback" not in served.said
    assert "sqlite" not in served.said


def test_a_port_in_use_is_told(build: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: cannot be used .*give another port, or 0"):
            create_server(build.study, tmp_path, "127.0.0.1", port)
