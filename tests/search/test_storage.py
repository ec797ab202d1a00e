"""A study in a data base, read and changed by several processes: as Optuna would, but at once or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import pytest
import sqlalchemy
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from prunetune.results.record import RETRY_OF, TrialRecord
from prunetune.search.heartbeat import ask, silent_trials
from prunetune.search.history import History
from prunetune.search.limits import spent
from prunetune.search.sessions import Sessions
from prunetune.search.storage import (
    SIGNED,
    alone,
    cache_of,
    history,
    open_storage,
    patiently_store,
    set_attributes,
    together,
)
from prunetune.search.workers import reap, requeue, this_worker
from prunetune.spaces import Cost, Outcome, StageUse


def opened(storage: str) -> optuna.Study:
    """The study, as one more process sees it."""
    directions: Any = ["maximize", "minimize"]
    return optuna.create_study(
        storage=open_storage(storage), study_name="study", directions=directions, load_if_exists=True
    )


def fill(study: optuna.Study) -> None:
    """A trial of every kind."""
    for number in range(4):
        trial = ask(study)
        trial.suggest_float("threshold", 0.1, 1.0, log=True)
        trial.suggest_int("epochs", 1, 9)
        trial.suggest_categorical("kind", ["a", None, 3])
        set_attributes(trial, {"worker": this_worker("cpu"), SIGNED: {"n": number}, "figures": [1.5, {"a": None}]})
        if number == 0:
            trial.set_constraint("latency", -0.5)
            study.tell(trial, [0.5, float("inf")])
        elif number == 1:
            set_attributes(trial, {"outcome": "INTERRUPTED"})
            study.tell(trial, state=TrialState.FAIL)
    study.enqueue_trial({"threshold": 0.5}, user_attrs={RETRY_OF: 1})


def test_what_is_read_is_what_optuna_reads(storage: str) -> None:
    study = opened(storage)
    fill(study)
    known = optuna.load_study(study_name="study", storage=RDBStorage(storage)).get_trials()
    assert [trial.state.name for trial in known] == ["COMPLETE", "FAIL", "RUNNING", "RUNNING", "WAITING"]
    assert study.get_trials() == known
    assert opened(storage).get_trials() == known
    assert [study._storage.get_trial(trial._trial_id) for trial in known] == known
    for states in ((TrialState.RUNNING,), (TrialState.WAITING,), (TrialState.COMPLETE, TrialState.RUNNING), ()):
        assert study.get_trials(states=states) == [trial for trial in known if trial.state in states]


def test_what_others_change_is_seen(storage: str) -> None:
    study, other = opened(storage), opened(storage)
    mine, theirs = ask(study), ask(other)
    assert [trial.number for trial in study.get_trials()] == [0, 1]
    for process in (study, other):
        assert process.get_trials()[1].user_attrs == {}
    set_attributes(theirs, {SIGNED: {}})
    assert study.get_trials()[1].user_attrs == {SIGNED: {}}
    set_attributes(theirs, {"rungs": [1]})
    assert study.get_trials()[1].user_attrs == {SIGNED: {}, "rungs": [1]}
    set_attributes(theirs, {"rungs": [1, 2]})
    assert study.get_trials()[1].user_attrs == {SIGNED: {}, "rungs": [1, 2]}
    other.tell(theirs, [0.1, 0.2])
    assert study.get_trials()[1].values == [0.1, 0.2]
    with pytest.raises(UpdateFinishedTrialError):
        set_attributes(theirs, {"rungs": []})
    assert [trial.number for trial in study.get_trials(states=(TrialState.RUNNING,))] == [mine.number]


def test_all_changes_are_made_or_none(storage: str) -> None:
    study, other = opened(storage), opened(storage)
    fill(study)
    before = other.get_trials()
    with pytest.raises(ZeroDivisionError), alone(study):
        trial = ask(study)
        set_attributes(trial, {"worker": {}})
        trial.suggest_float("threshold", 0.1, 1.0, log=True)
        study.tell(study.get_trials()[2].number, [1.0, 1.0])
        assert study.get_trials()[2].state == TrialState.COMPLETE
        1 / 0  # noqa: B018
    assert study.get_trials() == other.get_trials() == before
    with alone(study):
        trial = ask(study)
        trial.suggest_float("threshold", 0.1, 1.0, log=True)
    assert other.get_trials()[trial.number].params == trial.params


def test_who_comes_second_waits(storage: str) -> None:
    study, other = opened(storage), opened(storage)
    order, entered, waits = [], threading.Event(), threading.Event()

    def second() -> None:
        entered.wait()
        waits.set()
        with alone(other):
            order.append(f"second sees {len(other.get_trials())}")

    thread = threading.Thread(target=second)
    thread.start()
    with alone(study):
        entered.set()
        waits.wait()
        ask(study)
        order.append("first")
    thread.join()
    assert order == ["first", "second sees 1"]


def test_a_result_is_told_whole_and_never_over_another(storage: str) -> None:
    study, other = opened(storage), opened(storage)
    trial = ask(study)
    with together(study, trial):
        set_attributes(trial, {"outcome": "OK"})
        study.tell(trial, [0.1, 0.2])
        assert other.get_trials()[0].state == TrialState.RUNNING
        assert other.get_trials()[0].user_attrs == {}
    assert other.get_trials()[0].user_attrs == {"outcome": "OK"}
    late = ask(study)
    other.tell(late.number, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError), together(study, late):
        set_attributes(late, {"outcome": "OK"})


def test_a_recipe_that_waited_is_taken_signed_and_told(storage: str) -> None:
    study, other = opened(storage), opened(storage)
    study.enqueue_trial({"threshold": 0.5}, user_attrs={RETRY_OF: 0})
    assert [trial.state for trial in other.get_trials()] == [TrialState.WAITING]
    with alone(other):
        trial = ask(other)
        set_attributes(trial, {"worker": this_worker("cpu")})
    with together(other, trial):
        assert trial.suggest_float("threshold", 0.0, 1.0) == 0.5
        set_attributes(trial, {SIGNED: {}})
    with together(other, trial):
        set_attributes(trial, {"outcome": "OK"})
        other.tell(trial, [0.1, 0.2])
    (told,) = study.get_trials()
    assert (told.state, told.params, told.values) == (TrialState.COMPLETE, {"threshold": 0.5}, [0.1, 0.2])
    assert told.user_attrs.keys() == {RETRY_OF, "worker", SIGNED, "outcome"}


@contextmanager
def cut(study: optuna.Study, after_commit: bool) -> Iterator[list[int]]:
    """Breaks the connection once, before or after a transaction reaches the data base."""
    times: list[int] = []
    commit = Sessions.commit

    def broken(self: Sessions) -> None:
        if times:
            commit(self)
            return
        times.append(1)
        if after_commit:
            commit(self)
        raise sqlalchemy.exc.OperationalError("COMMIT", {}, Exception("lost"), connection_invalidated=True)

    Sessions.commit = broken  # type: ignore[method-assign]
    try:
        yield times
    finally:
        Sessions.commit = commit  # type: ignore[method-assign]


def test_what_was_lost_in_the_middle_is_done_again(storage: str) -> None:
    study = opened(storage)
    trial = ask(study)

    def tell() -> None:
        with together(study, trial):
            set_attributes(trial, {"outcome": "OK"})
            study.tell(trial, [0.1, 0.2])

    with cut(study, after_commit=False) as times:
        patiently_store(study, tell)
    assert times
    assert opened(storage).get_trials()[0].values == [0.1, 0.2]
    with cut(study, after_commit=False), pytest.raises(StorageInternalError), alone(study):
        ask(study)
    assert len(opened(storage).get_trials()) == 1


def test_a_server_that_ends_a_connection(postgres: Any) -> None:
    study = opened(postgres())
    trial = ask(study)
    cached = cache_of(study)
    assert cached is not None
    engine, ended = cached.database.engine, []

    def tell() -> None:
        with together(study, trial):
            set_attributes(trial, {"outcome": "OK"})
            if not ended:
                with engine.connect() as connection:
                    connection.execution_options(isolation_level="AUTOCOMMIT").execute(
                        sqlalchemy.text(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                        )
                    )
                ended.append(True)
            study.tell(trial, [0.1, 0.2])

    patiently_store(study, tell)
    assert study.get_trials()[0].user_attrs == {"outcome": "OK"}
    assert study.get_trials()[0].values == [0.1, 0.2]


def test_nobody_is_given_up_right_after_the_data_base_was_away(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(postgres())
    trial = ask(study)
    cached = cache_of(study)
    assert cached is not None
    cached.database.grace_period = -1
    assert silent_trials(study) == {trial.number}
    monkeypatch.setattr(cached.database.patience, "was_away_within", lambda seconds: seconds == -1)
    assert silent_trials(study) == set()


# What follows from a study's trials


def test_what_follows_is_the_same_however_often_it_is_asked(storage: str) -> None:
    study = opened(storage)
    memory = History()
    for number in range(12):
        trial = ask(study)
        cost = Cost({"train": 1.0}, (StageUse("sparse", f"sparse-{number}", trained=number % 3),))
        set_attributes(trial, TrialRecord(worker=this_worker("cpu"), cost=cost).to_attrs() | {SIGNED: {}})
        trial.suggest_float("threshold", 0.0, 1.0)
        if number % 4 == 1:
            set_attributes(trial, TrialRecord(outcome=Outcome.WORKER_DIED).to_attrs())
            study.tell(trial, state=TrialState.FAIL)
        elif number % 4 != 2:
            set_attributes(trial, TrialRecord(outcome=Outcome.OK).to_attrs())
            study.tell(trial, [0.5, 1.0])
        trials = study.get_trials()
        now = trials[-1].datetime_start.timestamp() + 100  # type: ignore[union-attr]
        for found in (memory, history(study)):
            assert found.spent(trials, now) == spent(History().records(trials), now)
            assert found.not_retried(trials) == History().not_retried(trials)


def test_a_given_back_recipe_is_enqueued_once(storage: str) -> None:
    study = opened(storage)
    fill(study)
    for _ in range(2):
        requeue(study)
        assert [trial.user_attrs.get(RETRY_OF) for trial in study.get_trials()] == [None] * 4 + [1]
    trial = study.get_trials()[2]
    dead = {**this_worker("cpu"), "pid": 1 << 22}
    set_attributes(optuna.trial.Trial(study, trial._trial_id), {"worker": dead})
    with alone(study):
        assert reap(study) == [2]
    assert [trial.user_attrs.get(RETRY_OF) for trial in study.get_trials()] == [None] * 4 + [1, 2]
