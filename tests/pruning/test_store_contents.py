"""What a store holds, read from its files: sizes, what can be freed, and what is damaged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.stages.store import StageStore
from prunetune.pruning.stages.store_contents import RECENT_S, Item, StoreContents, damage, free
from prunetune.spaces import StoreError
from prunetune.spaces.drafts import draft

STAGE = "sparse-0123"


def publish(store: StageStore, digest: str = STAGE, parent: str = "", idle_s: float = 0) -> Path:
    """Publishes a stage that was last used so long ago."""
    record = {"kind": digest.partition("-")[0], "parent": parent}
    stage = store.publish(digest, record, {"checkpoint.pt": lambda path: path.write_text("weights") and None})
    return age(stage.folder, idle_s)


def age(path: Path, idle_s: float) -> Path:
    then = path.stat().st_mtime - idle_s
    os.utime(path, (then, then))
    return path


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / ".store")


def digests(items: list[Item] | tuple[Item, ...]) -> list[str]:
    return [item.digest for item in items]


def test_stages_progress_and_drafts_longest_unused_first(store: StageStore) -> None:
    folder = publish(store, idle_s=10)
    store.save_progress("recovery-4567", lambda path: path.write_text("x" * 100) and None)
    age(store.progress("recovery-4567"), 20)
    (store.root / "drafts" / "0123456789abcdef").mkdir()
    draft = store.root / "drafts" / "0123456789abcdef" / "checkpoint.pt"
    draft.write_text("half")
    age(draft.parent, 30)
    contents = StoreContents.read(store.root)
    size = len("weights") + (folder / "stage.json").stat().st_size
    assert [(item.kind, item.digest, item.size, item.is_stage) for item in contents.items] == [
        ("draft", "0123456789abcdef", 4, False),
        ("unfinished", "recovery-4567", 100, False),
        ("sparse", STAGE, size, True),
    ]
    assert contents.size == size + 104


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"\.store: no stage store; give the folder of studies with --runs"):
        StoreContents.read(tmp_path / ".store")
    assert list(tmp_path.iterdir()) == []


# What is freed


def test_what_was_used_longest_ago_goes_first(store: StageStore) -> None:
    for digest, hours in (("sparse-a", 2), ("sparse-b", 4), ("sparse-c", 3), ("sparse-d", 0)):
        publish(store, digest, idle_s=hours * 3600)
    contents = StoreContents.read(store.root)
    each = contents.items[0].size
    assert digests(contents.removable()) == []
    assert digests(contents.removable(max_bytes=4 * each)) == []
    assert digests(contents.removable(max_bytes=3 * each - 1)) == ["sparse-b", "sparse-c"]
    assert digests(contents.removable(max_age_s=3.5 * 3600)) == ["sparse-b"]
    assert digests(contents.removable(max_bytes=2 * each, max_age_s=3.5 * 3600)) == ["sparse-b", "sparse-c"]
    assert digests(contents.removable(max_bytes=0)) == ["sparse-b", "sparse-c", "sparse-a"], "one was used just now"
    assert digests(free(store.root, contents.removable(max_bytes=2 * each))) == ["sparse-b", "sparse-c"]
    assert {item.digest for item in StoreContents.read(store.root).items} == {"sparse-a", "sparse-d"}


def test_progress_and_drafts_that_were_left_behind_are_freed(store: StageStore) -> None:
    store.save_progress("recovery-4567", lambda path: path.write_text("x") and None)
    age(store.progress("recovery-4567"), 7200)
    for name in ("folder", "file"):
        draft = store.root / "drafts" / name
        draft.mkdir() if name == "folder" else draft.write_text("half")
        age(draft, 7200)
    assert len(free(store.root, StoreContents.read(store.root).removable(max_age_s=3600))) == 3
    assert StoreContents.read(store.root).items == ()


def test_what_is_leased_stays(store: StageStore) -> None:
    store.save_progress("recovery-e", lambda path: path.write_text("x") and None)
    age(store.progress("recovery-e"), 7200)
    with store.lease("recovery-e", "recovery-f"), draft(store.root / "drafts") as made:
        age(made, 7200)
        contents = StoreContents.read(store.root)
        assert sorted(item.kind for item in contents.items) == ["draft", "lease", "lease", "unfinished"]
        assert contents.removable(max_bytes=-1) == []
        age(made.with_suffix(".lease"), 7200)
        age(store.progress("recovery-e").with_suffix(".lease"), 7200)
        assert len(free(store.root, StoreContents.read(store.root).removable(max_age_s=RECENT_S))) == 4
    assert StoreContents.read(store.root).items == ()


def test_what_is_used_stays_with_all_that_it_was_made_from(store: StageStore) -> None:
    publish(store, "original-a", idle_s=7200)
    publish(store, "sparse-b", "original-a", idle_s=7200)
    publish(store, "pruning-c", "sparse-b", idle_s=7200)
    publish(store, "pruning-d", "sparse-b", idle_s=7200)
    store.touch_line("pruning-c")
    assert digests(StoreContents.read(store.root).removable(max_bytes=0)) == ["pruning-d"]
    for nothing in ("", "pruning-none"):
        store.touch_line(nothing)


def test_what_came_into_use_since_it_was_chosen_stays(store: StageStore) -> None:
    publish(store, idle_s=7200)
    chosen = StoreContents.read(store.root).removable(max_bytes=0)
    assert store.find(STAGE) is not None
    assert digests(chosen) == [STAGE]
    assert free(store.root, chosen) == []
    assert store.find(STAGE) is not None


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=12), st.integers(0, 60))
def test_no_more_is_freed_than_is_needed(stored: list[tuple[int, int]], limit: int) -> None:
    by_age, now = sorted(enumerate(stored), key=lambda entry: -entry[1][1]), time.time() - RECENT_S / 2
    items = [
        Item(Path("stages") / str(number), "sparse", size, now - hours * RECENT_S) for number, (size, hours) in by_age
    ]
    freed = StoreContents(Path(), tuple(items)).removable(max_bytes=limit)
    kept = [item for item in items if item not in freed]
    left = sum(item.size for item in kept)
    may_go = [item for item in kept if item.used < now]
    assert left <= limit or not may_go
    assert not freed or left + freed[-1].size > limit
    assert all(item.used <= other.used for item in freed for other in may_go)


# Damage


def flip(folder: Path) -> str:
    (folder / "checkpoint.pt").write_text("Weights")
    return "checkpoint.pt has another SHA-256 than was recorded"


def shorten(folder: Path) -> str:
    (folder / "checkpoint.pt").write_text("wei")
    return "checkpoint.pt has 3 bytes instead of 7"


def remove(folder: Path) -> str:
    (folder / "checkpoint.pt").unlink()
    return "checkpoint.pt is missing"


def cut(folder: Path) -> str:
    file = folder / "stage.json"
    file.write_text(file.read_text()[:-20])
    return "stage.json is no stage's record"


def lose_record(folder: Path) -> str:
    (folder / "stage.json").unlink()
    return "stage.json is missing"


def exchange(folder: Path) -> str:
    file = folder / "stage.json"
    file.write_text(file.read_text().replace(folder.name, "sparse-other"))
    return "stage.json is that of sparse-other (sparse)"


@pytest.mark.parametrize("break_it", [flip, shorten, remove, cut, lose_record, exchange])
def test_damage_is_named(store: StageStore, break_it: Callable[[Path], str]) -> None:
    folder = publish(store)
    assert damage(folder) == []
    said = break_it(folder)
    assert damage(folder) == [said]


@pytest.mark.parametrize("record", ["[]", "{}", '{"record": {}}', '{"record": {"kind": "sparse"}}', "null", ""])
def test_a_record_that_is_none(store: StageStore, record: str) -> None:
    folder = publish(store)
    (folder / "stage.json").write_text(record)
    assert damage(folder) == ["stage.json is no stage's record"]


def test_a_stage_that_vanishes_is_not_damaged(store: StageStore) -> None:
    folder = publish(store)
    store.discard(STAGE)
    assert damage(folder) == []
