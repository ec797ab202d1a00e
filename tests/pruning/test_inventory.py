"""What a store holds, read from its files: sizes, who needs what, and what is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.inventory import DAMAGED, OLD_DRAFT_S, Item, damage, needed_by, read_items, read_uses
from prunetune.pruning.stages import Stage, recorded_trunk, training_stage, trunk
from prunetune.pruning.store import StageStore
from prunetune.pruning.training import Phase, TrainingSetup, recovery_phase
from prunetune.spaces import StoreError

SETUP = TrainingSetup("data.yaml", "fingerprint", hyperparameters={"lr0": 0.01, "name": "größe"})
NOW = 4e9


def publish(store: StageStore, stage: Stage, epochs: int = 0, content: str = "weights") -> Path:
    """Publishes a stage with the record that the pipeline gives it."""
    record = {"kind": stage.kind, "parent": stage.parent, "settings": dict(stage.settings), "epochs": epochs}
    return store.publish(stage.digest, record, {"checkpoint.pt": lambda path: path.write_text(content) and None}).folder


def sparse(epochs: int, parent: str = "original-0") -> tuple[Stage, str]:
    phase = Phase(epochs, "constant", 1 / 3, penalty=0.1 + 0.2, gamma_lr=0.01)
    return training_stage("sparse", parent, SETUP, phase), trunk("sparse", parent, SETUP, phase)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / ".store", owner="study")


def items_of(store: StageStore) -> dict[str, Item]:
    return {item.name: item for item in read_items(store.root, NOW)}


def test_a_stage_and_an_unfinished_training(store: StageStore) -> None:
    stage, base = sparse(5)
    folder = publish(store, stage, epochs=5)
    store.save_progress(base, lambda path: path.write_text("x" * 100) and None)
    os.link(folder / "checkpoint.pt", store.root.parent / "candidate.pt")
    found = items_of(store)
    item = found[stage.digest]
    assert (item.kind, item.parent, item.trunk, item.epochs) == ("sparse", "original-0", base, 5)
    assert item.linked == len("weights")
    assert item.size == item.linked + (folder / "stage.json").stat().st_size
    assert (found[base].kind, found[base].trunk, found[base].size) == ("unfinished", base, 100)
    assert read_uses(store.root) == {"study": frozenset({stage.digest})}


def test_the_recorded_trunk_is_the_trunk(store: StageStore) -> None:
    for epochs in (1, 7):
        stage, base = sparse(epochs)
        record = json.loads((publish(store, stage) / "stage.json").read_text())["record"]
        assert recorded_trunk(stage.digest, record) == base
    recovery = training_stage("recovery", "pruning-0", SETUP, recovery_phase(3, "map50_95"))
    record = json.loads((publish(store, recovery) / "stage.json").read_text())["record"]
    assert recorded_trunk(recovery.digest, record) == recovery.digest


def test_only_drafts_that_were_left_behind_count(store: StageStore) -> None:
    (store.root / "drafts" / "elsewhere.1.abc").mkdir()
    modified = (store.root / "drafts" / "elsewhere.1.abc").stat().st_mtime
    assert read_items(store.root, modified + OLD_DRAFT_S) == []
    (item,) = read_items(store.root, modified + OLD_DRAFT_S + 1)
    assert item.kind == "draft"


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"\.store: no stage store; give the folder of studies with --runs"):
        read_items(tmp_path / ".store", NOW)
    assert list(tmp_path.iterdir()) == []


# Who needs what


def test_a_stage_needs_its_ancestors_and_the_lengths_of_its_trunk(store: StageStore) -> None:
    short, base = sparse(2)
    long, _ = sparse(5)
    foreign, _ = sparse(2, parent="original-1")
    pruning, other = Stage("pruning", short.digest, {"plan": 1}), Stage("pruning", long.digest, {"plan": 1})
    original = "original-0"
    store.publish(original, {"kind": "original", "parent": "", "settings": {}, "epochs": 1}, {})
    for stage in (short, long, foreign, pruning, other):
        publish(store, stage)
    store.save_progress(base, lambda path: path.write_text("x") and None)
    needed = needed_by(read_items(store.root, NOW), {"study": [pruning.digest], "idle": [], "other": ["unknown-1"]})
    by_name = {path.stem: users for path, users in needed.items()}
    mine = {pruning.digest, short.digest, long.digest, original, base}
    assert {name for name, users in by_name.items() if users == {"study"}} == mine
    assert {name for name, users in by_name.items() if not users} == {foreign.digest, other.digest}
    claimed = needed_by(read_items(store.root, NOW), {"process": [base]})
    assert {path.stem for path, users in claimed.items() if users} == mine - {pruning.digest}


@given(st.data())
def test_what_is_needed_is_closed_under_parents(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    parents = [data.draw(st.sampled_from(["", "untrained", *map(str, range(index))])) for index in range(count)]
    trunks = [data.draw(st.sampled_from(["a", "b", str(index)])) for index in range(count)]
    items = [
        Item(str(index), Path(str(index)), "sparse", parents[index], trunks[index], 1, 1, 0, 1.0)
        for index in range(count)
    ]
    uses = {user: data.draw(st.sets(st.sampled_from([*map(str, range(count)), "a"]))) for user in ("one", "two")}
    needed = needed_by(items, uses)
    by_name = {item.name: needed[item.path] for item in items}
    for user, digests in uses.items():
        assert all(user in by_name[digest] for digest in digests if digest in by_name)
    for item in items:
        if item.parent in by_name:
            assert by_name[item.name] <= by_name[item.parent]
        for other in items:
            if item.trunk == other.trunk:
                assert by_name[item.name] == by_name[other.name]


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
    stage, _ = sparse(2)
    folder = publish(store, stage)
    assert damage(items_of(store)[stage.digest]) == []
    said = break_it(folder)
    assert damage(items_of(store)[stage.digest]) == [said]


@pytest.mark.parametrize("record", ["[]", "{}", '{"record": {}}', '{"record": {"kind": "sparse"}}', "null", ""])
def test_a_record_that_is_none(store: StageStore, record: str) -> None:
    stage, _ = sparse(2)
    (publish(store, stage) / "stage.json").write_text(record)
    item = items_of(store)[stage.digest]
    assert item.kind == DAMAGED
    assert damage(item) == ["stage.json is no stage's record"]


def test_a_stage_that_vanishes_is_not_damaged(store: StageStore) -> None:
    stage, _ = sparse(2)
    publish(store, stage)
    item: Any = items_of(store)[stage.digest]
    store.discard(stage.digest)
    assert damage(item) == []
