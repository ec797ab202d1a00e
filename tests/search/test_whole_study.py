"""Real studies, from the description to the exported network: nothing here is a stand-in."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands.command import Command
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note

from prunetune.results.dashboard.dashboard import ARTIFACTS
from prunetune.results.record import NetworkResult, StudyRecord, TrialRecord
from prunetune.results.tables.rows import trained_text
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome
from prunetune.targets import OnnxRuntimeTarget
from prunetune.targets.measure import hardware

pytestmark = pytest.mark.slow

Prunetune = Callable[..., Any]
Points = Callable[[Path], set[tuple[float, float]]]

FRONT_FIELDS = [
    "network", "trial", "round", "deployment", "recipe", "map50", "map50_95", "precision", "recall", "f1", "confidence",
    "latency_ms", "latency_ratio", "latencies", "gflops", "params", "bytes", "memory_mb", "channels_removed",
    "params_removed", "blocks_removed", "checkpoint", "onnx",
]  # fmt: skip

WHOLE: dict[str, Any] = {
    "name": "whole",
    "model": "yolov5n.yaml",
    "imgsz": 64,
    "batch": 4,
    "dense_epochs": 30,
    "train": {"mosaic": 0.0, "lr0": 0.004},
    "space": {
        "sparsity": 0.3,
        "sparse_epochs": 1,
        "threshold": {"choices": [0.01, 0.75, 0.8]},
        "recovery_epochs": 3,
    },
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 10, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},  # met on the busiest machine
    "sampler": "random",
    "controls": ["dense"],
    "trials": 3,
}
"""The other studies share its folder, and so its dense network and whatever else they have in common."""


class Studies:
    """A folder of studies on the tiny data set."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.runs = folder, data, folder / "runs"

    def write(self, **changes: Any) -> Path:
        """Writes a description and returns its file."""
        values = {**WHOLE, "data": str(self.data), "runs": str(self.runs), **changes}
        file = self.folder / f"{values['name']}.yaml"
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return file


@pytest.fixture(scope="module")
def studies(finished_study: Path, tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Studies:
    """The folder that all studies of this file share. Another study has left a dense network there."""
    made = Studies(tmp_path_factory.mktemp("studies"), shapes)
    (dense,) = (finished_study.parent / ".store" / "stages").glob("original-*")
    shutil.copytree(dense, made.runs / ".store" / "stages" / dense.name)
    return made


@pytest.fixture(scope="module")
def whole(studies: Studies) -> Path:
    """The folder of a finished study."""
    command = [sys.executable, "-m", "prunetune.search.cli", "run", str(studies.write())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = ("the machine is too noisy", "nothing separates at threshold")
    assert all(any(words in line for words in known) for line in done.stderr.splitlines()), done.stderr
    assert "best.onnx" in done.stdout
    return studies.runs / "whole"


def trials(folder: Path) -> list[Any]:
    return find_study(str(folder))[0].get_trials()


def records(folder: Path) -> list[TrialRecord]:
    return [TrialRecord.from_trial(trial) for trial in trials(folder)]


def study_record(folder: Path) -> StudyRecord:
    return StudyRecord.of(find_study(str(folder))[0])


def network(record: TrialRecord) -> NetworkResult:
    """What a trial came to."""
    assert record.network is not None
    return record.network


def channels(record: TrialRecord) -> str:
    return json.dumps(dict(network(record).figures.channels))


def outcomes(folder: Path) -> Counter[Outcome | None]:
    return Counter(record.outcome for record in records(folder))


# A finished study


@pytest.mark.core
def test_a_study_leaves_its_results(whole: Path) -> None:
    for name in ("study.db", "front.json", "front.md", "front.csv", "report.html", "best.pt", "best.onnx"):
        assert (whole / name).stat().st_size > 0, name
    assert "<html" in (whole / "report.html").read_text(encoding="utf-8")[:200]
    with (whole / "front.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    document = json.loads((whole / "front.json").read_text(encoding="utf-8"))
    assert len(rows) >= len(document["front"])
    assert "dense" in (whole / "front.md").read_text(encoding="utf-8")


@pytest.mark.core
def test_the_stock_dashboard_finds_notes_and_pictures(whole: Path) -> None:
    study, folder = find_study(str(whole))
    assert "| dense |" in get_note(study), "written anew when the controls are there"
    for trial in study.get_trials():
        shown = study.running_trial(trial.number)
        assert get_note(shown).startswith("**ok**")
        pictures = {item.filename: item.artifact_id for item in get_all_artifact_meta(shown)}
        assert {"channels.png", "recovery.png"} <= set(pictures)
        assert all((folder / ARTIFACTS / name).stat().st_size > 1000 for name in pictures.values())


@pytest.mark.core
def test_front_as_json(whole: Path, prunetune: Prunetune) -> None:
    answer = prunetune("front", whole, "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert {"front", "controls", "targets", "hypervolume"} <= set(document)
    (target,) = document["targets"]
    assert document["front"], "the budget is wide enough for all"
    for entry in document["front"]:
        assert list(entry) == [*FRONT_FIELDS, "on_edge"]
        assert entry["recipe"]["threshold"] in (0.01, 0.75, 0.8)
        assert 0 < entry["latency_ms"] <= target["budget"]["limit_ms"]
        assert 0 < entry["bytes"] == (whole / entry["checkpoint"]).stat().st_size
        assert (whole / entry["onnx"]).is_file()
    (control,) = document["controls"].values()
    assert list(document["controls"]) == ["dense"]
    assert list(control) == FRONT_FIELDS
    assert control["params_removed"] == 0
    assert target["budget"]["text"] == "<= 100 x dense"
    assert target["name"] == "cpu"
    assert 0 <= document["hypervolume"] < 1
    stored = json.loads((whole / "front.json").read_text(encoding="utf-8"))
    for there, here in zip(stored["front"], document["front"], strict=True):
        paths = {key: str(whole / there[key]) for key in ("checkpoint", "onnx")}
        assert {**there, **paths} == here, "the command gives whole paths, the file paths inside its folder"
    assert "trial" in prunetune("front", whole).out


@pytest.mark.core
def test_something_was_learned(whole: Path) -> None:
    assert max(network(record).accuracy.map50_95 for record in records(whole)) > 0


@pytest.mark.core
def test_the_front_is_what_the_trials_say(whole: Path, nondominated: Points) -> None:
    document = json.loads((whole / "front.json").read_text(encoding="utf-8"))
    points = {(entry["map50_95"], entry["latency_ms"]) for entry in document["front"]}
    assert points == nondominated(whole)
    assert [entry["latency_ms"] for entry in document["front"]] == sorted(latency for _, latency in points)


@pytest.mark.core
def test_every_trial_says_what_it_did(whole: Path) -> None:
    for trial, record in zip(trials(whole), records(whole), strict=True):
        found = network(record)
        assert record.outcome is Outcome.OK
        assert len(record.networks) == 1
        assert trial.values == [found.accuracy.map50_95, found.figures.latencies["cpu"].ms]
        assert trial.constraints == {"latency": pytest.approx(found.figures.violation), "unfinished": 0}
        assert record.cost.epochs_trained + record.cost.epochs_reused == 4
        # A recovery that was judged on its way is there with each of its parts.
        assert list(dict.fromkeys(stage.kind for stage in record.cost.stages)) == ["sparse", "pruning", "recovery"]
        assert (found.surgery, found.stage) == (record.cost.stages[1].digest, record.cost.stages[-1].digest)
        assert record.sparsity_lambda is not None
        assert record.sparsity_lambda > 0
        assert record.sparsity_pull == pytest.approx(0.3)
        assert all(seconds >= 0 for seconds in record.cost.seconds.values())
        (curve,) = json.loads((whole / str(record.curves)).read_text(encoding="utf-8"))
        assert (curve["round"], len(curve["map50_95"])) == (1, 3)
        assert max(curve["map50_95"]) == pytest.approx(found.accuracy.map50_95, abs=1e-4)
        assert set(found.accuracy.classes or {}) == {"square", "disc"}
    trained = sum(record.cost.epochs_trained for record in records(whole))
    plans = {channels(record) for record in records(whole)}
    assert trained == 1 + 3 * len(plans), "one sparse phase for all, one recovery for each network"


@pytest.mark.faults
@pytest.mark.core
def test_the_report_opens_in_a_browser(whole: Path, opened: Callable[[Path], Any]) -> None:
    page = opened(whole / "report.html")
    page.look_through()
    assert page.empty == []
    assert set(page.drawn) >= {
        "figure-front", "figure-channels", "figure-gammas", "figure-classes", "figure-progress-epochs",
        "figure-progress-hours", "figure-recoveries", "figure-time",
    }  # fmt: skip
    assert page.complaints() == []
    assert page.loaded == []


@pytest.mark.core
def test_members_load_in_stock_ultralytics(whole: Path) -> None:
    from ultralytics import YOLO

    document = json.loads((whole / "front.json").read_text(encoding="utf-8"))
    for file in [whole / "best.pt", *(whole / entry["checkpoint"] for entry in document["front"])]:
        loaded = YOLO(str(file))
        assert loaded.names == {0: "square", 1: "disc"}
    best = max(document["front"], key=lambda entry: entry["map50_95"])
    assert (whole / "best.pt").read_bytes() == (whole / best["checkpoint"]).read_bytes()
    assert (whole / "best.onnx").read_bytes() == (whole / best["onnx"]).read_bytes()
    assert sum(parameter.numel() for parameter in YOLO(str(whole / "best.pt")).model.parameters()) == best["params"]


@pytest.mark.core
def test_best_onnx_runs(whole: Path) -> None:
    import numpy
    import onnxruntime

    session = onnxruntime.InferenceSession(str(whole / "best.onnx"), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert image.shape == [1, 3, 64, 64]
    (output,) = session.run(None, {image.name: numpy.zeros((1, 3, 64, 64), numpy.float32)})
    assert output.shape[:2] == (1, 4 + 2)


@pytest.mark.core
def test_status_of_a_finished_study(whole: Path, prunetune: Prunetune) -> None:
    status = json.loads(prunetune("status", whole, "--json").out)
    assert (status["finished"], status["trials"], status["done"]) == (3, 3, True)
    assert status["outcomes"] == {"OK": 3}
    assert status["running"] == []
    assert status["epochs_trained"] + status["epochs_reused"] == 3 * 4
    assert status["best"]["trial"] in range(3)
    assert "3 of 3 trials" in prunetune("status", whole).out


@pytest.mark.core
def test_report_of_one_trial(whole: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    picture = tmp_path / "front.png"
    answer = prunetune("report", whole, "--trial", 1, "--out", tmp_path / "report.html", "--png", picture)
    assert answer.code == 0, answer.err
    assert (tmp_path / "report.html").is_file()
    assert answer.out.split() == [str(tmp_path / "report.html"), str(picture)]
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused = prunetune("report", whole, "--png", tmp_path / "front.jpg")
    assert refused.code == 2
    assert "--png: " in refused.complaint
    (tmp_path / "a-file").touch()
    refused = prunetune("pictures", whole, "--out", tmp_path / "a-file")
    assert refused.code == 2
    assert "is a file; give a folder" in refused.complaint


# The same command again


@pytest.mark.core
def test_the_same_command_does_nothing_new(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    before = trials(whole)
    written = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.name in ("best.pt", "front.json")}
    stages = sorted((studies.runs / ".store" / "stages").iterdir())
    answer = prunetune("run", studies.write())
    assert answer.code == 0, answer.err
    assert trials(whole) == before
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert sorted((studies.runs / ".store" / "stages").iterdir()) == stages


def test_results_that_were_removed_are_written_again(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    removed = [whole / name for name in ("best.pt", "best.onnx", "front.json", "report.html")]
    for file in removed:
        file.unlink()
    for file in (whole / "latencies").iterdir():
        file.write_text(file.read_text()[:20])  # cut off: they are measured again
    assert prunetune("run", studies.write()).code == 0
    assert [file for file in removed if not file.is_file()] == []


def test_a_changed_description_is_refused(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    before = trials(whole)
    answer = prunetune("run", studies.write(), "space.recovery_epochs=5")
    assert answer.code == 2
    assert re.search(r"^  !  space\.recovery_epochs\.value +3 +5$", answer.err, re.MULTILINE)
    assert trials(whole) == before


def test_more_trials_go_on(whole: Path, studies: Studies, prunetune: Prunetune, nondominated: Points) -> None:
    before = trials(whole)
    answer = prunetune("run", studies.write(), "trials=4")
    assert answer.code == 0, answer.err
    after = trials(whole)
    assert after[:3] == before
    assert len(after) == 4
    document = json.loads((whole / "front.json").read_text(encoding="utf-8"))
    assert {(entry["map50_95"], entry["latency_ms"]) for entry in document["front"]} == nondominated(whole)
    status = json.loads(prunetune("status", whole, "--json").out)
    assert (status["finished"], status["trials"], status["done"]) == (4, 4, True)


def test_another_device_is_refused_and_then_allowed(
    whole: Path, studies: Studies, prunetune: Prunetune, nondominated: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trials(whole)
    (target,) = study_record(whole).targets
    monkeypatch.setattr(hardware, "cpu_model", lambda: "a board of next year")
    command = ("run", studies.write(trials=len(before)))
    refused = prunetune(*command)
    assert refused.code == 2
    assert f"device: {target.fingerprint['device']} -> a board of next year" in refused.err
    assert "allow_new_device=true" in refused.err
    assert study_record(whole).targets == (target,)

    answer = prunetune(*command, "allow_new_device=true")
    assert answer.code == 0, answer.err
    study = study_record(whole)
    (moved,) = study.targets
    assert moved.fingerprint["device"] == "a board of next year"
    assert moved.references != target.references
    networks = {channels(TrialRecord.from_trial(trial)): trial.number for trial in reversed(before)}
    assert set(study.confirmed) == {str(number) for number in networks.values()} | {"dense"}
    assert trials(whole) == before, "what a trial was told stays as it was"
    document = json.loads((whole / "front.json").read_text(encoding="utf-8"))
    assert {(entry["map50_95"], entry["latency_ms"]) for entry in document["front"]} == nondominated(whole)
    assert prunetune(*command).code == 0, "it belongs here now"
    monkeypatch.undo()
    assert prunetune(*command).code == 2, "and no longer there"
    assert prunetune(*command, "allow_new_device=true").code == 0


# Other studies


def test_the_best_accuracy_within_a_budget(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    answer = prunetune("run", studies.write(name="single", objectives=["map50_95"], controls=[], trials=2))
    assert answer.code == 0, answer.err
    folder = studies.runs / "single"
    assert [len(trial.values) for trial in trials(folder)] == [1, 1]
    document = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    best = max(trial.values[0] for trial in trials(folder))
    assert max(entry["map50_95"] for entry in document["front"]) == best
    known = {record.recipe for record in records(whole)}
    assert all(record.cost.epochs_trained == 0 for record in records(folder) if record.recipe in known)


def test_a_recovery_that_falls_behind_is_stopped(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    """With accuracy as the only objective nothing of the verdict depends on the machine's noise."""
    rungs = {"reduction": 2, "rungs": 1, "recalibrated": True}
    space = {**WHOLE["space"], "threshold": {"choices": [0.7, 0.75, 0.8, 0.9]}, "recovery_epochs": 4}
    file = studies.write(name="rungs", objectives=["map50_95"], early_stopping=rungs, space=space, trials=6)
    answer = prunetune("run", file)
    assert answer.code == 0, answer.err
    folder = studies.runs / "rungs"
    found = outcomes(folder)
    assert set(found) == {Outcome.OK, Outcome.STOPPED_EARLY}, found
    study, _ = find_study(str(folder))
    for trial, record in zip(trials(folder), records(folder), strict=True):
        stopped = record.outcome is Outcome.STOPPED_EARLY
        assert trial.constraints["unfinished"] == stopped
        assert stopped == any(not decision.goes_on for decision in record.decisions)
        assert network(record).recovered != stopped
        assert (network(record).files.checkpoint is None) == stopped
        if stopped:
            last = record.decisions[-1]
            assert record.reason == last.reason
            assert [last.values[0]] == trial.values
            recovery = [stage.epochs for stage in record.cost.stages if stage.kind == "recovery"]
            assert recovery == ([last.epochs] if last.epochs else [])
            assert "STOPPED_EARLY (after" in answer.out
    best = {trial.number for trial in study.best_trials}
    assert best <= {number for number, record in enumerate(records(folder)) if record.outcome is Outcome.OK}


def test_a_network_measured_by_torch(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    answer = prunetune(
        "run",
        studies.write(name="torch", targets=[{"kind": "torch", "runs": 6, "tolerance": 0.9}], controls=[], trials=1),
    )
    assert answer.code == 0, answer.err
    folder = studies.runs / "torch"
    document = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    assert document["targets"][0]["kind"] == "torch"
    assert [entry["trial"] for entry in document["front"]] == [0]
    assert (folder / "best.onnx").is_file()


def test_two_targets_of_which_one_is_only_a_limit(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    quick = {"runs": 6, "tolerance": 0.9}
    targets = [{"kind": "torch", "name": "eager", **quick}, {"kind": "onnxruntime", "name": "cpu", **quick}]
    budget = {"latency@eager": "<= 100 x dense"}
    file = studies.write(
        name="two", targets=targets, objectives=["map50_95", "latency@cpu"], budget=budget, trials=2, controls=["dense"]
    )
    answer = prunetune("run", file)
    assert answer.code == 0, answer.err
    assert " ms on eager, " in answer.out
    folder = studies.runs / "two"
    for trial in trials(folder):
        found = network(TrialRecord.from_trial(trial))
        assert set(found.figures.latencies) == {"eager", "cpu"}
        assert trial.values == [found.accuracy.map50_95, found.figures.latencies["cpu"].ms]
        assert set(trial.constraints) == {"latency@eager", "unfinished"}
    document = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    assert [(told["name"], told["is_objective"]) for told in document["targets"]] == [("eager", False), ("cpu", True)]
    assert document["targets"][1]["budget"] is None
    for entry in [*document["front"], *document["controls"].values()]:
        assert entry["latency_ms"] == entry["latencies"]["cpu"]["latency_ms"]
    assert all(set(latencies) == {"eager", "cpu"} for latencies in study_record(folder).confirmed.values())
    assert "latency@eager" in (folder / "front.md").read_text(encoding="utf-8")


def test_a_network_that_is_too_slow_on_one_of_two_targets_is_not_recovered(
    whole: Path, studies: Studies, prunetune: Prunetune
) -> None:
    quick = {"runs": 6, "tolerance": 0.9}
    targets = [{"kind": "onnxruntime", "name": "cpu", **quick}, {"kind": "torch", "name": "eager", **quick}]
    budget = {"latency@cpu": "<= 100 x dense", "latency@eager": "<= 0.001 ms"}
    objectives = ["map50_95", "latency@eager", "latency@cpu"]
    file = studies.write(name="slow", targets=targets, objectives=objectives, budget=budget, trials=1, controls=[])
    answer = prunetune("run", file)
    assert answer.code == 2
    assert "no recipe met the budget <= 100 x dense" in answer.err
    assert "<= 0.001 ms on eager" in answer.err
    (trial,) = trials(studies.runs / "slow")
    record = TrialRecord.from_trial(trial)
    latencies = network(record).figures.latencies
    assert trial.values[1:] == [latencies["eager"].ms, latencies["cpu"].ms]
    assert trial.constraints["latency@cpu"] < 0 < trial.constraints["latency@eager"]
    assert record.outcome is Outcome.OVER_BUDGET
    assert " ms on eager, " in record.reason


def test_only_the_target_that_moved_is_measured_again(
    whole: Path, studies: Studies, prunetune: Prunetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"runs": 6, "tolerance": 0.9}
    targets = [{"kind": "onnxruntime", "name": "cpu", **quick}, {"kind": "torch", "name": "eager", **quick}]
    objectives = ["map50_95", "latency@eager", "latency@cpu"]
    file = studies.write(name="half-moved", targets=targets, objectives=objectives, trials=1, controls=[])
    folder = studies.runs / "half-moved"
    assert prunetune("run", file).code == 0
    before = study_record(folder)
    monkeypatch.setattr(OnnxRuntimeTarget, "fingerprint", lambda _: {"device": "a board of next year"})
    assert "cpu is not what the study was measured on" in prunetune("run", file).err
    assert prunetune("run", file, "allow_new_device=true").code == 0
    after = study_record(folder)
    assert after.targets[0] != before.targets[0]
    assert after.targets[1] == before.targets[1]
    assert after.confirmed["0"]["cpu"] != before.confirmed["0"]["cpu"]
    assert after.confirmed["0"]["eager"] == before.confirmed["0"]["eager"]


def test_a_study_in_int8_scores_and_ships_int8(
    finished_study: Path, studies: Studies, prunetune: Prunetune, tmp_path: Path
) -> None:
    """Its networks are in the store. They find something: of dead layers the calibration takes minutes."""
    import onnx
    from ultralytics import YOLO

    runs = Path(shutil.copytree(finished_study.parent, tmp_path / "runs"))
    target = {"kind": "onnxruntime", "precision": "int8", "alignment": 8, "runs": 6, "tolerance": 0.9}
    space = {**WHOLE["space"], "threshold": 0.7, "recovery_epochs": 8}
    answer = prunetune("run", studies.write(name="int8", runs=str(runs), targets=[target], space=space, trials=1))
    assert answer.code == 0, answer.err
    folder = runs / "int8"
    (member,) = json.loads((folder / "front.json").read_text(encoding="utf-8"))["front"]
    assert member["map50_95"] > 0
    assert study_record(folder).targets[0].fingerprint["precision"] == "int8"
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(folder / "best.onnx").graph.node)
    stock = YOLO(folder / "best.onnx", task="detect").val(
        data=str(folder / "data.yaml"), imgsz=WHOLE["imgsz"], plots=False, verbose=False, project=str(folder / "val")
    )
    assert stock.box.map == pytest.approx(member["map50_95"], abs=1e-3)
    bundle = folder / "export" / "trial-0"
    assert prunetune("export", folder, "--trial", 0).code == 0
    assert (bundle / "model-int8.onnx").read_bytes() == (folder / member["onnx"]).read_bytes(), "what was scored ships"
    answer = prunetune("verify", bundle, "--data", folder / "data.yaml")
    assert answer.code == 0, answer.out
    assert "model-int8.onnx: map50_95 on val" in answer.out
    assert "model.pt: map50_95 on val" in answer.out, "after training, before it was quantised"


def test_a_budget_that_nobody_meets(whole: Path, studies: Studies, prunetune: Prunetune) -> None:
    answer = prunetune("run", studies.write(name="hopeless", budget={"latency": "<= 0.001 ms"}, controls=[], trials=2))
    folder = studies.runs / "hopeless"
    assert answer.code == 2
    assert answer.err.count("error: ") == 1
    assert "budget.latency: no recipe met the budget <= 0.001 ms" in answer.err
    nearest = min(trials(folder), key=lambda trial: (trial.constraints["latency"], trial.number))
    assert f"Nearest is trial {nearest.number} with" in answer.err
    assert "report.html" in answer.err
    assert (folder / "report.html").is_file()
    assert not (folder / "best.pt").exists()
    for trial in trials(folder):
        record = TrialRecord.from_trial(trial)
        assert record.outcome is Outcome.OVER_BUDGET
        assert trial.state.name == "COMPLETE"
        assert trial.constraints["latency"] > 0
        assert [stage.kind for stage in record.cost.stages] == ["sparse", "pruning"], "no recovery is paid"
        assert network(record).files.checkpoint is None
    document = json.loads(prunetune("front", folder, "--json").out)
    assert document["front"] == []
    assert document["nearest"]["trial"] == nearest.number


@pytest.mark.parametrize(("kind", "lr0", "is_worse"), [("original", 0.05, True), ("pruning", 0.004, False)])
def test_a_run_says_where_the_checkpoint_stood_and_when_training_on_made_it_worse(
    whole: Path, studies: Studies, prunetune: Prunetune, kind: str, lr0: float, is_worse: bool
) -> None:
    """Steps that are far too long spoil a network that was trained; what a surgery has left gains by training."""
    stages = {
        file.parent: json.loads(file.read_text(encoding="utf-8"))["record"]["accuracy"]["map50_95"]
        for file in (studies.runs / ".store" / "stages").glob(f"{kind}-*/stage.json")
    }
    checkpoint = min(stages, key=lambda stage: stages[stage])
    options: dict[str, Any] = {"trust": True, "dense_epochs": 1, "controls": ["dense"], "trials": 1}
    train = {"lr0": lr0, "mosaic": 0.0}
    file = studies.write(name=f"on-{lr0}", model=str(checkpoint / "checkpoint.pt"), train=train, **options)
    answer = prunetune("run", file)
    folder = studies.runs / f"on-{lr0}"
    dense_now = study_record(folder).baselines["dense"]
    given, trained_on = dense_now.map50_95_given, dense_now.map50_95_trained_on
    assert given is not None
    assert trained_on is not None
    assert given == stages[checkpoint]
    assert (trained_on < given) == is_worse
    assert dense_now.network.accuracy.map50_95 == max(trained_on, given)
    remark = trained_text(dense_now)
    assert ("as given, since" in remark) == is_worse
    assert remark in answer.out
    assert ("points of mAP50-95 below" in answer.out) == is_worse
    for document in ("front.md", "report.html"):
        assert remark in (folder / document).read_text(encoding="utf-8")


def test_a_loss_that_becomes_nan_fails_the_trial_and_not_the_study(
    whole: Path, studies: Studies, prunetune: Prunetune
) -> None:
    """A loss weight beyond fp32 makes every loss infinite."""
    dense = next((studies.runs / ".store" / "stages").glob("original-*")) / "checkpoint.pt"
    file = studies.write(
        name="diverging",
        model=str(dense),
        trust=True,
        train={"box": 1e39},
        controls=["half-width"],
        trials=2,
        dense_epochs=1,
    )
    answer = prunetune("run", file)
    folder = studies.runs / "diverging"
    assert outcomes(folder) == {Outcome.DIVERGED: 2}
    for trial in trials(folder):
        assert trial.state.name == "FAIL"
        assert trial.values is None
        assert "box_loss" in TrialRecord.from_trial(trial).reason
    assert answer.code == 2, "no trial gave a network"
    assert answer.err.count("error: ") == 1
    assert "trial 1 [2/2] DIVERGED" in answer.out
    assert "control half-width: DIVERGED" in answer.out
    assert json.loads((folder / "front.json").read_text(encoding="utf-8"))["front"] == []


def test_a_dense_training_that_diverges_is_told(studies: Studies, prunetune: Prunetune) -> None:
    answer = prunetune("run", studies.write(name="lost", train={"box": 1e39}, dense_epochs=1))
    assert answer.code == 2
    assert answer.err.startswith("error: dense network: DIVERGED: box_loss")
    assert "name=lost-2" in answer.err


# Several processes


def test_a_stopped_study_goes_on_in_two_processes(
    whole: Path, studies: Studies, prunetune: Prunetune, start: Callable[..., Command], nondominated: Points
) -> None:
    space = {**WHOLE["space"], "threshold": {"low": 0.5, "high": 0.9}, "recovery_epochs": 1}
    file = studies.write(name="shared", space=space, controls=[], trials=3, sampler="tpe")
    folder = studies.runs / "shared"

    command = start("run", file, hold=r"^ *trial 0$")
    command.await_hold()
    status = json.loads(prunetune("status", folder, "--json").out)
    assert [(trial["trial"], trial["alive"]) for trial in status["running"]] == [(0, True)]
    assert status["running"][0]["worker"]["pid"] == command.pid
    assert (status["finished"], status["done"]) == (0, False)
    assert "running, 0 of 3 trials" in prunetune("status", folder).out
    command.interrupt()
    command.resume()
    assert command.wait() == 0, command.said
    assert "the same command goes on from here" in command.said
    assert "Traceback" not in command.said
    assert [trial.state.name for trial in trials(folder)] == ["FAIL"]
    assert records(folder)[0].outcome is Outcome.INTERRUPTED

    both = [start("run", file), start("run", file)]
    assert [command.wait() for command in both] == [0, 0], "\n".join(command.said for command in both)
    counted = [
        trial for trial, record in zip(trials(folder), records(folder), strict=True) if record.outcome is Outcome.OK
    ]
    assert set(outcomes(folder)) == {Outcome.INTERRUPTED, Outcome.OK}
    assert len(counted) == 3
    assert {trial.state.name for trial in counted} == {"COMPLETE"}
    assert len({json.dumps(trial.params, sort_keys=True) for trial in counted}) == 3, "none twice"
    assert sum(TrialRecord.from_trial(trial).retry_of == 0 for trial in counted) == 1
    assert (folder / "best.onnx").is_file()
    document = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    assert {(entry["map50_95"], entry["latency_ms"]) for entry in document["front"]} == nondominated(folder)
