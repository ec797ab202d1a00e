"""The tests that docs/ gives to those with a target or a detector of their own: they run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from prunetune.pruning.testing import FamilyTestCase
from prunetune.targets.testing import TargetTestCase

DOCS = Path(__file__).parents[2] / "docs"

BOARD = """
from prunetune.targets import OnnxRuntimeSpec, OnnxRuntimeTarget


def MyBackend():
    return OnnxRuntimeTarget(OnnxRuntimeSpec(runs=7, warmup=1))
"""
"""Somebody's board."""

DETECTOR = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C3", [32]]],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}
"""Somebody's detector."""


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "name", "suite"),
    [("targets.md", "test_my_board.py", TargetTestCase), ("pruning.md", "test_my_detector.py", FamilyTestCase)],
)
def test_the_suite_of_a_page_passes(page: str, name: str, suite: type, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (body,) = (block for block in blocks if block.startswith(f"# {name}\n"))
    (tmp_path / name).write_text(body)
    (tmp_path / "my_board.py").write_text(BOARD)
    YAML().dump(DETECTOR, tmp_path / "my-detector.yaml")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    (passed,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert int(passed) >= sum(test.startswith("test_") for test in dir(suite)) >= 9
