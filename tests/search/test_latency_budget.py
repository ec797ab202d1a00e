"""Real studies by latency: thresholds that are found, tables that are asked first, networks that are known."""

from __future__ import annotations

import copy
import io
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from rich.console import Console

from prunetune.pruning import Detector, StageStore, stage_runner
from prunetune.results import front
from prunetune.search.objective import carry_out
from prunetune.search.runner import run_study
from prunetune.search.spec import StudySpec
from prunetune.search.study import find_study, open_study
from prunetune.search.taking import next_trial
from prunetune.search.workspace import STORE, Workspace
from prunetune.search.yardstick import Yardstick
from prunetune.spaces import Threshold
from prunetune.targets import ConvGraph, LatencyTable, OnnxRuntimeSpec, create_target, read_conv_graph
from prunetune.targets.table import FEATURES, Grid

pytestmark = pytest.mark.slow

Prunetune = Callable[..., Any]

IMGSZ = 64
CPU: dict[str, Any] = {"kind": "onnxruntime", "name": "cpu", "runs": 6, "warmup": 1, "tolerance": 0.5}
STUDY: dict[str, Any] = {
    "model": "yolov5n.yaml",
    "imgsz": IMGSZ,
    "batch": 8,
    "dense_epochs": 1,
    "space": {"sparsity": 0.3, "sparse_epochs": 1, "latency": {"low": 0.7, "high": 1.0}, "recovery_epochs": 1},
    "budget": {"latency": "<= 0.7 x dense"},
    "sampler": "random",
    "controls": [],
    "trials": 2,
}


def by_threshold(threshold: Any, **changes: Any) -> dict[str, Any]:
    """The space with a threshold instead of a latency."""
    space = {key: value for key, value in STUDY["space"].items() if key != "latency"}
    return {**space, "threshold": threshold, **changes}


class Studies:
    """Studies in one folder: they share their dense network, and whatever else they have in common."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.runs = folder, data, folder / "runs"

    def spec(self, name: str, **changes: Any) -> StudySpec:
        return StudySpec.parse(self._values(name, changes))

    def run(self, name: str, **changes: Any) -> tuple[optuna.Study, str]:
        """Runs a study; returns it, and what it said."""
        spec, out = self.spec(name, **changes), io.StringIO()
        run_study(spec, Console(file=out, width=300))
        return find_study(str(spec.folder))[0], out.getvalue()

    def try_out(self, name: str, **changes: Any) -> optuna.Study:
        """Carries out a study's trials and nothing after them: no second measurement, no export, no report."""
        spec = self.spec(name, **changes)
        study, made = open_study(spec), Workspace(spec)
        made.prepare(study)
        while (claim := next_trial(study, spec)) is not None:
            carry_out(study, claim.trial, claim.recipe, made)
        return study

    def write(self, name: str, **changes: Any) -> Path:
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(self._values(name, changes)))
        return file

    def _values(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return {**copy.deepcopy(STUDY), "name": name, "data": str(self.data), "runs": str(self.runs), **changes}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Studies:
    return Studies(tmp_path_factory.mktemp("studies"), shapes)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    """A table of this machine by a law instead of measurements: 0.3, and 1 for each ten million multiply-adds."""
    file = tmp_path_factory.mktemp("dense") / "dense.onnx"
    Detector.load("yolov5n.yaml", names=("square", "disc")).export_onnx(file, IMGSZ)
    skeleton = read_conv_graph(file)
    grids = []
    for shape in dict.fromkeys(layer.shape for layer in skeleton.layers):
        pixels = next(layer.pixels for layer in skeleton.layers if layer.shape == shape)
        cost, ends = math.prod(shape.kernel) * pixels / 1e7, (1, 2048)
        grids.append(Grid(shape, ends, ends, tuple(tuple(cost * a * b for b in ends) for a in ends)))
    return LatencyTable(
        fingerprint=create_target(OnnxRuntimeSpec.model_validate(CPU)).fingerprint(),
        graph=skeleton,
        grids=tuple(grids),
        coefficients={**dict.fromkeys(FEATURES, 0.0), "fixed": 0.3, "layers": 1.0},
        anchor_ms=1.0,
        error=0.01,
        mape=0.005,
    )


@pytest.fixture(scope="module")
def board(studies: Studies, table: LatencyTable) -> dict[str, Any]:
    """A device that is not at hand: its latencies are the same each time."""
    table.save(studies.folder / "board.json")
    return {"kind": "table", "name": "board", "file": str(studies.folder / "board.json"), "alignment": 8}


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The candidates that are measured, one by one; those of the end are not among them."""
    measured: list[str] = []
    whole = Yardstick.measure

    def measure(self: Yardstick, candidate: Any, anchor: Any) -> Any:
        measured.append(candidate.name)
        return whole(self, candidate, anchor)

    monkeypatch.setattr(Yardstick, "measure", measure)
    return measured


def share_of(trial: Any, study: optuna.Study) -> float:
    """A trial's latency as a share of the budget."""
    (target,) = study.user_attrs["targets"]
    latency: float = trial.user_attrs["latencies"][target["name"]]["latency_ms"]
    return latency / target["budget"]["limit_ms"]


# The threshold from the budget


@pytest.fixture(scope="module")
def searched(studies: Studies, board: dict[str, Any]) -> tuple[optuna.Study, str]:
    space = {**STUDY["space"], "balance": {"low": 0.7, "high": 1.4, "log": True}}
    return studies.run("searched", targets=[board], space=space)


def test_every_trial_just_meets_the_latency_that_it_asks_for(searched: tuple[optuna.Study, str]) -> None:
    study, said = searched
    for trial in study.trials:
        recipe = trial.user_attrs["recipe"]
        assert trial.user_attrs["outcome"] == "OK"
        assert 0.85 * recipe["latency"] <= share_of(trial, study) <= recipe["latency"]
        assert recipe["balance"] == trial.params["balance"] != 1
        (found,) = trial.user_attrs["threshold_found"]
        assert found["head"] == pytest.approx(recipe["balance"] * found["backbone"])
        told = f"latency {recipe['latency']:.3g} x budget, balance {recipe['balance']:.3g}, recover 1)"
        assert f"{told}, found threshold {Threshold.parse(found)}" in said
    assert sum(trial.user_attrs["epochs"]["trained"] for trial in study.trials) <= 3, "the search trains nothing"


def test_the_found_threshold_is_shown_and_does_it_again(
    searched: tuple[optuna.Study, str], studies: Studies, board: dict[str, Any]
) -> None:
    study, _ = searched
    text = (studies.runs / "searched" / "front.md").read_text(encoding="utf-8")
    first = study.trials[0]
    (found,) = first.user_attrs["threshold_found"]
    assert any(f"found threshold {Threshold.parse(item.recipe['threshold_found'][0])}" in text for item in front(study))
    again, _ = studies.run("again", targets=[board], space=by_threshold(found), trials=1)
    (trial,) = again.trials
    assert "threshold_found" not in trial.user_attrs
    assert trial.user_attrs["channels"] == first.user_attrs["channels"]
    assert trial.user_attrs["accuracy"] == first.user_attrs["accuracy"]
    assert trial.user_attrs["epochs"]["trained"] == 0


def test_a_knapsack_fills_the_latency_that_it_is_given(studies: Studies, board: dict[str, Any]) -> None:
    space = {**STUDY["space"], "latency": 0.9, "planner": "knapsack", "importance": {"choices": ["gamma", "taylor"]}}
    study, said = studies.run("knapsack", targets=[board], space={**space, "floor": 0.1}, trials=4, sampler="random")
    kept = set()
    for trial in study.trials:
        attributes = trial.user_attrs
        assert attributes["outcome"] == "OK"
        assert 0.88 <= share_of(trial, study) <= 0.9, "the table is a law: no measurement is off"
        assert attributes["recipe"]["planner"] == "knapsack"
        assert "threshold_found" not in attributes
        assert "unseparated" not in attributes, "no threshold cuts"
        assert all(
            width >= 0.1 * study.user_attrs["channels_dense"][name] for name, width in attributes["channels"].items()
        )
        kept.add((attributes["recipe"].get("importance", "gamma"), tuple(attributes["channels"].values())))
    assert len(kept) == 2, "each importance keeps its own channels, and always the same"
    assert "planner knapsack, floor 0.1" in said
    page = (studies.runs / "knapsack" / "report.html").read_text(encoding="utf-8")
    assert "planner knapsack, floor 0.1" in page


def test_a_threshold_that_separates_nothing_is_stored_and_said_once(
    studies: Studies, board: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    study, _ = studies.run("blurred", targets=[board], space=STUDY["space"], trials=2)
    for trial in study.trials:
        (told,) = trial.user_attrs["unseparated"]
        assert told.startswith("nothing separates at threshold 0.")
    said = [record.getMessage() for record in caplog.records if "nothing separates" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("trial 0: ")
    assert said[0].endswith("train sparse for longer, or with more sparsity")
    page = (studies.runs / "blurred" / "report.html").read_text(encoding="utf-8")
    assert "nothing separates at threshold" in page


def test_rounds_come_nearer_by_equal_factors(studies: Studies, board: dict[str, Any], table: LatencyTable) -> None:
    space = {**STUDY["space"], "latency": 0.9, "rounds": 2}
    study, said = studies.run("rounds", targets=[board], space=space, trials=1)
    trial, halfway = study.trials
    assert (halfway.user_attrs["round_of"], halfway.params) == (0, {})
    assert halfway.user_attrs["outcome"] == "OVER_BUDGET"
    assert [item.trial for item in front(study)] == [0]
    assert len(trial.user_attrs["threshold_found"]) == 2
    assert "found thresholds " in said
    store = StageStore(studies.runs / STORE)
    dense = table.predict(table.graph.widths).ratio
    shares = []
    for stage in trial.user_attrs["stages"]:
        if stage["kind"] == "pruning":
            found = store.find(stage["digest"])
            assert found is not None
            shares.append(table.predict(found.record["channels"]).ratio / dense / 0.7)
    first, last = shares
    assert 0.85 * 0.9 < last <= 0.9
    assert 0.85 < first / math.sqrt(0.9 / 0.7) <= 1, "halfway between 1 / 0.7, dense, and 0.9"
    assert halfway.user_attrs["recipe"]["latency"] == pytest.approx(math.sqrt(0.9 / 0.7))
    assert halfway.user_attrs["violation"] == pytest.approx(first - 1)


def test_a_share_that_no_pruning_meets_pays_for_no_recovery(studies: Studies, table: LatencyTable) -> None:
    rigid = replace(table, coefficients={**table.coefficients, "fixed": 100.0})
    rigid.save(studies.folder / "rigid.json")
    board = {"kind": "table", "name": "board", "file": str(studies.folder / "rigid.json"), "alignment": 8}
    space = {**STUDY["space"], "latency": 0.5}
    study = studies.try_out("rigid", targets=[board], space=space, budget={"latency": "<= dense"}, trials=1)
    (trial,) = study.trials
    assert trial.user_attrs["outcome"] == "OVER_BUDGET"
    assert trial.user_attrs["reason"].startswith("no pruning meets 0.5 of the budget, the strongest takes 0.9")
    assert trial.user_attrs["epochs"]["trained"] <= 1, "the sparse phase"
    assert trial.constraints["latency"] > 0.9, "twice the share"


def test_a_share_that_no_recipe_meets_is_what_the_study_ends_with(
    studies: Studies, table: LatencyTable, prunetune: Callable[..., Any]
) -> None:
    """The budget is kept: it is the floor that is in the way of the share."""
    table.save(studies.folder / "stiff.json")
    board = {"kind": "table", "name": "board", "file": str(studies.folder / "stiff.json"), "alignment": 8}
    space = {**STUDY["space"], "latency": 0.5, "floor": 0.9}
    file = studies.write(name="stiff", targets=[board], space=space, budget={"latency": "<= dense"}, trials=1)
    answer = prunetune("run", file, "controls=[]")
    assert answer.code == 2
    assert "space.latency: no recipe came to its share of the budget <= dense" in answer.err
    assert "no pruning meets 0.5 of the budget, the strongest takes 0." in answer.err
    assert "of it, with a floor of 0.9; ask for a larger share, or lower space.floor" in answer.err


def test_without_a_table_latencies_are_measured(studies: Studies, measurements: list[str]) -> None:
    study = studies.try_out("measured", targets=[CPU], trials=1)
    (trial,) = study.trials
    assert share_of(trial, study) <= trial.user_attrs["recipe"]["latency"]
    assert trial.user_attrs["outcome"] == "OK"
    assert 1 <= len(measurements) <= 12, "a guess by multiply-adds comes near; noise may leave a rest to bisect"
    assert len(list((studies.runs / "measured" / "latencies").iterdir())) == len(measurements)


def test_a_tables_choice_is_held_against_a_measurement(
    studies: Studies, table: LatencyTable, measurements: list[str]
) -> None:
    table.save(studies.folder / "cpu.json")
    cpu = {**CPU, "table": str(studies.folder / "cpu.json")}
    study = studies.try_out("corrected", targets=[cpu], trials=1)
    (trial,) = study.trials
    assert share_of(trial, study) <= trial.user_attrs["recipe"]["latency"]
    assert "predicted" not in trial.user_attrs["latencies"]["cpu"]
    assert measurements


# The gate by the table


def test_what_is_surely_too_slow_ends_by_the_table(
    studies: Studies, table: LatencyTable, measurements: list[str]
) -> None:
    table.save(studies.folder / "sure.json")
    cpu = {**CPU, "table": str(studies.folder / "sure.json")}
    options = {"targets": [cpu], "trials": 1, "budget": {"latency": "<= 0.9 x half-width"}}
    study, said = studies.run("too-slow", space=by_threshold(0.0), **options)
    (trial,) = study.trials
    assert measurements == []
    assert trial.user_attrs["outcome"] == "OVER_BUDGET"
    assert trial.user_attrs["latencies"]["cpu"]["predicted"] is True
    half = table.predict(study.user_attrs["channels_half"]).ratio
    assert trial.user_attrs["violation"] == pytest.approx(table.predict(table.graph.widths).ratio / half / 0.9 - 1)
    assert trial.user_attrs["latencies"]["cpu"]["latency_uncertainty"] == pytest.approx(2**0.5 * table.error)
    assert trial.user_attrs["reason"].startswith("nothing was removed: predicted ")
    assert " ms predicted  " in said
    assert front(study) == []
    study = studies.try_out("fast", space=by_threshold(5.0), **options)
    assert measurements == ["candidate"], "what a table lets pass is measured"
    assert "predicted" not in study.trials[0].user_attrs["latencies"]["cpu"]


def test_what_a_table_is_not_sure_of_is_measured(
    studies: Studies, table: LatencyTable, measurements: list[str]
) -> None:
    replace(table, error=0.6).save(studies.folder / "unsure.json")
    cpu = {**CPU, "table": str(studies.folder / "unsure.json")}
    options = {"targets": [cpu], "trials": 1, "budget": {"latency": "<= 0.9 x half-width"}}
    study = studies.try_out("unsure", space=by_threshold(0.0), **options)
    assert measurements == ["candidate"]
    assert "predicted" not in study.trials[0].user_attrs["latencies"]["cpu"]


def wrong(table: LatencyTable) -> dict[str, tuple[LatencyTable, list[str]]]:
    renamed = json.dumps(table.graph.as_dict()).replace('"model.0.conv"', '"model.99.conv"')
    other = ConvGraph.from_dict(json.loads(renamed))
    return {
        "device": (replace(table, fingerprint={**table.fingerprint, "device": "stone"}), ["device: stone -> "]),
        "size": (replace(table, graph=replace(table.graph, size=(96, 96))), ["96 x 96 px", "64 x 64 px"]),
        "family": (replace(table, graph=other), ["another detector", "prunetune profile"]),
    }


@pytest.mark.parametrize("kind", ["device", "size", "family"])
def test_a_table_that_does_not_fit_is_refused_before_anything_is_trained(
    studies: Studies, table: LatencyTable, prunetune: Prunetune, kind: str
) -> None:
    made, words = wrong(table)[kind]
    made.save(studies.folder / f"{kind}.json")
    file = studies.write(f"wrong-{kind}", targets=[{**CPU, "table": f"{kind}.json"}])
    answer = prunetune("run", file)
    assert answer.code == 2
    assert answer.err.startswith("error: target 'cpu': table: ")
    assert all(word in answer.err for word in (*words, f"{kind}.json")), answer.err


def test_a_table_that_is_not_there_is_named(studies: Studies, prunetune: Prunetune) -> None:
    answer = prunetune("run", studies.write("no-table", targets=[{**CPU, "table": "gone.json"}]))
    assert answer.code == 2
    assert "target 'cpu': table: gone.json: cannot be read" in answer.err


# Networks that are known


def test_an_equal_network_copies_the_result_and_nothing_runs(
    studies: Studies, measurements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"targets": [CPU], "space": by_threshold({"low": 2.0, "high": 3.0}), "budget": {"latency": "<= dense"}}
    study, _ = studies.run("equal", **options, trials=1)
    (first,) = study.trials
    assert (first.user_attrs["outcome"], len(measurements)) == ("OK", 1)
    assert "equals" not in first.user_attrs
    recovery = first.user_attrs["stages"][-1]
    assert recovery["kind"] == "recovery"
    shutil.rmtree(studies.runs / STORE / "stages" / recovery["digest"])  # what reading back could not give any more

    def run(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network is trained or evaluated")

    monkeypatch.setattr(stage_runner, "train", run)
    monkeypatch.setattr(stage_runner, "evaluate", run)
    study, said = studies.run("equal", **options, trials=3)
    assert len(measurements) == 1
    for trial in study.trials[1:]:
        told = trial.user_attrs
        assert (told["outcome"], told["equals"]) == ("OK", 0)
        assert told["epochs"] == {"trained": 0, "reused": 2}
        assert [stage["kind"] for stage in told["stages"]] == ["sparse", "pruning", "recovery"]
        for key in ("accuracy", "latencies", "channels", "params", "bytes", "rung", "violation"):
            assert told[key] == first.user_attrs[key], key
        assert trial.values == first.values
        assert told["recipe"]["threshold"] != first.user_attrs["recipe"]["threshold"]
        files = [studies.runs / "equal" / item["checkpoint"] for item in (told, first.user_attrs)]
        assert files[0] != files[1]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert f"trial {trial.number} [{trial.number + 1}/3] OK, equals trial 0  map50_95" in said
    assert [item.trial for item in front(study)] == [0]
    assert "ok, equals trial 0" in (studies.runs / "equal" / "report.html").read_text(encoding="utf-8")


def test_a_lost_checkpoint_is_made_again(studies: Studies) -> None:
    options = {"targets": [CPU], "space": by_threshold({"low": 2.0, "high": 3.0}), "budget": {"latency": "<= dense"}}
    spec = studies.spec("lost", **options)
    study, made = open_study(spec), Workspace(spec)
    made.prepare(study)
    for number in range(2):
        claim = next_trial(study, spec)
        assert claim is not None
        told = carry_out(study, claim.trial, claim.recipe, made).attributes
        assert (told["outcome"], told.get("equals")) == ("OK", 0 if number else None)
        (spec.folder / told["checkpoint"]).unlink()


def test_a_network_over_the_budget_equals_an_earlier_one(studies: Studies, measurements: list[str]) -> None:
    options = {"targets": [CPU], "space": by_threshold({"low": 2.0, "high": 3.0})}
    study, said = studies.run("over", **options, budget={"latency": "<= 0.001 x dense"})
    assert [trial.user_attrs["outcome"] for trial in study.trials] == ["OVER_BUDGET"] * 2
    assert [trial.user_attrs.get("equals") for trial in study.trials] == [None, 0]
    assert len(measurements) == 1
    assert "over the budget), equals trial 0" in said


def test_equal_channels_of_another_parent_share_the_latency_only(studies: Studies, measurements: list[str]) -> None:
    space = by_threshold(2.0, sparse_epochs={"choices": [1, 2]})
    options = {"targets": [CPU], "budget": {"latency": "<= dense"}}
    study = studies.try_out("twins", space=space, trials=4, **options)
    told = [trial.user_attrs for trial in study.trials]
    assert {item["recipe"]["sparse_epochs"] for item in told} == {1, 2}
    assert len({json.dumps(item["channels"]) for item in told}) == 1
    assert len(measurements) == 1
    first: dict[int, int] = {}
    for number, item in enumerate(told):
        epochs = item["recipe"]["sparse_epochs"]
        assert item.get("equals") == first.get(epochs)
        assert item.get("latency_from") == (0 if first and epochs not in first else None)
        first.setdefault(epochs, number)
    assert len({item["stages"][-1]["digest"] for item in told}) == 2, "two networks"
    assert {item["latencies"]["cpu"]["latency_ms"] for item in told} == {told[0]["latencies"]["cpu"]["latency_ms"]}


def test_predictions_are_quick_enough_for_a_search(studies: Studies, board: dict[str, Any]) -> None:
    made = Workspace(studies.spec("quick", targets=[board]))
    channels = made.reference_channels["dense"]
    seconds = []
    for act in (lambda: Detector.load("yolov5n.yaml"), lambda: [made.predict(channels) for _ in range(20)]):
        start = time.process_time()
        act()
        seconds.append(time.process_time() - start)
    assert seconds[1] < seconds[0], "twenty take less than building one network, whatever the processor"
