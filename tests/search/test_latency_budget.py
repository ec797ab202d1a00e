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

import pytest
import yaml
from rich.console import Console

from prunetune.pruning import Detector, StageStore
from prunetune.pruning.stages import stage_runner
from prunetune.results import Findings
from prunetune.results.record import NetworkResult, TrialRecord
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.engine import prepare
from prunetune.search.engine.study_setup import check_study
from prunetune.search.engine.taking import next_trial
from prunetune.search.latency.meter import LatencyMeter
from prunetune.search.latency.study_target import StudyTarget
from prunetune.search.runner import run_study
from prunetune.search.study.store_limit import STORE
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import run_and_tell
from prunetune.spaces import LatencyShare, Outcome, Recipe
from prunetune.targets import (
    ConvGraph,
    LatencyTable,
    NormalizedLatency,
    OnnxRuntimeSpec,
    create_target,
    read_conv_graph,
)
from prunetune.targets.latency_model.latency_table import FEATURES, Grid

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

    def run(self, name: str, **changes: Any) -> tuple[Findings, str]:
        """Runs a study; returns what it found, and what it said."""
        spec, out = self.spec(name, **changes), io.StringIO()
        return Findings.of(run_study(spec, Console(file=out, width=300))), out.getvalue()

    def try_out(self, name: str, **changes: Any) -> Findings:
        """Carries out a study's trials and nothing after them: no second measurement, no export, no report."""
        spec = self.spec(name, **changes)
        study, context = prepare(spec, Progress(None, spec.trials))
        while (asked := next_trial(study, spec)) is not None:
            run_and_tell(study, asked, context)
        return Findings.of(study)

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
    conv_graph = read_conv_graph(file)
    grids = []
    for shape in dict.fromkeys(layer.shape for layer in conv_graph.layers):
        pixels = next(layer.pixels for layer in conv_graph.layers if layer.shape == shape)
        cost, ends = math.prod(shape.kernel) * pixels / 1e7, (1, 2048)
        grids.append(Grid(shape, ends, ends, tuple(tuple(cost * a * b for b in ends) for a in ends)))
    return LatencyTable(
        fingerprint=create_target(OnnxRuntimeSpec.model_validate(CPU)).fingerprint(),
        graph=conv_graph,
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
    whole = StudyTarget.measure

    def measure(self: StudyTarget, candidate: Any, reference: Any) -> Any:
        measured.append(candidate.name)
        return whole(self, candidate, reference)

    monkeypatch.setattr(StudyTarget, "measure", measure)
    return measured


def last(record: TrialRecord) -> NetworkResult:
    """What a trial came to."""
    assert record.network is not None
    return record.network


def latency_of(record: TrialRecord) -> NormalizedLatency:
    """Its latency on the only target."""
    (latency,) = last(record).figures.latencies.values()
    return latency


def share_of(record: TrialRecord, found: Findings) -> float:
    """The same as a share of the budget."""
    (target,) = found.targets
    assert target.budget_ms is not None
    return latency_of(record).ms / target.budget_ms


def asked_of(record: TrialRecord) -> Recipe:
    """The recipe of a trial."""
    assert isinstance(record.recipe, Recipe)
    return record.recipe


def asked_share(record: TrialRecord) -> LatencyShare:
    """The share of the budget that its recipe asks for."""
    cut = asked_of(record).threshold
    assert isinstance(cut, LatencyShare)
    return cut


# The threshold from the budget


@pytest.fixture(scope="module")
def searched(studies: Studies, board: dict[str, Any]) -> tuple[Findings, str]:
    space = {**STUDY["space"], "balance": {"low": 0.7, "high": 1.4, "log": True}}
    return studies.run("searched", targets=[board], space=space)


def test_every_trial_just_meets_the_latency_that_it_asks_for(searched: tuple[Findings, str]) -> None:
    study, said = searched
    for number, record in study.records.items():
        asked = asked_share(record)
        assert record.outcome is Outcome.OK
        assert 0.85 * asked.share <= share_of(record, study) <= asked.share
        assert asked.balance == study.trials[number].params["balance"] != 1
        (found,) = record.thresholds
        assert found.head == pytest.approx(asked.balance * found.backbone)
        told = f"latency {asked.share:.3g} x budget, balance {asked.balance:.3g}, recover 1, found threshold {found}"
        assert told in said
    assert sum(record.cost.epochs_trained for record in study.records.values()) <= 3, "the search trains nothing"


def test_the_found_threshold_is_shown_and_does_it_again(
    searched: tuple[Findings, str], studies: Studies, board: dict[str, Any]
) -> None:
    study, _ = searched
    text = (studies.runs / "searched" / "front.md").read_text(encoding="utf-8")
    first = study.records[0]
    assert any(f"found threshold {network.thresholds[0]}" in text for network in study.front)
    again, _ = studies.run("again", targets=[board], space=by_threshold(first.thresholds[0].as_json()), trials=1)
    record = again.records[0]
    assert record.thresholds == ()
    assert last(record).figures.channels == last(first).figures.channels
    assert last(record).accuracy == last(first).accuracy
    assert record.cost.epochs_trained == 0


def test_a_threshold_that_separates_nothing_is_stored_and_said_once(
    studies: Studies, board: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    study, _ = studies.run("blurred", targets=[board], space=STUDY["space"], trials=2)
    for record in study.records.values():
        (told,) = record.warnings
        assert told.startswith("nothing separates at threshold 0.")
    said = [entry.getMessage() for entry in caplog.records if "nothing separates" in entry.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("trial 0: ")
    assert said[0].endswith("train sparse for longer, or with more sparsity")
    page = (studies.runs / "blurred" / "report.html").read_text(encoding="utf-8")
    assert "nothing separates at threshold" in page


def test_rounds_come_nearer_by_equal_factors(studies: Studies, board: dict[str, Any], table: LatencyTable) -> None:
    space = {**STUDY["space"], "latency": 0.9, "rounds": 2}
    study, said = studies.run("rounds", targets=[board], space=space, trials=1)
    record = study.records[0]
    halfway, whole = study.networks.values()
    assert (halfway.name, halfway.title, whole.name) == ("0.1", "trial 0, round 1", "0")
    assert not halfway.figures.feasible
    assert halfway.result.recovered
    assert study.front == [whole]
    assert len(record.thresholds) == 2
    assert "found thresholds " in said
    assert "trial 0, round 1: map50_95 " in said
    store = StageStore(studies.runs / STORE)
    dense = table.predict(table.graph.widths).ratio
    shares = []
    for use in record.cost.stages:
        if use.kind == "pruning":
            found = store.find(use.digest)
            assert found is not None
            shares.append(table.predict(found.record["channels"]).ratio / dense / 0.7)
    first, final = shares
    assert 0.85 * 0.9 < final <= 0.9
    assert 0.85 < first / math.sqrt(0.9 / 0.7) <= 1, "halfway between 1 / 0.7, dense, and 0.9"
    assert halfway.figures.violation == pytest.approx(first - 1)


def test_a_share_that_no_pruning_meets_pays_for_no_recovery(studies: Studies, table: LatencyTable) -> None:
    rigid = replace(table, coefficients={**table.coefficients, "fixed": 100.0})
    rigid.save(studies.folder / "rigid.json")
    board = {"kind": "table", "name": "board", "file": str(studies.folder / "rigid.json"), "alignment": 8}
    space = {**STUDY["space"], "latency": 0.5}
    study = studies.try_out("rigid", targets=[board], space=space, budget={"latency": "<= dense"}, trials=1)
    record = study.records[0]
    assert record.outcome is Outcome.OVER_BUDGET
    assert record.reason.startswith("no pruning meets 0.5 of the budget, the strongest takes 0.9")
    assert record.cost.epochs_trained <= 1, "the sparse phase"
    assert study.trials[0].constraints["latency"] > 0.9, "twice the share"


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
    record = study.records[0]
    assert share_of(record, study) <= asked_share(record).share
    assert record.outcome is Outcome.OK
    assert 1 <= len(measurements) <= 12, "a guess by multiply-adds comes near; noise may leave a rest to bisect"
    assert len(list((studies.runs / "measured" / "latencies").iterdir())) == len(measurements)


def test_a_tables_choice_is_held_against_a_measurement(
    studies: Studies, table: LatencyTable, measurements: list[str]
) -> None:
    table.save(studies.folder / "cpu.json")
    cpu = {**CPU, "table": str(studies.folder / "cpu.json")}
    study = studies.try_out("corrected", targets=[cpu], trials=1)
    record = study.records[0]
    assert share_of(record, study) <= asked_share(record).share
    assert not latency_of(record).predicted
    assert measurements


# The gate by the table


def test_what_is_surely_too_slow_ends_by_the_table(
    studies: Studies, table: LatencyTable, measurements: list[str]
) -> None:
    table.save(studies.folder / "sure.json")
    cpu = {**CPU, "table": str(studies.folder / "sure.json")}
    options = {"targets": [cpu], "trials": 1, "budget": {"latency": "<= 0.9 x half-width"}}
    study, said = studies.run("too-slow", space=by_threshold(0.0), **options)
    record = study.records[0]
    assert measurements == []
    assert record.outcome is Outcome.OVER_BUDGET
    assert latency_of(record).predicted
    half = table.predict(study.study.channels_half).ratio
    over = table.predict(table.graph.widths).ratio / half / 0.9 - 1
    assert last(record).figures.violation == pytest.approx(over)
    assert latency_of(record).uncertainty == pytest.approx(2**0.5 * table.error)
    assert record.reason.startswith("nothing was removed: predicted ")
    assert " ms predicted  " in said
    assert study.front == []
    study = studies.try_out("fast", space=by_threshold(5.0), **options)
    assert measurements == ["candidate"], "what a table lets pass is measured"
    assert not latency_of(study.records[0]).predicted


def test_what_a_table_is_not_sure_of_is_measured(
    studies: Studies, table: LatencyTable, measurements: list[str]
) -> None:
    replace(table, error=0.6).save(studies.folder / "unsure.json")
    cpu = {**CPU, "table": str(studies.folder / "unsure.json")}
    options = {"targets": [cpu], "trials": 1, "budget": {"latency": "<= 0.9 x half-width"}}
    study = studies.try_out("unsure", space=by_threshold(0.0), **options)
    assert measurements == ["candidate"]
    assert not latency_of(study.records[0]).predicted


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
    first = study.records[0]
    assert (first.outcome, len(measurements)) == (Outcome.OK, 1)
    assert first.duplicate_of is None
    recovery = first.cost.stages[-1]
    assert recovery.kind == "recovery"
    shutil.rmtree(studies.runs / STORE / "stages" / recovery.digest)  # what reading back could not give any more

    def run(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network is trained or evaluated")

    monkeypatch.setattr(stage_runner, "in_parts", run)
    monkeypatch.setattr(stage_runner, "evaluate", run)
    study, said = studies.run("equal", **options, trials=3)
    assert len(measurements) == 1
    for number in (1, 2):
        record = study.records[number]
        assert (record.outcome, record.duplicate_of) == (Outcome.OK, 0)
        assert (record.cost.epochs_trained, record.cost.epochs_reused) == (0, 2)
        assert [use.kind for use in record.cost.stages] == ["sparse", "pruning", "recovery"]
        mine, theirs = last(record), last(first)
        assert replace(mine, files=theirs.files) == theirs
        assert mine.figures.latencies == theirs.figures.latencies
        assert study.trials[number].values == study.trials[0].values
        assert asked_of(record).threshold != asked_of(first).threshold
        files = [studies.runs / "equal" / str(network.files.checkpoint) for network in (mine, theirs)]
        assert files[0] != files[1]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert f"trial {number} [{number + 1}/3] OK, duplicate of trial 0  map50_95" in said
    assert [network.name for network in study.front] == ["0"]
    assert "ok, duplicate of trial 0" in (studies.runs / "equal" / "report.html").read_text(encoding="utf-8")


def test_a_lost_checkpoint_is_made_again(studies: Studies) -> None:
    options = {"targets": [CPU], "space": by_threshold({"low": 2.0, "high": 3.0}), "budget": {"latency": "<= dense"}}
    spec = studies.spec("lost", **options)
    study, context = prepare(spec, Progress(None, spec.trials))
    for number in range(2):
        asked = next_trial(study, spec)
        assert asked is not None
        record = run_and_tell(study, asked, context)
        assert (record.outcome, record.duplicate_of) == (Outcome.OK, 0 if number else None)
        (spec.folder / str(last(record).files.checkpoint)).unlink()


def test_a_network_over_the_budget_equals_an_earlier_one(studies: Studies, measurements: list[str]) -> None:
    options = {"targets": [CPU], "space": by_threshold({"low": 2.0, "high": 3.0})}
    study, said = studies.run("over", **options, budget={"latency": "<= 0.001 x dense"})
    ends = [(record.outcome, record.duplicate_of) for record in study.records.values()]
    assert ends == [(Outcome.OVER_BUDGET, None), (Outcome.OVER_BUDGET, 0)]
    assert len(measurements) == 1
    assert "over the budget), duplicate of trial 0" in said


def test_what_no_device_has_to_tell_is_minimised_and_gates_right_after_surgery(studies: Studies) -> None:
    options = {
        "targets": [CPU], "space": by_threshold(2.0), "trials": 1, "objectives": ["map50_95", "gflops", "latency"],
    }  # fmt: skip
    for limit, outcome in (("<= 0.001 x dense", Outcome.OVER_BUDGET), ("<= dense", Outcome.OK)):
        name = f"params-{outcome.value.lower()}"
        found = studies.try_out(name, **options, budget={"params": limit, "bytes": "<= 90 MB"})
        record, trial, figures = found.records[0], found.trials[0], last(found.records[0]).figures
        assert record.outcome is outcome
        dense = found.study.params_dense
        assert dense is not None
        most = 0.001 * dense if outcome is Outcome.OVER_BUDGET else dense
        expected = {"params": figures.params / most - 1, "bytes": figures.bytes / 90e6 - 1}
        assert figures.violations == pytest.approx(expected, rel=1e-3)
        assert {key: trial.constraints[key] for key in expected} == figures.violations
        assert trial.values == [last(record).accuracy.map50_95, figures.gflops, latency_of(record).ms]
        assert any(use.kind == "recovery" for use in record.cost.stages) == (outcome is Outcome.OK)
        if outcome is Outcome.OVER_BUDGET:
            assert record.reason == f"{figures.params:,} params, {100 * expected['params']:.0f} % over the budget"
        assert [(item.name, item.is_objective) for item in found.study.figures] == [
            ("params", False), ("bytes", False), ("gflops", True)
        ]  # fmt: skip
        gflops = found.study.figures[-1].references
        assert gflops == {"dense": pytest.approx(Detector.load("yolov5n.yaml", names=("a", "b")).gflops(IMGSZ))}


def test_equal_channels_of_another_parent_share_the_latency_only(studies: Studies, measurements: list[str]) -> None:
    space = by_threshold(2.0, sparse_epochs={"choices": [1, 2]})
    options = {"targets": [CPU], "budget": {"latency": "<= dense"}}
    records = studies.try_out("twins", space=space, trials=4, **options).records
    assert {asked_of(record).sparse_epochs for record in records.values()} == {1, 2}
    assert len({tuple(last(record).figures.channels.items()) for record in records.values()}) == 1
    assert len(measurements) == 1
    first: dict[int, int] = {}
    for number, record in records.items():
        epochs = asked_of(record).sparse_epochs
        assert record.duplicate_of == first.get(epochs)
        assert record.latency_from == (0 if first and epochs not in first else None)
        first.setdefault(epochs, number)
    assert len({last(record).stage for record in records.values()}) == 2, "two networks"
    assert {latency_of(record) for record in records.values()} == {latency_of(records[0])}


def test_predictions_are_quick_enough_for_a_search(studies: Studies, board: dict[str, Any]) -> None:
    setup = check_study(studies.spec("quick", targets=[board]))
    meter, channels = LatencyMeter(setup.targets, setup.networks), setup.networks.channels["dense"]
    seconds = []
    for act in (lambda: Detector.load("yolov5n.yaml"), lambda: [meter.predict(channels) for _ in range(20)]):
        start = time.process_time()
        act()
        seconds.append(time.process_time() - start)
    assert seconds[1] < seconds[0], "twenty take less than building one network, whatever the processor"
