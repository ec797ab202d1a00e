"""A data base that goes away for a while: wait for it, and do again what was lost in the middle."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from prunetune.results.address import public_address
from prunetune.search.interruption import stop_is_asked

PATIENCE_S = 600.0
"""A data base that was there before is waited for so long."""

SHORTEST_S, LONGEST_S = 0.1, 5.0
"""Between two attempts; each pause is up to twice as long as the one before."""

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Patience:
    """How long a process waits for its data base.

    Args:
        url: Its address.
        seconds: How long.
    """

    def __init__(self, url: str, seconds: float = PATIENCE_S) -> None:
        self._address, self._seconds = public_address(url), seconds
        self._local = threading.local()
        self._away_at: float | None = None

    @contextmanager
    def none(self) -> Iterator[None]:
        """This thread waits for nothing within its block."""
        self._local.hurries = True
        try:
            yield
        finally:
            self._local.hurries = False

    def was_away_within(self, seconds: float) -> bool:
        """Whether the data base could not be reached at some time in the last seconds."""
        return self._away_at is not None and time.monotonic() - self._away_at < seconds

    def connect(self, dialect: Any, _: Any, arguments: Any, options: Any) -> Any:
        """Connects, as SQLAlchemy's event `do_connect` wants it.

        Raises:
            Exception: The last error of the data base's client, when the time is over or a stop was asked for.
        """
        told, pauses = False, self._pauses()
        while True:
            try:
                connection = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.Error as error:
                self._away_at = time.monotonic()
                pause = next(pauses, None)
                if pause is None:
                    raise
                if not told:
                    text = str(error).strip().splitlines() or [type(error).__name__]
                    minutes = f"{self._seconds / 60:.0f} min" if self._seconds >= 60 else f"{self._seconds:g} s"
                    _log.warning(
                        "storage: %s cannot be reached (%s); trying again for %s", self._address, text[-1], minutes
                    )
                    told = True
                pause()
                continue
            if told:
                _log.warning("storage: %s is there again", self._address)
            return connection

    def retry(self, act: Callable[[], Result]) -> Result:
        """Does something, and does it again as long as the connection is lost in its middle."""
        pauses = self._pauses()
        while True:
            try:
                return act()
            except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
                if not is_connection_lost(error):
                    raise
                self._away_at = time.monotonic()
                pause = next(pauses, None)
                if pause is None:
                    raise
                pause()

    def _pauses(self) -> Iterator[Callable[[], Any]]:
        """Pauses until the time is over, a stop is asked for, or at once in a hurry."""
        end, longest, nothing = time.monotonic() + self._seconds, SHORTEST_S, threading.Event()
        while not (getattr(self._local, "hurries", False) or stop_is_asked()):
            seconds = min(longest * random.uniform(0.5, 1.0), end - time.monotonic())
            if seconds <= 0:
                return
            yield lambda seconds=seconds: nothing.wait(seconds)  # type: ignore[misc]
            longest = min(2 * longest, LONGEST_S)


def is_connection_lost(error: BaseException | None) -> bool:
    """Whether the data base went away while it was asked something. Anything else it would answer again."""
    while error is not None:
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False
