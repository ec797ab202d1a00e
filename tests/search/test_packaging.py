"""What the package says of itself, and what is in it."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
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


BUILD = """
import sys, tarfile
from pathlib import Path
from setuptools import build_meta

out = sys.argv[1]  # setuptools has arguments of its own afterwards
with tarfile.open(Path(out, build_meta.build_sdist(out))) as source:
    source.extractall("unpacked", filter="data")
"""
"""Packs the current folder and unpacks what was packed, as `python -m build` does before it makes the wheel."""

WHEEL = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path, pyproject: dict[str, Any]) -> None:
    project, rooms = pyproject["project"], pyproject["tool"]["setuptools"]["package-dir"].values()
    checkout, out = tmp_path / "checkout", tmp_path / "out"
    out.mkdir()
    for room in rooms:
        shutil.copytree(ROOT / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", project["readme"], *project["license-files"]):
        shutil.copy(ROOT / name, checkout)
    subprocess.run([sys.executable, "-c", BUILD, out], cwd=checkout, check=True, capture_output=True)
    (unpacked,) = (checkout / "unpacked").iterdir()
    subprocess.run([sys.executable, "-c", WHEEL, out], cwd=unpacked, check=True, capture_output=True)

    (wheel,) = out.glob("*.whl")
    assert wheel.name == f"prunetune-{project['version']}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("prunetune/") for name in names if not name.startswith("prunetune-")}
    files = [path for room in rooms for path in (checkout / room).rglob("*") if path.is_file()]
    assert held == {path.relative_to(checkout).as_posix() for path in files}
    assert {f"{room}/py.typed" for room in rooms} <= held
    assert {"pruning/yolo/models/yolov5-deconv.yaml", "results/report/report.html", "search/cli.py"} <= held
