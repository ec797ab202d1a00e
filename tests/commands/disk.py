"""A small disk of its own for a test: it can be full, or read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk at `folder`; yields a function that remounts it. Skips where mounting is not allowed."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "prunetune-test", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None or not mount(options):
        pytest.skip("needs the right to mount a small disk")
    try:
        yield lambda options: None if mount(f"remount,{options}") else pytest.fail("cannot remount")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
