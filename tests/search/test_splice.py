"""Splicing two networks of a real study: the result is a trial like others, but for its mark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from prunetune.pruning.structure.layers import layer_regions
from prunetune.pruning.yolo.detector import Detector
from prunetune.results import load_study
from prunetune.results.findings.histories import read_curves
from prunetune.results.record import StudyRecord, TrialRecord
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome, Recipe, Splice

pytestmark = pytest.mark.slow

Prunetune = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished study with its stages."""
    return Path(shutil.copytree(finished_study.parent, tmp_path_factory.mktemp("spliced") / "runs")) / "shipped"


@pytest.fixture(scope="module")
def spliced(folder: Path) -> FrozenTrial:
    """The first splice: the backbone of trial 0, the head of trial 1. The one after it dies before it is added."""
    from rich.console import Console

    from prunetune.search.commands.splice import splice_networks

    study, _ = find_study(str(folder))

    def die(self: optuna.Study, trial: FrozenTrial) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optuna.Study, "add_trial", die)
        splice_networks(study, folder, "0", "1", 2, Console(quiet=True))
    assert len(study.get_trials()) == 2
    return splice_networks(study, folder, "0", "1", 2, Console(quiet=True))


def widths(folder: Path, trial: int, part: str) -> dict[str, int]:
    model = Detector.load(folder / "candidates" / f"trial-{trial}.pt").model
    places = layer_regions(model)
    return {
        name: width
        for name, width in Detector(model, "").channels.items()
        if (places[name] == "backbone") == (part == "backbone")
    }


def test_it_is_a_trial_with_a_mark(folder: Path, spliced: FrozenTrial) -> None:
    assert (spliced.number, spliced.state, spliced.params) == (2, TrialState.COMPLETE, {})
    record = TrialRecord.from_trial(spliced)
    assert record.recipe == Splice("0", "1", 2)
    assert (record.outcome, record.rung) == (Outcome.OK, 1)
    assert [use.kind for use in record.cost.stages] == ["splicing", "recovery"]
    (network,) = record.networks
    assert network.is_candidate
    assert [network.surgery, network.stage] == [use.digest for use in record.cost.stages]
    assert spliced.values == [network.accuracy.map50_95, network.figures.latencies["cpu"].ms]
    assert {number: len(curve) for number, curve in read_curves(record, folder).items()} == {1: 2}
    assert spliced.constraints == {"latency": pytest.approx(network.figures.violation)}


def test_after_a_death_its_stages_are_read_back(spliced: FrozenTrial) -> None:
    cost = TrialRecord.from_trial(spliced).cost
    assert (cost.epochs_trained, cost.epochs_reused) == (0, 2)


def test_its_parts_have_their_donors_widths(folder: Path, spliced: FrozenTrial) -> None:
    assert widths(folder, 2, "backbone") == widths(folder, 0, "backbone") != widths(folder, 1, "backbone")
    assert widths(folder, 2, "head") == widths(folder, 1, "head") != widths(folder, 0, "head")


def test_results_show_it_with_a_remark(folder: Path, spliced: FrozenTrial, prunetune: Prunetune) -> None:
    study = load_study(folder)
    on_front = "2" in [network.name for network in study.front()]
    remark = "backbone of trial 0, head of trial 1, recover 2"
    assert (remark in prunetune("table", folder, "--format", "csv").out) == on_front
    assert (remark in (folder / "front.csv").read_text()) == on_front, "its end was written anew"
    row = study.frame().loc[2]
    assert (row["recipe_backbone_from"], row["recipe_head_from"]) == ("0", "1")
    assert remark in (folder / "report.html").read_text(encoding="utf-8")
    answer = prunetune("status", folder)
    assert "done, 2 of 2 trials (3 OK)" in answer.out


def test_the_same_again_is_found(folder: Path, spliced: FrozenTrial, prunetune: Prunetune) -> None:
    answer = prunetune("splice", folder, "--backbone-from", 0, "--head-from", 1, "--recover", 2)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("trial 2: OK")
    assert len(find_study(str(folder))[0].get_trials()) == 3


def test_it_ships(folder: Path, spliced: FrozenTrial, prunetune: Prunetune, tmp_path: Path) -> None:
    assert prunetune("export", folder, "--trial", 2, "--out", tmp_path / "two").code == 0
    answer = prunetune("verify", tmp_path / "two", "--data", folder / "data.yaml")
    assert answer.code == 0, answer.out
    told = json.loads((tmp_path / "two" / "bundle.json").read_text())
    assert "prunetune splice shipped --backbone-from 0 --head-from 1 --recover 2" in told["commands"]


def test_a_splice_of_a_splice_and_of_a_control(folder: Path, spliced: FrozenTrial, prunetune: Prunetune) -> None:
    answer = prunetune("splice", folder, "--backbone-from", "dense", "--head-from", 2, "--recover", 0)
    assert answer.code == 0, answer.err
    answer = prunetune("splice", folder, "--backbone-from", 3, "--head-from", 0, "--recover", 0)
    assert answer.code == 0, answer.err
    assert widths(folder, 3, "head") == widths(folder, 1, "head")
    assert widths(folder, 4, "head") == widths(folder, 0, "head")
    dense = Detector.load(folder / "candidates" / "dense.pt").channels
    for trial in (3, 4):
        assert widths(folder, trial, "backbone").items() <= dense.items()


def test_the_search_goes_on_beside_it(folder: Path, spliced: FrozenTrial, prunetune: Prunetune, tmp_path: Path) -> None:
    study, _ = find_study(str(folder))
    before = len(study.get_trials())
    described = tmp_path / "study.yaml"
    described.write_text(json.dumps({**StudyRecord.of(study).spec, "runs": str(folder.parent), "trials": 3}))
    answer = prunetune("run", described)
    assert answer.code == 0, answer.err
    trials = find_study(str(folder))[0].get_trials()
    assert len(trials) == before + 1, "of three trials of the search one was left"
    assert isinstance(TrialRecord.from_trial(trials[-1]).recipe, Recipe)


@pytest.mark.parametrize(
    ("backbone", "head", "words"),
    [
        ("0", "0", ["--backbone-from 0, --head-from 0", "give two"]),
        ("9", "0", ["--backbone-from 9: is no trial of this study"]),
        ("0", "quarter-width", ["--head-from quarter-width: is no trial", "no control (dense, half-width)"]),
    ],
)
def test_what_cannot_be_spliced(
    finished_study: Path, prunetune: Prunetune, backbone: str, head: str, words: list[str]
) -> None:
    message = prunetune("splice", finished_study, "--backbone-from", backbone, "--head-from", head).complaint
    for part in words:
        assert part in message


def test_stages_that_are_gone(finished_study: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(finished_study.parent, tmp_path / "runs")) / "shipped"
    for stage in (alone.parent / ".store" / "stages").glob("pruning-*"):
        shutil.rmtree(stage)
    message = prunetune("splice", alone, "--backbone-from", 0, "--head-from", 1).complaint
    assert "trial 0: cannot be spliced" in message
    assert "no longer in the store" in message
