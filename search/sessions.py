"""Sessions of SQLAlchemy that several calls of Optuna's storage can share, and so one transaction."""

from __future__ import annotations

import threading
from typing import Any

from optuna.exceptions import StorageInternalError


class Sessions:
    """Stands for Optuna's `scoped_session`, from which each call of its storage takes a session of its own."""

    def __init__(self, sessions: Any) -> None:
        self._sessions, self._local = sessions, threading.local()

    def __call__(self) -> Any:
        """A session: the one that calls share now, or one of SQLAlchemy's."""
        return self._sessions() if self.joined is None else self.joined

    @property
    def joined(self) -> Joined | None:
        """What calls of this thread share now."""
        return getattr(self._local, "joined", None)

    def begin(self) -> Any:
        """From now on all calls of this thread share one session, until `end`; returns it."""
        session = self._sessions()
        self._local.joined = Joined(session)
        return session

    def commit(self) -> None:
        """Stores what they did.

        Raises:
            StorageInternalError: One of them failed, though it went on.
        """
        assert self.joined is not None
        self.joined.finish()

    def end(self) -> None:
        """Calls have sessions of their own again."""
        self._local.joined = None
        self._sessions().close()

    def remove(self) -> None:
        """As SQLAlchemy's."""
        self._sessions.remove()


class Joined:
    """A session whose end is not for those to decide who get it."""

    def __init__(self, session: Any) -> None:
        self._session, self._failed = session, False
        self.states: dict[int, Any] = {}
        """The states of trials that nobody else can change."""
        self.waiting: dict[Any, list[dict[str, Any]]] = {}
        """Rows that are to be written, by table."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def commit(self) -> None:
        """The call is over; its changes wait."""
        self._session.flush()
        self._session.expire_all()  # the next one reads anew, as in a session of its own

    def rollback(self) -> None:
        """The call failed, and with it all others."""
        self._failed = True

    def close(self) -> None:
        """Nothing: others go on."""
        pass

    def finish(self) -> None:
        """Stores the changes of all calls."""
        if self._failed:
            raise StorageInternalError("a part of the transaction failed")
        self._session.commit()
