"""The front, its best and nearest, the document that `prunetune front --json` prints, and the hypervolume."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from prunetune.results import Findings, StudyNetwork, best, front, front_document, hypervolume, nearest
from prunetune.results.dashboard.notes import trial_note
from prunetune.results.findings.costs import progress
from prunetune.results.record import StudiedFigure, StudiedTarget
from prunetune.results.tables.formats import markdown, table_frame
from prunetune.results.tables.headline import summary
from prunetune.results.tables.rows import budget_text, edge_text
from prunetune.results.tables.standing import standing
from prunetune.results.tables.trials import trial_table
from prunetune.targets import NormalizedLatency

FIELDS = [
    "network", "trial", "round", "deployment", "recipe", "map50", "map50_95", "precision", "recall", "f1", "confidence",
    "latency_ms", "latency_ratio", "latencies", "gflops", "params", "bytes", "memory_mb", "channels_removed",
    "params_removed", "blocks_removed", "checkpoint", "onnx",
]  # fmt: skip

Builder = Any
"""`conftest.StudyBuilder`."""


def numbers(networks: list[StudyNetwork]) -> list[int | None]:
    return [network.trial for network in networks]


def names(networks: list[StudyNetwork]) -> list[str]:
    return [network.name for network in networks]


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] >= b[0] and a[1] <= b[1]


# Few distinct values, so that ties and duplicates are common.
points = st.lists(
    st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(1, 6).map(lambda n: n / 4), st.booleans()),
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(found=points)
def test_front_is_the_feasible_nondominated_set(
    make_builder: Callable[[], Builder], found: list[tuple[float, float, bool]]
) -> None:
    builder = make_builder()
    for map50_95, latency_ms, feasible in found:
        builder.trial(map50_95, latency_ms, violation=-0.1 if feasible else 0.1)
    members = front(builder.study)
    values = [(item.map50_95, item.latency_ms) for item in members]
    feasible_points = [(accuracy, latency) for accuracy, latency, ok in found if ok]
    assert not any(dominates(a, b) for a, b in product(feasible_points, values))
    for index, (accuracy, latency, ok) in enumerate(found):
        if ok and index not in numbers(members):
            assert any(dominates(value, (accuracy, latency)) for value in values)
        if not ok:
            assert index not in numbers(members)
    assert all(a.latency_ms <= b.latency_ms for a, b in pairwise(members))
    winner = best(builder.study)
    assert (winner is None) == (not feasible_points)
    if winner is not None:
        assert winner.map50_95 == max(accuracy for accuracy, _ in feasible_points)


def test_a_network_has_the_fields_of_the_documented_json_in_order(filled: Builder) -> None:
    network = Findings.of(filled.study).network("0")
    assert network is not None
    assert list(network.as_dict()) == FIELDS
    assert (network.trial, network.map50_95, network.latency_ms) == (0, 0.905, 0.8)
    assert network.as_dict()["recipe"]["sparsity"] == 0.3
    assert isinstance(hash(network), int)


# A trial has networks


def test_an_earlier_round_may_stand_on_the_front(builder: Builder) -> None:
    builder.context()
    first = builder.network(0.9, 0.95, round=1, files="trials/0/round-1")
    builder.trial(0.6, 0.7, rounds=[first])
    builder.trial(0.7, 0.8)
    found = Findings.of(builder.study)
    assert names(found.front) == ["0", "1", "0.1"]
    assert [network.title for network in found.front] == ["trial 0", "trial 1", "trial 0, round 1"]
    assert found.best is not None
    assert found.best.recipe_text.endswith("after round 1 of 2")
    assert found.counts["complete"] == 2, "a trial is what was asked"
    assert found.counts["rounds"] == 1
    told = [(item["network"], item["trial"], item["round"]) for item in front_document(found)["front"]]
    assert told == [("0", 0, 2), ("1", 1, 1), ("0.1", 0, 1)]
    assert "is trial 0, round 1: mAP50-95 0.900 at 0.950 ms" in summary(found).verdict
    assert "2 trials and 1 earlier round over" in summary(found).searched
    assert "| trial 0, round 1 |" in markdown(found)


@settings(max_examples=60, deadline=None)
@given(found=points, data=st.data())
def test_the_front_does_not_ask_whose_a_network_is(
    make_builder: Callable[[], Builder], found: list[tuple[float, float, bool]], data: st.DataObject
) -> None:
    alone, together = make_builder(), make_builder()
    for accuracy, latency, feasible in found:
        alone.trial(accuracy, latency, violation=-0.1 if feasible else 0.1, channels={})
    rest = list(found)
    while rest:
        count = data.draw(st.integers(1, 3))
        networks = tuple(
            together.network(accuracy, latency, round=place, violations={"cpu": -0.1 if feasible else 0.1})
            for place, (accuracy, latency, feasible) in enumerate(rest[:count], start=1)
        )
        together.trial(None, None, networks=networks)
        rest = rest[count:]
    drawn = [[(network.map50_95, network.latency_ms) for network in front(item.study)] for item in (alone, together)]
    assert drawn[0] == drawn[1]


def test_a_dominated_round_is_not_on_the_front(builder: Builder) -> None:
    builder.trial(0.6, 0.7, rounds=[builder.network(0.6, 0.9)])
    assert names(front(builder.study)) == ["0"]


def test_a_network_is_found_by_its_name(builder: Builder) -> None:
    builder.context()
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 0.9)])
    cut_short = builder.network(0.5, 0.6)
    builder.trial(None, None, networks=(cut_short,), recipe=Findings.of(builder.study).records[0].recipe)
    found = Findings.of(builder.study)
    expected = {"0": 0.6, "0.1": 0.9, "1": 0.5, "1.1": 0.5, "dense": 0.94}
    assert {name: network.map50_95 for name in expected if (network := found.network(name))} == expected
    assert [found.network(name) for name in ("0.2", "2", "tense", "", "-1")] == [None] * 5
    assert (found.key(0), found.key(1)) == ("0", "1.1")


def test_a_round_over_the_budget_may_be_the_nearest(builder: Builder) -> None:
    builder.context()
    first = builder.network(0.9, 1.05, violations={"cpu": 0.05})
    builder.trial(0.3, 1.3, outcome="OVER_BUDGET", violation=0.3)
    builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, networks=(first,), rounds=())
    found = Findings.of(builder.study)
    assert found.front == []
    assert found.nearest is not None
    assert (found.nearest.trial, found.nearest.map50_95) == (1, 0.9)


def test_what_a_failed_trial_had_recovered_before_counts(builder: Builder) -> None:
    builder.context()
    builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, networks=(builder.network(0.9, 0.9),))
    builder.trial(None, None, outcome="", state=TrialState.RUNNING, networks=(builder.network(0.8, 0.8),))
    assert numbers(front(builder.study)) == [1, 0]


@pytest.mark.parametrize("outcome", ["WORKER_DIED", "INTERRUPTED"])
def test_who_took_a_recipe_up_has_its_networks(builder: Builder, outcome: str) -> None:
    builder.context()
    first = builder.network(0.9, 0.9)
    lost = builder.trial(None, None, outcome=outcome, state=TrialState.FAIL, networks=(first,))
    last = builder.trial(0.6, 0.7, rounds=[first], retry_of=lost)
    found = Findings.of(builder.study)
    assert names(found.front) == [str(last), f"{last}.1"]
    assert found.networks_of(lost) == []
    assert f"takes up the recipe of [trial {lost}](trials?numbers={lost})" in trial_note(found, found.trials[last])


def test_a_round_is_confirmed_and_tested_by_its_name(builder: Builder) -> None:
    builder.context(
        confirmed={"0.1": builder.latencies({"cpu": 0.97})},
        test={"0.1": builder.accuracy(0.88)},
        exports={"0.1": "trials/0/round-1.onnx"},
    )
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 0.95, channels={"a": 16})])
    found = Findings.of(builder.study)
    last, first = found.front
    assert (last.latency_ms, first.latency_ms) == (0.7, 0.97)
    assert (found.is_confirmed(last), found.is_confirmed(first)) == (False, True)
    assert first.onnx == "trials/0/round-1.onnx"
    assert found.test_accuracy("0.1") == builder.accuracy(0.88)
    assert "| 0.880 | 0.880 |" in markdown(found).splitlines()[-1]
    assert "trial 0." in summary(found).cautions[-1]


def test_a_twin_of_another_trials_round_shares_its_measurement(builder: Builder) -> None:
    builder.context(confirmed={"0.1": builder.latencies({"cpu": 0.97})})
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 0.9, channels={"a": 16})])
    builder.trial(0.9, 0.9, channels={"a": 16})
    found = Findings.of(builder.study)
    assert [(network.name, network.latency_ms) for network in found.front] == [("0", 0.7), ("0.1", 0.97)]
    twin = found.network("1")
    assert twin is not None
    assert found.is_confirmed(twin)
    assert twin.latency_ms == 0.97


def test_twins_appear_once_and_other_networks_of_equal_score_stay(builder: Builder) -> None:
    builder.trial(0.9, 0.8, channels={"a": 8})
    builder.trial(0.9, 0.8, channels={"a": 8}, duplicate_of=0)
    builder.trial(0.9, 0.8, channels={"a": 16})
    assert numbers(front(builder.study)) == [0, 2]


@pytest.mark.parametrize(
    "told",
    [
        {"outcome": "OVER_BUDGET", "violation": 0.2},
        {"outcome": "STOPPED_EARLY"},
        {"outcome": "DIVERGED", "state": TrialState.FAIL},
        {"state": TrialState.RUNNING, "network": {"recovered": False}},
        {"network": {"recovered": False}},
        {"violation": 0.2},
    ],
    ids=str,
)
def test_only_recovered_feasible_networks_can_be_members(builder: Builder, told: dict[str, Any]) -> None:
    builder.trial(0.99, 0.1, **told)
    builder.trial(0.5, 0.9)
    assert numbers(front(builder.study)) == [1]


def test_confirmed_latency_replaces_the_first_one(builder: Builder) -> None:
    builder.context()
    builder.confirm({"0": 0.95, "half-width": 1.05})
    builder.trial(0.9, 0.8)
    builder.trial(0.9, 0.9)
    document = front_document(builder.study)
    assert [(item["trial"], item["latency_ms"]) for item in document["front"]] == [(1, 0.9)]
    assert document["controls"]["half-width"]["latency_ms"] == 1.05
    assert document["controls"]["half-width"]["latency_ratio"] == 0.525
    assert document["controls"]["dense"]["latency_ms"] == 2.0


def test_ratios_are_those_to_the_dense_network_as_it_was_last_measured(builder: Builder) -> None:
    builder.context()
    builder.confirm({"0": 0.5, "dense": 1.6})
    builder.trial(0.9, 0.8)
    builder.trial(0.95, 0.8)
    document = front_document(builder.study)
    assert document["controls"]["dense"]["latency_ratio"] == 1.0
    assert [item["latency_ratio"] for item in document["front"]] == [0.3125, 0.5]


def test_a_twin_that_was_not_measured_again_cannot_beat_the_one_that_was(builder: Builder) -> None:
    builder.context()
    builder.confirm({"0": 0.95})
    builder.trial(0.9, 0.8, channels={"a": 8})
    builder.trial(0.9, 0.8, channels={"a": 8})
    assert [(item.trial, item.latency_ms) for item in front(builder.study)] == [(0, 0.95)]


def test_single_objective_study_has_a_front_too(make_builder: Callable[..., Builder]) -> None:
    builder = make_builder(latencies=0)
    for accuracy, latency in ((0.8, 0.5), (0.9, 0.9), (0.7, 0.8)):
        builder.trial(accuracy, latency)
    assert numbers(front(builder.study)) == [0, 1]
    winner = best(builder.study)
    assert winner is not None
    assert winner.trial == 1


# Several targets


@pytest.fixture
def two(builder: Builder) -> list[StudiedTarget]:
    """A study's targets, both of them objectives."""
    return [builder.target("cpu"), builder.target("board", ("<= 3 ms", 3.0), references={"dense": 4.0})]


def test_a_member_of_the_front_may_be_ahead_on_one_target_only(
    make_builder: Callable[..., Builder], two: list[StudiedTarget]
) -> None:
    builder = make_builder(latencies=2)
    builder.context(targets=two)
    builder.trial(0.9, 0.8, further={"board": 2.0})
    builder.trial(0.9, 0.9, further={"board": 1.0})
    builder.trial(0.9, 0.9, further={"board": 2.0})
    assert numbers(front(builder.study)) == [0, 1]
    document = front_document(builder.study)
    assert document["front"][1]["latencies"]["board"] == {
        "latency_ms": 1.0, "latency_ratio": 0.25, "latency_uncertainty": None,
        "latency_low_ms": None, "latency_spread_ms": 0.01, "predicted": False,
    }  # fmt: skip
    # Boxes of (0.9, 1 - 0.4, 1 - 0.5) and (0.9, 1 - 0.45, 1 - 0.25), of which the first two thirds overlap.
    assert document["hypervolume"] == pytest.approx(0.9 * (0.6 * 0.5 + 0.55 * 0.75 - 0.55 * 0.5))


def test_a_target_that_is_only_a_limit_does_not_dominate(builder: Builder, two: list[StudiedTarget]) -> None:
    builder.context(targets=[two[0], replace(two[1], is_objective=False)])
    builder.trial(0.9, 0.8, further={"board": 2.0})
    builder.trial(0.9, 0.9, further={"board": 1.0})
    assert numbers(front(builder.study)) == [0]


def test_the_main_target_is_the_first_that_is_an_objective(builder: Builder, two: list[StudiedTarget]) -> None:
    builder.context(targets=[replace(two[0], is_objective=False), two[1]])
    builder.trial(0.9, 0.8, further={"board": 2.0})
    builder.trial(0.8, 0.9, further={"board": 1.0})
    assert [(item.trial, item.latency_ms) for item in front(builder.study)] == [(1, 1.0), (0, 2.0)]


# Beside latency

MB = 10**6


def figures(**objectives: bool) -> list[StudiedFigure]:
    """Of a dense network of 8 MB and 4 GFLOPs; `bytes` are limited to 4 MB."""
    limits = {"bytes": ("<= 4 MB", 4.0 * MB), "gflops": (None, None)}
    dense = {"bytes": 8.0 * MB, "gflops": 4.0}
    return [
        StudiedFigure(name, is_objective, *limits[name], {"dense": dense[name]})
        for name, is_objective in objectives.items()
    ]


def test_what_is_minimised_beside_latency_decides_on_dominance(builder: Builder) -> None:
    builder.context(figures=figures(bytes=True))
    builder.trial(0.9, 0.8, network={"bytes": 3 * MB})
    builder.trial(0.9, 1.0, network={"bytes": 2 * MB})
    builder.trial(0.9, 1.0, network={"bytes": 3 * MB})
    assert numbers(front(builder.study)) == [0, 1]
    # Boxes of (0.9, 1 - 0.8 / 2, 1 - 3 / 8) and (0.9, 1 - 1 / 2, 1 - 2 / 8), which overlap in (0.5, 5 / 8).
    expected = 0.9 * (0.6 * 5 / 8 + 0.5 * 6 / 8 - 0.5 * 5 / 8)
    document = front_document(builder.study)
    assert document["hypervolume"] == pytest.approx(expected)
    assert Findings.of(builder.study).dense_point == [2.0, 8.0 * MB]
    assert progress(builder.study)[-1].hypervolume == pytest.approx(expected)
    assert document["figures"] == [
        {
            "name": "bytes", "is_objective": True, "references": {"dense": 8e6},
            "budget": {"text": "<= 4 MB", "limit": 4e6},
        }
    ]  # fmt: skip


def test_memory_decides_as_other_figures_do(builder: Builder) -> None:
    def took(memory_mb: float | None) -> dict[str, Any]:
        return {"latencies": {"cpu": NormalizedLatency(0.8, 0.4, memory_mb=memory_mb)}}

    memory = StudiedFigure("memory_mb", True, "<= 50 MB", 50.0, {"dense": 80.0})
    builder.context(targets=[builder.target(is_objective=False)], figures=[memory])
    for map50_95, memory_mb in ((0.8, 20.0), (0.9, 40.0), (0.85, 40.0), (0.95, None)):
        builder.trial(map50_95, 0.8, network=took(memory_mb))
    over = took(60.0) | {"violations": {"cpu": -0.2, "memory_mb": 0.2}}
    builder.trial(0.97, 0.8, outcome="OVER_BUDGET", network=over)
    found = Findings.of(builder.study)
    assert numbers(found.front) == [0, 1], "one that did not tell its memory has no place"
    assert found.excess(found.networks["4"]) == {"memory_mb": pytest.approx(0.2)}
    document = front_document(found)
    assert [network["memory_mb"] for network in document["front"]] == [20.0, 40.0]
    # Boxes of (0.8, 1 - 20 / 80) and (0.9, 1 - 40 / 80), which overlap in (0.8, 1 / 2).
    assert document["hypervolume"] == pytest.approx(0.8 * 0.75 + 0.9 * 0.5 - 0.8 * 0.5)
    head, *lines = markdown(found).splitlines()
    assert "| latency | memory | GFLOPs |" in head
    assert "| 20.0 MB |" in lines[-2]
    assert trial_table(found)["memory_mb"].tolist()[:3] == [20.0, 40.0, 40.0]
    assert table_frame(found)["memory_mb"].tolist()[-2:] == [20.0, 40.0]
    assert "| 20.0 MB |" in trial_note(found, found.trials[0])


def test_latency_does_not_decide_where_others_alone_are_minimised(builder: Builder) -> None:
    builder.context(targets=[builder.target(is_objective=False)], figures=figures(bytes=False, gflops=True))
    builder.trial(0.9, 0.8, network={"gflops": 2.0})
    builder.trial(0.9, 0.9, network={"gflops": 1.0})
    assert numbers(front(builder.study)) == [1]
    assert front_document(builder.study)["hypervolume"] == pytest.approx(0.9 * 0.75)


def test_a_limit_beside_latency_is_told_and_stands_in_the_excess(builder: Builder) -> None:
    builder.context(figures=figures(bytes=False))
    builder.trial(0.9, 0.8, network={"bytes": 3 * MB, "violations": {"cpu": -0.2, "bytes": -0.25}})
    over = {"bytes": 5 * MB, "violations": {"cpu": -0.2, "bytes": 0.25}}
    builder.trial(0.95, 0.8, outcome="OVER_BUDGET", network=over)
    found = Findings.of(builder.study)
    assert numbers(found.front) == [0]
    assert found.excess(found.networks["0"]) == {}
    assert found.excess(found.networks["1"]) == {"bytes": 0.25}
    assert budget_text(found) == "budget <= half-width (1.00 ms), bytes <= 4 MB"


@pytest.mark.parametrize("late", ["cpu", "board"])
def test_a_member_keeps_the_budgets_of_all_targets(
    make_builder: Callable[..., Builder], late: str, two: list[StudiedTarget]
) -> None:
    builder = make_builder(latencies=2)
    again = {"cpu": 0.9, "board": 2.9}
    again[late] += 0.2
    builder.context(targets=two, confirmed={"0": builder.latencies(again)})
    builder.trial(0.9, 0.8, further={"board": 2.0})
    assert front(builder.study) == []
    near = nearest(builder.study)
    assert near is not None
    assert near.trial == 0


def test_nearest_is_the_smallest_miss_and_is_told_only_without_a_front(filled: Builder) -> None:
    near = nearest(filled.study)
    assert near is not None
    assert near.trial == 4
    assert front_document(filled.study)["nearest"] is None


def test_document_of_a_study_that_no_trial_satisfied(builder: Builder) -> None:
    builder.context()
    builder.trial(0.3, 1.3, outcome="OVER_BUDGET", violation=0.3)
    builder.trial(0.1, 1.1, outcome="OVER_BUDGET", violation=0.1)
    document = front_document(builder.study)
    assert document["front"] == []
    assert document["nearest"]["trial"] == 1
    assert document["hypervolume"] == 0.0
    assert document["trials"]["over_budget"] == 2


def test_document_of_a_full_study_is_strict_json(filled: Builder) -> None:
    document = front_document(filled.study)
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again == document
    assert document["study"] == "barcodes"
    assert [item["trial"] for item in document["front"]] == [1, 0]
    assert list(document["controls"]) == ["dense", "half-width"]
    assert list(document["front"][0]) == [*FIELDS, "on_edge"]
    assert document["targets"][0]["budget"] == {"text": "<= half-width", "limit_ms": 1.0}
    expected = {
        "complete": 3,
        "over_budget": 2,
        "stopped_early": 0,
        "failed": 1,
        "interrupted": 0,
        "running": 1,
        "rounds": 0,
    }
    assert document["trials"] == expected
    # Two boxes under the front, in units of the dense network's 2 ms.
    assert document["hypervolume"] == pytest.approx(0.905 * (1 - 0.4) + 0.873 * (0.4 - 0.35))


def test_document_of_an_empty_study(builder: Builder) -> None:
    document = front_document(builder.study)
    assert document["front"] == []
    assert document["controls"] == {}
    assert document["hypervolume"] is None
    assert document["nearest"] is None


def test_a_damaged_network_is_missing_whole(builder: Builder) -> None:
    builder.trial(0.9, 0.8, network={"params": "many"})
    builder.trial(builder.accuracy(float("inf")), 0.5)
    builder.trial(0.8, 0.5, network={"latencies": {}})
    builder.trial(0.7, 0.6, recipe=None)
    members = front(builder.study)
    assert [(network.name, network.recipe) for network in members] == [("3", None)]
    json.dumps(front_document(builder.study), allow_nan=False)


@pytest.mark.parametrize("outcome", ["WORKER_DIED", "INTERRUPTED"])
def test_a_trial_that_is_tried_again_is_no_failure(builder: Builder, outcome: str) -> None:
    builder.trial(None, None, outcome=outcome, state=TrialState.FAIL)
    counts = front_document(builder.study)["trials"]
    assert counts["interrupted"] == 1
    assert counts["failed"] == 0


grid = st.lists(st.tuples(st.integers(0, 10), st.integers(1, 14)), max_size=6)


@settings(max_examples=100, deadline=None)
@given(found=grid)
def test_hypervolume_counts_the_dominated_cells(found: list[tuple[int, int]]) -> None:
    points = [(accuracy / 10, 3 * latency / 10) for accuracy, latency in found]
    cells = sum(
        any(accuracy > row and latency <= column for accuracy, latency in found)
        for row in range(10)
        for column in range(10)
    )
    assert hypervolume(points, [3.0]) == pytest.approx(cells / 100)


@settings(max_examples=100, deadline=None)
@given(found=grid, accuracy=st.floats(0, 1), latency=st.floats(0.001, 3))
def test_a_further_point_never_lowers_the_hypervolume(
    found: list[tuple[int, int]], accuracy: float, latency: float
) -> None:
    points = [(a / 10, t / 10) for a, t in found]
    before = hypervolume(points, [1.0])
    after = hypervolume([*points, (accuracy, latency)], [1.0])
    assert before - 1e-12 <= after <= 1


def test_hypervolume_refuses_a_reference_of_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        hypervolume([(0.5, 0.5)], [0.0])


def test_reading_a_front_imports_nothing_heavy() -> None:
    code = (
        "import sys, optuna, prunetune.results as results;"
        "study = optuna.create_study(directions=['maximize', 'minimize']);"
        "results.front_document(study); results.markdown(study);"
        "print([name for name in ('torch', 'ultralytics', 'ray', 'onnxruntime', 'pandas', 'plotly', 'rich')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_predicted_latency_never_enters_the_front(builder: Builder) -> None:
    predicted = NormalizedLatency(0.1, 0.05, predicted=True)
    builder.trial(0.9, 0.8)
    builder.trial(0.99, predicted)
    builder.trial(0.7, predicted, outcome="OVER_BUDGET", violation=0.3)
    assert numbers(front(builder.study)) == [0]


def test_latencies_are_multiples_of_the_dense_network_as_it_is_shown(builder: Builder) -> None:
    """Nothing was confirmed where no trial met the budget; the control was measured after the reference."""
    builder.context(baselines={"dense": builder.baseline(0.9, 1.9)})
    builder.trial(0.3, 1.3, outcome="OVER_BUDGET", violation=0.3)
    found = Findings.of(builder.study)
    ratios = [
        network.latency and network.latency.ratio_to_dense for network in map(found.network, ("dense", "0")) if network
    ]
    assert ratios == [1, pytest.approx(1.3 / 1.9)]


def latency(ms: float, low_ms: float | None = None, uncertainty: float | None = None) -> NormalizedLatency:
    return NormalizedLatency(ms, low_ms=low_ms, uncertainty=uncertainty)


@pytest.mark.parametrize(
    ("again", "stays", "on_edge"),
    [
        (latency(0.99, 0.98, 0.01), True, False),
        (latency(1.02, 0.995, 0.02), True, True),
        (latency(1.001, 1.0, 0.001), True, True),
        (latency(1.02, 1.001, 0.02), False, False),
        (latency(1.02, None, 0.01), False, False),
        (latency(1.001), False, False),
        (latency(1.001, None, 0.1), False, False),
        (latency(1.2, 0.3, 0.8), False, False),  # so noisy that it says nothing
        (latency(1.05, 0.3, 0.8), True, True),
    ],
)
def test_only_a_surely_slower_measurement_puts_a_member_over_the_budget(
    builder: Builder, again: NormalizedLatency, stays: bool, on_edge: bool
) -> None:
    builder.context()
    builder.confirm({"0": again})
    builder.trial(0.9, 0.99)
    found = Findings.of(builder.study)
    (item,) = found.front if stays else found.fallen
    assert (numbers(found.front), numbers(found.fallen)) == (([0], []) if stays else ([], [0]))
    assert found.edges(item) == (["cpu"] if on_edge else [])
    assert (found.nearest is None) == stays
    assert [told["on_edge"] for told in front_document(builder.study)["front"]] == (
        [found.edges(item)] if stays else []
    )
    words = "on the edge of the budget" if on_edge else ""
    assert edge_text(found, item) == words
    shown = summary(found)
    for text in (shown.verdict, "\n".join(shown.cautions).lower(), standing(found, item), markdown(found)):
        assert ("on the edge of the" in text) == on_edge
    side = "on the edge of" if on_edge else "within" if stays else "over"
    assert f"- {side} the budget, " in trial_note(found, found.trials[0])
    (record,) = trial_table(found).to_dict("records")
    assert record["on_edge"] == on_edge


@pytest.mark.parametrize(("slow", "edges"), [("cpu", ["cpu"]), ("board", ["board"]), ("both", ["cpu", "board"])])
def test_a_member_may_be_on_the_edge_on_some_targets(
    make_builder: Callable[..., Builder], two: list[StudiedTarget], slow: str, edges: list[str]
) -> None:
    builder = make_builder(latencies=2)
    limits = {"cpu": 1.0, "board": 3.0}
    again = {
        name: latency(limit * (1.01 if slow in (name, "both") else 0.9), limit * 0.89) for name, limit in limits.items()
    }
    builder.context(targets=two, confirmed={"0": again})
    builder.trial(0.9, 0.8, further={"board": 2.0})
    found = Findings.of(builder.study)
    (item,) = found.front
    assert found.edges(item) == edges
    assert edge_text(found, item) == f"on the edge of the budget on {', '.join(edges)}"
