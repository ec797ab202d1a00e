"""CONTRIBUTING.md: the files and names that a newcomer is sent to are there."""

from __future__ import annotations

import re

from structure.test_design_page import exists
from structure.test_structure import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TESTS = {"DETECTORS": "tests/pruning/test_families.py", "TestTorch": "tests/targets/test_targets_backends.py"}
"""Names in tests, with their files."""

VARIABLES = {
    "PRUNABLE_BLOCKS": "pruning/structure/blocks.py",
    "_PLAIN": "pruning/structure/blocks.py",
    "FAMILIES": "pruning/structure/blocks.py",
    "TARGET_KINDS": "targets/spec.py",
    "TargetSpec": "targets/spec.py",
    "Importance": "spaces/recipe.py",
}
"""Names that are neither functions nor classes, with their files."""


def test_every_name_is_in_the_code() -> None:
    names = re.findall(r"`(\w+|[\w./]+\.(?:py|toml|cff|txt))`", TEXT)
    assert {*TESTS, *VARIABLES} <= set(names)
    for name, file in {**TESTS, **VARIABLES}.items():
        assert re.search(rf"^(class )?{name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name
    others = [name for name in names if name not in TESTS and name not in VARIABLES]
    assert [name for name in others if not (exists(name) or (ROOT / name).is_file())] == []


def test_every_target_of_make_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([\w-]+)", TEXT, re.MULTILINE))
    assert {"test", "test-faults", "dist"} <= targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
