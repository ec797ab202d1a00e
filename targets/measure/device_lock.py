"""Who may use a device when: one measurement alone, or any number of trainings.

A measurement beside a training gives wrong numbers. So trainings of ours hold a device together, batch by batch,
and a measurement waits until they let go, then has it alone. Across processes, by one file for each device.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import ReadWriteLock, Timeout

from prunetune.spaces.errors import TargetError

logger = logging.getLogger(__name__)


SILENT_S = 60.0
"""Who waits for a device longer than this says so. An epoch of another process may last as long."""


@contextmanager
def exclusive(place: str) -> Iterator[None]:
    """Has a device alone for one measurement; waits for the measurements and training epochs that run there.

    `InterleavedTarget.measure` takes it by itself.

    Args:
        place: A device as `TargetSpec.place` names it: `cpu`, `cuda:0`.

    Raises:
        TargetError: The lock's file cannot be written.
    """
    with _hold(place, "write", f"waiting for {place} to be free of other measurements and trainings"):
        yield


@contextmanager
def shared(place: str) -> Iterator[None]:
    """Holds a device together with other trainings, so that nobody measures on it meanwhile.

    Raises:
        TargetError: The lock's file cannot be written.
    """
    with _hold(place, "read", f"waiting for a measurement on {place} to end"):
        yield


@contextmanager
def _hold(place: str, mode: Literal["read", "write"], message: str) -> Iterator[None]:
    path = lock_path(place)
    try:
        # Readable by its owner alone: who can open the file could lock it for good.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        lock = ReadWriteLock(path, is_singleton=False)
        acquire = lock.acquire_write if mode == "write" else lock.acquire_read
        try:
            acquire(blocking=False)
        except Timeout:
            logger.info("%s (%s)", message, path)
            try:
                acquire(timeout=SILENT_S)
            except Timeout:
                logger.warning("%s (%s)", message, path)
                acquire()
    except (OSError, sqlite3.Error) as error:
        raise TargetError(f"{path}: cannot be locked ({error}); set TMPDIR to a folder that you can write") from error
    try:
        yield
    finally:
        lock.release()


def lock_path(place: str) -> Path:
    """The file whose lock means that a device is used. Each user has their own."""
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"prunetune-{user}-{place}.lock")
    return Path(tempfile.gettempdir()) / name
