"""What is told while a study runs, and how it is shown."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from heard.events import ENDED, EVENTS, NETWORK, PROGRESS, RECIPE, RECORD, STARTED, epoch, member
from rich.console import Console

from prunetune.pruning.training.values import EpochRecord
from prunetune.search.callbacks import views
from prunetune.search.callbacks.events import (
    EpochEnded,
    Event,
    Message,
    StageBegun,
    StudyEnded,
    StudyProgress,
    TaskStarted,
    TrialBegun,
    TrialEnded,
)
from prunetune.search.callbacks.json_lines import JsonLines
from prunetune.search.callbacks.live_view import LiveView
from prunetune.search.callbacks.progress import Progress, view_of
from prunetune.search.callbacks.views import PlainView
from prunetune.search.options.output import ErrorsNow
from prunetune.spaces import ConfigError, Outcome, Splice, StoreError


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def hear(self, event: Event) -> None:
        self.events.append(event)


def plain(*events: Event) -> list[str]:
    out = io.StringIO()
    view = PlainView(Console(file=out, width=200))
    for event in events:
        view.hear(event)
    return out.getvalue().splitlines()


# Plain lines


def test_plain_lines_tell_networks_trials_and_what_was_said() -> None:
    assert plain(*EVENTS) == [
        "dense network: map50_95 0.700  2.20 ms  0.45 GFLOPs  2.50M  (read back)",
        f"trial 3 [4/10] OK  map50_95 0.411  1.01 ms  0.10 GFLOPs  0.40M  {RECIPE}, found thresholds 0.4, 0.5  "
        "31 s, 4 epochs reused",
        "trial 3, round 1: map50_95 0.500  1.01 ms",
        "going on",
    ]


def trial_lines(**changes: Any) -> list[str]:
    return plain(TrialEnded(3, replace(RECORD, **changes), 4, None))


def test_a_trial_that_ended_before_its_last_round_says_so() -> None:
    (line,) = trial_lines(networks=(replace(NETWORK, round=1),), reason="its latency is met", thresholds=())
    assert line.startswith("trial 3 [4] OK (its latency is met)  map50_95 0.411")
    assert f"{RECIPE}, after round 1 of 2  31 s" in line


def test_a_round_over_the_budget_and_a_predicted_latency_say_so() -> None:
    latencies = {"cpu": replace(NETWORK.figures.latencies["cpu"], predicted=True)}
    over = replace(NETWORK, figures=replace(NETWORK.figures, latencies=latencies, violations={"cpu": 0.1}))
    line, earlier = trial_lines(networks=(replace(over, round=1), replace(over, recovered=False)), duplicate_of=1)
    assert "OK, duplicate of trial 1  map50_95 0.411  1.01 ms predicted" in line
    assert earlier == "trial 3, round 1: map50_95 0.411  1.01 ms predicted, over the budget"


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if not outcome.has_values])
def test_a_failure_has_no_figures(outcome: Outcome) -> None:
    event = TrialEnded(3, replace(RECORD, outcome=outcome), 4, 10)
    assert event.networks == []
    assert not {"accuracy", "latencies", "checkpoint", "rounds"} & set(event.as_dict())
    (line,) = plain(event)
    assert line.startswith(f"trial 3 [4/10] {outcome}  {RECIPE}")


def test_a_splice_ends_like_any_trial() -> None:
    record = replace(RECORD, recipe=Splice("1", "dense", 3), networks=(replace(NETWORK, round=1),), thresholds=())
    (line,) = plain(TrialEnded(3, record, 4, 10))
    assert "backbone of trial 1, head of dense, recover 3" in line


def test_the_front_has_a_line_when_it_is_due() -> None:
    due = StudyProgress(5, 10, 60, 40, PROGRESS.front, PROGRESS.remaining)
    front, remains = plain(due)
    assert front == "front: trial 2: 0.300 at 0.90 ms; trial 1: 0.411 at 1.01 ms"
    assert remains.startswith("about 6 trials, 60 epochs, 12 min remain (trials ends it), until ")
    assert plain(StudyProgress(5, None, 0, 0, (), None)) == ["front: no trial meets the budget yet"]


def test_an_epoch_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain(epoch(3)) == []
    monkeypatch.setattr(views, "PLAIN_SECONDS", 0.0)
    assert plain(epoch(3, 0.4)) == ["  trial 3: recovery, epoch 3 in 2.0 s, map50_95 0.400, sl_loss 0.01"]


# The live view


def terminal(width: int = 110) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)


def seen(view: LiveView, width: int = 110) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(view.render())
    return out.getvalue()


def test_a_terminal_shows_stage_epoch_end_front_and_share_reused() -> None:
    view = LiveView(terminal())
    for event in (STARTED, PROGRESS, TaskStarted("trial 3"), TrialBegun(3, RECIPE), EVENTS[6], epoch(3), epoch(4, 0.4)):
        view.hear(event)
    shown = seen(view)
    assert "barcodes  4 of 10 trials  60 epochs trained  40 reused (40 %)  about 12 min remain, until " in shown
    assert re.search(r"trial 3 recovery .+ epoch 4 of 10, 2\.0 s each, 12 s left, map50_95 0\.400", shown)
    assert str(RECIPE) in shown
    assert "trial 2 0.300 at 0.90 ms" in shown
    assert "trial 1 0.411 at 1.01 ms" in shown


def test_a_training_that_goes_on_begins_at_the_epochs_that_were_read_back() -> None:
    view = LiveView(terminal())
    view.hear(TaskStarted("trial 3"))
    view.hear(EVENTS[6])
    assert "epoch 2 of 10" in seen(view)
    view.hear(epoch(3))
    assert "epoch 3 of 10, 2.0 s each, 14 s left" in seen(view)


def test_other_work_follows_a_training() -> None:
    view = LiveView(terminal())
    for event in (TaskStarted("trial 3"), TrialBegun(3, RECIPE), EVENTS[6], epoch(3), TaskStarted("exporting")):
        view.hear(event)
    shown = seen(view)
    assert "exporting" in shown
    assert "epoch" not in shown
    assert str(RECIPE) not in shown


def test_a_long_front_shows_its_ends() -> None:
    view = LiveView(terminal())
    view.hear(StudyProgress(30, None, 1, 0, tuple(member(n, 0.1 * n, n) for n in range(10)), None, False))
    shown = seen(view)
    assert [n for n in range(10) if f"trial {n} " in shown] == [0, 1, 2, 7, 8, 9]
    assert "4 more" in shown


@pytest.mark.parametrize("width", [40, 80])
def test_the_view_keeps_to_a_narrow_terminal(width: int) -> None:
    view = LiveView(terminal(width))
    for event in EVENTS[:-1]:
        view.hear(event)
    view.hear(EVENTS[4])
    view.hear(EVENTS[5])
    view.hear(EVENTS[6])
    view.hear(epoch(4, 0.4))
    shown = seen(view, width).splitlines()
    assert len(shown) <= 6
    assert all(len(line) <= width for line in shown)
    view.hear(StudyEnded("finished"))


def test_lines_stay_above_the_view_and_the_view_goes_in_the_end() -> None:
    console = terminal()
    view = view_of(console)
    assert isinstance(view, LiveView)
    for event in EVENTS:
        view.hear(event)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "trial 3 [4/10] OK" in written
    assert not console._live_stack, "the view is gone"
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor is back"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("errors", "where"), [(Terminal(), "view"), (io.StringIO(), "file")])
def test_warnings_do_not_cut_the_view(errors: io.StringIO, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", errors)
    console = terminal()
    view, handler = LiveView(console), ErrorsNow()
    view.hear(TaskStarted("trial 3"))
    handler.handle(logging.makeLogRecord({"msg": "the machine is too noisy"}))
    view.hear(StudyEnded("finished"))
    handler.handle(logging.makeLogRecord({"msg": "later"}))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("too noisy" in written) is (where == "view")
    assert errors.getvalue() == ("later\n" if where == "view" else "the machine is too noisy\nlater\n")


def test_what_is_no_terminal_gets_lines() -> None:
    assert type(view_of(Console(file=io.StringIO()))) is PlainView


# Telling


def test_progress_tells_what_is_trained_for_which_trial() -> None:
    heard = Heard()
    progress = Progress(None, 10, [heard])
    progress.begin("dense network")
    progress.epochs("original", 5, 0)(epoch(1).record)
    progress.begin_trial(3, RECIPE)
    progress.epochs("sparse", 4, 2)(epoch(3).record)
    progress.trial(3, RECORD, 4)
    names = [event.name for event in heard.events]
    assert names == [
        "task_started", "stage_begun", "epoch_ended", "task_started", "trial_begun", "stage_begun", "epoch_ended",
        "task_ended", "trial_ended",
    ]  # fmt: skip
    assert heard.events[1] == StageBegun("dense network", None, "original", 5, 0)
    assert heard.events[5] == StageBegun("trial 3", 3, "sparse", 4, 2)
    assert heard.events[-1] == ENDED


def test_a_listener_that_raises_hears_no_more_and_nothing_else_ends(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Heard):
        def hear(self, event: Event) -> None:
            super().hear(event)
            raise ConnectionError("the server is away")

    broken, heard = Broken(), Heard()
    progress = Progress(None, None, [broken, heard])
    with caplog.at_level(logging.WARNING):
        progress.say("one")
        progress.say("two")
    assert broken.events == [Message("one")]
    assert heard.events == [Message("one"), Message("two")]
    assert caplog.text.count("Broken is told nothing more") == 1
    assert "the server is away" in caplog.text


def test_an_interruption_passes_through_a_listener() -> None:
    class Interrupted(Heard):
        def hear(self, event: Event) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Progress(None, None, [Interrupted()]).say("one")


# JSON lines


def test_each_event_is_a_line_of_json_with_its_origin(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.jsonl"
    for _ in range(2):  # a study that goes on continues its log
        writer = JsonLines(str(log), worker=1)
        for event in EVENTS:
            writer.hear(event)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == [event.name for event in EVENTS] * 2
    assert {(line["study"], line["worker"]) for line in lines} == {("barcodes", 1)}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    ended = next(line for line in lines if line["event"] == "trial_ended")
    assert ended["accuracy"]["map50_95"] == 0.411
    assert ended["latencies"]["cpu"]["latency_ms"] == 1.01
    assert [(item["round"], item["accuracy"]["map50_95"]) for item in ended["rounds"]] == [(1, 0.5)]
    assert ended["epochs"] == {"trained": 10, "reused": 4}
    assert ended["recipe"] == RECIPE.as_dict()
    assert "channels" not in ended


def test_nan_is_null() -> None:
    record = EpochRecord(1, {"box_loss": float("nan")}, 1.0)
    assert EpochEnded("trial 3", 3, "sparse", 4, record).as_dict()["losses"] == {"box_loss": None}


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        JsonLines(str(tmp_path / "file" / "run.jsonl"))


def test_a_file_of_something_else_is_not_appended_to(tmp_path: Path) -> None:
    description = tmp_path / "study.yaml"
    description.write_text("name: barcodes\n")
    with pytest.raises(ConfigError, match=r"--log-json: .*study\.yaml: is no log of events"):
        JsonLines(str(description))
    assert description.read_text() == "name: barcodes\n"
    for _ in range(2):
        JsonLines(str(tmp_path / "run.jsonl")).hear(Message("on"))
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 2


def test_the_documentation_names_every_event_with_its_fields() -> None:
    text = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| `")]
    told = {row[0].strip("|` "): set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", row[2]))) for row in rows}
    made = {event.name: set(event.as_dict()) - {"study"} for event in EVENTS}
    assert told == made
    assert {kind.name for kind in Event.__subclasses__()} == set(told)


# The command


@pytest.mark.slow
def test_a_study_tells_its_log_what_its_lines_tell(
    write_study: Callable[..., Path], prunetune: Callable[..., Any], shapes: Path, tmp_path: Path
) -> None:
    study = write_study(data=str(shapes), trials=2)
    log = tmp_path / "run.jsonl"
    first = prunetune("run", study, "--log-json", log)
    assert first.code == 0, first.err
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    names = [line["event"] for line in lines]
    assert names[0] == "study_started"
    assert names[-1] == "study_ended"
    assert lines[-1]["state"] == "finished"
    assert names.count("trial_begun") == names.count("trial_ended") == names.count("study_progress") == 2
    for line in lines:
        if line["event"] == "trial_ended":
            assert f"trial {line['trial']} [{line['finished']}/2] {line['outcome']}" in first.out
    stages = [line for line in lines if line["event"] == "stage_begun"]
    assert stages[0]["stage"] == "original"
    heard = [(line["what"], line["stage"], line["epoch"]) for line in lines if line["event"] == "epoch_ended"]
    due = [(line["what"], line["stage"], number) for line in stages for number in range(1, line["epochs"] + 1)]
    assert [item for item in heard if item not in due] == []

    piped = prunetune("run", study, "trials=3", "--log-json", "-")
    assert piped.code == 0, piped.err
    again = [json.loads(line) for line in piped.out.splitlines()]
    assert {line["trial"] for line in again if line["event"] == "trial_ended"} == {2}
    assert next(line for line in again if line["event"] == "study_progress")["finished"] == 2, "where it goes on"

    silent = prunetune("run", study, "trials=4", "--quiet")
    assert (silent.code, silent.out) == (0, ""), silent.err
    assert "error" not in silent.err


@pytest.mark.slow
def test_several_workers_write_whole_lines_to_one_log(
    write_study: Callable[..., Path], prunetune_process: Callable[..., Any], shapes: Path
) -> None:
    study = write_study(data=str(shapes), trials=4, sampler="random")
    answer = prunetune_process("run", study, "--workers", 2, "--log-json", "-")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert {line["worker"] for line in lines} == {0, 1}
    assert sorted(line["trial"] for line in lines if line["event"] == "trial_ended") == [0, 1, 2, 3]
    assert sorted(line["event"] for line in lines).count("study_ended") == 2
