"""What lies in a stage store, read from its files alone: nothing is created, changed or loaded."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunetune.pruning.stages import recorded_trunk
from prunetune.pruning.store import DRAFTS, PROGRESS, RECORD, REGISTRATION, STAGES, STUDIES, file_sha256
from prunetune.spaces.errors import StoreError
from prunetune.spaces.files import storage_error

DAMAGED, UNFINISHED, DRAFT = "damaged", "unfinished", "draft"
"""Kinds of items besides the kinds of stages."""

OLD_DRAFT_S = 24 * 3600.0
"""A draft is written within seconds. One of this age was left behind."""


@dataclass(frozen=True)
class Item:
    """A stage, the progress of an unfinished training, or a draft that was left behind.

    Attributes:
        name: The stage's digest; of an unfinished training, its trunk; the draft's name.
        path: Its folder or file.
        kind: The stage's kind, or `damaged`, `unfinished` or `draft`.
        parent: The stage that it starts from; empty where there is none, or it is not known.
        trunk: What all lengths of its training share.
        epochs: Epochs of its training.
        size: Bytes in its files.
        linked: Of these, bytes in files that have another name too, as in a study's candidates: removing the item
            does not free them.
        modified: When it was stored, by the file system's clock.
    """

    name: str
    path: Path
    kind: str
    parent: str
    trunk: str
    epochs: int
    size: int
    linked: int
    modified: float

    @property
    def is_stage(self) -> bool:
        """Whether it is a finished stage."""
        return self.kind not in (UNFINISHED, DRAFT)


def read_items(root: Path, now: float) -> list[Item]:
    """All items of a store, stages first.

    Args:
        root: The store's folder.
        now: The time, to tell what drafts were left behind.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    if not (root / STAGES).is_dir():
        raise StoreError(f"{root}: no stage store; give the folder of studies with --runs FOLDER")
    try:
        items = [_stage(path) for path in _entries(root / STAGES) if path.is_dir()]
        for path in _entries(root / PROGRESS):
            items.append(_item(path, path.stem, UNFINISHED, trunk=path.stem))
        for path in _entries(root / DRAFTS):
            draft = _item(path, path.name, DRAFT)
            if now - draft.modified > OLD_DRAFT_S:
                items.append(draft)
    except OSError as error:
        raise storage_error(root, error) from error
    return [item for item in items if item.modified]  # the others vanished during the look


def read_uses(root: Path) -> dict[str, frozenset[str]]:
    """What each study that is registered in a store has used: its name to digests of stages and trunks."""
    return {
        folder.name: frozenset(path.name for path in _entries(folder) if path.name != REGISTRATION)
        for folder in _entries(root / STUDIES)
        if folder.is_dir()
    }


def needed_by(items: Sequence[Item], uses: Mapping[str, Iterable[str]]) -> dict[Path, set[str]]:
    """Who needs which item.

    Whoever used a stage needs it, what it was made from, and all stored lengths of its trunk, since a longer training
    goes on from them.

    Args:
        items: What is stored.
        uses: Users to the digests of stages and trunks that they used.

    Returns:
        The path of each item to its users.
    """
    parents: dict[str, str] = {}
    lengths: dict[str, list[Item]] = defaultdict(list)
    trunks: dict[str, str] = {}
    for item in items:
        if item.is_stage:
            parents[item.name], trunks[item.name] = item.parent, item.trunk
        lengths[item.trunk].append(item)
    needed: dict[Path, set[str]] = {item.path: set() for item in items}
    for user, digests in uses.items():
        seen: set[str] = set()
        rest = list(digests)
        while rest:
            digest = rest.pop()
            if not digest or digest in seen:
                continue
            seen.add(digest)
            same_trunk = lengths.get(trunks.get(digest, digest), [])
            for item in same_trunk:
                needed[item.path].add(user)
            rest += [item.name for item in same_trunk if item.is_stage]
            rest.append(parents.get(digest, ""))
    return needed


def damage(item: Item) -> list[str]:
    """What is wrong with the files of a stage: one sentence for each, none if all have the recorded sums."""
    try:
        stored = json.loads((item.path / RECORD).read_text(encoding="utf-8"))
        sums = {str(name): (int(size), str(sha256)) for name, (size, sha256) in stored["files"].items()}
        name, kind = str(stored["digest"]), str(stored["record"]["kind"])
    except FileNotFoundError:
        return [f"{RECORD} is missing"] if item.path.is_dir() else []
    except OSError as error:
        return [f"{RECORD} cannot be read ({error.strerror})"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{RECORD} is no stage's record"]
    if name != item.name:
        return [f"{RECORD} is that of {name} ({kind})"]
    problems = (_file_damage(item.path / name, *told) for name, told in sums.items())
    found = [problem for problem in problems if problem]
    return found if item.path.is_dir() else []  # somebody removed it meanwhile


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


def _stage(folder: Path) -> Item:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))["record"]
        kind, parent, epochs = str(record["kind"]), str(record["parent"]), int(record["epochs"])
        return _item(folder, folder.name, kind, parent, recorded_trunk(folder.name, record), epochs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _item(folder, folder.name, DAMAGED, trunk=folder.name)


def _item(path: Path, name: str, kind: str, parent: str = "", trunk: str = "", epochs: int = 0) -> Item:
    statuses = _statuses(path)
    size = sum(status.st_size for status in statuses)
    linked = sum(status.st_size for status in statuses if status.st_nlink > 1)
    try:
        modified = path.lstat().st_mtime
    except FileNotFoundError:
        modified = 0.0
    return Item(name, path, kind, parent, trunk, epochs, size, linked, modified)


def _statuses(path: Path) -> list[os.stat_result]:
    found: list[os.stat_result] = []
    files = [path]
    if path.is_dir():
        files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    for file in files:
        try:
            found.append(file.lstat())
        except FileNotFoundError:
            continue
    return found


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
