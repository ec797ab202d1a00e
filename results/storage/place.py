"""Where studies lie: their folders, and the addresses of their data bases. Imports nothing that takes time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from prunetune.spaces.errors import ConfigError, StoreError, did_you_mean


def place_of(name: str | Path, runs: str | Path, storage: str | None) -> tuple[Path, str | None]:
    """Where a study lies.

    Args:
        name: A study's name, its folder, or its description's file.
        runs: The folder of studies, where only a name is given.
        storage: The address of its storage, if that is neither in its folder nor in its description.

    Returns:
        Its folder, and the address of its storage if that is not in the folder.

    Raises:
        StoreError: There is no such study.
        ConfigError: The description cannot be read.
    """
    address = storage
    path, name = Path(name), str(name)
    if path.suffix in (".yaml", ".yml"):
        from prunetune.spaces.yaml_file import read_yaml

        values = read_yaml(path)
        wrong = [key for key in ("name", "runs", "storage") if not isinstance(values.get(key, ""), str)]
        if wrong:
            raise ConfigError([f"{key}: takes a text, not {values[key]!r}" for key in wrong], str(path))
        folder = Path(values.get("runs", runs)) / values.get("name", "")
        address = storage or values.get("storage")
    elif os.path.isfile(path / "study.db") or (storage and os.path.isdir(path)):  # Path.is_file raises if overlong
        folder = path
    else:
        folder = Path(runs) / name
    database = folder / "study.db"
    if address is not None:
        _refuse_missing(address)
    elif not os.path.isfile(database):
        there = [item.parent.name for item in Path(runs).glob("*/study.db")] if Path(runs).is_dir() else []
        raise StoreError(f"{database}: no such study; {did_you_mean(name, sorted(there))}")
    return folder, address


def choose_name(folder: Path, names: Sequence[str]) -> str:
    """The study of a folder, of those that its storage holds.

    Raises:
        StoreError: It is not among them.
    """
    wanted = folder.name if folder.name in names or len(names) != 1 else names[0]
    if wanted not in names:
        raise StoreError(f"{folder}: holds no study named {wanted}")
    return wanted


def sqlite_url(folder: Path) -> str:
    """The address of the SQLite file in a study's folder."""
    path = str(folder / "study.db")
    if not re.search(r"[?#%{}]", path):
        return f"sqlite:///{path}"
    # An address ends at ? and #, and Optuna fills in braces. As a URI of SQLite's the path is quoted once, and once
    # more inside the address.
    return f"sqlite:///file:{quote(quote(path))}?uri=true"


def _refuse_missing(url: str) -> None:
    """Reading creates nothing: SQLite would make a file that is not there."""
    from prunetune.results.storage.address import parse_address

    address = parse_address(url)
    if address.drivername.startswith("sqlite") and not os.path.isfile(address.database or ""):
        raise StoreError(f"storage: {address.database}: no such file; run the study first, or correct the address")
