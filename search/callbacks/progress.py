"""Tells what goes on while a study runs: to the console, and to whoever else listens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console

from prunetune.pruning.training.values import EpochListener, EpochRecord
from prunetune.results.record import TrialRecord
from prunetune.search.callbacks.events import (
    EpochEnded,
    Event,
    Listener,
    Message,
    NetworkReady,
    StageBegun,
    TaskEnded,
    TaskStarted,
    TrialBegun,
    TrialEnded,
)
from prunetune.search.callbacks.live_view import LiveView
from prunetune.search.callbacks.views import PlainView
from prunetune.spaces import Recipe

_log = logging.getLogger(__name__)


def view_of(console: Console) -> Listener:
    """The view that fits a console."""
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else PlainView(console)


class Progress:
    """Turns what is done into events.

    Args:
        console: Where a user reads them: a live view in a terminal, plain lines elsewhere. None: nowhere.
        trials: How many trials the study will have, if that is known.
        listeners: Hear all events, too.
    """

    def __init__(self, console: Console | None, trials: int | None, listeners: Sequence[Listener] = ()) -> None:
        self.console, self._trials = console, trials
        self._view = None if console is None else view_of(console)
        self._listeners = list(listeners)
        self._what = ""
        self._number: int | None = None

    def tell(self, event: Event) -> None:
        """Passes an event on. A listener that raises hears no more; the study goes on."""
        if self._view is not None:
            self._view.hear(event)
        self.pass_on(event)

    def pass_on(self, event: Event) -> None:
        """Passes on what the console shows already, because another process writes it there."""
        for listener in tuple(self._listeners):
            try:
                listener.hear(event)
            # It may be a user's, or write to a server that is away: no reason to lose a study's work.
            except Exception:
                self._listeners.remove(listener)
                _log.warning("%s is told nothing more, for it raised:", type(listener).__name__, exc_info=True)

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        """Within the block one listener more hears all events."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def say(self, text: str) -> None:
        """Tells one line."""
        self.tell(Message(text))

    def begin(self, what: str) -> None:
        """Names what is going on now."""
        self._what, self._number = what, None
        self.tell(TaskStarted(what))

    def begin_trial(self, number: int, recipe: Recipe, attempt_before: int | None = None) -> None:
        """Names the trial that is carried out now, and the one that it takes up, if it does."""
        if attempt_before is not None:
            self.say(f"trial {number} goes on with what trial {attempt_before} began")
        self.begin(f"trial {number}")
        self._number = number
        self.tell(TrialBegun(number, recipe))

    def end(self) -> None:
        """Says that nothing is going on."""
        self.tell(TaskEnded())

    def epochs(self, kind: str, epochs: int, done: int) -> EpochListener:
        """Says that a training has begun; returns a listener for its epochs.

        Args:
            kind: The stage's.
            epochs: Of the whole training.
            done: Those that were trained before.
        """
        what, trial = self._what, self._number
        self.tell(StageBegun(what, trial, kind, epochs, done))

        def listen(record: EpochRecord) -> None:
            self.tell(EpochEnded(what, trial, kind, epochs, record))

        return listen

    def trial(self, number: int, record: TrialRecord, finished: int) -> None:
        """Tells how a trial ended."""
        self.end()
        self.tell(TrialEnded(number, record, finished, self._trials))

    def network(
        self, name: str, map50_95: float, latencies: Mapping[str, float], gflops: float, params: int, reused: bool
    ) -> None:
        """Tells the figures of a network that is no trial's; see `NetworkReady`."""
        self.end()
        self.tell(NetworkReady(name, map50_95, dict(latencies), gflops, params, reused))
