"""What follows a real study: `prunetune confirm`, on images that no decision saw, and `prunetune pictures`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.results import StudyRecord, front, load_study
from prunetune.search.commands.confirm import _interval, _ratio
from prunetune.search.study.open_study import find_study, open_study
from prunetune.targets import Latency, NormalizedLatency

Prunetune = Callable[..., Any]


@pytest.fixture
def study(finished_study: Path, tmp_path: Path) -> Path:
    """A copy of a finished study in another place, from where its description's data is not to be seen."""
    folder = Path(shutil.copytree(finished_study, tmp_path / "moved" / finished_study.name))
    found, _ = find_study(str(folder))
    StudyRecord.store(found, spec={**StudyRecord.of(found).spec, "data": "data/data.yaml", "runs": "runs"})
    return folder


@pytest.mark.slow
def test_the_front_is_confirmed(study: Path, prunetune: Prunetune) -> None:
    answer = prunetune("confirm", study, "--resamples", 200, "--json")
    assert answer.code == 0, answer.err
    found = load_study(study)
    sure = found.confirmation
    assert sure is not None
    assert json.loads(answer.out) == sure.as_dict()
    assert (sure.split, sure.images, sure.resamples, sure.seed) == ("test", 8, 200, 0)
    members = [network.name for network in found.front()]
    assert list(sure.networks) == ["dense", "half-width", *members]
    for name, network in sure.networks.items():
        tested = found.findings.test_accuracy(name)
        assert tested is not None
        assert network.map50_95 is not None
        assert network.map50_95.value == pytest.approx(tested.map50_95, abs=1e-6)
        assert 0 <= network.map50_95.low <= network.map50_95.high <= 1
        latency = network.latencies["cpu"]
        assert latency.value == found.findings.study.confirmed[name]["cpu"].ms
        assert latency.low <= latency.value <= latency.high
        others = {"dense", "half-width", *members[members.index(name) + 1 :][:1]} if name in members else set()
        assert set(network.against) == (others or {"dense", "half-width"} - {name})
    dense, half = sure.networks["dense"], sure.networks["half-width"]
    assert dense.map50_95 is not None
    assert dense.map50_95.value > 1e-3, "a network that finds nothing proves nothing"
    there, back = dense.against["half-width"], half.against["dense"]
    assert there.map50_95 is not None
    assert back.map50_95 is not None
    assert there.map50_95.value == pytest.approx(-back.map50_95.value)
    assert there.map50_95.low == pytest.approx(-back.map50_95.high)
    # The ends are single rounds, whose ratio turns over exactly; the median of an even number of rounds is between two.
    assert there.latencies["cpu"].low == pytest.approx(1 / back.latencies["cpu"].high)
    assert there.latencies["cpu"].high == pytest.approx(1 / back.latencies["cpu"].low)
    told = (study / "front.md").read_text(encoding="utf-8")
    assert f"({dense.map50_95.low:.3f} to {dense.map50_95.high:.3f})" in told
    assert "sure" in told
    assert all(f"trial-{member}.onnx" in {file.name for file in (study / "candidates").iterdir()} for member in members)


@pytest.mark.slow
def test_a_second_confirmation_measures_again_and_evaluates_nothing(study: Path, prunetune: Prunetune) -> None:
    first = json.loads(prunetune("confirm", study, "--resamples", 100, "--json").out)
    kept = {file: file.stat().st_mtime_ns for file in (study / "confirmation").iterdir()}
    answer = prunetune("confirm", study, "--resamples", 100)
    assert {file: file.stat().st_mtime_ns for file in (study / "confirmation").iterdir()} == kept
    assert "* larger than its uncertainty (95 % intervals; 8 test images drawn 100 times" in answer.out
    second = load_study(study).confirmation
    assert second is not None
    for name in ("dense", "half-width"):
        assert second.networks[name].as_dict()["map50_95"] == first["networks"][name]["map50_95"]


@pytest.mark.slow
def test_who_comes_up_when_the_front_is_measured_is_measured_too(study: Path, prunetune: Prunetune) -> None:
    found, _ = find_study(str(study))
    accurate = max(front(found), key=lambda network: network.map50_95)
    # So fast, it seems, that no other trial is on the front.
    StudyRecord.store(found, confirmed={accurate.name: {"cpu": NormalizedLatency(1e-6)}})
    assert [network.name for network in front(found)] == [accurate.name]
    assert prunetune("confirm", study, "--resamples", 100).code == 0
    again = load_study(study)
    assert again.confirmation is not None
    members = {network.name for network in again.front()}
    assert members == set(again.confirmation.networks) - {"dense", "half-width"}
    assert members <= set(again.findings.study.confirmed)
    assert all(network.latency_ms > 1e-3 for network in again.front())


@pytest.mark.slow
def test_without_a_test_split_the_validation_images_are_taken_and_named(
    write_study: Callable[..., Path],
    data: Path,
    quick_space: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prunetune: Prunetune,
) -> None:
    data.write_text(data.read_text(encoding="utf-8").replace("test: images/test\n", ""))
    monkeypatch.chdir(tmp_path)
    places = {"data": "data/data.yaml", "runs": "runs"}
    file = write_study(**places, space=quick_space, budget={"latency": "<= 100 x dense"}, trials=1)
    assert prunetune("run", file).code == 0
    assert prunetune("confirm", file, "--resamples", 100).code == 0
    study = load_study(file)
    assert study.confirmation is not None
    assert study.confirmation.split == "val"
    assert "test_map50_95" not in study.table()


@pytest.mark.slow
def test_pictures_show_what_all_networks_find(study: Path, shapes: Path, tmp_path: Path, prunetune: Prunetune) -> None:
    from PIL import Image

    out = tmp_path / "pictures"
    name = load_study(study).front()[0].name
    arguments = ("--trial", name, "--out", out, "--images", 3, "--confidence", 0.001)
    answer = prunetune("pictures", study, *arguments)
    assert answer.code == 0, answer.err
    files = [Path(line) for line in answer.out.splitlines()]
    assert {file.name for file in files} == {file.name for file in out.iterdir()}
    assert [file.name for file in files[:3]] == ["sample-01-001.jpg", "sample-02-004.jpg", "sample-03-006.jpg"]
    assert [file.name[:12] for file in files[3:]] == ["different-01", "different-02", "different-03"]
    with Image.open(files[0]) as picture:
        assert (picture.format, picture.width // 420) == ("JPEG", 4)  # labels, two controls, the network
    before = {file: file.read_bytes() for file in files}
    assert prunetune("pictures", study, *arguments).code == 0
    assert {file: file.read_bytes() for file in files} == before


@pytest.mark.slow
def test_data_that_have_changed_are_told(study: Path, tmp_path: Path, prunetune: Prunetune) -> None:
    folder = Path(shutil.copytree(study, tmp_path / study.name))
    name = load_study(study).front()[0].name
    arguments = ("--trial", name, "--out", tmp_path / "pictures", "--images", 1)
    assert "note:" not in prunetune("pictures", folder, *arguments).err
    StudyRecord.store(find_study(str(folder))[0], data_fingerprint="of other images")
    assert "note: these images or labels are others" in prunetune("pictures", folder, *arguments).err
    assert "has changed since the study began" in prunetune("export", folder, "--trial", name, "--int8").complaint
    assert "has changed since the study began" in prunetune("confirm", folder).complaint


@pytest.mark.slow
def test_detections_are_those_of_stock_ultralytics(study: Path, shapes: Path) -> None:
    from ultralytics import YOLO

    from prunetune.pruning.accuracy.detections import detect

    checkpoint = study / "candidates" / "dense.pt"
    files = sorted((shapes.parent / "images" / "test").iterdir(), reverse=True)
    found = detect(checkpoint, files, 64, 0.001, "cpu")
    assert sum(map(len, found)) > 0
    for file, boxes in zip(files, found, strict=True):
        (theirs,) = YOLO(checkpoint).predict(file, imgsz=64, conf=0.001, device="cpu", verbose=False)
        assert [box.kind for box in boxes] == theirs.boxes.cls.tolist()
        assert [list(box.corners) for box in boxes] == theirs.boxes.xyxy.tolist()


def test_labels_are_read_in_pixels(shapes: Path) -> None:
    from prunetune.pruning.accuracy.detections import labelled
    from prunetune.pruning.training.loaders import DataLoaders
    from prunetune.pruning.training.values import TrainingSetup

    found = labelled(DataLoaders(TrainingSetup(str(shapes), "", imgsz=32, batch=1, cache="")), "test")
    assert [file.name for file, _ in found] == [f"{index:03d}.png" for index in range(8)]
    for file, boxes in found:
        lines = (shapes.parent / "labels" / "test" / f"{file.stem}.txt").read_text().splitlines()
        for line, box in zip(lines, boxes, strict=True):
            kind, x, y, width, height = map(float, line.split())
            assert box.kind == kind
            left, top, right, bottom = (corner / 64 for corner in box.corners)
            assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((x, y), abs=1e-5)
            assert (right - left, bottom - top) == pytest.approx((width, height), abs=1e-5)


def test_pictures_of_what_has_no_network_are_refused(
    write_study: Callable[..., Path], shapes: Path, tmp_path: Path, prunetune: Prunetune
) -> None:
    from prunetune.search.study.study_spec import StudySpec

    file = write_study(data=str(shapes))
    open_study(StudySpec.read(file))
    assert "--trial: the front is empty" in prunetune("pictures", file, "--out", tmp_path).complaint
    assert "3: is no trial" in prunetune("pictures", file, "--out", tmp_path, "--trial", 3).complaint


def test_a_study_without_networks_has_nothing_to_confirm(
    write_study: Callable[..., Path], shapes: Path, prunetune: Prunetune
) -> None:
    from prunetune.search.study.study_spec import StudySpec

    file = write_study(data=str(shapes))
    study = open_study(StudySpec.read(file))
    assert "nothing to confirm" in prunetune("confirm", file).complaint
    assert StudyRecord.of(study).confirmation is None


def latency(median: float, rounds: tuple[float, ...], spread: float = 0.1) -> Latency:
    return Latency(median, 0.0, len(rounds), median, 0.0, median - spread, median + spread, 0, rounds)


def test_ratios_are_taken_within_the_rounds() -> None:
    own = latency(1.0, tuple(float(value) for value in range(1, 21)))
    rival = latency(0.5, tuple(value / 2 for value in own.samples_ms))
    interval = _ratio([{"own": own, "rival": rival}], "own", "rival")
    assert (interval.low, interval.value, interval.high) == (2.0, 2.0, 2.0)
    assert interval.excludes(1.0)


@pytest.mark.parametrize("rounds", [(), (1.0,) * 9])
def test_ratios_of_what_had_no_rounds_together_are_less_certain(rounds: tuple[float, ...]) -> None:
    own, rival = latency(1.0, rounds), latency(0.5, rounds)
    runs = [{"own": own}, {"rival": rival}] if rounds else [{"own": own, "rival": rival}]
    interval = _ratio(runs, "own", "rival")
    assert interval.value == 2.0
    assert interval.high - 2.0 == pytest.approx(2.0 * (0.1**2 + 0.2**2) ** 0.5)


def test_what_is_not_known_has_no_interval() -> None:
    assert _interval(0.1, float("nan"), 0.2) is None
