"""The database that holds a study, as those use it who run its trials.

It is Optuna's public `RDBStorage`. What stands here is what Optuna leaves to its users: a database that goes away is
waited for, and a study says in which database it is.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any, TypeVar

import optuna
import sqlalchemy.event
import sqlalchemy.exc
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential

from prunetune.results.storage import storage
from prunetune.results.storage.address import public_address
from prunetune.search.interruption import stop_is_asked
from prunetune.spaces import StoreError, drafts

INTERVAL_S = int(drafts.INTERVAL_S)
"""Seconds between the heartbeats of a running trial: those of a lease, so that a trial and its stages are given up
together."""

GRACE_S = int(drafts.LEASE_S)
"""A trial without a heartbeat for so long is stale, and its recipe is carried out by another worker."""

RETRY_S = 600.0
"""A database that was there before is waited for so long."""

SHORTEST_S, LONGEST_S = 0.1, 5.0
"""Pauses between two attempts; each is twice as long as the one before."""

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class StoredStudy(optuna.Study):
    """A study that knows its database. Readers wait for it while it is away.

    Args:
        name: An existing study's.
        database: What holds it.
    """

    def __init__(self, name: str, database: RDBStorage) -> None:
        super().__init__(name, database)
        self.name, self.database = name, database
        self._id_in_database = database.get_study_id_from_name(name)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """As of `Study`, once the database answers."""
        return self._do(partial(super().get_trials, deepcopy, states))

    @property
    def user_attrs(self) -> dict[str, Any]:
        """As of `Study`, once the database answers."""
        return self._do(lambda: super(StoredStudy, self).user_attrs)

    def set_user_attr(self, key: str, value: Any) -> None:
        """As of `Study`, once the database answers."""
        self._do(partial(super().set_user_attr, key, value))

    def running_trial(self, number: int) -> Trial:
        """A trial that this process or another one asked for."""
        return self._do(lambda: Trial(self, self._key(number)))

    def is_finished(self, number: int) -> bool:
        """Whether a trial has ended, by whomever."""
        return self._do(lambda: self.database.get_trial(self._key(number)).state.is_finished())

    def record_heartbeat(self, number: int) -> None:
        """Says that the process which carries out a trial lives."""
        self._do(lambda: self.database.record_heartbeat(self._key(number)))

    def fail_stale_trials(self) -> None:
        """Fails the trials whose last heartbeat is older than `GRACE_S`. No result can be told for them then."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._do(partial(fail_stale_trials, self))

    def _key(self, number: int) -> int:
        return self.database.get_trial_id_from_study_id_trial_number(self._id_in_database, number)

    def _do(self, act: Callable[[], Result]) -> Result:
        try:
            return retry(act)
        except KeyError as error:
            raise StoreError(
                f"{self.name}: the study was deleted from its storage; its stages are in the store, and the same "
                "command starts the study anew"
            ) from error


def set_attributes(trial: Trial, values: Mapping[str, Any]) -> None:
    """Stores attributes with a trial, one after the other.

    Raises:
        UpdateFinishedTrialError: The trial has ended.
    """
    for key, value in values.items():
        retry(partial(trial.set_user_attr, key, value))


def open_storage(url: str) -> RDBStorage:
    """Opens a database for a study's trials, and makes Optuna's tables where there are none.

    Once it was there, whoever connects to it waits while it is away.

    Raises:
        ConfigError: The address cannot be used.
        MissingExtraError: The database's client is not installed.
    """
    database = storage.open_storage(url, heartbeat_interval=INTERVAL_S, grace_period=GRACE_S)
    if database.engine.dialect.name != "sqlite":
        sqlalchemy.event.listen(database.engine, "do_connect", partial(_connect, public_address(url)))
    return database


def _connect(address: str, dialect: Any, _: Any, arguments: Any, options: Any) -> Any:
    """Connects, as SQLAlchemy's event `do_connect` wants it, and says once that it has to wait."""
    connect = partial(dialect.connect, *arguments, **options)
    try:
        return connect()
    except dialect.loaded_dbapi.Error as error:
        if stop_is_asked():
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        _log.warning("storage: %s cannot be reached (%s); trying again for %.0f min", address, reason, RETRY_S / 60)
    connection = retry(connect, lambda error: isinstance(error, dialect.loaded_dbapi.Error))
    _log.warning("storage: %s is there again", address)
    return connection


def is_connection_lost(error: BaseException | None) -> bool:
    """Whether the database went away while it was asked something. Anything else it would answer again."""
    while error is not None:
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__ or error.__context__  # Optuna goes on after the first one, into another
    return False


def retry(act: Callable[[], Result], is_passing: Callable[[Exception], bool] = is_connection_lost) -> Result:
    """Does something, and does it again while the database is away. Doing it twice must do no harm.

    Args:
        act: What to do.
        is_passing: Whether an error will pass; by default one of a connection that was lost.

    Raises:
        Exception: The last error of `act`, if it will not pass, after `RETRY_S`, or when a stop was asked for.
    """

    def passes(error: BaseException) -> bool:
        return isinstance(error, Exception) and is_passing(error) and not stop_is_asked()

    attempts = Retrying(
        retry=retry_if_exception(passes),
        wait=wait_exponential(SHORTEST_S, LONGEST_S),
        stop=stop_before_delay(RETRY_S),
        reraise=True,
    )
    return attempts(act)
