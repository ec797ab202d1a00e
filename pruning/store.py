"""The stage store: what was computed once is read back by every trial, worker and study.

Plain files. A finished stage is a folder named by its digest, published by one rename after its files have
reached the disk, so that it is whole or absent; the folder's time says when it was last used. An unfinished training
leaves its last epoch in `progress/`. Who trains says so in `claims/`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.claims import LEASE_S, LOOK_S, Claims, StageClaim, StageClaimedError
from prunetune.pruning.processes import is_alive, process_text, read_process
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.errors import StoreError
from prunetune.spaces.fields import integer
from prunetune.spaces.files import flush, storage_error

RECORD = "stage.json"
"""The file of a stage that says what it is, and the sizes and sums of its other files."""

STAGES, PROGRESS, DRAFTS, CLAIMS = "stages", "progress", "drafts", "claims"
"""The folders of a store."""


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

    Several processes can use a store at once, also from several hosts. Who claims a trunk before he trains on it wastes
    nobody's time. Should two work on the same stage after all, the first to finish wins, and no data are lost.

    Args:
        root: The folder; made if it is not there.
        lease_s: A claim that its process did not touch for so many seconds is dead.
    """

    def __init__(self, root: Path, lease_s: float = LEASE_S) -> None:
        self.root = root
        self._stages, self._progress, self._drafts = root / STAGES, root / PROGRESS, root / DRAFTS
        self.claims = Claims(root / CLAIMS, lease_s)
        try:
            for folder in (self._stages, self._progress, self._drafts):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(root, error) from error
        self._remove_dead_drafts()

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
        draft = self._draft(folder)
        try:
            sizes = {}
            for name, write in files.items():
                path = draft / name
                write(path)
                flush(path)
                sizes[name] = (path.stat().st_size, file_sha256(path))
            stored = {"digest": digest, "record": record, "files": sizes}
            (draft / RECORD).write_text(json.dumps(stored, indent=1), encoding="utf-8")
            flush(draft / RECORD)
            draft.chmod(0o755)
            found = self._place(draft, digest)
            flush(self._stages)
        except OSError as error:
            raise storage_error(folder, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        if found is None:
            raise StoreError(f"{folder}: a stage vanished while it was written")
        return StoredStage(digest, folder, found.record, reused=False)

    def _place(self, draft: Path, digest: str) -> StoredStage | None:
        """Makes a draft the stage of this name, unless another worker was first."""
        try:
            os.rename(draft, self._stages / digest)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            found = self.find(digest)
            if found is not None:
                return found
            os.rename(draft, self._stages / digest)  # a damaged stage was in the way; the look removed it
        return self.find(digest)

    def touch(self, digest: str) -> bool:
        """Notes that a stage is used now; returns whether it is there."""
        with suppress(OSError):  # gone, or in a folder that may only be read
            os.utime(self._stages / digest)
        return (self._stages / digest).is_dir()

    def discard(self, digest: str) -> bool:
        """Removes a stage, which is run again when it is wanted; returns whether it was there."""
        broken = self._draft(self._stages / digest)
        try:
            os.rename(self._stages / digest, broken / digest)
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(self._stages / digest, error) from error
        finally:
            shutil.rmtree(broken, ignore_errors=True)

    def progress(self, digest: str) -> Path:
        """The file for the last epoch of an unfinished training."""
        return self._progress / f"{digest}.pt"

    def save_progress(self, digest: str, write: Callable[[Path], None]) -> None:
        """Replaces the progress of a training as one step.

        It survives the death of the process. After a power failure it may be gone, and the training starts over.
        """
        draft = self._draft(self.progress(digest))
        try:
            write(draft / "progress")
            os.replace(draft / "progress", self.progress(digest))
        except OSError as error:
            raise storage_error(self.progress(digest), error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def forget_progress(self, digest: str) -> None:
        """Removes the progress of a training that is finished."""
        self.progress(digest).unlink(missing_ok=True)

    def claim(self, trunk: str, digest: str, parent: str) -> StageClaim:
        """Claims a trunk to train on, until the returned context ends.

        Args:
            trunk: What is claimed: all lengths of one training.
            digest: The stage to train.
            parent: The stage that it starts from.

        Raises:
            StageClaimedError: Another living process trains on it.
        """
        return self.claims.take(trunk, digest, parent)

    def is_released(self, claimed: StageClaimedError) -> bool:
        """Whether a stage that another process was training can be read back now, or claimed."""
        is_published = (self._stages / claimed.digest / RECORD).is_file()
        return is_published or self.claims.holder(claimed.trunk) is None

    def await_release(self, claimed: Sequence[StageClaimedError], listen: Callable[[], None]) -> StageClaimedError:
        """Waits until one of several stages can be read back or claimed; returns the error that spoke of it.

        Args:
            claimed: What is waited for; not empty.
            listen: Called before every pause; may raise to end the waiting.
        """
        pause = threading.Event()
        while True:
            for error in claimed:
                if self.is_released(error):
                    return error
            listen()
            pause.wait(LOOK_S)

    def _draft(self, target: Path) -> Path:
        """A folder to prepare a file or stage in, marked as this process's."""
        try:
            return Path(tempfile.mkdtemp(prefix=f"{process_text()}.", dir=self._drafts))
        except OSError as error:
            raise storage_error(target, error) from error

    def _remove_dead_drafts(self) -> None:
        """Removes what processes left behind when they were killed. What may be another container's stays."""
        for draft in self._drafts.iterdir():
            process = read_process(draft.name.rpartition(".")[0])
            if process is not None and not is_alive(process):
                shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink(missing_ok=True)


def digest_of(value: Any) -> str:
    """A name for plain values: equal values, equal name."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
