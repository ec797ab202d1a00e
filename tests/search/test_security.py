"""What must not be told, and what must not be run: passwords of storages, and code in foreign checkpoints."""

from __future__ import annotations

import json
import pickle
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
import torch

from prunetune.pruning.yolo.detector import Detector
from prunetune.results.record import StudyRecord
from prunetune.results.storage.address import public_address
from prunetune.search.engine.study_setup import check_study
from prunetune.search.engine.taking import next_trial
from prunetune.search.study.open_study import open_study, stored_spec
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError, PrunetuneError

MakeSpec = Callable[..., StudySpec]
WriteStudy = Callable[..., Path]
Prunetune = Callable[..., Any]

SECRET = "hunter2-secret"


@pytest.fixture
def address(postgres: Callable[[], str]) -> str:
    """The address of an empty data base, with a password."""
    url = sqlalchemy.make_url(postgres())
    return url.set(password=SECRET).render_as_string(hide_password=False)


def test_a_password_reaches_neither_the_data_base_nor_the_folder(
    make_spec: MakeSpec, address: str, tmp_path: Path
) -> None:
    assert SECRET in address
    spec = make_spec(storage=address)
    study = open_study(spec)
    claim = next_trial(study, spec)
    assert claim is not None
    engine = sqlalchemy.create_engine(address)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = [str(row) for table in tables.sorted_tables for row in connection.execute(sqlalchemy.select(table))]
    assert any("sparsity" in row for row in rows)
    assert not any(SECRET in row for row in rows)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in files)
    assert SECRET not in repr(spec)


def test_the_dashboard_tells_no_password(write_study: WriteStudy, address: str, start: Callable[..., Any]) -> None:
    pytest.importorskip("optuna_dashboard")
    file = write_study(storage=address)
    spec = StudySpec.read(file, [])
    study = open_study(spec)
    assert next_trial(study, spec) is not None
    served = start("dashboard", file, "--port", 0)
    served.until(lambda: "/dashboard/" in served.said)
    page = served.said.split()[-1].replace("/dashboard/", "/api/studies/1")
    with urllib.request.urlopen(page) as answer:
        told = answer.read().decode()
    assert '"Running"' in told
    assert SECRET not in told
    assert SECRET not in served.said
    process = psutil.Process(served.pid)
    assert not any(SECRET in part for one in (process, *process.children()) for part in one.cmdline())


def test_a_password_that_an_older_version_stored_is_removed(make_spec: MakeSpec, address: str) -> None:
    spec = make_spec(storage=address)
    study = open_study(spec)
    StudyRecord.store(study, spec={**StudyRecord.of(study).spec, "storage": address})
    again = open_study(spec)
    assert SECRET not in json.dumps(again.user_attrs)
    assert stored_spec(again).trials == spec.trials


@pytest.mark.parametrize(
    "storage",
    [
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/studies",  # nobody listens there
        f"postgresql+psycopg://127.0.0.1:1/studies?user=me&password={SECRET}",
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:port/studies",
        f"postgresql+psycopg//me:{SECRET}@127.0.0.1/studies",
        f"mysterydb://me:{SECRET}@host/studies",
        f"me:{SECRET}",
    ],
)
@pytest.mark.parametrize("command", ["run", "status", "front"])
def test_errors_tell_no_password(
    prunetune: Prunetune, write_study: WriteStudy, tmp_path: Path, storage: str, command: str
) -> None:
    answer = prunetune(command, write_study(storage=storage))
    assert answer.code == 2
    assert "storage" in answer.err
    assert SECRET not in answer.err + answer.out
    assert "study.db" not in answer.err, "it is not in the study's folder"


@pytest.mark.parametrize(
    "override", [f"storage=[{SECRET}", f"storage={{a: {SECRET}}}", f"storage='{SECRET}", f"storage=a: b: {SECRET}"]
)
def test_overrides_that_are_no_address_are_not_repeated(
    prunetune: Prunetune, write_study: WriteStudy, override: str
) -> None:
    answer = prunetune("run", write_study(), override)
    assert answer.code == 2
    assert "storage" in answer.err
    assert SECRET not in answer.err + answer.out


def test_what_may_be_told_of_an_address() -> None:
    told = public_address(f"postgresql+psycopg://me:{SECRET}@db.example:5432/studies?password={SECRET}")
    assert told == "postgresql+psycopg://db.example:5432/studies"
    assert public_address(SECRET) == "another storage"


# Checkpoints


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there when foreign code has run."""
    return tmp_path / "code-has-run"


@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_no_code_of_a_checkpoint_runs_before_it_is_trusted(
    make_spec: MakeSpec, shapes: Path, tmp_path: Path, mark: Path, save: str
) -> None:
    file = tmp_path / "foreign.pt"
    if save == "pickle":
        file.write_bytes(pickle.dumps({"model": Bomb(mark)}))
    else:
        torch.save({"model": Bomb(mark)}, file, _use_new_zipfile_serialization=save == "zip")
    with pytest.raises(ConfigError, match=re.escape(f"model: {file}: ")) as caught:
        check_study(make_spec(model=str(file), data=str(shapes)))
    assert "give trust: true" in str(caught.value)
    assert not mark.exists()
    with pytest.raises(PrunetuneError, match="cannot be read as an ultralytics checkpoint"):
        check_study(make_spec(model=str(file), data=str(shapes), trust=True))


def test_the_error_says_what_a_checkpoint_would_run(tmp_path: Path, mark: Path) -> None:
    Detector.load("yolov5n.yaml").save(tmp_path / "mine.pt", {}, {"task": "detect", "imgsz": 64})
    told = Detector.distrusted(tmp_path / "mine.pt")
    assert told is not None
    assert told.startswith("ultralytics' checkpoints are pickles: to load one runs what it names, here torch.nn.")
    torch.save({"model": Bomb(mark), "size": torch.nn.SiLU()}, tmp_path / "foreign.pt")
    told = Detector.distrusted(tmp_path / "foreign.pt")
    assert told is not None
    assert "pathlib" in told, "what is no part of a network comes first"
    torch.save({"weights": torch.zeros(3)}, tmp_path / "plain.pt")
    assert Detector.distrusted(tmp_path / "plain.pt") is None


def test_a_trusted_checkpoint_is_loaded(make_spec: MakeSpec, shapes: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    Detector.load("yolov5n.yaml", names=("square", "disc")).save(file, {}, {"task": "detect", "imgsz": 64})
    spec = make_spec(model=str(file), data=str(shapes), trust=True)
    assert check_study(spec).model_sha256
    assert "trust" not in spec.frozen_part(), "it may change when the study is resumed"
