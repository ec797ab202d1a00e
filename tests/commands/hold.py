"""A process that waits at a moment of its own until it is told to go on, or killed.

Who strikes from outside at what he sees comes too late on a fast machine: the process is a step further by then. Here
it waits where it is to be struck. Its other threads go on: it gives signs of life, and keeps its leases.
"""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

RESUME = signal.SIGUSR1
"""Lets a process go on."""

FILE_EVENTS = ("open", "os.rename", "os.remove")


class _Heard:
    """A stream that tells what was written to it so far."""

    def __init__(self, stream: TextIO, moment: _Moment) -> None:
        self._stream, self._moment, self._said = stream, moment, ""

    def write(self, text: str) -> int:
        count = self._stream.write(text)
        self._stream.flush()
        self._said += text
        self._moment.look(self._said)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Moment:
    def __init__(self, pattern: str, marker: Path) -> None:
        self._expression, self._marker, self._has_come = re.compile(pattern, re.MULTILINE), marker, False

    def look(self, text: str) -> None:
        """Waits if the moment is there, for the first time."""
        if self._has_come or not self._expression.search(text):
            return
        self._has_come = True
        self._marker.touch()
        signal.sigwait({RESUME})


def hold(pattern: str, marker: Path) -> None:
    """Makes this process wait once, when something it writes or does with a file matches a pattern.

    Args:
        pattern: Is searched in all that it has written to its standard output, and in `EVENT PATH` of each of the
            `FILE_EVENTS`, right before it happens.
        marker: A file that appears when the process waits.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {RESUME})  # in the threads to come, too: only who waits takes it
    moment = _Moment(pattern, marker)
    sys.stdout = _Heard(sys.stdout, moment)  # type: ignore[assignment]

    def look_at(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS:
            moment.look(f"{event} {arguments[0]}")

    sys.addaudithook(look_at)
