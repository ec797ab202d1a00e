"""Waiting for a data base: how long, who, and until what."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from prunetune.search.interruption import Interruption
from prunetune.search.patience import Patience, is_connection_lost

ADDRESS, PUBLIC = "postgresql+psycopg://me:secret@db.example/studies", "postgresql+psycopg://db.example/studies"


class GoneError(Exception):
    """The client's own."""


class Dialect:
    """A data base that refuses so many connections."""

    loaded_dbapi = SimpleNamespace(Error=GoneError)

    def __init__(self, refusals: int) -> None:
        self.left = refusals

    def connect(self, *_: Any, **__: Any) -> str:
        self.left -= 1
        if self.left >= 0:
            raise GoneError("connection refused")
        return "connection"


def lost() -> sqlalchemy.exc.DBAPIError:
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, GoneError("lost"), connection_invalidated=True)


def fails(times: int, error: Callable[[], Exception]) -> Callable[[], str]:
    left = iter(range(times))

    def act() -> str:
        if next(left, None) is not None:
            raise error()
        return "done"

    return act


def test_a_connection_is_waited_for_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience(ADDRESS, 60)
    assert not patience.was_away_within(60)
    with caplog.at_level(logging.WARNING):
        assert patience.connect(Dialect(3), None, (), {}) == "connection"
    assert [record.getMessage() for record in caplog.records] == [
        f"storage: {PUBLIC} cannot be reached (connection refused); trying again for 1 min",
        f"storage: {PUBLIC} is there again",
    ]
    assert patience.was_away_within(60)


def test_it_is_given_up_in_the_end() -> None:
    with pytest.raises(GoneError):
        Patience(ADDRESS, 0.2).connect(Dialect(1000), None, (), {})


def test_who_is_in_a_hurry_waits_for_nothing() -> None:
    patience, dialect = Patience(ADDRESS), Dialect(1)
    with patience.none(), pytest.raises(GoneError):
        patience.connect(dialect, None, (), {})
    assert patience.was_away_within(60), "the others are to know"
    assert patience.connect(dialect, None, (), {}) == "connection"


def test_nobody_waits_when_a_stop_was_asked_for() -> None:
    with Interruption() as interruption:
        interruption.is_asked = True
        with pytest.raises(GoneError):
            Patience(ADDRESS).connect(Dialect(1), None, (), {})


def test_what_was_lost_in_the_middle_is_done_again() -> None:
    def wrapped() -> Exception:
        error = StorageInternalError("failed")
        error.__cause__ = lost()
        return error

    patience = Patience(ADDRESS, 60)
    assert patience.retry(fails(2, lost)) == "done"
    assert patience.retry(fails(2, wrapped)) == "done"
    assert patience.was_away_within(60)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        Patience(ADDRESS, 0.0).retry(fails(1000, lost))


def test_what_the_data_base_refuses_is_not_done_again() -> None:
    refused = sqlalchemy.exc.OperationalError("INSERT", {}, GoneError("no such table"))
    assert not is_connection_lost(refused)
    act = fails(1, lambda: refused)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        Patience(ADDRESS).retry(act)
    assert act() == "done", "it was called once"
