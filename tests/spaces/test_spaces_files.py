"""Publishing of files: complete or absent, whatever happens; and the texts of errors."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunetune.spaces import ConfigError, DatasetError, MissingExtraError, PrunetuneError, StoreError
from prunetune.spaces.files import place_error, publish, storage_error, write_text

DIE_WHILE_WRITING = """
import os, signal, sys
from prunetune.spaces.files import publish
with publish(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_published_file_is_there_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "spec.json"
    with publish(file) as temporary:
        assert temporary.parent == file.parent, "a rename is one step only within a file system"
        assert temporary.suffix == ".json", "writers that go by the suffix must work"
        temporary.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert names(file.parent) == ["spec.json"]


def test_readers_see_the_old_file_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    write_text(file, "old")
    with publish(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), publish(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert names(tmp_path) == ["spec.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    write_text(file, "old")
    done = subprocess.run([sys.executable, "-c", DIE_WHILE_WRITING, str(file)], check=False)
    assert done.returncode == -9
    assert file.read_text() == "old"


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "names.txt", "größe 象")
    assert (tmp_path / "names.txt").read_bytes() == "größe 象".encode()


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
        assert os.umask(0o027) == 0o027, "publishing leaves the umask as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(StoreError, match=r"runs/study/spec\.json: "):
        write_text(tmp_path / "runs" / "study" / "spec.json", "")


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)  # a real one would not stop root
    with pytest.raises(StoreError, match=r"spec\.json: not writable \(Permission denied\); choose another folder"):
        write_text(tmp_path / "spec.json", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    write_text(file, "old")
    with pytest.raises(StoreError, match=r"spec\.json: the disk is full; free some space"), publish(file):
        Path("/dev/full").write_text("x")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["spec.json"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_while_writing(tiny_disk: Path) -> None:
    file = tiny_disk / "spec.json"
    write_text(file, "old")
    with pytest.raises(StoreError, match="the disk is full"):
        write_text(file, "x" * 200_000)
    assert file.read_text() == "old"
    assert names(tiny_disk) == ["spec.json"]


def test_a_failing_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    file = tmp_path / "spec.json"
    write_text(file, "old")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(StoreError, match="the disk is full"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["spec.json"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.ENOSPC, "x: the disk is full; free some space and run the same command again"),
        (errno.EACCES, "x: not writable (Permission denied); choose another folder (for a study, runs=FOLDER)"),
        (errno.EROFS, "x: not writable (Read-only file system); choose another folder (for a study, runs=FOLDER)"),
        (errno.EIO, "x: cannot be written (Input/output error); choose another place"),
    ],
)
def test_errors_of_the_system_name_file_and_remedy(code: int, text: str) -> None:
    assert str(storage_error(Path("x"), OSError(code, os.strerror(code)))) == text


@pytest.mark.parametrize("kind", ["gone", "file"])
def test_a_temporary_folder_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / kind
    if kind == "file":
        folder.touch()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(OSError, match=kind) as caught:
        tempfile.mkdtemp()
    assert str(place_error(caught.value)).startswith(f"{folder}: ")
    assert "TMPDIR" in str(place_error(caught.value))


def test_no_temporary_folder_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    assert "['/tmp']; set TMPDIR" in str(place_error(FileNotFoundError(errno.ENOENT, "nothing")))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_disk_that_takes_no_more_is_no_fault_of_the_work(code: int) -> None:
    assert str(place_error(OSError(code, os.strerror(code), "/data/x"))).startswith("/data/x: ")
    assert str(place_error(OSError(code, os.strerror(code)))).startswith(f"{tempfile.gettempdir()}: ")


def test_an_error_of_the_work_says_nothing_of_places(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent") as caught:
        (tmp_path / "absent").read_text()
    assert place_error(caught.value) is None
    assert place_error(FileNotFoundError(errno.ENOENT, "", f"{tempfile.gettempdir()}/absent")) is None


def test_one_problem_is_one_line() -> None:
    error = ConfigError("rounds: 0 is below 1", source="study.yaml")
    assert str(error) == "study.yaml: rounds: 0 is below 1"
    assert error.problems == ("rounds: 0 is below 1",)


def test_all_problems_of_a_file_are_said_at_once() -> None:
    error = DatasetError(["a is wrong", "b is wrong"], source="data.yaml")
    assert str(error) == "data.yaml: 2 problems\n  - a is wrong\n  - b is wrong"


def test_a_missing_extra_says_what_to_install() -> None:
    assert str(MissingExtraError("ray", "ray")) == "ray is not installed; run: pip install 'prunetune[ray]'"


def test_every_error_is_a_prunetune_error() -> None:
    for kind in (ConfigError, DatasetError, MissingExtraError, StoreError):
        assert issubclass(kind, PrunetuneError)
