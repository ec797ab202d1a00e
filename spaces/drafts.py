"""Folders in which something is prepared, until one rename brings it to its place.

A draft has a lease beside it, `NAME.lease`, as long as its process lives. It tells what a killed process left from what
another one still writes, also one in another container or on another host.
"""

from __future__ import annotations

import glob
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLease

LEASE_S = 60.0
"""A lease whose file nobody touched for so many seconds has lapsed."""

INTERVAL_S = 10.0
"""Seconds between two touches."""

SUFFIX = ".lease"


def file_lease(path: Path, lease_s: float = LEASE_S) -> SoftFileLease:
    """A lease on a file, not taken yet. Who takes it while another process has it gets filelock's `Timeout` at once.

    Args:
        path: The file.
        lease_s: Seconds until it lapses. Every process must give the same.
    """
    interval_s = lease_s * INTERVAL_S / LEASE_S
    return SoftFileLease(path, lease_duration=lease_s, heartbeat_interval=interval_s, timeout=0, thread_local=False)


@contextmanager
def draft(folder: Path, prefix: str = "") -> Iterator[Path]:
    """A new folder inside `folder`. What is in it when the block ends, and was not moved, is removed.

    Raises:
        OSError: `folder` cannot be written.
    """
    path = folder / f"{prefix}{secrets.token_hex(8)}"
    with file_lease(folder / f"{path.name}{SUFFIX}"):  # before the folder is there: it is never seen without
        try:
            path.mkdir(mode=0o700)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(folder: Path, prefix: str = "") -> None:
    """Removes the drafts of processes that are certainly dead."""
    for lease in folder.glob(f"{glob.escape(prefix)}{'[0-9a-f]' * 16}{SUFFIX}"):
        with suppress(OSError), file_lease(lease):  # a Timeout is one
            shutil.rmtree(lease.with_suffix(""), ignore_errors=True)
