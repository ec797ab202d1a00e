"""Studies are found in their storages, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from prunetune.results import Findings, StudyRecord
from prunetune.results.storage.place import sqlite_url
from prunetune.results.storage.storage import find_findings, find_study
from prunetune.spaces import ConfigError, StoreError


def test_a_study_without_trials_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    study = optuna.create_study(study_name="empty", storage=sqlite_url(tmp_path / "empty"))
    spec = {"name": "empty"}
    StudyRecord.store(study, spec=spec)
    assert find_findings(tmp_path / "empty") == (Findings("empty", (), StudyRecord(spec=spec)), tmp_path / "empty")


@pytest.mark.parametrize("content", [b"", b"no data base at all " * 100], ids=["empty", "damaged"])
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "study.db").write_bytes(content)
    with pytest.raises(StoreError, match="odd"):
        find_findings(tmp_path / "odd")


def test_a_study_that_is_not_ours_and_an_address_that_is_none(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(study_name="other", storage=storage)
    StudyRecord.store(optuna.create_study(study_name="mine", storage=storage), spec={"name": "mine"})
    with pytest.raises(StoreError, match="other: was not made by prunetune"):
        find_findings("other", tmp_path, storage)
    with pytest.raises(StoreError, match="holds no study named third"):
        find_findings("third", tmp_path, storage)
    with pytest.raises(ConfigError, match="no address"):
        find_findings("mine", tmp_path, "postgresql hunter2")


def test_a_study_of_an_earlier_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    study = optuna.create_study(study_name="old", storage=sqlite_url(tmp_path / "old"))
    StudyRecord.store(study, spec={"name": "old"}, version="0.1.0")
    for read in (find_findings, find_study):
        with pytest.raises(StoreError, match=r"studies of 0\.1 are not read any more"):
            read(tmp_path / "old")
