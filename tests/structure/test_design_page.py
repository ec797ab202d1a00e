"""docs/design.md: the house that it describes is the one that is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

from structure.test_structure import BELOW, ORDER, ROOMS, ROOT, sources

PAGE = ROOT / "docs" / "design.md"
FOREIGN = {"RDBStorage": "optuna.storages", "YOLO": "ultralytics"}
"""Names of libraries, with their modules."""

WORDS = {"study.yaml", "controls", "prunetune front"}
"""What is in the page as code, and is no name in the code."""


def quoted() -> list[str]:
    """All that the page has as code, but for blocks, without line breaks."""
    text = re.sub(r"^```.*?^```$", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(name.split()) for name in re.findall(r"`([^`]+)`", text)]


def rows() -> dict[str, list[str]]:
    """Cells of the table of rooms."""
    found = re.findall(r"^\| `(\w+)/` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {room: cells.split("|") for room, cells in found}


@cache
def names() -> frozenset[str]:
    """Classes, functions, methods and members of enumerations in the rooms."""
    found = set[str]()
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    if isinstance(part, ast.FunctionDef):
                        found.add(f"{node.name}.{part.name}")
                    elif isinstance(part, ast.Assign):
                        found |= {target.id for target in part.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def exists(name: str) -> bool:
    own = re.sub(r"\(.*\)$", "", name)
    if own in FOREIGN:
        return hasattr(import_module(FOREIGN[own]), own)
    if own.startswith("from prunetune."):
        module, imported = re.fullmatch(r"from (\S+) import (\w+)", own).groups()  # type: ignore[union-attr]
        return hasattr(import_module(module), imported)
    if own == "__init__.py":
        return all((ROOT / room / own).is_file() for room in ROOMS)
    if own.endswith("/"):
        return any((ROOT / folder).is_dir() for folder in (own, *(f"{room}/{own}" for room in ROOMS)))
    return (ROOT / own).is_file() if own.endswith(".py") else own in names()


def test_every_name_is_in_the_code() -> None:
    used = [name for name in quoted() if name not in WORDS]
    assert len(used) > 50
    assert [name for name in used if not exists(name)] == []


def test_rooms_and_folders_are_those_that_are_there() -> None:
    table = rows()
    assert list(table) == list(ROOMS)
    for room, cells in table.items():
        folders = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
        told = re.findall(r"`(\w+)/`", cells[1])
        assert told == [place for place in ORDER.get(room, ()) if place in folders], room
        below = ROOMS[: ROOMS.index(room)] if cells[2].strip() == "all" else re.findall(r"`(\w+)/`", cells[2])
        assert set(below) == set(BELOW[room]), room
        assert not re.search(r"`\w+/`", cells[0])


def test_the_page_is_short() -> None:
    assert len(Path(PAGE).read_text(encoding="utf-8").split()) < 1500
