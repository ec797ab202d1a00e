"""A process of a test run that dies costs the test in which it died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import sys
sys.path.insert(0, {tests!r})
from sharing.files_once import FilesOnce

def pytest_xdist_make_scheduler(config, log):
    return FilesOnce(config, log)
"""
DIES = """
import os

def test_before(): pass
def test_dies(): os._exit(1)
def test_after(): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "z"])
def test_a_process_that_dies_ends_neither_the_run_nor_another_test(tmp_path: Path, name: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(tests=str(Path(__file__).parents[1])), encoding="utf-8")
    for other in "bcdef":
        (tmp_path / f"test_{other}.py").write_text("def test_one(): pass\ndef test_two(): pass\n", encoding="utf-8")
    (tmp_path / f"test_{name}.py").write_text(DIES, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-rf"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1
    assert "1 failed, 12 passed" in run.stdout
    assert f"crashed while running 'test_{name}.py::test_dies'" in run.stdout
