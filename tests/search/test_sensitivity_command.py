"""`prunetune sensitivity`: a detector or a study's dense network, group by group."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning import Detector
from prunetune.pruning.accuracy import sensitivity_analysis
from prunetune.pruning.accuracy.sensitivity import Sensitivity, read_sensitivity
from prunetune.pruning.stages.store import StageStore, StoredStage

Prunetune = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "sensitivity: give MODEL and --data data.yaml, or --study NAME"),
        (["m.pt"], "sensitivity: give MODEL and --data data.yaml, or --study NAME"),
        (["m.pt", "--study", "x", "--imgsz", 64], "--study: has its own of MODEL, --imgsz; leave that out"),
        (["m.pt", "--data", "d.yaml", "--out", "table.json"], "--out: table.json: ends in none of .csv"),
        (["m.pt", "--data", "d.yaml"], "m.pt: no such file"),
    ],
)
def test_what_is_refused(
    prunetune: Prunetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[Any], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prunetune("sensitivity", *arguments).complaint.startswith(complaint)


def test_a_size_and_data_that_do_not_fit_are_refused(prunetune: Prunetune, checkpoint: Path, shapes: Path) -> None:
    assert "--imgsz: " in prunetune("sensitivity", checkpoint, "--data", shapes, "--imgsz", 80).complaint
    assert "has 80 classes" in prunetune("sensitivity", "yolov5n.yaml", "--data", shapes, "--imgsz", 64).complaint


def test_a_network_as_a_table_and_for_programs(prunetune: Prunetune, shapes: Path, tmp_path: Path) -> None:
    backbone = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]
    head = [[[1, 2], 1, "Detect", ["nc"]]]
    network = Detector.build({"nc": 2, "backbone": backbone, "head": head}, ("square", "disc"))
    network.save(tmp_path / "small.pt", {}, {"task": "detect", "imgsz": 64})
    options = ("--data", shapes, "--imgsz", 64, "--align", 16, "--importance", "l1", "--out", tmp_path / "table.csv")
    answer = prunetune("sensitivity", tmp_path / "small.pt", *options, "--json")
    assert answer.code == 0, answer.err
    found = Sensitivity.from_dict(json.loads(answer.out))
    assert (found.importance, found.alignment.default, found.imgsz) == ("l1", 16, 64)
    kept = {group.name: [removal.kept for removal in group.removals] for group in found.groups}
    assert [kept[f"model.{number}.conv"] for number in range(3)] == [[12, 8, 4], [24, 16, 16], [6, 4, 2]]
    assert (tmp_path / "table.csv").read_text() == found.as_csv()
    shown = prunetune("sensitivity", tmp_path / "small.pt", *options)
    (row,) = [line for line in shown.out.splitlines() if "model.1.conv" in line]
    assert all(words in row for words in ("backbone", "32", "(24)", "(16)"))


@pytest.mark.slow
def test_the_dense_network_of_a_study(
    finished_study: Path, prunetune: Prunetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity_analysis, "SHARES", (0.75,))
    shutil.copytree(finished_study.parent, tmp_path / "runs")
    folder = tmp_path / "runs" / finished_study.name
    answer = prunetune("sensitivity", "--study", folder, "--json")
    assert answer.code == 0, answer.err
    found = read_sensitivity(folder)
    assert found is not None
    assert Sensitivity.from_dict(json.loads(answer.out)) == found
    assert (found.model, found.imgsz, found.alignment.default) == ("dense", 64, 8)
    assert found.given == pytest.approx(_original(folder.parent).require_accuracy().map50_95, abs=1e-6)
    assert found.given > 1e-3, "a network that finds nothing proves nothing"
    lost = [found.lost(removal) for group in found.groups for removal in group.removals]
    assert len(set(lost)) > 10
    assert 'id="sensitivity"' in (folder / "report.html").read_text(encoding="utf-8")


def _original(runs: Path) -> StoredStage:
    store = StageStore(runs / ".store")
    stages = [store.find(folder.name) for folder in (runs / ".store" / "stages").iterdir()]
    (found,) = [stage for stage in stages if stage is not None and stage.kind == "original"]
    return found
