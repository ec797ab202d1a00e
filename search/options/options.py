"""What options of several commands have in common: where to write, and the name before a complaint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prunetune.spaces import ConfigError

RESULTS = (".html", ".htm", ".md", ".csv", ".tex", ".parquet", ".png", ".txt")
"""Files with these endings say what a study found: they may be written anew in its folder."""

LONGEST_NAME = 255
"""Bytes of a name that file systems take."""


def is_override(word: str) -> bool:
    """Whether a word is `key=value`, and not the name of a file."""
    return re.match(r"[\w.]+=", word) is not None and not os.path.isfile(word)


@contextmanager
def named(option: str) -> Iterator[None]:
    """Puts an option's name before what is wrong with its value."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{option} {error}") from error


def require_file(option: str, file: Path, endings: Sequence[str] = ()) -> None:
    """Refuses a place where a command should not write a file. One folder is made for it, a chain of them is a typo.

    Args:
        option: How the user gave it.
        file: The file.
        endings: What its name may end in, with the dot; anything if empty.

    Raises:
        ConfigError: It is a folder or would lie in none, ends in something else, or a study needs what is there.
    """
    if os.path.isdir(file):
        raise ConfigError(f"{option}: {file}: is a folder; give a file")
    _require_short(option, file)
    if endings and file.suffix.lower() not in endings:
        raise ConfigError(f"{option}: {file}: ends in none of {', '.join(endings)}; call it {file}{endings[0]}")
    require_parent(option, file.parent)
    if os.path.isfile(file) and file.suffix.lower() not in RESULTS and _is_in_a_study(file):
        raise ConfigError(f"{option}: {file}: is a file that a study needs; give another one")


def _require_short(option: str, path: Path) -> None:
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ConfigError(f"{option}: {path.name[:20]}...: is longer than {LONGEST_NAME} bytes; give a shorter name")


def _is_in_a_study(file: Path) -> bool:
    return any(os.path.isfile(folder / "study.db") for folder in file.resolve().parents)


def require_folder(option: str, folder: Path) -> None:
    """Refuses a place where a command should not write a folder.

    Raises:
        ConfigError: It is a file, or there is no folder that it would lie in.
    """
    if os.path.isfile(folder):
        raise ConfigError(f"{option}: {folder}: is a file; give a folder")
    _require_short(option, folder)
    require_parent(option, folder)


def require_parent(option: str, folder: Path) -> None:
    """Refuses a folder that is not there and would need another one to be made first.

    Raises:
        ConfigError: It would.
    """
    if os.path.isfile(folder):
        raise ConfigError(f"{option}: {folder}: is a file, and no folder")
    if not os.path.isdir(folder) and not os.path.isdir(folder.parent):
        raise ConfigError(f"{option}: there is no folder {folder.parent}; make it first, or correct the path")
