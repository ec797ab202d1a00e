"""Files that are complete or absent: write beside the target, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunetune.spaces.errors import StoreError


@contextmanager
def publish(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; renames it to `path` when the block ends without error.

    A reader sees the old file, or the whole new one, also after a power failure.

    Raises:
        StoreError: The folder cannot be written, or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        flush(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
        flush(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path`, as one step."""
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Forces a file's (or a folder's) content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_error(error: OSError) -> StoreError | None:
    """The same of a disk that takes no more, or of a folder for temporary files that cannot be used.

    Returns:
        What to do about it; None if the error speaks of what was done, and not of a place.
    """
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as absent:
        return StoreError(f"{absent.strerror}; {_OTHER_FOLDER}")
    file = Path(error.filename or folder)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return storage_error(file, error)
    if folder in file.parents and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return StoreError(f"{folder}: temporary files cannot be written ({error.strerror}); {_OTHER_FOLDER}")
    return None


_OTHER_FOLDER = "set TMPDIR to a folder that you can write"


def storage_error(path: Path, error: OSError) -> StoreError:
    """The error of the operating system, with the file and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{path}: the disk is full; free some space and run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"{path}: not writable ({error.strerror}); choose another folder (for a study, runs=FOLDER)")
    return StoreError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
