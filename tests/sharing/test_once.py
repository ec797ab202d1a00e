"""What the processes of a test run share is made once, and whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sharing.once import once


def note(folder: Path) -> None:
    (folder / "made").touch(exist_ok=False)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The temporary folders of two processes of a run."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    folders = [tmp_path / name for name in ("popen-gw0", "popen-gw1")]
    for folder in folders:
        folder.mkdir()
    return folders


def test_all_processes_have_one(processes: list[Path]) -> None:
    one, other = (once(folder, "shared", note) for folder in processes)
    assert one == other
    assert (one / "made").is_file()


def test_processes_that_come_together(processes: list[Path]) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda folder: once(folder, "shared", note), processes * 4))
    assert len(folders) == 1


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        note(folder)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        once(tmp_path, "shared", fail)
    assert once(tmp_path, "shared", note).is_dir()


def test_a_process_alone_keeps_it_among_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    assert once(tmp_path, "shared", note).parent == tmp_path
