"""Reading a study by plain queries gives what Optuna gives, trial by trial."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from prunetune.results import Findings, StudyRecord, stored_study
from prunetune.results.place import sqlite_url
from prunetune.results.storage import find_study
from prunetune.results.stored_study import find_findings
from prunetune.spaces import ConfigError, StoreError

SPACE = {
    "sparsity": FloatDistribution(0.1, 1.0, log=True),
    "balance": FloatDistribution(0.5, 2.0, step=0.5),
    "rounds": IntDistribution(1, 3),
    "epochs": CategoricalDistribution([50, 100, "all", None, True]),
}
PARAMS = {"sparsity": 0.1 + 0.2, "balance": 1.5, "rounds": 2, "epochs": "all"}
ATTRIBUTES = {
    "recipe": {"a": [1, {"b": None}]}, "channels": {"model.0.conv": 8}, "name": "量产 <b>\"'", "none": None,
    "small": 1e-300,
    "nan": math.nan, "infinite": math.inf, "long": "x" * 5000,
}  # fmt: skip


def fill(storage: str) -> optuna.Study:
    """A study with trials in every state, beside another one in the same data base."""
    other = optuna.create_study(study_name="other", storage=storage)
    other.add_trial(create_trial(value=0.25, user_attrs={"of": "another study"}))
    study = optuna.create_study(study_name="record", storage=storage, directions=["maximize", "minimize"])
    StudyRecord.store(study, spec={"name": "record"}, targets=[{"name": "cpu"}])
    told = {"params": PARAMS, "distributions": SPACE, "user_attrs": ATTRIBUTES}
    study.add_trial(create_trial(values=[0.5, math.inf], constraints={"latency": -0.25, "late": 1.5}, **told))
    study.add_trial(create_trial(values=[-math.inf, 1e-12]))
    study.add_trial(create_trial(state=TrialState.FAIL, **told))
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.5, 7: math.nan, 9: -math.inf}))
    study.enqueue_trial({"rounds": 3})
    running = study.ask()
    running.set_user_attr("worker", {"pid": 7})
    running.suggest_int("rounds", 1, 3)
    study.enqueue_trial({"rounds": 1})
    return study


@pytest.fixture
def never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's own reading would end the test."""

    def asked(*_: object) -> None:
        raise AssertionError("the queries did not do")

    monkeypatch.setattr("prunetune.results.storage.find_study", asked)


@pytest.mark.usefixtures("never_asked")
def test_every_trial_is_as_optuna_reads_it(storage: str, tmp_path: Path) -> None:
    expected = Findings.of(fill(storage))
    found, folder = find_findings("record", tmp_path, storage)
    assert folder == tmp_path / "record"
    assert (found.name, found.study) == (expected.name, expected.study)
    assert found.study.targets[0].name == "cpu"
    assert [trial.state.name for trial in found.trials] == [
        "COMPLETE", "COMPLETE", "FAIL", "PRUNED", "RUNNING", "WAITING"
    ]  # fmt: skip
    for ours, theirs in zip(found.trials, expected.trials, strict=True):
        assert repr(ours) == repr(theirs)  # NaN is equal to nothing, but is written alike
        assert list(ours.params) == list(theirs.params)
        assert (ours.constraints, ours.distributions) == (theirs.constraints, theirs.distributions)
    assert type(found.trials[0].params["rounds"]) is int


@pytest.mark.usefixtures("never_asked")
def test_a_study_without_trials_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    study = optuna.create_study(study_name="empty", storage=sqlite_url(tmp_path / "empty"))
    spec = {"name": "empty"}
    StudyRecord.store(study, spec=spec)
    assert find_findings(tmp_path / "empty") == (Findings("empty", (), StudyRecord(spec=spec)), tmp_path / "empty")


def test_another_schema_is_left_to_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    expected = Findings.of(fill(storage))
    monkeypatch.setattr(stored_study, "SCHEMA", "v9")
    found, _ = find_findings("record", tmp_path, storage)
    assert repr(found.trials) == repr(expected.trials)


@pytest.mark.parametrize("content", [b"", b"no data base at all " * 100], ids=["empty", "damaged"])
def test_what_cannot_be_read_is_told_as_ever(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "study.db").write_bytes(content)
    with pytest.raises(StoreError) as quick:
        find_findings(tmp_path / "odd")
    (tmp_path / "odd" / "study.db").write_bytes(content)
    with pytest.raises(StoreError) as slow:
        find_study(tmp_path / "odd")
    assert str(quick.value) == str(slow.value)


def test_a_study_that_is_not_ours_and_an_address_that_is_none(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    fill(storage)
    with pytest.raises(StoreError, match="other: was not made by prunetune"):
        find_findings("other", tmp_path, storage)
    with pytest.raises(StoreError, match="holds no study named third"):
        find_findings("third", tmp_path, storage)
    with pytest.raises(ConfigError, match="no address"):
        find_findings("record", tmp_path, "postgresql hunter2")


def test_a_study_of_an_earlier_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    study = optuna.create_study(study_name="old", storage=sqlite_url(tmp_path / "old"))
    StudyRecord.store(study, spec={"name": "old"}, version="0.1.0")
    for read in (find_findings, find_study):
        with pytest.raises(StoreError, match=r"studies of 0\.1 are not read any more"):
            read(tmp_path / "old")
