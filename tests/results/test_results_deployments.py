"""Networks at several deployments, and the sceptic's curve: what can be had without pruning."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prunetune.results import (
    Findings,
    csv_text,
    front_document,
    front_figure,
    hypervolume,
    load_study,
    markdown,
    rich_table,
    table_frame,
    trial_table,
)
from prunetune.results.dashboard.notes import study_note, trial_note
from prunetune.results.figures.cost_figures import progress_figure, time_figure
from prunetune.results.figures.front_image import write_front_image
from prunetune.results.figures.front_points import FrontPoints, with_room
from prunetune.results.figures.networks import Networks
from prunetune.results.figures.recoveries import recoveries
from prunetune.results.figures.trial_images import trial_images
from prunetune.results.findings.choice import find_network, no_network
from prunetune.results.findings.costs import Costs, progress
from prunetune.results.record import StudiedFigure
from prunetune.results.report.report import write_report
from prunetune.results.tables.headline import against_baselines, summary
from prunetune.results.tables.rows import caption
from prunetune.results.tables.standing import memberships, standing
from prunetune.spaces import ConfigError, Deployment
from prunetune.targets import NormalizedLatency

Builder = Any
"""`conftest.StudyBuilder`."""


def at(builder: Builder, imgsz: Any, map50_95: float, ms: float, precision: str = "fp32", **changes: Any) -> Any:
    """A network at a deployment."""
    return builder.network(map50_95, ms, deployment=Deployment(imgsz, precision), **changes)


def baseline(builder: Builder, imgsz: int, map50_95: float, ms: float, **changes: Any) -> Any:
    """A baseline at a deployment."""
    changes = {"channels": {}, "files": "controls"} | changes
    return builder.baseline(map50_95, ms, deployment=Deployment(imgsz), **changes)


def fill(builder: Builder) -> Builder:
    """Two trials, recovered at 128 and at 160 px, each at all smaller sizes; the second one has an earlier round."""
    builder.context(
        sizes=[160, 128, 96],
        baselines={
            "dense": baseline(builder, 160, 0.707, 2.0, epochs=34),
            "dense@128": baseline(builder, 128, 0.655, 1.36),
            "dense@96": baseline(builder, 96, 0.501, 1.0),
            "half-width": baseline(builder, 160, 0.327, 1.0),
            "half-width@96": baseline(builder, 96, 0.2, 0.55),
            "dense-96": baseline(builder, 96, 0.562, 1.0, epochs=48),
        },
        exports={"1@96": "candidates/1@96.onnx", "0": "candidates/0.onnx"},
    )
    small = at(builder, 96, 0.45, 0.7, channels={"a": 8}, files="trials/0")
    builder.trial(0.617, 0.96, channels={"a": 8}, network={"deployment": Deployment(128)}, deployed=[small])
    earlier = [at(builder, 160, 0.5, 0.99), at(builder, 96, 0.4, 0.58, files="trials/1/round-1")]
    last = [
        at(builder, imgsz, map50_95, ms, round=2, files="trials/1")
        for imgsz, map50_95, ms in ((128, 0.493, 0.62), (96, 0.327, 0.44))
    ]
    recipe = replace(Findings.of(builder.study).records[0].recipe, rounds=2)
    builder.trial(0.492, 0.88, rounds=earlier, network={"round": 2}, deployed=last, recipe=recipe)
    return builder


@pytest.fixture
def deployed(builder: Builder) -> Builder:
    return fill(builder)


@pytest.fixture
def found(deployed: Builder) -> Findings:
    return Findings.of(deployed.study)


# Names


def test_every_deployment_is_a_network(found: Findings) -> None:
    assert list(found.networks) == ["0", "0@96", "1.1", "1.1@96", "1", "1@128", "1@96"]
    assert [network.title for network in found.front] == [
        "trial 1 at 96 px", "trial 1, round 1 at 96 px", "trial 1 at 128 px", "trial 0",
    ]  # fmt: skip
    last = found.last_network(1)
    assert last is not None
    assert (last.name, last.map50_95) == ("1", 0.492)
    assert (found.key(1), found.key(0)) == ("1", "0")
    assert found.counts["rounds"] == 1


@pytest.mark.parametrize(
    ("name", "own", "title"),
    [
        ("0", "0", "trial 0"),
        ("0@96", "0", "trial 0 at 96 px"),
        ("1.1@96", "1.1", "trial 1, round 1 at 96 px"),
        ("dense@96", "dense", "dense at 96 px"),
        ("dense-96", "dense-96", "dense-96"),
    ],
)
def test_a_further_deployment_knows_its_own(found: Findings, name: str, own: str, title: str) -> None:
    network = found.network(name)
    assert network is not None
    assert (network.name, network.own_name, network.title) == (name, own, title)
    assert network.is_deployed_further == (name != own)


def test_precision_rectangles_and_odd_baselines_have_titles(builder: Builder) -> None:
    mine = "me@home.yaml"
    wide = Deployment((384, 640), "int8")
    builder.context(
        baselines={
            "dense": baseline(builder, 640, 0.7, 2.0),
            "dense@384x640-int8": builder.baseline(0.6, 1.0, deployment=wide),
            mine: baseline(builder, 640, 0.5, 1.5),
            f"{mine}@320": baseline(builder, 320, 0.4, 0.8),
        }
    )
    titles = {name: network.title for name, network in Findings.of(builder.study).baselines.items()}
    assert titles == {
        "dense": "dense", "dense@384x640-int8": "dense at 384x640 px in int8", mine: mine,
        f"{mine}@320": f"{mine} at 320 px",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "name"),
    [("0@96", "0@96"), ("0@128", "0"), ("1@160", "1"), ("1.1@96-fp32", "1.1@96"), ("dense@160", "dense"),
     ("dense-96@96", "dense-96"), ("dense@96", "dense@96")],
)  # fmt: skip
def test_a_network_is_found_at_a_deployment(found: Findings, asked: str, name: str) -> None:
    assert find_network(found, asked).name == name


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("0@64", "0@64: no network was kept of it"),
        ("dense@64", "dense@64: no network was kept of it"),
        ("7@96", "7: is no trial of this study (there are 0 to 1)"),
        ("@", "@: is no trial"),
    ],
)
def test_no_such_deployment(found: Findings, asked: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_network(found, asked)
    assert str(caught.value).startswith(told)


def test_what_was_kept_is_told_without_every_deployment(found: Findings) -> None:
    kept = "networks were kept of dense, half-width, dense-96, 0 to 1, and at further deployments, such as dense@128"
    assert str(no_network(found, "0@64")).endswith(kept)


# Measurements


def test_twins_share_channels_and_deployment(builder: Builder) -> None:
    builder.context(confirmed={"0": builder.latencies({"cpu": 0.97}), "0@96": builder.latencies({"cpu": 0.4})})
    for _ in range(2):
        further = at(builder, 96, 0.5, 0.3, channels={"a": 8})
        builder.trial(0.9, 0.9, channels={"a": 8}, deployed=[further])
    found = Findings.of(builder.study)
    told = {name: network.latency_ms for name, network in found.networks.items()}
    assert told == {"0": 0.97, "0@96": 0.4, "1": 0.97, "1@96": 0.4}
    assert [network.name for network in found.front] == ["0@96", "0"]


def test_equal_values_at_two_deployments_are_two_members(builder: Builder) -> None:
    builder.trial(0.9, 0.9, channels={"a": 8}, deployed=[at(builder, 96, 0.9, 0.9, channels={"a": 8})])
    assert [network.name for network in Findings.of(builder.study).front] == ["0", "0@96"]


def test_a_baseline_shares_the_last_measurement_of_its_twin(builder: Builder) -> None:
    dense = {"a": 16}
    builder.context(
        confirmed={"dense-96": builder.latencies({"cpu": 1.2})},
        baselines={
            "dense@96": baseline(builder, 96, 0.5, 1.0, channels=dense),
            "dense-96": baseline(builder, 96, 0.6, 1.1, channels=dense),
        },
    )
    found = Findings.of(builder.study)
    assert [network.latency_ms for network in found.baselines.values()] == [1.2, 1.2]
    assert [network.name for network in found.baseline_front] == ["dense-96"]


def test_an_exported_file_belongs_to_its_deployment(found: Findings) -> None:
    exported = {name: network.onnx for name, network in found.networks.items() if name in ("0", "1@96")}
    assert exported == {"0": "candidates/0.onnx", "1@96": "candidates/1@96.onnx"}
    assert found.networks["1@96"].checkpoint == "trials/1/pruned.pt"


# The sceptic's curve


def test_the_curve_is_over_all_baselines_and_compares_within_the_budget(found: Findings) -> None:
    curve = ["half-width@96", "dense-96", "dense@128", "dense"]
    assert [network.name for network in found.baseline_front] == curve
    assert [network.name for network in found.rivals] == curve[:2]
    assert found.hypervolume_baselines == pytest.approx(0.562 * 0.5 + 0.2 * (0.5 - 0.275))
    rivals = {network.name: rival and rival.name for network in found.front for rival in [found.rival(network)]}
    assert rivals == {"1@96": None, "1.1@96": "half-width@96", "1@128": "half-width@96", "0": "half-width@96"}
    assert all(map(found.beats_baselines, found.front))


def test_a_limit_on_something_else_takes_a_baseline_out_of_the_comparison(builder: Builder) -> None:
    sizes = {
        "large": baseline(builder, 96, 0.6, 0.9, params=3000),
        "small": baseline(builder, 96, 0.5, 0.9, params=900),
    }
    builder.context(baselines=sizes, figures=[StudiedFigure("params", budget_text="<= 1K", limit=1000.0)])
    found = Findings.of(builder.study)
    assert [network.name for network in found.baseline_front] == ["large"]
    assert [network.name for network in found.rivals] == ["small"]


def test_the_curve_goes_by_all_judged_latencies(make_builder: Callable[..., Builder]) -> None:
    builder = make_builder(latencies=2)
    builder.context(
        targets=[builder.target("cpu", None), builder.target("board", None)],
        baselines={
            "a": builder.baseline(0.5, {"cpu": 1.0, "board": 3.0}),
            "b": builder.baseline(0.5, {"cpu": 1.5, "board": 2.0}),
            "c": builder.baseline(0.4, {"cpu": 1.5, "board": 3.0}),
            "unknown": builder.baseline(0.9, {"cpu": 0.1}),
        },
    )
    builder.trial(0.5, 1.2, further={"board": 2.5})
    builder.trial(0.5, 1.6, further={"board": 2.5})
    found = Findings.of(builder.study)
    assert [network.name for network in found.baseline_front] == ["a", "b"]
    beaten = {name: found.beats_baselines(network) for name, network in found.networks.items()}
    assert beaten == {"0": True, "1": False}


points = st.lists(
    st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(1, 9).map(lambda n: n / 4)), min_size=1, max_size=7
)


@settings(max_examples=60, deadline=None)
@given(plain=points, pruned=points)
def test_the_curve_is_the_nondominated_set_of_the_baselines(
    make_builder: Callable[[], Builder], plain: list[tuple[float, float]], pruned: list[tuple[float, float]]
) -> None:
    builder = make_builder()
    names = [f"b{place}" if place % 2 else f"b{place}@160" for place in range(len(plain))]
    kept = {name: builder.baseline(*told) for name, told in zip(names, plain, strict=True)}
    builder.context(baselines={"dense": builder.baseline(0.0, 2.0), **kept})
    for told in pruned:
        builder.trial(*told)
    found = Findings.of(builder.study)
    curve, rivals, members = ([found.point(network) for network in some] for some in (
        found.baseline_front, found.rivals, found.front,
    ))  # fmt: skip
    everything = [(0.0, 2.0), *plain]
    assert {network.name for network in found.baseline_front} <= {"dense", *names}
    assert len(set(curve)) == len(curve)
    assert curve == sorted(curve, key=lambda point: point[1])
    for accuracy, ms in everything:
        ahead = [point for point in everything if point != (accuracy, ms) and point[0] >= accuracy and point[1] <= ms]
        assert ((accuracy, ms) in curve) == (not ahead)
    assert rivals == [point for point in curve if point[1] <= 1.0]
    without, union = found.hypervolume_baselines, hypervolume([*rivals, *members], [2.0])
    assert without is not None
    assert without <= union + 1e-12
    assert max(without, found.hypervolume or 0.0) <= union + 1e-12
    beating = [found.point(network) for network in found.front if found.beats_baselines(network)]
    in_the_box = [point for point in beating if point[0] > 0 and point[1] < 2]
    assert (union > without + 1e-12) == bool(in_the_box)


# What is said


def first_sentence(found: Findings) -> str:
    return summary(found).verdict.partition(" The most accurate network ")[0]


def test_the_first_sentence_compares_at_the_winners_latency(deployed: Builder, found: Findings) -> None:
    told = (
        "At 0.960 ms: 0.617; without pruning, the best is half-width at 96 px with 0.200, and the best within the "
        "budget is dense-96 with 0.562 at 1.00 ms."
    )
    assert first_sentence(found) == told
    assert study_note(found).startswith("**At 0.960 ms: 0.617; without pruning, ")
    deployed.confirm({"0": 1.0})
    same = "At 1.00 ms: 0.617; without pruning, the best is dense-96 with 0.562."
    assert first_sentence(Findings.of(deployed.study)) == same


def test_the_first_sentence_says_how_sure_its_latencies_are(deployed: Builder) -> None:
    deployed.confirm(
        {"0": NormalizedLatency(1.0, uncertainty=0.4), "dense-96": NormalizedLatency(0.9, uncertainty=0.02)}
    )
    assert first_sentence(Findings.of(deployed.study)).endswith("; these latencies are known to 40.0 % only.")


def test_without_a_baseline_that_is_as_fast(builder: Builder) -> None:
    builder.context()
    builder.trial(0.7, 0.5)
    told = "At 0.500 ms: 0.700; without pruning, none is that fast, and the best within the budget is half-width with "
    assert first_sentence(Findings.of(builder.study)) == f"{told}0.875 at 1.00 ms."
    builder.store(baselines={"dense": builder.baseline(0.94, 2.0)})
    assert first_sentence(Findings.of(builder.study)) == "At 0.500 ms: 0.700; without pruning, none is that fast."
    builder.store(baselines={})
    assert against_baselines(Findings.of(builder.study), Findings.of(builder.study).front[0]) == ""


def test_a_front_that_is_beaten_everywhere_says_so_first(builder: Builder) -> None:
    builder.context(
        baselines={
            "dense": baseline(builder, 160, 0.7, 2.0),
            "dense@96": baseline(builder, 96, 0.5, 1.0),
            "half-width": baseline(builder, 160, 0.3, 0.6),
        }
    )
    builder.trial(0.3, 0.6)
    builder.trial(0.29, 0.59, violation=0.1)
    builder.trial(0.45, 1.0)
    found = Findings.of(builder.study)
    assert [network.name for network in found.front] == ["0", "2"]
    assert first_sentence(found) == (
        "The front does not beat what can be had without pruning: half-width has 0.300 at 0.600 ms, where trial 0 has "
        "0.300 at 0.600 ms; dense at 96 px has 0.500 at 1.00 ms, where trial 2 has 0.450 at 1.00 ms."
    )
    builder.trial(0.46, 0.9)
    assert first_sentence(Findings.of(builder.study)).startswith("At 0.900 ms: 0.460; without pruning, the best is ha")


def test_sizes_hypervolumes_and_members_are_told(deployed: Builder, found: Findings) -> None:
    top = summary(found)
    assert "at 160 px, deployed at 160, 128, 96 px; target cpu" in top.searched
    told = [f"{found.hypervolume:.3f}", f"{found.hypervolume_baselines:.3f}"]
    assert [top.facts[name] for name in ("hypervolume", "hypervolume without pruning")] == told
    assert f"hypervolume {told[0]} ({told[1]} without pruning)" in caption(found)
    assert memberships(found, 1) == ["at 128 px on the front", "at 96 px on the front", "round 1 at 96 px on the front"]
    assert memberships(found, 0) == ["on the front"]
    stands = {name: standing(found, found.networks[name]) for name in ("1", "1@96")}
    assert stands["1"] == "It is not on the front of its study: trial 1 at 128 px is at least as accurate and as fast."
    assert stands["1@96"] == "It is on the front of its study."
    note = trial_note(found, deployed.study.trials[1])
    assert "within the budget, 12.0 % below" in note
    assert "| trial 1 at 96 px | 96 px | 0.327 |" in note
    assert note.count("Checkpoint of") == 1, "the same file at every deployment"


# Tables and JSON


def test_tables_have_a_column_for_what_differs(deployed: Builder) -> None:
    head, _, *lines = markdown(deployed.study).splitlines()
    assert head.startswith("| model | input | mAP50 | change | mmAP |")
    assert lines[2].startswith("| dense at 96 px | 96 px | 0.501 | -0.206 |")
    assert lines[2].endswith("| trained for 34 epochs |"), "the same network"
    assert lines[5].endswith("| trained for 48 epochs |")
    assert [line.split(" | ")[1] for line in lines[6:]] == ["96 px", "96 px", "128 px", "128 px"]
    text = rich_table(deployed.study).caption
    assert str(text).startswith("At 0.960 ms: 0.617; without pruning, ")
    deployed.trial(0.4, 0.3, network={"deployment": Deployment(96, "int8")})
    assert markdown(deployed.study).startswith("| model | input | precision | mAP50 |")


def test_frames_tell_the_deployment_of_each_row(deployed: Builder, tmp_path: Path) -> None:
    wide = Deployment((96, 160), "int8")
    deployed.trial(0.3, 0.3, network={"deployment": wide})
    frame = table_frame(deployed.study)
    assert list(frame["network"])[-2:] == ["1@128", "0"]
    assert list(frame["deployment_imgsz"])[5:8] == ["96", "96x160", "96"]
    assert set(frame["deployment_precision"]) == {"fp32", "int8"}
    rows = list(csv.DictReader(io.StringIO(csv_text(deployed.study))))
    assert [row["deployment_imgsz"] for row in rows] == list(frame["deployment_imgsz"])
    trials = trial_table(deployed.study)
    assert list(trials["deployment_imgsz"]) == ["128", "160", "96x160"]
    assert list(trials["deployment_precision"]) == ["fp32", "fp32", "int8"]
    assert list(trials["map50_95"]) == [0.617, 0.492, 0.3], "of what each came to"
    assert list(trials["rounds"]) == [1, 2, 1]


def test_the_document_has_the_curve_and_both_hypervolumes(deployed: Builder, found: Findings) -> None:
    document = json.loads(json.dumps(front_document(deployed.study), allow_nan=False))
    assert [item["network"] for item in document["baselines"]] == ["half-width@96", "dense-96", "dense@128", "dense"]
    assert [item["latency_ms"] for item in document["baselines"]] == [0.55, 1.0, 1.36, 2.0]
    assert [item["deployment"]["imgsz"] for item in document["baselines"]] == [96, 96, 128, 160]
    assert list(document["baselines"][0]) == list(document["front"][0])
    assert list(document["controls"]) == list(found.baselines)
    assert document["hypervolume"] == found.hypervolume
    assert document["hypervolume_baselines"] == found.hypervolume_baselines
    assert document["front"][0]["deployment"] == {"imgsz": 96, "precision": "fp32"}
    assert (document["front"][0]["network"], document["front"][0]["trial"]) == ("1@96", 1)
    assert list(document).index("hypervolume_baselines") == list(document).index("hypervolume") + 1


def test_a_study_without_dense_has_a_curve_and_no_hypervolume(builder: Builder) -> None:
    builder.context(baselines={"half-width": builder.baseline(0.5, 1.0)}, targets=[builder.target(references={})])
    document = front_document(builder.study)
    assert [item["network"] for item in document["baselines"]] == ["half-width"]
    assert (document["hypervolume"], document["hypervolume_baselines"]) == (None, None)
    empty = front_document(Findings("empty", (), replace(Findings.of(builder.study).study, baselines={})))
    assert empty["baselines"] == []


def test_a_notebook_has_the_curve(make_builder: Callable[..., Builder], tmp_path: Path) -> None:
    fill(make_builder("barcodes", folder=tmp_path / "barcodes"))
    study = load_study("barcodes", tmp_path)
    assert [network.name for network in study.baseline_front()] == ["half-width@96", "dense-96", "dense@128", "dense"]
    assert study.hypervolume_baselines() == pytest.approx(0.326)
    assert [study.candidate(name).name for name in ("1@96", "dense@96", 0)] == ["1@96", "dense@96", "0"]
    assert study.candidate("1@96").checkpoint == tmp_path / "barcodes" / "trials" / "1" / "pruned.pt"


# Pictures


def test_what_is_on_no_line_is_small(found: Findings) -> None:
    points = FrontPoints.of(found)
    drawn = {
        name: [point.network.name for point in getattr(points, name)]
        for name in ("front", "dominated", "deployed", "curve", "baselines", "deployed_baselines")
    }
    assert drawn == {
        "front": ["1@96", "1.1@96", "1@128", "0"],
        "dominated": ["1.1", "1"],
        "deployed": ["0@96"],
        "curve": ["half-width@96", "dense-96", "dense@128", "dense"],
        "baselines": ["half-width"],
        "deployed_baselines": ["dense@96"],
    }
    assert len(points.drawn) == len(found.networks) + len(found.baselines)
    traces = {trace.name: trace for trace in front_figure(found).data}
    curve = traces["without pruning"]
    assert list(curve.x) == [0.55, 1.0, 1.36, 2.0]
    assert [words.strip() for words in curve.text] == drawn["curve"]
    assert "lines" in curve.mode
    small = traces["at further deployments, dominated"]
    assert small.marker.size < traces["complete, dominated"].marker.size
    assert (small.text, small.marker.color) == (None, traces["front"].marker.color)
    assert traces["controls at further deployments"].customdata[0][1] == "dense@96"
    assert "96 px fp32" in traces["front"].customdata[0][0]


def test_only_members_with_room_are_named(builder: Builder) -> None:
    builder.context()
    for number in range(40):
        builder.trial(0.5 + number / 100, 0.2 + number / 50, channels={})
    trace = next(trace for trace in front_figure(builder.study).data if trace.name == "front")
    named = [name for name in trace.text if name]
    assert len(trace.customdata) == 40
    assert "39" in named
    assert 10 <= len(named) <= 25
    drawn = FrontPoints.of(Findings.of(builder.study)).front
    assert with_room(drawn, 0.0, 0.0) == {str(number) for number in range(40)}
    assert with_room(drawn, 9.0, 9.0) == {"39"}


def test_a_controls_name_keeps_to_its_side_of_the_budget(builder: Builder) -> None:
    builder.context(
        baselines={name: builder.baseline(0.5 + ms / 10, ms) for name, ms in
                   (("fast", 0.2), ("within", 0.99), ("over", 1.01), ("slow", 2.0))},
    )  # fmt: skip
    trace = next(trace for trace in front_figure(builder.study).data if trace.name == "without pruning")
    assert list(trace.textposition) == ["bottom right", "bottom left", "bottom right", "bottom left"]


def test_pictures_are_drawn_with_a_curve(deployed: Builder, found: Findings, tmp_path: Path) -> None:
    assert write_front_image(deployed.study, tmp_path / "front.png").stat().st_size > 10_000
    deployed.store(channels_dense={"model.0.conv": 16}, channels_half={})
    found = Findings.of(deployed.study)
    named = [name for name, _ in trial_images(found, 1, found.records[1], tmp_path)]
    assert named == ["channels.png"]


def test_a_picture_has_the_layers_that_went_with_their_blocks(builder: Builder, tmp_path: Path) -> None:
    dense = {f"model.{number}.conv": 16 for number in range(20)}
    builder.context(channels_dense=dense, channels_half=dense)
    left = dict(list(dense.items())[:12])
    for channels in (dense, left, {**left, "decoder": 16}):
        builder.trial(0.9, 0.8, channels=channels)
    found = Findings.of(builder.study)
    drawn = [dict(trial_images(found, number, found.records[number], tmp_path))["channels.png"] for number in range(3)]
    whole, short, other = (Image.open(io.BytesIO(content)).height for content in drawn)
    assert whole == short > other, "another detector has no layers in common but these"
    assert drawn[0] != drawn[1]


def test_a_recovery_counts_for_the_front_at_any_deployment(found: Findings, tmp_path: Path) -> None:
    assert [(item.network, item.kind) for item in recoveries(found, tmp_path)] == [("0", "front"), ("1", "front")]


def test_panels_of_further_deployments_point_to_their_own(deployed: Builder, tmp_path: Path) -> None:
    deployed.store(channels_dense={"a": 16}, channels_half={})
    record = {"round": 1, "epoch": 1, "histogram": {"edges": [0, 1], "counts": {"head": [3]}}}
    (tmp_path / "gammas.json").write_text(json.dumps([record]))
    further = at(deployed, 96, 0.6, 0.4, channels={"a": 12})
    deployed.trial(0.61, 0.5, channels={"a": 12}, deployed=[further], gammas="gammas.json")
    told = Networks(Findings.of(deployed.study), tmp_path, "2@96").as_dict()
    own, panel = told["networks"]["2"], told["networks"]["2@96"]
    assert (own["kept"], panel["of"]) == ([12], "2")
    assert {"kept", "removed", "curve"} & set(panel) == set()
    assert own["curve"]
    assert (own["facts"]["input"], panel["facts"]["input"]) == ("160 px fp32", "96 px fp32")
    assert panel["facts"]["ended"] == "on the front"
    assert told["networks"]["0@96"]["facts"]["ended"] == "trial 0, not trained for this deployment"
    assert told["networks"]["dense@96"]["facts"]["ended"] == "control, trained for 34 epochs"
    assert "time" not in panel["facts"]
    assert own["facts"]["time"]
    assert list(told["gammas"]) == ["2"]
    assert write_report(deployed.study, tmp_path, tmp_path / "report.html", "2@96").is_file()


def test_further_deployments_grow_the_hypervolume_and_cost_time(builder: Builder) -> None:
    builder.context()
    further = at(builder, 96, 0.4, 0.4)
    builder.trial(0.9, 0.8, deployed=[further], seconds={"train": 60.0, "deploy": 20.0, "store": 1.0})
    found = Findings.of(builder.study)
    (step,) = progress(found)
    assert step.hypervolume == pytest.approx(0.9 * 0.6 + 0.4 * 0.2)
    figure = progress_figure([step], "epochs", found.hypervolume_baselines)
    assert figure is not None
    (line,) = figure.layout.shapes
    assert line.y0 == line.y1 == pytest.approx(0.4375)
    assert Costs.of(found).trials[0].overhead == 1.0
    drawn = time_figure(Costs.of(found))
    assert drawn is not None
    bars = {trace.name: list(trace.y) for trace in drawn.data}
    assert bars["further deployments"] == [20.0]
    assert "further deployments 20 s" in trial_note(found, found.trials[0])
    assert trial_table(found)["seconds_deploy"][0] == 20.0
