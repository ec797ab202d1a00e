"""Studies in Optuna's storages: how they are found and opened, and what is said when that fails."""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.engine
import sqlalchemy.event
import sqlalchemy.exc
from optuna.storages import RDBStorage

from prunetune.results.findings.findings import Findings
from prunetune.results.record import StudyRecord
from prunetune.results.storage.address import EXAMPLE, parse_address, public_address
from prunetune.results.storage.place import choose_name, place_of, sqlite_url
from prunetune.spaces.errors import ConfigError, MissingExtraError, StoreError
from prunetune.spaces.files import storage_error

MAKERS = 5
"""So often a process tries again that found others making the tables of a database."""

LOCKED_S = 60
"""So long SQLite waits while another process writes."""

FROZEN_S = 60
"""A transaction whose process does nothing for so long is ended by PostgreSQL: others may wait for its rows."""

ALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A host that vanished is noticed within half a minute: PostgreSQL's client would wait for it much longer."""


def find_study(name: str | Path, runs: str | Path = "runs", storage: str | None = None) -> tuple[optuna.Study, Path]:
    """Opens an existing study for reading.

    Args:
        name: A study's name, its folder, or its description's file.
        runs: The folder of studies, where only a name is given.
        storage: The address of its storage, if that is neither in its folder nor in its description.

    Returns:
        The study and its folder.

    Raises:
        StoreError: There is none, its database cannot be read, or prunetune did not start it.
    """
    folder, address = place_of(name, runs, storage)
    with storage_errors(folder, address, runs=False):
        database = open_storage(address or sqlite_url(folder))
        wanted = choose_name(folder, optuna.get_all_study_names(storage=database))
        study = optuna.load_study(study_name=wanted, storage=database)
        if not StudyRecord.of(study).spec:
            raise StoreError(f"{study.study_name}: was not made by prunetune: it holds no description")
        return study, folder


def find_findings(name: str | Path, runs: str | Path = "runs", storage: str | None = None) -> tuple[Findings, Path]:
    """What a study found, as it stands now, and its folder; see `find_study`."""
    study, folder = find_study(name, runs, storage)
    with storage_errors(folder, storage, runs=False):
        return Findings.of(study), folder


@contextmanager
def storage_errors(folder: Path, storage: str | None = None, *, runs: bool = True) -> Iterator[None]:
    """Names the study's folder, or its storage where that is elsewhere, when the database cannot be used.

    Args:
        folder: The study's.
        storage: The address of its database, if that is elsewhere.
        runs: Whether the study is carried out, so that the same command goes on with it, or only read.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, sqlite3.Error) as error:
        text = str(error.__cause__ or error).splitlines()[0]
        if storage is not None and not storage.startswith("sqlite"):
            remedy = "start it, or correct the address"
            if runs:
                remedy = (
                    "what was finished is kept there and in the store, and the same command goes on when it can be "
                    "reached"
                )
            raise StoreError(f"storage: {public_address(storage)} cannot be used ({text}); {remedy}") from error
        file = folder / "study.db" if storage is None else Path(parse_address(storage).database or "")
        if "full" in text:
            raise storage_error(file.parent, OSError(28, "No space left on device")) from error
        # SQLite says so of a file that was removed or replaced as well.
        is_refused = "readonly" in text or "unable to open" in text
        places = [place for place in (file, file.parent) if place.exists()]
        if is_refused and not all(os.access(place, os.W_OK) for place in places):
            raise storage_error(file.parent, OSError(13, "Permission denied")) from error
        if is_refused or not file.exists():
            gone = file if file.parent.is_dir() else file.parent
            remedy = "; its stages are in the store, and the same command starts the study anew" if runs else ""
            raise StoreError(f"{gone}: was removed, or replaced, while the study was used{remedy}") from error
        remedy = "restore it from a copy"
        if runs:  # a file that was named may be another program's
            remedy += f", or remove {file} to start anew" if storage is None else ", or give another address"
        if "locked" in text:
            remedy = "another program holds it; end that, and run the same command again"
        raise StoreError(f"{file}: the study's database cannot be used ({text}); {remedy}") from error
    except PermissionError as error:
        raise storage_error(folder, error) from error


def open_storage(url: str, heartbeat_interval: int | None = None, grace_period: int | None = None) -> RDBStorage:
    """Opens a database, and makes Optuna's tables where there are none.

    Args:
        url: Its address.
        heartbeat_interval: Seconds between heartbeats of running trials; for those who run them.
        grace_period: Seconds after its last heartbeat at which a trial is stale.

    Raises:
        ConfigError: The address cannot be used.
        MissingExtraError: Its driver is not installed.
    """
    with _address_errors(url):
        _require_place(parse_address(url))
        options = _engine_options(parse_address(url))
        if "{" not in url:  # Optuna refuses braces
            _require_own_tables(url, options)
        make = partial(RDBStorage, url, options, heartbeat_interval=heartbeat_interval, grace_period=grace_period)
        database = _with_tables(make)
        if database.engine.dialect.name == "postgresql":
            sqlalchemy.event.listen(database.engine, "connect", _prepare)
            database.engine.dispose()  # of the connections that were not prepared
        return database


def _engine_options(url: sqlalchemy.engine.URL) -> dict[str, Any]:
    if url.drivername.startswith("sqlite"):
        return {"connect_args": {"timeout": LOCKED_S}}
    # A server has not too many connections.
    options: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 4}
    if url.drivername in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        options["connect_args"] = dict(ALIVE)
    return options


@contextmanager
def _address_errors(url: str) -> Iterator[None]:
    """Says which part of an address cannot be used.

    Raises:
        ConfigError: The address cannot be used.
        MissingExtraError: Its driver is not installed.
    """
    parse_address(url)
    try:
        yield
    except ImportError as error:
        if "psycopg" in str(error):
            raise MissingExtraError("psycopg", "postgres") from error
        raise ConfigError(f"storage: {public_address(url)}: cannot be used ({error})") from error
    except (KeyError, IndexError) as error:  # Optuna fills braces in
        raise ConfigError("storage: cannot be used: write %7B for { and %7D for } in an address") from error
    except sqlalchemy.exc.NoSuchModuleError as error:
        kind = parse_address(url).drivername
        raise ConfigError(
            f"storage: {public_address(url)}: cannot be used: there is no {kind!r}; give sqlite:////PATH or {EXAMPLE}"
        ) from error
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise ConfigError(f"storage: {public_address(url)}: cannot be used ({type(error).__name__})") from error
    except RuntimeError as error:  # tables of another version of Optuna
        raise ConfigError(f"storage: {public_address(url)}: cannot be used ({error})") from error


def _require_own_tables(url: str, options: Mapping[str, Any]) -> None:
    """Refuses a database of another program, before Optuna adds its tables to those.

    Raises:
        ConfigError: It has a table of Optuna's name that is not Optuna's, or tables of others and none of Optuna's.
    """
    engine = sqlalchemy.create_engine(url, **options)
    try:
        inspector = sqlalchemy.inspect(engine)
        tables = inspector.get_table_names()
        others = [
            table
            for table, column in _OWN_COLUMNS.items()
            if table in tables and column not in {item["name"] for item in inspector.get_columns(table)}
        ]
        if "version_info" not in tables:  # of Optuna's own, others may just be made by another process
            others += [table for table in tables if not table.startswith(("study_", "trial_", *_OWN_COLUMNS))]
        if others:
            raise ConfigError(
                f"storage: {public_address(url)}: is a database of another program, whose table `{others[0]}` is not "
                "Optuna's; give one of its own"
            )
    finally:
        engine.dispose()


_OWN_COLUMNS = {"studies": "study_name", "trials": "trial_id", "version_info": "version_info_id"}
"""Tables of Optuna's, each with a column that others of that name hardly have."""


def _require_place(url: sqlalchemy.engine.URL) -> None:
    """Refuses an SQLite file where none can be.

    Raises:
        ConfigError: Its folder is not there, or it is a folder.
    """
    if not url.drivername.startswith("sqlite") or not url.database or url.database.startswith("file:"):
        return
    file = Path(url.database)
    if file.is_dir():
        raise ConfigError(f"storage: {file}: is a folder; name a file in it")
    if not file.parent.is_dir():
        raise ConfigError(f"storage: {file.parent}: no such folder; make it, or correct the address")


def _with_tables(make: Callable[[], RDBStorage]) -> RDBStorage:
    """Opens a database in which Optuna makes its tables where there are none.

    Of several processes that find none at once, Optuna lets all but one fail. The tables are there then.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for _ in range(MAKERS):
            try:
                return make()
            except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
                continue
            except sqlalchemy.exc.OperationalError as error:
                if "already exists" not in str(error):
                    raise
        return make()


def _prepare(connection: Any, _: Any) -> None:
    # Heartbeats are stored without a time zone. One that clients choose, or that has summer time, would shift them by
    # hours.
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{FROZEN_S}s'")
    connection.commit()
