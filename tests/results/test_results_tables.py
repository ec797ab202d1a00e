"""The tables: one row model for Markdown, CSV and the terminal; pandas for all trials."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
from rich.console import Console

from prunetune.results import Findings, csv_text, front_document, markdown, rich_table, trial_table
from prunetune.results.dashboard.notes import trial_note
from prunetune.results.tables.rows import budget_text, significant, size, trained_text
from prunetune.spaces import LatencyShare, Recipe, Threshold

Builder = Any


def test_markdown_lists_controls_then_front(filled: Builder) -> None:
    lines = markdown(filled.study).splitlines()
    assert lines[0] == "| model | mAP50 | change | mmAP | change | size | latency | GFLOPs | removed | remarks |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| dense", "| half-width", "| trial 1", "| trial 0"]
    half = "| half-width | 0.986 | -0.007 | 0.875 | -0.065 | 3.90M | 1.00 ms (0.50x) | 4.40 | 73.0 % |  |"
    assert lines[3] == half
    assert lines[5].endswith("| 72.6 % | pull 0.3 for 4 epochs, threshold 0.1, recover 6 |")


def test_tested_networks_get_further_columns(filled: Builder) -> None:
    filled.store(test={"0": filled.accuracy(0.897, map50=0.98), "dense": filled.accuracy(0.93)})
    lines = markdown(filled.study).splitlines()
    assert "| test mAP50 | test mmAP | remarks |" in lines[0]
    assert "| 0.980 | 0.897 |" in lines[5]
    (first, *_) = csv.DictReader(io.StringIO(csv_text(filled.study)))
    assert (first["model"], first["test_map50"], first["test_map50_95"]) == ("dense", "0.93", "0.93")


def test_removed_blocks_have_a_column_where_a_network_lost_some(filled: Builder) -> None:
    def known() -> tuple[str, list[str], bool]:
        return markdown(filled.study).splitlines()[0], csv_text(filled.study).splitlines(), "| blocks |" in note()

    def note() -> str:
        found = Findings.of(filled.study)
        return trial_note(found, found.trials[-1])

    head, lines, is_told = known()
    assert "| removed | remarks |" in head
    assert "blocks_removed" not in lines[0]
    assert not is_told
    filled.trial(0.95, 0.85, network={"blocks_removed": 2})
    head, _, is_told = known()
    assert "| removed | blocks | remarks |" in head
    assert is_told
    assert [line.split(" | ")[-2] for line in markdown(filled.study).splitlines()[2:]] == ["0", "0", "0", "0", "2"]
    rows = list(csv.DictReader(io.StringIO(csv_text(filled.study))))
    assert [row["blocks_removed"] for row in rows] == ["0", "0", "0", "0", "2"]
    assert trial_table(filled.study)["blocks_removed"].tolist()[-1] == 2
    assert front_document(filled.study)["front"][-1]["blocks_removed"] == 2


def test_csv_holds_plain_numbers(filled: Builder) -> None:
    found = list(csv.DictReader(io.StringIO(csv_text(filled.study))))
    assert [row["kind"] for row in found] == ["control", "control", "front", "front"]
    assert float(found[3]["latency_ms"]) == 0.8
    assert int(found[3]["params"]) == 1_720_000
    assert "test_map50" not in found[0]


def test_a_name_with_a_bar_stays_one_cell(builder: Builder) -> None:
    builder.context(baselines={"a|b": builder.baseline(0.5)})
    assert markdown(builder.study).splitlines()[2].startswith("| a\\|b | 0.500 |")


def test_terminal_table_shows_every_row_and_no_markup(builder: Builder) -> None:
    builder.context(baselines={"[red]odd[/]": builder.baseline(0.4)})
    builder.trial(0.905, 0.8)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rich_table(builder.study))
    shown = console.export_text()
    assert "[red]odd[/]" in shown
    assert "trial 0" in shown
    assert "0.905" in shown
    assert "budget <= half-width (1.00 ms)" in shown
    assert "1 complete" in shown


@pytest.mark.parametrize("width", [80, 100, 150, 190])
def test_terminal_table_fits_and_cuts_nothing_off(filled: Builder, width: int) -> None:
    filled.store(test={"0": filled.accuracy(0.897, map50=0.98)})
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(filled.study, width=width))
    shown = console.export_text()
    words = " ".join(shown.split())
    assert all(part in words for part in ("half-width", "3.90M", "0.905", "0.897", "72.6 %"))
    assert words.count("recover") == 2
    assert "…" not in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.00123, "0.00123"),
        (0.35, "0.350"),
        (0.9999, "1.00"),
        (18.6, "18.6"),
        (99.96, "100"),
        (1234, "1234"),
    ],
)
def test_three_significant_digits(value: float, shown: str) -> None:
    assert significant(value) == shown


@pytest.mark.parametrize(
    ("params", "shown"),
    [(488_000, "488K"), (15_100_000, "15.1M"), (999, "999"), (999_600, "1.00M"), (1000, "1.00K"), (None, "")],
)
def test_sizes_read_as_in_reports(params: int | None, shown: str) -> None:
    assert size(params) == shown


def test_trial_table_has_a_row_for_every_trial(filled: Builder) -> None:
    table = trial_table(filled.study).set_index("trial")
    assert list(table.index) == list(range(7))
    outcomes = ["OK", "OK", "OK", "OVER_BUDGET", "OVER_BUDGET", "DIVERGED", "RUNNING"]
    assert list(table["outcome"]) == outcomes
    assert table.loc[5, "reason"] == "loss is NaN in epoch 3"
    assert list(table["on_front"]) == [True, True, False, False, False, False, False]
    assert table.loc[0, "recipe_threshold"] == 0.1
    assert table.loc[1, "recipe_threshold_head"] == pytest.approx(0.101)
    assert table.loc[0, "seconds"] == pytest.approx(103.0)
    assert table.loc[0, "seconds_train"] == 90.5
    assert (table.loc[0, "epochs_trained"], table.loc[0, "host"]) == (10, "localhost")
    assert list(table["feasible"]) == [True, True, True, False, False, None, None]
    assert list(table["rung"][:5]) == [1, 1, 1, 0, 0]


BY_LATENCY = Recipe(0.3, 4, LatencyShare(0.8, 1.5), rounds=2, recovery_epochs=6)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((Threshold.everywhere(0.25), Threshold(0.4, 0.6)), ", found thresholds 0.25, 0.4 / 0.6"),
        ((Threshold.everywhere(0.25),), ", found threshold 0.25"),
        ((), ""),
    ],
)
def test_a_found_threshold_stands_beside_its_recipe(builder: Builder, found: tuple[Threshold, ...], told: str) -> None:
    builder.context()
    builder.trial(0.9, 0.8, recipe=BY_LATENCY, thresholds=found, network={"round": 2})
    recipe = "2 x (pull 0.3 for 4 epochs, latency 0.8 x budget, balance 1.5, recover 6)"
    assert markdown(builder.study).splitlines()[-1].endswith(f"| {recipe}{told} |")
    row = trial_table(builder.study).iloc[0]
    assert (row["recipe_latency"], row["recipe_balance"]) == (0.8, 1.5)
    assert row.get("recipe_threshold_found", []) == [threshold.as_json() for threshold in found]


def test_where_it_was_pruned_stands_in_tables(builder: Builder) -> None:
    builder.context()
    recipe = Recipe(0.3, 4, LatencyShare(0.8), recovery_epochs=6, importance="taylor", floor=0.25)
    builder.trial(0.9, 0.8, recipe=recipe)
    builder.trial(0.8, 0.7)
    told = "latency 0.8 x budget, recover 6, importance taylor, floor 0.25"
    assert any(told in line for line in markdown(builder.study).splitlines())
    table = trial_table(builder.study)
    assert table.loc[0, ["recipe_importance", "recipe_floor"]].tolist() == ["taylor", 0.25]
    others = table.loc[1, ["recipe_importance", "recipe_floor"]].tolist()
    assert others == ["gamma", 0.0], "a default that others differ from is named"
    assert "recipe_start" not in table


def test_trial_table_says_what_was_known_before(builder: Builder) -> None:
    builder.context()
    builder.trial(0.9, 0.8)
    builder.trial(0.9, 0.8, duplicate_of=0)
    builder.trial(0.8, 0.8, latency_from=0)
    table = trial_table(builder.study)
    assert table["duplicate_of"].fillna(-1).tolist() == [-1, 0, -1]
    assert table["latency_from"].fillna(-1).tolist() == [-1, -1, 0]
    assert not table["latency_predicted"].any()


def test_a_trial_with_several_rounds_is_one_row(builder: Builder) -> None:
    builder.context()
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 0.9)])
    (row,) = trial_table(builder.study).to_dict("records")
    assert (row["trial"], row["rounds"], row["map50_95"], row["latency_ms"], row["on_front"]) == (0, 2, 0.6, 0.7, True)


def test_trial_table_of_an_empty_or_foreign_study(builder: Builder) -> None:
    assert list(trial_table(builder.study).columns) == ["trial", "state", "outcome", "reason"]
    foreign = optuna.create_study()
    foreign.add_trial(optuna.trial.create_trial(value=0.5))
    foreign.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    table = trial_table(foreign)
    assert list(table["outcome"]) == ["", "ERROR"]
    assert not table["on_front"].any()


def test_each_of_several_targets_has_a_column(make_builder: Callable[..., Builder]) -> None:
    builder = make_builder(latencies=2)
    builder.context(targets=[builder.target("cpu"), builder.target("board", ("<= 3 ms", 3.0))])
    builder.trial(0.9, 0.8, further={"board": 2.0})
    head, _, _, _, member = markdown(builder.study).splitlines()
    assert "| latency@cpu | latency@board |" in head
    assert "| 0.800 ms (0.40x) | 2.00 ms (1.00x) |" in member
    (row,) = [row for row in csv.DictReader(io.StringIO(csv_text(builder.study))) if row["kind"] == "front"]
    assert (float(row["latency_ms@cpu"]), float(row["latency_ms@board"])) == (0.8, 2.0)
    assert budget_text(builder.study) == "budget <= half-width (1.00 ms) on cpu, <= 3 ms on board"
    frame = trial_table(builder.study)
    assert (frame["latency_ms"][0], frame["latency_ms@board"][0], frame["latency_spread_ms"][0]) == (0.8, 2.0, 0.01)


def test_how_long_a_baseline_was_trained(builder: Builder) -> None:
    plain = builder.baseline(0.9)
    assert trained_text(plain) == ""
    assert trained_text(replace(plain, epochs=34)) == "trained for 34 epochs"
    given = replace(plain, epochs=8, map50_95_given=0.2094, map50_95_trained_on=0.21)
    assert trained_text(given) == "trained on for 8 epochs from 0.209"
    worse = replace(given, epochs=1, map50_95_trained_on=0.2)
    assert trained_text(worse) == "as given, since 1 epoch of training on gave 0.200"


@pytest.mark.parametrize(
    ("given", "now", "lost"),
    [(0.4, 0.38, 2.0), (0.4, 0.4, None), (0.4, 0.41, None), (None, 0.1, None), (0.4, None, None)],
)
def test_what_training_on_cost(builder: Builder, given: float | None, now: float | None, lost: float | None) -> None:
    baseline = replace(builder.baseline(0.9), map50_95_given=given, map50_95_trained_on=now)
    assert baseline.points_lost == (None if lost is None else pytest.approx(lost))
