"""The stage store: what was computed once is read back by every trial, worker and study.

Plain files. A finished stage is a folder named by its digest, published by one rename after its files have
reached the disk, so that it is whole or absent; the folder's time says when it was last used. An unfinished training
leaves its last epoch in `progress/`, and beside it lies the lease of the process that trains.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.pruning.stages.lease import StageBusyError, StageLease, StageLeases
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.drafts import LEASE_S, draft, remove_abandoned
from prunetune.spaces.errors import StoreError
from prunetune.spaces.fields import integer
from prunetune.spaces.files import file_sha256, flush, storage_error

RECORD = "stage.json"
"""The file of a stage that says what it is, and the sizes and sums of its other files."""

STAGES, PROGRESS, DRAFTS = "stages", "progress", "drafts"
"""The folders of a store."""

LOOK_S = 1.0
"""Who waits for a stage looks again after so many seconds."""


@dataclass(frozen=True)
class StoredStage:
    """A finished stage.

    Attributes:
        digest: The stage's name.
        folder: Where its files are.
        record: Plain values that were stored with it.
        reused: Whether it was read back instead of run.
    """

    digest: str
    folder: Path
    record: Mapping[str, Any]
    reused: bool

    @property
    def kind(self) -> str:
        """`original`, `sparse`, `pruning`, `recovery`, ..."""
        return str(self.record["kind"])

    @property
    def parent(self) -> str:
        """The digest of the stage that it starts from; empty for the first."""
        return str(self.record["parent"])

    @property
    def accuracy(self) -> Accuracy | None:
        """On `val`; None where it was not evaluated, as after a sparse phase."""
        return Accuracy.parse(self.record["accuracy"])

    def require_accuracy(self) -> Accuracy:
        """The same of a stage that is evaluated.

        Raises:
            StoreError: It is damaged.
        """
        if self.accuracy is None:
            raise StoreError(f"{self.folder}: its accuracy is damaged; delete this folder, and it is made anew")
        return self.accuracy

    @property
    def channels(self) -> ChannelConfig:
        """Of its network."""
        return ChannelConfig(self.record["channels"])

    @property
    def params(self) -> int:
        """Parameters of its network."""
        return int(self.record["params"])

    @property
    def gflops(self) -> float:
        """Of its network, at the trainings' input size."""
        return float(self.record["gflops"])

    @property
    def epochs(self) -> int:
        """Epochs of its training; 0 where there was none."""
        return int(self.record["epochs"])

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose weights it has, where the training chose one."""
        return integer(self.record["best_epoch"])

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.folder / name


class StageStore:
    """Finished stages and unfinished trainings below one folder.

    Several processes can use a store at once, also from several hosts. Who leases a trunk before training on it wastes
    nobody's time. Should two work on the same stage after all, the first to finish wins, and no data are lost.

    Args:
        root: The folder; made if it is not there.
        lease_s: Seconds after which a lease whose file nobody touched is taken over.
    """

    def __init__(self, root: Path, lease_s: float = LEASE_S) -> None:
        self.root = root
        self._stages, self._progress, self._drafts = root / STAGES, root / PROGRESS, root / DRAFTS
        self._leases = StageLeases(self._progress, lease_s)
        try:
            for folder in (self._stages, self._progress, self._drafts):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(root, error) from error
        remove_abandoned(self._drafts)

    def find(self, digest: str) -> StoredStage | None:
        """The finished stage of this name, if there is one and its files are whole."""
        folder = self._stages / digest
        # Asked first: a stage that another worker publishes during this look must not be taken for a damaged one.
        if not folder.is_dir():
            return None
        try:
            stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            whole = all((folder / name).stat().st_size == size for name, (size, _) in stored["files"].items())
            if whole:
                stage = StoredStage(digest, folder, stored["record"], reused=True)
                return stage if self.touch(digest) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            pass  # damaged, like a file of the wrong size
        except OSError as error:
            raise storage_error(folder, error) from error
        self.discard(digest)
        return None

    def publish(
        self, digest: str, record: Mapping[str, Any], files: Mapping[str, Callable[[Path], None]]
    ) -> StoredStage:
        """Stores a finished stage.

        Args:
            digest: Its name.
            record: Plain values to keep with it.
            files: File name to a function that writes the file at the given path.

        Raises:
            StoreError: The folder cannot be written, or the disk is full.
        """
        folder = self._stages / digest
        try:
            with draft(self._drafts) as made:
                sizes = {}
                for name, write in files.items():
                    path = made / name
                    write(path)
                    flush(path)
                    sizes[name] = (path.stat().st_size, file_sha256(path))
                stored = {"digest": digest, "record": record, "files": sizes}
                (made / RECORD).write_text(json.dumps(stored, indent=1), encoding="utf-8")
                flush(made / RECORD)
                made.chmod(0o755)
                found = self._place(made, digest)
                flush(self._stages)
        except OSError as error:
            raise storage_error(folder, error) from error
        if found is None:
            raise StoreError(f"{folder}: a stage vanished while it was written")
        return StoredStage(digest, folder, found.record, reused=False)

    def _place(self, made: Path, digest: str) -> StoredStage | None:
        """Makes a draft the stage of this name, unless another worker was first."""
        try:
            os.rename(made, self._stages / digest)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            found = self.find(digest)
            if found is not None:
                return found
            os.rename(made, self._stages / digest)  # a damaged stage was in the way; the look removed it
        return self.find(digest)

    def touch(self, digest: str) -> bool:
        """Notes that a stage is used now; returns whether it is there."""
        with suppress(OSError):  # gone, or in a folder that may only be read
            os.utime(self._stages / digest)
        return (self._stages / digest).is_dir()

    def touch_line(self, digest: str) -> None:
        """Notes that a stage is used now, with all that it was made from. One that is not there is passed over."""
        while digest and (stage := self.find(digest)) is not None:
            digest = stage.parent

    def discard(self, digest: str) -> bool:
        """Removes a stage, which is run again when it is wanted; returns whether it was there."""
        try:
            with draft(self._drafts) as broken:
                os.rename(self._stages / digest, broken / digest)
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(self._stages / digest, error) from error

    def progress(self, digest: str) -> Path:
        """The file for the last epoch of an unfinished training."""
        return self._progress / f"{digest}.pt"

    def save_progress(self, digest: str, write: Callable[[Path], None]) -> None:
        """Replaces the progress of a training as one step.

        It survives the death of the process. After a power failure it may be gone, and the training starts over.
        """
        try:
            with draft(self._drafts) as made:
                write(made / "progress")
                os.replace(made / "progress", self.progress(digest))
        except OSError as error:
            raise storage_error(self.progress(digest), error) from error

    def forget_progress(self, digest: str) -> None:
        """Removes the progress of a training that is finished."""
        self.progress(digest).unlink(missing_ok=True)

    def lease(self, trunk: str, digest: str) -> StageLease:
        """Leases a trunk to train on, until the returned context ends.

        Args:
            trunk: What is leased: all lengths of one training.
            digest: The stage to train.

        Raises:
            StageBusyError: Another process trains on it.
            StoreError: The store cannot be written.
        """
        return self._leases.take(trunk, digest)

    def is_released(self, busy: StageBusyError) -> bool:
        """Whether a stage that another process was training can be read back now, or leased."""
        return (self._stages / busy.digest / RECORD).is_file() or self._leases.is_free(busy.trunk)

    def await_release(self, busy: Sequence[StageBusyError], listen: Callable[[], None]) -> StageBusyError:
        """Waits until one of several stages can be read back or leased; returns the error that spoke of it.

        Args:
            busy: What is waited for; not empty.
            listen: Called before every pause; may raise to end the waiting.
        """
        pause = threading.Event()
        while True:
            for error in busy:
                if self.is_released(error):
                    return error
            listen()
            pause.wait(LOOK_S)


def digest_of(value: Any) -> str:
    """A name for plain values: equal values, equal name."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
