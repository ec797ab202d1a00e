"""`load_study`: one object for notebooks, from a name, a folder, a description or a storage."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from prunetune.results import load_study
from prunetune.results.record import NetworkFiles
from prunetune.results.storage.place import sqlite_url
from prunetune.spaces import ConfigError, ModelError, StoreError

Builder = Any
WriteStudy = Callable[..., Builder]

ODD_NAMES = ["量产 <b>&amp;\"'|\\", "a%b#c?{d}", "=1+1", "$x_1$ ~^"]


@pytest.fixture
def runs(write_study: WriteStudy, tmp_path: Path) -> Path:
    """The folder of a study with two members on its front."""
    builder = write_study()
    builder.context()
    builder.trial(0.905, 0.8)
    builder.trial(0.873, 0.7)
    builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, reason="loss is NaN")
    return tmp_path / "runs"


def test_a_study_is_found_by_name_folder_and_description(runs: Path, tmp_path: Path) -> None:
    description = tmp_path / "study.yaml"
    description.write_text(f"name: barcodes\nruns: {runs}\n", encoding="utf-8")
    for source in ("barcodes", runs / "barcodes", str(runs / "barcodes"), description):
        study = load_study(source, runs=runs)
        assert (study.name, study.folder) == ("barcodes", runs / "barcodes")
        assert [item.trial for item in study.front()] == [1, 0]


def test_a_study_is_found_by_its_storage(runs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    (runs / "barcodes" / "study.db").rename(elsewhere)
    with pytest.raises(StoreError, match="no such study"):
        load_study("barcodes", runs)
    address = f"sqlite:///{elsewhere}"
    for source in ("barcodes", runs / "barcodes"):
        assert len(load_study(source, runs, storage=address).front()) == 2
    with pytest.raises(StoreError, match="no such file"):
        load_study("barcodes", runs, storage=f"sqlite:///{tmp_path / 'nowhere.db'}")
    assert not (tmp_path / "nowhere.db").exists()


def test_a_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    optuna.create_study(study_name="foreign", storage=sqlite_url(tmp_path / "foreign"))
    with pytest.raises(StoreError, match="not made by prunetune"):
        load_study(tmp_path / "foreign")


def test_who_reads_is_not_told_of_a_run(runs: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as caught:
        load_study("barcodes", runs, storage="postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert str(caught.value).endswith("; start it, or correct the address")
    (runs / "barcodes" / "study.db").write_text("damaged")
    with pytest.raises(StoreError, match=r"restore it from a copy$"):
        load_study("barcodes", runs)


def test_it_tells_what_the_study_found(runs: Path) -> None:
    study = load_study("barcodes", runs)
    assert list(study.frame()["outcome"]) == ["OK", "OK", "DIVERGED"]
    assert list(study.baselines) == ["dense", "half-width"]
    # (0.873, 0.35) and (0.905, 0.4) of a unit square whose corner is (0, 1)
    assert study.hypervolume() == pytest.approx(0.905 * 0.6 + 0.873 * 0.05)
    assert study.confirmation is None
    assert repr(study) == "<study 'barcodes': 2 complete, 1 failed; 2 on the front>"


def test_it_stays_as_it_was_loaded(runs: Path) -> None:
    study = load_study("barcodes", runs)
    again = optuna.load_study(study_name="barcodes", storage=sqlite_url(runs / "barcodes"))
    again.tell(again.ask(), state=TrialState.FAIL)
    assert len(study.frame()) == 3
    assert len(load_study("barcodes", runs).frame()) == 4


def test_its_figures_are_drawn(runs: Path) -> None:
    figures = load_study("barcodes", runs).figures
    assert figures.front(1).data
    assert figures.time() is not None
    assert figures.progress() is not None
    assert figures.progress("hours") is None or figures.progress("hours").data
    assert figures.recoveries() is not None
    assert figures.channels(0) is not None
    assert figures.gammas(0) == {}
    with pytest.raises(ConfigError, match="7: is no trial"):
        figures.channels(7)
    with pytest.raises(ConfigError, match="target: gpu: is none of this study's; there are cpu"):
        figures.front(target="gpu")
    with pytest.raises(ConfigError, match="over: takes epochs or hours"):
        figures.progress("days")  # type: ignore[arg-type]


def test_parameters_are_drawn_where_they_varied(write_study: WriteStudy, tmp_path: Path) -> None:
    builder = write_study()
    builder.context()
    empty = load_study("barcodes", tmp_path / "runs").figures
    assert (empty.slices(), empty.importances(), empty.parallel()) == ({}, None, None)
    for number in range(8):
        builder.trial(0.5 + 0.05 * number, 0.9 - 0.01 * number)
    figures = load_study("barcodes", tmp_path / "runs").figures
    assert set(figures.slices()) == {"sparsity", "rounds"}
    assert figures.parallel() is not None
    assert figures.importances() is not None


def test_a_network_is_loaded(runs: Path) -> None:
    from prunetune.pruning.yolo.detector import Detector

    study = load_study("barcodes", runs)
    candidate = study.candidate(0)
    assert (candidate.network.map50_95, candidate.channels) == (0.905, {"model.0.conv": 8})
    with pytest.raises(ModelError, match="no such file"):
        candidate.load()
    candidate.checkpoint.parent.mkdir(parents=True)
    candidate.checkpoint.write_bytes(b"half a file")
    with pytest.raises(ModelError, match=r"cannot be read .*; copy it from where the study ran"):
        candidate.load()
    detector = Detector.load("yolov5n.yaml", names=("disc",))
    detector.save(candidate.checkpoint, {}, {"task": "detect", "imgsz": 64})
    assert study.candidate("0").load().channels == detector.channels


def test_a_control_is_a_candidate_too(write_study: WriteStudy, tmp_path: Path) -> None:
    builder = write_study()
    dense = builder.baseline(0.94, channels={"a": 16})
    builder.context(
        baselines={"dense": replace(dense, network=replace(dense.network, files=NetworkFiles("candidates/dense.pt")))}
    )
    candidate = load_study("barcodes", tmp_path / "runs").candidate("dense")
    assert candidate.checkpoint == tmp_path / "runs" / "barcodes" / "candidates" / "dense.pt"
    assert candidate.channels == {"a": 16}
    assert candidate.onnx is None


def test_an_earlier_round_is_a_candidate_too(write_study: WriteStudy, tmp_path: Path) -> None:
    builder = write_study()
    builder.context()
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 0.9, files="trials/0/round-1")])
    study = load_study("barcodes", tmp_path / "runs")
    first = study.candidate("0.1")
    assert (first.name, first.network.map50_95) == ("0.1", 0.9)
    assert first.checkpoint == study.folder / "trials" / "0" / "round-1" / "pruned.pt"
    assert study.candidate(0).network.map50_95 == 0.6
    assert study.figures.front("0.1").data


def test_what_is_no_candidate_names_those_that_are(runs: Path) -> None:
    study = load_study("barcodes", runs)
    for wrong, there in (
        (7, "there are 0 to 2"),
        (-1, "dense, half-width"),
        ("tense", "dense"),
        (2, "of 0 to 1"),
        ("0.2", "of 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=f"^{wrong}: .*{there}"):
            study.candidate(wrong)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_unusual_name_is_found(write_study: WriteStudy, tmp_path: Path, name: str) -> None:
    write_study(name).context()
    assert load_study(name, tmp_path / "runs").name == name
    assert load_study(tmp_path / "runs" / name).name == name


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from prunetune.results import load_study;"
        "print([name for name in ('torch', 'ultralytics', 'pandas', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
