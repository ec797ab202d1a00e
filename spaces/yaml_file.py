"""Reads YAML files as people write them, with errors that name the file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from prunetune.spaces.errors import ConfigError, did_you_mean


def insert_targets(values: dict[str, Any], folder: Path) -> None:
    """Puts targets that are given as files in the files' place, and the paths of tables beside the study in theirs.

    One that is not there stays, to be told of later.

    Args:
        values: A study's description, changed in place.
        folder: Where relative paths start; what is not there is looked for in the current folder.

    Raises:
        ConfigError: A file cannot be read, or holds no mapping.
    """
    entries = values.get("targets")
    if not isinstance(entries, list):
        return
    for index, entry in enumerate(entries):
        if isinstance(entry, str):
            found = [path for path in (folder / entry, Path(entry)) if path.is_file()]
            if found:
                entries[index] = read_yaml(found[0], holds="target", example="kind: onnxruntime")
        target = entries[index]
        if isinstance(target, dict) and isinstance(target.get("table"), str) and target["table"]:
            table = folder / target["table"]
            target["table"] = str(table) if table.is_file() else target["table"]


def read_yaml(file: Path, holds: str = "study", example: str = "model: yolov5n.yaml") -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Args:
        file: The file.
        holds: What the mapping is, for the error.
        example: A line of such a file, for the error.

    Raises:
        ConfigError: The file is missing or no such YAML.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = [item.name for item in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise ConfigError(f"no such file; {did_you_mean(file.name, names)}", str(file)) from None
    except IsADirectoryError:
        raise ConfigError(f"is a folder; give the {holds}'s file", str(file)) from None
    except (OSError, ValueError) as error:  # a ValueError: text that is not UTF-8, a path that is none
        raise ConfigError(f"cannot be read ({error})", str(file)) from error
    values = parse_yaml(text, str(file))
    if not isinstance(values, dict):
        raise ConfigError(f"holds no {holds}: expected lines such as `{example}`", str(file))
    return values


def parse_yaml(text: str, source: str) -> Any:
    """Parses YAML 1.2, with errors that name the source and line. A key that stands twice is an error.

    YAML 1.1, as PyYAML reads it, takes `6e-4` for a string, `010` for 8, `1:30` for 90, and `on` for true.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    # A ValueError: `!!int x`, a 13th month, a number of thousands of digits.
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}not valid YAML: {reason}", source) from error
