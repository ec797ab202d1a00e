"""What lies in a stage store, how large it is, and how to free what was used longest ago."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prunetune.pruning.stages.store import DRAFTS, PROGRESS, RECORD, STAGES, StageStore
from prunetune.spaces.drafts import SUFFIX
from prunetune.spaces.errors import StoreError
from prunetune.spaces.files import file_sha256, storage_error

UNFINISHED, DRAFT, LEASE = "unfinished", "draft", "lease"
"""Kinds of items besides the kinds of stages."""

RECENT_S = 3600.0
"""What was used within this time is not freed: a running recipe may be between two of its stages. What is leased counts
as used every few seconds."""


@dataclass(frozen=True)
class Item:
    """A stage, the progress of an unfinished training, a draft, or a lease.

    Attributes:
        path: Its folder or file.
        kind: The stage's kind, or `unfinished`, `draft` or `lease`.
        size: Bytes in its files.
        used: When it or its lease was last touched, in seconds since 1970.
    """

    path: Path
    kind: str
    size: int
    used: float

    @property
    def digest(self) -> str:
        """The stage's name; the trunk's of an unfinished training and of its lease."""
        return self.path.name if self.is_stage else self.path.stem

    @property
    def is_stage(self) -> bool:
        """Whether it is a finished stage."""
        return self.path.parent.name == STAGES


@dataclass(frozen=True)
class StoreContents:
    """All that is in a store.

    Attributes:
        root: The store's folder.
        items: What is stored, longest unused first; a lease after what it is on.
    """

    root: Path
    items: tuple[Item, ...]

    @classmethod
    def read(cls, root: Path) -> StoreContents:
        """Reads what is in a store. Creates nothing.

        Raises:
            StoreError: There is no store, or it cannot be read.
        """
        if not (root / STAGES).is_dir():
            raise StoreError(f"{root}: no stage store; give the folder of studies with --runs FOLDER")
        try:
            items = [
                *(_item(path, path.name.rpartition("-")[0]) for path in (root / STAGES).glob("*")),
                *(_item(path, LEASE if path.suffix == SUFFIX else UNFINISHED) for path in (root / PROGRESS).glob("*")),
                *(_item(path, LEASE if path.suffix == SUFFIX else DRAFT) for path in (root / DRAFTS).glob("*")),
            ]
            there = [item for item in items if item is not None]
            return cls(root, tuple(sorted(there, key=lambda item: (item.used, item.kind == LEASE))))
        except OSError as error:
            raise storage_error(root, error) from error

    @property
    def size(self) -> int:
        """Bytes of all items."""
        return sum(item.size for item in self.items)

    def removable(self, max_bytes: float = math.inf, max_age_s: float = math.inf) -> list[Item]:
        """What to free: what was not used for longer than `max_age_s`, then more until `max_bytes` are left."""
        removable, excess, now = [], self.size - max_bytes, time.time()
        for item in self.items:
            age = now - item.used
            if age > RECENT_S and (age > max_age_s or excess > 0):
                removable.append(item)
                excess -= item.size
        return removable


def free(root: Path, items: Iterable[Item]) -> list[Item]:
    """Removes items from a store, and returns what was removed: what came into use meanwhile stays."""
    store = StageStore(root)
    return [item for item in items if _item(item.path, item.kind) == item and _remove(store, item)]


def damage(folder: Path) -> list[str]:
    """What is wrong with the files of a stage: one sentence for each, none if all have the recorded sums."""
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sums = {str(name): (int(size), str(sha256)) for name, (size, sha256) in stored["files"].items()}
        name, kind = str(stored["digest"]), str(stored["record"]["kind"])
    except FileNotFoundError:
        return [f"{RECORD} is missing"] if folder.is_dir() else []
    except OSError as error:
        return [f"{RECORD} cannot be read ({error.strerror})"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{RECORD} is no stage's record"]
    if name != folder.name:
        return [f"{RECORD} is that of {name} ({kind})"]
    problems = (_file_damage(folder / name, *told) for name, told in sums.items())
    found = [problem for problem in problems if problem]
    return found if folder.is_dir() else []  # somebody removed it meanwhile


def _file_damage(file: Path, size: int, sha256: str) -> str:
    try:
        actual = file.stat().st_size
        if actual != size:
            return f"{file.name} has {actual} bytes instead of {size}"
        return "" if file_sha256(file) == sha256 else f"{file.name} has another SHA-256 than was recorded"
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"


def _item(path: Path, kind: str) -> Item | None:
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if not file.is_dir()]
        used = path.lstat().st_mtime
        with suppress(FileNotFoundError):
            used = max(used, path.with_suffix(SUFFIX).lstat().st_mtime)
        return Item(path, kind, sum(file.lstat().st_size for file in files), used)
    except FileNotFoundError:  # another process removes it
        return None


def _remove(store: StageStore, item: Item) -> bool:
    if item.is_stage:
        return store.discard(item.path.name)
    if item.path.is_dir():
        shutil.rmtree(item.path, ignore_errors=True)
    else:
        item.path.unlink(missing_ok=True)
    return not item.path.exists()
