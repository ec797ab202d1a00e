"""What takes long and is only read: made once in a test run, by whichever of its processes needs it first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def once(basetemp: Path, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all processes of a test run share.

    Args:
        basetemp: Where this process's temporary folders are.
        name: The folder's name.
        make: Fills it; the other processes wait meanwhile. If it raises, the next one tries again.
    """
    place = basetemp.parent if "PYTEST_XDIST_WORKER" in os.environ else basetemp
    folder, done = place / name, place / f"{name}.done"
    with FileLock(place / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
