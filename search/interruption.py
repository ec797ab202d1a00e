"""An orderly stop: the first SIGTERM or Ctrl-C is remembered until a safe point, a second one stops at once.

At a safe point all that was computed is stored: after an epoch, a stage, a measurement, or while waiting. Schedulers
send SIGTERM before they take a node away; what runs until its next safe point loses nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

NOTICE = b"\nstopping at the end of this epoch or measurement, which is kept; once more stops at once\n"


class StopAskedError(KeyboardInterrupt):
    """Raised at a safe point after the user or a scheduler asked to stop. Nothing catches it by mistake."""


class TrialLostError(Exception):
    """This process had no heartbeat for so long that its trial was given to another one."""


class Interruption:
    """Remembers, while its block runs, that a stop was asked for. Within another one's block it does nothing, and
    neither outside of the main thread.

    Args:
        hasty: The only signal that stops at once; by default the second of any kind. A worker whose parent passes
            signals on may get the same one from both.
    """

    current: Interruption | None = None
    """The one whose block runs: signals belong to the process."""

    def __init__(self, hasty: signal.Signals | None = None) -> None:
        self._hasty = hasty
        self.is_asked = self.is_hasty = False
        self._process = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if Interruption.current is not None:
            return Interruption.current
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            Interruption.current = self
            numbers = (*SIGNALS, *((self._hasty,) if self._hasty else ()))
            self._before = {number: signal.signal(number, self._remember) for number in numbers}
        return self

    def hold(self) -> None:
        """Takes the signals back from a library that took them meanwhile."""
        for number in self._before:
            signal.signal(number, self._remember)

    def __exit__(self, *_: object) -> None:
        if Interruption.current is self and self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            Interruption.current = None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _as_a_child(number)
        elif number == self._hasty or (self.is_asked and self._hasty is None):
            self.is_asked = self.is_hasty = True
            raise KeyboardInterrupt(number)
        else:
            self.is_asked = True
            if self._hasty is None:
                os.write(2, NOTICE)  # a handler may run in the middle of a print, which cannot be entered twice

    def check(self) -> None:
        """A safe point to stop at.

        Raises:
            StopAskedError: A stop was asked for.
            KeyboardInterrupt: It was asked for twice, and somebody swallowed the second.
        """
        if self.is_hasty:
            raise KeyboardInterrupt
        if self.is_asked:
            raise StopAskedError


_checks: list[Callable[[], None]] = []
"""What is asked at safe points beside signals."""


@contextmanager
def asked_at_safe_points(check: Callable[[], None]) -> Iterator[None]:
    """Within the block, safe points ask one thing more; it may raise to stop there."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def safe_point() -> None:
    """A place where nothing is lost if the process stops.

    Raises:
        StopAskedError: A stop was asked for.
        TrialLostError: The trial that is carried out was given to another process.
    """
    if Interruption.current is not None:
        Interruption.current.check()
    for check in _checks:
        check()


def stop_is_asked() -> bool:
    """Whether a stop was asked for. What fails from then on may have failed for that."""
    return Interruption.current is not None and Interruption.current.is_asked


def _as_a_child(number: int) -> None:
    """What a process does that was forked to load images: a terminal sends Ctrl-C to it too, and it goes on."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
