"""What the tests of the search share: a description of a tiny study, and the command line in this process."""

from __future__ import annotations

import copy
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError

optuna.logging.set_verbosity(optuna.logging.WARNING)

TINY: dict[str, Any] = {
    "name": "tiny",
    "model": "yolov5n.yaml",
    "data": "data.yaml",
    "imgsz": 64,
    "batch": 8,
    "dense_epochs": 1,
    "space": {
        "sparsity": {"low": 0.1, "high": 1.0, "log": True, "grid": 3, "unit": "pull"},
        "sparse_epochs": {"choices": [1, 2]},
        "threshold": {"low": 0.3, "high": 1.1},
        "rounds": {"low": 1, "high": 2},
        "recovery_epochs": 1,
    },
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "warmup": 1}],
    "budget": {"latency": "<= dense"},
    "controls": [],
    "trials": 3,
}
"""A study of some seconds."""

PUBLISHED = """\
name: barcodes
model: yolov5n.yaml        # a yaml is trained first; a .pt is taken as it is
data: data/barcodes/data.yaml
imgsz: 160
batch: 32
device: cpu
dense_epochs: 30
seed: 0
space:
  preset: yolov5-slimming
  sparsity: {low: 0.1, high: 1.0, log: true, grid: 5, unit: pull}   # or unit: lambda
  sparse_epochs: {choices: [2, 4]}
  threshold: {low: 0.005, high: 0.5, log: true}
  rounds: {low: 1, high: 2}
  recovery_epochs: 6
targets: [{kind: onnxruntime, name: cpu, threads: 1, alignment: 8}]
objectives: [map50_95, latency]
budget: {latency: "<= half-width"}
sampler: tpe
controls: [dense, half-width]
trials: 12
"""

SHORT = """\
name: short
model: yolov5n.yaml
data: data.yaml
space: {preset: yolov5-slimming}
"""


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """`TINY`, to be changed at will."""
    return copy.deepcopy(TINY)


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., StudySpec]:
    """Makes a description below `tmp_path`; keyword arguments replace keys."""

    def make(**changes: Any) -> StudySpec:
        return StudySpec.parse({**copy.deepcopy(TINY), "runs": str(tmp_path / "runs"), **changes})

    return make


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study.yaml; keyword arguments replace keys, None removes one."""

    def write(file: str = "study.yaml", **changes: Any) -> Path:
        values = {**copy.deepcopy(TINY), "runs": str(tmp_path / "runs"), **changes}
        path = tmp_path / file
        path.write_text(
            yaml.safe_dump({key: value for key, value in values.items() if value is not None}), encoding="utf-8"
        )
        return path

    return write


@dataclass(frozen=True)
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one message of a command that was refused."""
        assert self.code == 2, self.err or self.out
        assert "Traceback" not in self.err
        assert self.err.startswith("error: ")
        assert self.err.count("error: ") == 1
        return self.err.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def prunetune(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Answer]]:
    """Runs a command as its process would, up to the exit code, but in this process, where torch is loaded."""
    from prunetune.search.cli import main

    levels = {name: logging.getLogger(name).level for name in ("", "optuna", "alembic")}

    def call(*arguments: Any) -> Answer:
        monkeypatch.setattr(sys, "argv", ["prunetune", *(str(argument) for argument in arguments)])
        capfd.readouterr()
        try:
            main()
            code: Any = 0
        except SystemExit as exit_:
            code = exit_.code
        written = capfd.readouterr()
        return Answer(int(code or 0), written.out, written.err)

    yield call
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def prunetune_process() -> Callable[..., Answer]:
    """Runs a command in a process of its own."""

    def call(*arguments: Any) -> Answer:
        command = [sys.executable, "-m", "prunetune.search.cli", *(str(argument) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def quick_space() -> dict[str, Any]:
    """A space whose recipes train nothing."""
    return {"sparsity": 0.3, "sparse_epochs": 0, "threshold": 0.5, "recovery_epochs": 0}


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set, to be damaged."""
    shutil.copytree(shapes.parent, tmp_path / "data")
    return tmp_path / "data" / "data.yaml"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained yolov5n of two classes as a .pt."""
    from prunetune.pruning.yolo.detector import Detector

    file = tmp_path_factory.mktemp("models") / "model.pt"
    Detector.load("yolov5n.yaml", names=("square", "disc")).save(file, {}, {"task": "detect", "imgsz": 64})
    return file


# Descriptions as text


@pytest.fixture
def published() -> str:
    """A description with many keys."""
    return PUBLISHED


@pytest.fixture
def short() -> str:
    """A description with the keys that must be given."""
    return SHORT


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a description's text to a file."""

    def write(text: str, name: str = "study.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def problems() -> Callable[..., tuple[str, ...]]:
    """All that is wrong with a description's file."""

    def read(file: Path, *overrides: str) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            StudySpec.read(file, overrides)
        assert str(caught.value).startswith(caught.value.source)
        return caught.value.problems

    return read


@pytest.fixture
def problem(problems: Callable[..., tuple[str, ...]]) -> Callable[..., str]:
    """The one thing that is wrong with a description's file."""

    def read(file: Path, *overrides: str) -> str:
        (found,) = problems(file, *overrides)
        return found

    return read
