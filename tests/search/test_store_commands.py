"""`prunetune store`: what is there, what is freed, and what is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning.stages.store import StageStore

Prunetune = Callable[..., Any]


class Store:
    """A folder of studies with a store of small stages."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.root = runs, runs / ".store"
        self.plain = StageStore(self.root)

    def publish(self, digest: str, days: float = 0, size: int = 1000) -> str:
        """Publishes a stage of so many bytes that was last used so many days ago."""
        record = {"kind": digest.partition("-")[0], "parent": ""}
        files = {"checkpoint.pt": lambda path: path.write_bytes(b"x" * size) and None}
        folder = self.plain.publish(digest, record, files).folder
        then = folder.stat().st_mtime - days * 86400
        os.utime(folder, (then, then))
        return digest

    def stages(self) -> set[str]:
        return {path.name for path in (self.root / "stages").iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def as_json(answer: Any) -> Any:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_ls_tells_what_is_there(prunetune: Prunetune, store: Store) -> None:
    store.publish("sparse-0", days=2, size=2_500_000)
    store.plain.save_progress("recovery-0", lambda path: path.write_bytes(b"x" * 10) and None)
    told = as_json(prunetune("store", "ls", "--runs", store.runs, "--json"))
    stage, progress = told["items"]
    assert (stage["kind"], stage["digest"]) == ("sparse", "sparse-0")
    assert 2_500_000 < stage["bytes"] < 2_501_000
    assert 1.9 < (datetime.now(UTC) - datetime.fromisoformat(stage["last_used"])).total_seconds() / 86400 < 2.1
    assert (progress["kind"], progress["digest"], progress["bytes"]) == ("unfinished", "recovery-0", 10)
    assert told["bytes"] == stage["bytes"] + 10
    answer = prunetune("store", "ls", "--runs", store.runs)
    assert answer.code == 0
    assert "sparse-0" in answer.out
    assert "2 items, 2.5 MB" in answer.out


def test_a_name_that_no_terminal_can_show(prunetune: Prunetune, store: Store) -> None:
    folder = store.root / "stages" / "odd\n\udc80\x1b[31m"
    folder.mkdir()
    os.utime(folder, (1.0, 1.0))
    answer = prunetune("store", "ls", "--runs", store.runs)
    assert answer.code == 0, answer.err
    assert r"odd\n\udc80\x1b[31m" in answer.out
    assert len(as_json(prunetune("store", "ls", "--runs", store.runs, "--json"))["items"]) == 1
    assert prunetune("store", "verify", "--runs", store.runs).code == 1
    assert "odd" in prunetune("store", "gc", "--older-than", "1", "--runs", store.runs).out
    assert store.stages() == set()


@pytest.mark.parametrize("command", [("ls",), ("gc", "--max-gb", "1"), ("verify",)])
def test_without_a_store(prunetune: Prunetune, tmp_path: Path, command: tuple[str, ...]) -> None:
    answer = prunetune("store", *command, "--runs", tmp_path / "rnus")
    assert answer.code == 2
    assert (
        answer.err
        == f"error: {tmp_path / 'rnus' / '.store'}: no stage store; give the folder of studies with --runs FOLDER\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("--older-than", "3"), {"sparse-0", "sparse-2"}),
        (("--older-than", "0.5"), {"sparse-0"}),
        (("--max-gb", "0.0025"), {"sparse-0", "sparse-2"}),
        (("--max-gb", "0", "--older-than", "30"), {"sparse-0"}),
        (("--max-gb", "1"), {"sparse-0", "sparse-2", "sparse-4"}),
    ],
)
def test_gc_frees_what_was_used_longest_ago(
    prunetune: Prunetune, store: Store, options: tuple[str, ...], kept: set[str]
) -> None:
    for days in (0, 2, 4):
        store.publish(f"sparse-{days}", days, size=1_000_000)
    before, gc = store.stages(), ("store", "gc", *options, "--runs", store.runs)
    told = as_json(prunetune(*gc, "--dry-run", "--json"))
    assert {item["digest"] for item in told["freed"]} == before - kept
    assert told["dry_run"] is True
    assert store.stages() == before
    assert f"would free {len(before - kept)} items" in prunetune(*gc, "--dry-run").out
    answer = prunetune(*gc)
    assert answer.code == 0
    assert store.stages() == kept
    assert all(f"freed {digest} (sparse, 1.0 MB, last used 20" in answer.out for digest in before - kept)
    assert f"{len(kept)}.0 MB left" in answer.out
    assert sum(file.stat().st_size for file in store.root.rglob("*") if file.is_file()) == told["bytes_left"]


def test_gc_wants_to_know_how_much(prunetune: Prunetune, store: Store) -> None:
    store.publish("sparse-0", days=9)
    answer = prunetune("store", "gc", "--runs", store.runs)
    assert answer.code == 2
    assert "give --older-than DAYS, --max-gb N, or both" in answer.err
    assert store.stages() == {"sparse-0"}


def test_verify_names_damage_and_removes_it(prunetune: Prunetune, store: Store) -> None:
    original, sparse, pruning = map(store.publish, ("original-0", "sparse-0", "pruning-0"))
    verify = ("store", "verify", "--runs", store.runs)
    answer = prunetune(*verify)
    assert answer.code == 0
    assert "3 stages, all sound" in answer.out
    (store.root / "stages" / sparse / "checkpoint.pt").write_bytes(b"y" * 1000)
    assert StageStore(store.root).find(sparse) is not None, "its sizes are right"
    answer = prunetune(*verify)
    assert answer.code == 1
    assert f"{sparse}: checkpoint.pt has another SHA-256 than was recorded" in answer.out
    assert "1 damaged; --remove discards them" in answer.out
    told = prunetune(*verify, "--json")
    assert told.code == 1
    assert list(json.loads(told.out)["damaged"]) == [sparse]
    assert store.stages() == {original, sparse, pruning}
    answer = prunetune(*verify, "--remove")
    assert answer.code == 1
    assert f"{sparse}: checkpoint.pt has another SHA-256 than was recorded; removed" in answer.out
    assert store.stages() == {original, pruning}
    assert prunetune(*verify).code == 0
