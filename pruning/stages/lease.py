"""Leases on stages: which process trains which stage, told by small files that every host with the folder can read.

The process of a lease touches its file every few seconds (`filelock.SoftFileLease`). A lease is a hint, and excludes
nobody: a process that was suspended for longer goes on when it wakes, beside the one that took the lease over. That
costs time and no more: equal digests are equal stages, a stage is published by one rename, and an epoch is stored only
by the process that still has the lease, or has come further than the other.

filelock takes over what a dead process of this host left, where the file system can exchange two names. NFS cannot, and
of another host nothing is known but the file. So who was refused remembers since when, by its own clock, the file has
been as it is, and removes it once that is longer than the lease.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from filelock import LeaseSettingsMismatch, OwnerRecord, SoftFileLease, Timeout

from prunetune.spaces.drafts import LEASE_S, SUFFIX, file_lease
from prunetune.spaces.errors import PrunetuneError
from prunetune.spaces.files import storage_error


class StageBusyError(PrunetuneError):
    """Another process trains the stage, or another length of its trunk.

    Args:
        digest: The stage that was wanted.
        trunk: What is leased.
        owner: Who has the lease; None where the file does not say.
    """

    def __init__(self, digest: str, trunk: str, owner: OwnerRecord | None = None) -> None:
        self.digest, self.trunk = digest, trunk
        # Behind the question mark filelock tells apart the containers of a host.
        self.where = f"{owner.hostname.partition('?')[0]}:{owner.pid}" if owner else "another process"
        """The owner as host:process."""
        super().__init__(f"{digest}: is being trained by {self.where}; run the same command again when that is done")


class StageLease:
    """A lease of this process, kept alive in the background. A context: its end gives the lease up.

    Args:
        lease: The file's.
        trunk: What is leased.
        stage: The stage that is to be trained.

    Raises:
        StageBusyError: Another process has it.
        StoreError: The folder cannot be written.
    """

    def __init__(self, lease: SoftFileLease, trunk: str, stage: str) -> None:
        self._lease, self._trunk, self._stage = lease, trunk, stage
        self._acquire()

    def __enter__(self) -> StageLease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Lets others have it."""
        self._lease.release()

    def confirm(self) -> bool:
        """Makes sure that the lease is still held; takes it again if it was lost and nobody has it.

        Returns:
            Whether it was held all the time. If not, another process may have trained the stage meanwhile.

        Raises:
            StageBusyError: Another process has taken it over.
        """
        owner = self._lease.owner
        if owner is not None and owner.token == self._lease.token:
            return True
        self._lease.release()
        self._acquire()
        return False

    def _acquire(self) -> None:
        try:
            self._lease.acquire()
        except (Timeout, LeaseSettingsMismatch):  # the latter: held with another duration
            raise StageBusyError(self._stage, self._trunk, self._lease.owner) from None
        except OSError as error:
            raise storage_error(Path(self._lease.lock_file), error) from error


class StageLeases:
    """The leases in one folder.

    Args:
        folder: Where their files are.
        lease_s: Seconds after which a lease whose file nobody touched is taken over.
        clock: Tells seconds; it is this process's own.
    """

    def __init__(self, folder: Path, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._lease_s, self._clock = folder, lease_s, clock
        self._seen: dict[str, tuple[tuple[bytes, int], float]] = {}

    def take(self, trunk: str, stage: str) -> StageLease:
        """Leases a trunk until the returned context ends.

        Args:
            trunk: What to lease: all lengths of one training.
            stage: The stage that is to be trained.

        Raises:
            StageBusyError: Another process has the lease.
            StoreError: The folder cannot be written.
        """
        file = self._folder / f"{trunk}{SUFFIX}"
        lease = file_lease(file, self._lease_s)
        if self._has_lapsed(trunk, file):
            lease.force_break()
        return StageLease(lease, trunk, stage)

    def is_free(self, trunk: str) -> bool:
        """Whether a trunk can be leased now."""
        try:
            self.take(trunk, trunk).release()
        except StageBusyError:
            return False
        return True

    def _has_lapsed(self, trunk: str, file: Path) -> bool:
        """Whether a lease's file has been as it is for longer than a lease, as far as this process has seen."""
        try:
            with file.open("rb") as opened:  # NFS asks the server for the times of a file that is opened
                state = opened.read(), os.fstat(opened.fileno()).st_mtime_ns
        except OSError:
            return False
        before, since = self._seen.get(trunk, (None, 0.0))
        if state != before:
            self._seen[trunk] = state, self._clock()
            return False
        return self._clock() - since > self._lease_s
