"""Ctrl-C that nothing can swallow.

Python raises KeyboardInterrupt wherever it happens to be, which may be in a callback from C or in code of a library
that catches everything. The wish to stop is therefore remembered, and raised again at the next safe point.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from prunetune.pruning.training import EpochListener, EpochRecord


class Interruption:
    """Remembers, while its block runs, that the user asked to stop. Outside of the main thread it does nothing."""

    def __init__(self) -> None:
        self.is_asked = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """A safe point to stop at.

        Raises:
            KeyboardInterrupt: The user asked to stop, and somebody swallowed it.
        """
        if self.is_asked:
            raise KeyboardInterrupt

    def after(self, listener: EpochListener) -> EpochListener:
        """A listener that makes the end of every epoch, when its state is stored, a safe point."""

        def listen(record: EpochRecord) -> None:
            listener(record)
            self.check()

        return listen
