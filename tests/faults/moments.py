"""Moments at which a process dies of SIGKILL, drawn from a seed.

Some are told by the process's own steps and hit in the middle by its parent. Others are too short for that: a process
kills itself at one of its writes to the database (asking, signing, heartbeats, telling) or to the store.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from commands.command import Command

WRITES = ("INSERT", "UPDATE", "BEGIN", "COMMIT")


@dataclass
class Moment:
    """When a process dies.

    Attributes:
        kind: `step`, `database` or `store`.
        count: At which one of them.
        delay_s: How long after a step.
    """

    kind: str
    count: int
    delay_s: float
    _due: float | None = field(default=None, init=False)

    @classmethod
    def draw(cls, chance: random.Random) -> Moment:
        """One of any kind."""
        kind = chance.choice(("step", "step", "database", "store"))
        most = {"step": 14, "database": 60, "store": 30}[kind]
        return cls(kind, chance.randint(1, most), chance.uniform(0.0, 0.3))

    @property
    def prepare(self) -> Callable[[], object] | None:
        """What the process is to do at its start."""
        acts: dict[str, Callable[[int], None]] = {"database": die_at_a_statement, "store": die_at_a_file}
        return partial(acts[self.kind], self.count) if self.kind in acts else None

    def has_come(self, command: Command) -> bool:
        """Whether its parent is to kill it now."""
        if self.kind != "step":
            return False
        if self._due is None and command.said.count("\n") >= self.count:
            self._due = time.monotonic() + self.delay_s
        return self._due is not None and time.monotonic() >= self._due


def die() -> None:
    """SIGKILL at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_a_statement(count: int) -> None:
    """Dies right before a write to the database, the commit of one, or the answer to it."""
    import sqlalchemy.event
    from sqlalchemy.engine import Engine

    left = iter(range(count, 0, -1))

    def look(*_: Any) -> None:
        if next(left, 0) <= 1:
            die()

    def look_at(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.lstrip().startswith(WRITES):
            look()

    sqlalchemy.event.listen(Engine, "before_cursor_execute", look_at)
    sqlalchemy.event.listen(Engine, "commit", look)


def die_at_a_file(count: int) -> None:
    """Dies right before a file of the store is opened for writing, renamed or removed."""
    left = iter(range(count, 0, -1))

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            return
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and "/.store/" in str(arguments[0]) and next(left, 0) <= 1:
            die()

    sys.addaudithook(look)
