"""What to do about a stage that another process trains: other work first, and then wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from prunetune.pruning.stages.lease import StageBusyError
from prunetune.pruning.stages.store import StageStore
from prunetune.search.callbacks.progress import Progress
from prunetune.search.interruption import safe_point

MOST_ASIDE = 2
"""A process puts so many trials aside; one more would wait for the same stages."""

Work = TypeVar("Work")


class Aside(Generic[Work]):
    """The trials of this process whose next stage another process trains.

    Args:
        store: Where the stages are.
        progress: Says what is waited for.
        most: How many trials are put aside.
    """

    def __init__(self, store: StageStore, progress: Progress, most: int = MOST_ASIDE) -> None:
        self._store, self._progress, self._most = store, progress, most
        self._waiting: list[tuple[Work, StageBusyError]] = []

    @property
    def is_full(self) -> bool:
        """Whether no other trial may be taken before one of these went on."""
        return len(self._waiting) >= self._most

    def put(self, name: str, work: Work, busy: StageBusyError) -> None:
        """Puts a trial aside until the stage that it needs is there or free."""
        self._waiting.append((work, busy))
        self._progress.end()
        self._progress.say(f"{name}: put aside, waiting for {busy.digest} on {busy.where}")

    def ready(self) -> Work | None:
        """A trial that can go on, if there is one."""
        for work, busy in self._waiting:
            if self._store.is_released(busy):
                return self._remove(busy, work)
        return None

    def wait(self) -> Work | None:
        """Waits for a trial that can go on; None if there is none to wait for."""
        if not self._waiting:
            return None
        released = wait_for(self._store, [busy for _, busy in self._waiting], self._progress)
        return next(self._remove(busy, work) for work, busy in self._waiting if busy is released)

    def take_all(self) -> list[Work]:
        """Empties it."""
        works = [work for work, _ in self._waiting]
        self._waiting.clear()
        return works

    def _remove(self, busy: StageBusyError, work: Work) -> Work:
        self._waiting = [item for item in self._waiting if item[1] is not busy]
        return work


def wait_for(store: StageStore, busy: list[StageBusyError], progress: Progress) -> StageBusyError:
    """Waits until one of several stages is there or free; returns the error that spoke of it."""
    where = "; ".join(f"{error.digest} on {error.where}" for error in busy)

    def listen() -> None:
        progress.begin(f"waiting for {where}")
        safe_point()

    return store.await_release(busy, listen)


Result = TypeVar("Result")


def patiently(act: Callable[[], Result], what: str, store: StageStore, progress: Progress) -> Result:
    """Does what cannot be put off, as soon as no other process trains a stage that it needs.

    Args:
        act: What to do; it is started again after each wait.
        what: What the progress calls it.
        store: Where the stages are.
        progress: Says what goes on.
    """
    while True:
        progress.begin(what)
        try:
            return act()
        except StageBusyError as busy:
            progress.end()
            progress.say(f"{what}: waiting for {busy.digest} on {busy.where}")
            wait_for(store, [busy], progress)
