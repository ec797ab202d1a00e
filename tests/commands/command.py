"""The command line in processes of its own that start at once.

A process spends seconds importing torch and ultralytics before it does what a test waits for. Here one process imports
them, and every command is a fork of it: a process like any other, with its own number, signals and death.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from commands.hold import RESUME
from commands.hold import hold as hold_at

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "prunetune.search.runner",
        "prunetune.search.engine.finish",
        "prunetune.search.cli",
        "prunetune.pruning.training.trainer",
    ]
)


class Command:
    """One start of the command, with a line for every step and epoch.

    Args:
        arguments: What stands behind `prunetune`.
        log: Where its output goes.
        prepare: Called in the process before anything else; it can be sent to another process.
        hold: Where the process waits, for `await_hold`; see `hold`.
    """

    def __init__(
        self, arguments: list[str], log: Path, prepare: Callable[[], object] | None = None, hold: str | None = None
    ) -> None:
        log.touch()
        self._log, self._marker = log, log.with_suffix(".held")
        holding = None if hold is None else partial(hold_at, hold, self._marker)
        self._process = _context.Process(target=_run, args=(arguments, str(log), prepare, holding))
        self._process.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """What it has written so far."""
        return self._log.read_text(encoding="utf-8")

    @property
    def code(self) -> int | None:
        """Its exit code, the negative signal that ended it, or None while it runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Waits for its end; returns its exit code."""
        self._process.join()
        return self._process.exitcode

    def until(self, moment: Callable[[], bool]) -> None:
        """Waits for something that happens before the process ends; looks every two milliseconds.

        A look into a data base costs more than a look at a file; then a fifth of a core is enough for looking.
        """
        pause, began = threading.Event(), time.thread_time()
        while not moment():
            assert self._process.is_alive(), f"it ended before the moment came:\n{self.said}"
            pause.wait(max(0.002, min(0.25, 4 * (time.thread_time() - began))))
            began = time.thread_time()

    def await_hold(self) -> None:
        """Waits until the process waits where it was told to."""
        self.until(self._marker.exists)

    def resume(self) -> None:
        """Lets the process go on from there."""
        os.kill(self.pid, RESUME)

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, if it still runs.

        The process that it is a fork of waits for it, so its number may be another's long before it is asked for here.
        """
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _run(arguments: list[str], log: str, *prepare: Callable[[], object] | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")
    sys.argv = ["prunetune", *arguments]
    for act in prepare:
        if act is not None:
            act()

    from prunetune.search import cli
    from prunetune.search.callbacks import views

    views.PLAIN_SECONDS = 0.0
    cli.main()
