"""Drafts: folders that are there while their process lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prunetune.spaces.drafts import draft, remove_abandoned

WRITE = """
import sys
from pathlib import Path
from prunetune.spaces.drafts import draft
with draft(Path(sys.argv[1]), ".one.") as made:
    print(made.name, flush=True)
    sys.stdin.read()
"""


def test_a_draft_is_gone_when_its_block_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), draft(tmp_path / "drafts") as made:
        (made / "checkpoint.pt").write_text("half")
        assert sorted((tmp_path / "drafts").iterdir()) == [made, made.with_suffix(".lease")]
        raise ZeroDivisionError
    assert list((tmp_path / "drafts").iterdir()) == []


def test_what_was_moved_stays(tmp_path: Path) -> None:
    with draft(tmp_path / "drafts") as made:
        (made / "checkpoint.pt").write_text("whole")
        made.rename(tmp_path / "stage")
    assert (tmp_path / "stage" / "checkpoint.pt").read_text() == "whole"
    assert list((tmp_path / "drafts").iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Whatever else is there stays, and so do the drafts of the living."""
    others = {".one.stages", ".one.0123456789abcdef", ".two.lease", "one", ".one.lease"}
    for name in others:
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        draft(tmp_path, ".two.") as living,
    ):
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        before = {path.name for path in tmp_path.iterdir()}
        assert before == others | {name, f"{name}.lease", living.name, f"{living.name}.lease"}
        remove_abandoned(tmp_path, ".one.")
        assert {path.name for path in tmp_path.iterdir()} == before
        process.kill()
        process.wait()
        for prefix in (".two.", ".one."):
            remove_abandoned(tmp_path, prefix)
        assert {path.name for path in tmp_path.iterdir()} == before - {name, f"{name}.lease"}
