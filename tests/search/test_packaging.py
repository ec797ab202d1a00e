"""What the package says of itself: the Python that it needs, and its extras."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
SOURCES = (".py", ".pyc")


def oldest(needed: str) -> tuple[int, int]:
    """The oldest minor version of Python 3 that is allowed."""
    allowed = SpecifierSet(needed)
    return 3, next(minor for minor in range(6, 100) if f"3.{minor}.99" in allowed)


def test_the_python_is_the_oldest_that_all_pinned_packages_run_with(pyproject: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    needs: dict[str, str] = {}
    for name, version in pinned.items():
        try:
            installed = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed["Version"].partition("+")[0] == version and installed["Requires-Python"]:
            needs[name] = installed["Requires-Python"]
    assert len(needs) > 10
    newest = max(map(oldest, needs.values()))
    assert oldest(pyproject["project"]["requires-python"]) == newest, needs


def test_all_places_tell_the_same_python(pyproject: dict[str, Any]) -> None:
    major, minor = oldest(pyproject["project"]["requires-python"])
    classifiers = pyproject["project"]["classifiers"]
    assert f"Programming Language :: Python :: {major}.{minor}" in classifiers
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{major}{minor}"
    assert pyproject["tool"]["mypy"]["python_version"] == f"{major}.{minor}"
    assert f"Python {major}.{minor} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {major}.{minor} or newer" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_folder_is_installed(pyproject: dict[str, Any]) -> None:
    setup = pyproject["tool"]["setuptools"]
    rooms = setup["package-dir"].values()
    folders = {file.parent.relative_to(ROOT) for room in rooms for file in (ROOT / room).rglob("__init__.py")}
    assert sorted(setup["packages"]) == sorted(f"prunetune.{'.'.join(folder.parts)}" for folder in folders)


def test_every_file_that_is_no_module_is_installed(pyproject: dict[str, Any]) -> None:
    setup = pyproject["tool"]["setuptools"]
    folders = [ROOT / room for room in setup["package-dir"].values()]
    packages = [file.parent for folder in folders for file in folder.rglob("__init__.py")]
    patterns = setup["package-data"]["*"]
    installed = {file for package in packages for pattern in patterns for file in package.glob(pattern)}
    others = {file for folder in folders for file in folder.rglob("*") if file.is_file() and file.suffix not in SOURCES}
    assert others
    assert not others - installed
