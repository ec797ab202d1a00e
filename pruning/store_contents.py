"""What lies in a stage store, how large it is, and how to free what was used longest ago."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prunetune.pruning.claims import Claims
from prunetune.pruning.store import CLAIMS, DRAFTS, PROGRESS, RECORD, STAGES, StageStore, file_sha256
from prunetune.spaces.errors import StoreError
from prunetune.spaces.files import storage_error

UNFINISHED, DRAFT = "unfinished", "draft"
"""Kinds of items besides the kinds of stages."""

RECENT_S = 3600.0
"""What was used within this time is not freed: a running recipe may be between two of its stages."""


@dataclass(frozen=True)
class Item:
    """A stage, the progress of an unfinished training, or a draft.

    Attributes:
        path: Its folder or file.
        kind: The stage's kind, or `unfinished` or `draft`.
        size: Bytes in its files.
        used: When it was last used, by the file system's clock.
    """

    path: Path
    kind: str
    size: int
    used: float

    @property
    def digest(self) -> str:
        """The stage's name; the trunk's of an unfinished training."""
        return self.path.stem if self.kind == UNFINISHED else self.path.name

    @property
    def is_stage(self) -> bool:
        """Whether it is a finished stage."""
        return self.path.parent.name == STAGES


@dataclass(frozen=True)
class StoreContents:
    """All that is in a store.

    Attributes:
        root: The store's folder.
        items: What is stored, longest unused first.
        claimed: The digests that living claims name, and those of the stages that these were made from.
        now: The time, by the file system's clock.
    """

    root: Path
    items: tuple[Item, ...]
    claimed: frozenset[str]
    now: float

    @classmethod
    def read(cls, root: Path) -> StoreContents:
        """Reads what is in a store. Creates nothing.

        Raises:
            StoreError: There is no store, or it cannot be read.
        """
        if not (root / STAGES).is_dir():
            raise StoreError(f"{root}: no stage store; give the folder of studies with --runs FOLDER")
        claims = Claims(root / CLAIMS)
        try:
            items = [
                *(_item(path, path.name.rpartition("-")[0]) for path in (root / STAGES).glob("*")),
                *(_item(path, UNFINISHED) for path in (root / PROGRESS).glob("*")),
                *(_item(path, DRAFT) for path in (root / DRAFTS).glob("*")),
            ]
            there = sorted((item for item in items if item is not None), key=lambda item: item.used)
            return cls(root, tuple(there), _claimed(root, claims), claims.now())
        except OSError as error:
            raise storage_error(root, error) from error

    @property
    def size(self) -> int:
        """Bytes of all items."""
        return sum(item.size for item in self.items)

    def removable(self, max_bytes: float = math.inf, max_age_s: float = math.inf) -> list[Item]:
        """What to free: what was not used for longer than `max_age_s`, then more until `max_bytes` are left."""
        found, excess = [], self.size - max_bytes
        for item in self.items:
            age = self.now - item.used
            if age > RECENT_S and item.digest not in self.claimed and (age > max_age_s or excess > 0):
                found.append(item)
                excess -= item.size
        return found


def free(root: Path, items: Iterable[Item]) -> list[Item]:
    """Removes items from a store, and returns what was removed: what came into use meanwhile stays."""
    store = StageStore(root)
    freed = [item for item in items if _item(item.path, item.kind) == item and _remove(store, item)]
    store.claims.remove_dead()
    return freed


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
        return Item(path, kind, sum(file.lstat().st_size for file in files), path.lstat().st_mtime)
    except FileNotFoundError:  # another process removes it
        return None


def _claimed(root: Path, claims: Claims) -> frozenset[str]:
    found: set[str] = set()
    for sign in claims.living():
        digest = sign.holder.parent if sign.holder else ""
        found |= {sign.trunk, sign.holder.stage if sign.holder else sign.trunk}
        while digest and digest not in found:
            found.add(digest)
            try:
                stored = json.loads((root / STAGES / digest / RECORD).read_text(encoding="utf-8"))
                digest = str(stored["record"]["parent"])
            except (OSError, ValueError, KeyError, TypeError):
                break
    return frozenset(found)


def _remove(store: StageStore, item: Item) -> bool:
    if item.is_stage:
        return store.discard(item.path.name)
    if item.path.is_dir():
        shutil.rmtree(item.path, ignore_errors=True)
    else:
        item.path.unlink(missing_ok=True)
    return not item.path.exists()
