"""A study is killed at ten different moments; the same command each time brings it to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from prunetune.results import front

TRIALS = 3
STUDY: dict[str, Any] = {
    "name": "killed",
    "model": "yolov5n.yaml",
    "imgsz": 64,
    "batch": 8,
    "dense_epochs": 2,
    "space": {
        "sparsity": {"low": 0.1, "high": 0.8, "log": True, "grid": 3, "unit": "pull"},
        "sparse_epochs": {"choices": [1, 2]},
        "threshold": {"low": 0.7, "high": 1.0},
        "rounds": 1,
        "recovery_epochs": 2,
    },
    "targets": [{"kind": "onnxruntime", "runs": 5, "warmup": 1}],
    "budget": {"latency": "<= 2 x dense"},
    "controls": ["dense", "half-width"],
    "trials": TRIALS,
}


def exists(pattern: str, count: int = 1) -> Callable[[Path], bool]:
    """A moment: so many files below `runs` match."""
    return lambda runs: len(list(runs.glob(pattern))) >= count


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while the references are exported": exists("killed/references/*.onnx"),
    "between two dense epochs": exists(".store/progress/original-*.pt"),
    "after the dense training": exists(".store/stages/original-*"),
    "after a sparse stage": exists(".store/stages/sparse-*"),
    "after a surgery": exists(".store/stages/pruning-*"),
    "after a measurement": exists("killed/latencies/*.json"),
    "between two epochs of recovery": exists(".store/progress/recovery-*.pt"),
    "while a trial is told": exists("killed/candidates/trial-*.pt"),
    "between two epochs of a control": exists(".store/progress/control-*.pt"),
    "when the controls are done": exists(".store/stages/control-*", 2),
}


def records(runs: Path) -> dict[int, tuple[Any, ...]]:
    """Everything that the study holds of its finished trials."""
    if not (runs / "killed" / "study.db").is_file():
        return {}
    url = f"sqlite:///{runs / 'killed' / 'study.db'}"
    if "killed" not in optuna.get_all_study_names(storage=url):
        return {}
    study = optuna.load_study(study_name="killed", storage=url)
    return {
        trial.number: (trial.state, trial.values, trial.params, trial.user_attrs, trial.datetime_complete)
        for trial in study.trials
        if trial.state.is_finished()
    }


def stages(runs: Path) -> dict[str, tuple[int, int]]:
    """Every published stage with the identity of its record: a stage that ran again would have another."""
    found = {file.parent.name: file.stat() for file in runs.glob(".store/stages/*/stage.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def kill_at(moment: Callable[[Path], bool], command: list[str], runs: Path, log: Path) -> None:
    """Starts the study and kills it when the moment has come. Looks every 5 ms: a file system tells no one."""
    with log.open("a") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        wait = threading.Event()
        while process.poll() is None and not moment(runs):
            wait.wait(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_ten_moments(shapes: Path, tmp_path: Path) -> None:
    runs, log, file = tmp_path / "runs", tmp_path / "log.txt", tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "data": str(shapes), "runs": str(runs)}))
    command = [sys.executable, "-m", "prunetune.search.cli", "run", str(file)]
    assert os.environ["YOLO_CONFIG_DIR"]  # of this test session, for the processes too
    known_records: dict[int, tuple[Any, ...]] = {}
    known_stages: dict[str, tuple[int, int]] = {}
    for moment in MOMENTS.values():
        kill_at(moment, command, runs, log)
        assert known_records.items() <= records(runs).items()
        assert known_stages.items() <= stages(runs).items()
        known_records, known_stages = records(runs), stages(runs)
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert known_records.items() <= records(runs).items()
    assert known_stages.items() <= stages(runs).items()
    check_end(runs)


def check_end(runs: Path) -> None:
    """As many trials as were asked for, each given-back recipe carried out once more, the front as the trials say."""
    study = optuna.load_study(study_name="killed", storage=f"sqlite:///{runs / 'killed' / 'study.db'}")
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == TRIALS
    died = [trial for trial in study.trials if trial.user_attrs.get("outcome") == "WORKER_DIED"]
    assert len(complete) + len(died) == len(study.trials)
    for trial in died:
        (retry,) = (other for other in study.trials if other.user_attrs.get("retry_of") == trial.number)
        assert retry.params == trial.params
    points = {
        trial.number: (trial.user_attrs["accuracy"]["map50_95"], measured(study, trial))
        for trial in complete
        if trial.user_attrs["outcome"] == "OK"
    }
    budget = study.user_attrs["budget"]["limit_ms"]
    kept = {
        number
        for number, (accuracy, latency) in points.items()
        if latency <= budget
        and not any(a >= accuracy and b <= latency and (a, b) != (accuracy, latency) for a, b in points.values())
    }
    members = {item.trial for item in front(study)}
    assert members <= kept
    assert {points[number] for number in members} == {points[number] for number in kept}


def measured(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> float:
    """The latency that counts: measured again at the end, for the trial or for one with the same channels."""
    confirmed = study.user_attrs["confirmed"]
    twins = [
        confirmed[str(other.number)]["latency_ms"]
        for other in study.trials
        if str(other.number) in confirmed and other.user_attrs.get("channels") == trial.user_attrs["channels"]
    ]
    own = confirmed.get(str(trial.number), {}).get("latency_ms")
    return float(own if own is not None else twins[0] if twins else trial.user_attrs["latency_ms"])
