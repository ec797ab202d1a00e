"""The database of a study: Optuna's contract holds, and what was lost in the middle is done again, once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from prunetune.results.record import TrialRecord
from prunetune.results.storage.storage import storage_errors
from prunetune.search.engine.taking import next_trial
from prunetune.search.interruption import Interruption
from prunetune.search.study import stored_study as storages
from prunetune.search.study.open_study import open_study
from prunetune.search.study.stored_study import StoredStudy, is_connection_lost, open_storage, retry
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import tell
from prunetune.spaces import ConfigError, Cost, Outcome, StoreError

MakeSpec = Callable[..., StudySpec]


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", pytest.param("postgresql", marks=pytest.mark.faults)], indirect=True)
class TestContract(StorageTestCase):
    """Optuna's own conformance suite."""

    @pytest.fixture
    def storage(self, storage: str) -> Iterator[BaseStorage]:
        opened = open_storage(storage)
        yield opened
        opened.engine.dispose()


class GoneError(Exception):
    """A client's own."""


def lost() -> sqlalchemy.exc.DBAPIError:
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, GoneError("lost"), connection_invalidated=True)


def wrapped() -> Exception:
    error = StorageInternalError("failed")
    error.__cause__ = lost()
    return error


def refused() -> sqlalchemy.exc.DBAPIError:
    return sqlalchemy.exc.OperationalError("INSERT", {}, GoneError("no such table"))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, which take no time."""
    made: list[float] = []

    def sleep(seconds: float) -> None:
        made.append(seconds)
        clock.now += seconds

    clock = SimpleNamespace(now=0.0, sleep=sleep, monotonic=lambda: clock.now)
    monkeypatch.setattr("tenacity.time", clock)
    monkeypatch.setattr("tenacity.nap.time", clock)
    return made


def fails(times: int, error: Callable[[], Exception]) -> Callable[[], str]:
    left = iter(range(times))

    def act() -> str:
        if next(left, None) is not None:
            raise error()
        return "done"

    return act


@pytest.mark.parametrize("error", [lost, wrapped])
def test_what_was_lost_in_the_middle_is_done_again(pauses: list[float], error: Callable[[], Exception]) -> None:
    assert retry(fails(8, error)) == "done"
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_database_is_given_up_in_the_end(pauses: list[float]) -> None:
    with pytest.raises(sqlalchemy.exc.OperationalError):
        retry(fails(1000, lost))
    assert 590 < sum(pauses) <= 600


def test_what_a_database_refuses_is_not_done_again(pauses: list[float]) -> None:
    with pytest.raises(sqlalchemy.exc.OperationalError):
        retry(fails(1, refused))
    assert not is_connection_lost(refused())
    assert pauses == []


def test_nobody_waits_when_a_stop_was_asked_for(pauses: list[float]) -> None:
    with Interruption() as interruption:
        interruption.is_asked = True
        with pytest.raises(sqlalchemy.exc.OperationalError):
            retry(fails(1, lost))
    assert pauses == []


def test_a_database_that_is_away_is_named_once_without_its_password(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    class Client:
        """Of a database that refuses three connections."""

        loaded_dbapi = SimpleNamespace(Error=GoneError)
        connect = staticmethod(fails(3, lambda: GoneError("connection refused")))

    with caplog.at_level(logging.WARNING):
        assert storages._connect("postgresql://db.example/studies", Client, None, (), {}) == "done"
    assert [record.getMessage() for record in caplog.records] == [
        "storage: postgresql://db.example/studies cannot be reached (connection refused); trying again for 10 min",
        "storage: postgresql://db.example/studies is there again",
    ]


# A server that ends connections


@contextmanager
def cut(study: StoredStudy, place: int) -> Iterator[list[str]]:
    """Has the server end a study's connection before one of the statements. Gives those that were begun."""
    engine, begun = study.database.engine, []
    other = sqlalchemy.create_engine(engine.url, isolation_level="AUTOCOMMIT")

    def look(_: Any, __: Any, statement: str, *___: Any) -> None:
        begun.append(statement)
        if len(begun) == place + 1:
            with other.connect() as connection:
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

    sqlalchemy.event.listen(engine, "before_cursor_execute", look)
    try:
        yield begun
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", look)
        other.dispose()


def places(act: Callable[[int], int], every: int) -> int:
    """Cuts an act at every so-manieth of its statements; how often that was."""
    cuts = 0
    while act(cuts * every) > cuts * every:
        cuts += 1
    return cuts


FIGURES = SimpleNamespace(violations={"cpu": -0.5}, as_dict=dict)


def test_a_trial_is_asked_for_and_told_once_wherever_the_connection_is_lost(
    make_spec: MakeSpec, postgres: Callable[[], str]
) -> None:
    spec = make_spec(storage=postgres(), trials=1000, sampler="random")
    study = open_study(spec)
    context: Any = SimpleNamespace(spec=spec)

    def ask_and_tell(place: int) -> int:
        with cut(study, place) as begun:
            asked = next_trial(study, spec)
            assert asked is not None
            record = TrialRecord(asked.recipe, Outcome.DIVERGED, cost=Cost({"train": 1.0 + place}))
            tell(study, asked.trial, record, context)
        trial = open_study(spec).get_trials()[asked.number]
        assert TrialRecord.from_trial(trial).recipe == asked.recipe
        assert TrialRecord.from_trial(trial).cost == record.cost
        assert spec.space.suggest(trial) == asked.recipe  # type: ignore[arg-type]
        return len(begun)

    cuts = places(ask_and_tell, every=5)
    records = [TrialRecord.from_trial(trial) for trial in study.get_trials()]
    outcomes = [record.outcome for record in records]
    assert outcomes.count(Outcome.DIVERGED) == cuts + 1, "told once each"
    assert set(outcomes) <= {Outcome.DIVERGED, Outcome.ERROR, Outcome.WORKER_DIED}
    assert all(record.retry_of is None for record in records), "who asked in vain had no recipe yet"
    assert cuts > 10


def test_readers_wait_for_a_database(make_spec: MakeSpec, postgres: Callable[[], str]) -> None:
    spec = make_spec(storage=postgres())
    study = open_study(spec)
    for read in (lambda: study.user_attrs["spec"]["name"], lambda: len(study.trials), lambda: study.is_finished(0)):
        if read() == 0:
            assert next_trial(study, spec) is not None

        def cut_reading(place: int, read: Callable[[], Any] = read) -> int:
            expected = read()
            with cut(study, place) as begun:
                assert read() == expected
            return len(begun)

        assert places(cut_reading, every=2) > 0


def test_a_study_is_that_of_its_database(make_spec: MakeSpec, storage: str) -> None:
    spec = make_spec(storage=storage)
    study, other = open_study(spec), open_study(spec)
    asked = next_trial(study, spec)
    assert asked is not None
    assert [trial.state for trial in other.get_trials()] == [TrialState.RUNNING]
    assert other.running_trial(0).params == asked.trial.params
    assert not other.is_finished(0)
    other.tell(0, state=TrialState.FAIL)
    assert study.is_finished(0)
    assert str(study.database.url) == storage


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file::memory:?uri=true", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("sqlite:////nowhere/at/all/x.db", "/nowhere/at/all: no such folder"),
        ("sqlite:////etc", "/etc: is a folder"),
        ("foo://x", "there is no 'foo'.*postgresql"),
        ("postgresql+psycopg://u:p{1}w@127.0.0.1:9/studies", "%7B"),
        ("sqlite:////tmp/{name}.db", "%7B"),
    ],
)
def test_an_address_that_cannot_hold_a_study_is_refused(address: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_storage(address)


@pytest.mark.parametrize(
    "table",
    [
        "customers (id INTEGER)",
        "studies (study_id INTEGER, title TEXT)",
        "trials (id INTEGER)",
        "version_info (version TEXT)",
        "alembic_version (version_num TEXT)",
    ],
)
def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path, table: str) -> None:
    address = f"sqlite:///{tmp_path}/others.db"
    engine = sqlalchemy.create_engine(address)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"CREATE TABLE {table}"))
    with pytest.raises(ConfigError, match="another program.*`" + table.split()[0]):
        open_storage(address)
    assert sqlalchemy.inspect(engine).get_table_names() == [table.split()[0]]


def test_a_database_that_holds_studies_may_hold_more(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/studies.db"
    engine = open_storage(address).engine
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE customers (id INTEGER)"))
    engine.dispose()
    assert open_storage(address).get_all_studies() == []


def test_tables_of_another_optuna_are_refused(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/studies.db"
    engine = open_storage(address).engine
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v1.3.0.a'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="version"):
        open_storage(address)


def test_a_study_that_was_deleted_is_named(make_spec: MakeSpec) -> None:
    spec = make_spec()
    study = open_study(spec)
    asked = next_trial(study, spec)
    assert asked is not None
    study.database.delete_study(study.database.get_study_id_from_name(spec.name))
    for act in (study.get_trials, lambda: study.is_finished(0), lambda: study.record_heartbeat(0)):
        with pytest.raises(StoreError, match="deleted"):
            act()


def test_a_database_elsewhere_is_named_and_not_the_studys_folder(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "studies.db"
    with pytest.raises(StoreError, match=str(file.parent)), storage_errors(tmp_path, f"sqlite:///{file}"):
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, GoneError("unable to open database file"))


def test_a_damaged_database_in_a_folder_that_is_read_only_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.db").touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(StoreError, match="restore it from a copy"), storage_errors(tmp_path, runs=False):
        raise sqlalchemy.exc.DatabaseError("SELECT 1", {}, GoneError("database disk image is malformed"))


def test_a_file_that_is_no_database_is_not_to_be_removed(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Sir or Madam, " * 100)
    address = f"sqlite:///{file}"
    with pytest.raises(StoreError, match="give another address") as caught, storage_errors(tmp_path, address):
        open_storage(address)
    assert "remove" not in str(caught.value)
