"""Reads a `data.yaml` and lists the images of its splits, both as ultralytics does."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prunetune.pruning.labels import Problem
from prunetune.spaces.errors import DatasetError

IMAGE_SUFFIXES = frozenset(
    ("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp")
)
"""Endings of the files that ultralytics takes for images, in lower case."""
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Description:
    """What the yaml says, with paths resolved."""

    root: Path
    names: tuple[str, ...]
    sources: dict[str, tuple[Path, ...]]
    channels: int = 3


def describe(file: Path, problems: list[Problem]) -> Description:
    """Reads the yaml; adds what is wrong with its keys to `problems` and goes on without them.

    Raises:
        DatasetError: The file is missing, cannot be parsed, or is no mapping.
    """
    content = _load_yaml(file)
    if "val" not in content and "validation" in content:  # ultralytics knows both
        content["val"] = content.pop("validation")
    folder = content.get("path")
    if folder is not None and not isinstance(folder, str):
        problems.append(Problem("yaml", f"path: must be a folder, not {folder!r}; remove it or correct it"))
        folder = None
    root = file.parent.resolve()
    try:
        root = (root / Path(folder or ".").expanduser()).resolve()
        root.exists()  # a name that is too long is noticed here only
    except (OSError, ValueError, RuntimeError) as error:
        problems.append(_no_path("path", folder, error))
        return Description(root, _names(content, problems), sources={}, channels=_channels(content, problems))
    sources: dict[str, tuple[Path, ...]] = {}
    for split in _SPLITS:
        entry = content.get(split)
        if entry is None:
            if split != "test":
                problems.append(_missing_key(split, content, f"add '{split}: images/{split}'"))
            continue
        entries = [entry] if isinstance(entry, str) else entry
        if not isinstance(entries, list) or not entries or not all(isinstance(item, str) for item in entries):
            text = f"{split}: must be a folder, a .txt list or a list of those, not {entry!r}"
            problems.append(Problem("yaml", text))
            continue
        try:
            sources[split] = tuple(_resolve(root, item) for item in entries)
        except (OSError, ValueError, RuntimeError) as error:
            problems.append(_no_path(split, entry, error))
    return Description(root, _names(content, problems), sources, _channels(content, problems))


def _load_yaml(file: Path) -> dict[str, Any]:
    if file.is_dir():
        raise DatasetError(f"is a folder; give its data.yaml: {file / 'data.yaml'}", str(file))
    if not file.exists():
        raise DatasetError(f"does not exist; {_nearest(file, 'create it or correct data=')}", str(file))
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: no UTF-8, or a date like 2024-13-45
        reason = " ".join(str(error).split())
        raise DatasetError(f"is no YAML: {reason}; correct the file", str(file)) from error
    except OSError as error:
        raise DatasetError(f"cannot be read ({error.strerror}); correct its permissions", str(file)) from error
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise DatasetError(f"is {kind}, not a mapping; it needs the keys train, val and names", str(file))
    return {str(key): value for key, value in content.items()}


def _names(content: Mapping[str, Any], problems: list[Problem]) -> tuple[str, ...]:
    names = content.get("names")
    if names is None:
        problems.append(_missing_key("names", content, "add the class names: 'names: {0: first, 1: second}'"))
        return ()
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        text = f"names: must list the classes or map indices to them, not {names!r}"
        problems.append(Problem("yaml", text))
        return ()
    by_index = {int(key): str(name) for key, name in names.items() if str(key).strip().isdecimal()}
    if set(by_index) != set(range(len(names))):
        keys = ", ".join(str(key) for key in names)
        text = f"names: the keys are {keys}; number the classes from 0 to {len(names) - 1} without gaps"
        problems.append(Problem("yaml", text))
        return ()
    if len(set(by_index.values())) < len(by_index):
        twice = next(name for name in by_index.values() if list(by_index.values()).count(name) > 1)
        problems.append(Problem("yaml", f"names: {twice!r} names more than one class; give each a name of its own"))
        return ()
    count = content.get("nc")
    if count is not None and str(count).removesuffix(".0") != str(len(names)):
        text = f"nc: is {count!r}, but names has {len(names)} classes; make them agree or remove nc"
        problems.append(Problem("yaml", text))
        return ()
    return tuple(by_index[index] for index in range(len(names)))


def _channels(content: Mapping[str, Any], problems: list[Problem]) -> int:
    channels = content.get("channels", 3)
    if isinstance(channels, int) and not isinstance(channels, bool) and channels > 0:
        return channels
    text = f"channels: must be a whole number from 1, such as 1 for grayscale, not {channels!r}; correct or remove it"
    problems.append(Problem("yaml", text))
    return 3


def _missing_key(key: str, content: Mapping[str, Any], remedy: str) -> Problem:
    if key in content:
        return Problem("yaml", f"{key}: is empty; {remedy}")
    close = difflib.get_close_matches(key, content, n=1)
    return Problem("yaml", f"{key}: missing; " + (f"rename the key '{close[0]}'" if close else remedy))


def _no_path(key: str, entry: Any, error: Exception) -> Problem:
    text = repr(entry) if len(repr(entry)) <= 80 else f"{repr(entry)[:77]}..."
    reason = error.strerror if isinstance(error, OSError) else error
    return Problem("yaml", f"{key}: {text} cannot be a path ({reason}); correct it")


def _resolve(root: Path, entry: str) -> Path:
    path = (root / Path(entry).expanduser()).resolve()
    if not path.exists() and entry.startswith("../"):  # as exported by Roboflow, and as ultralytics mends it
        path = (root / entry[3:]).resolve()
    return path


def _nearest(path: Path, remedy: str) -> str:
    """The existing path that was probably meant, or else the remedy."""
    existing = next(parent for parent in path.parents if parent.is_dir())
    wrong, *rest = path.relative_to(existing).parts
    names = sorted(entry.name for entry in existing.iterdir())
    for name in difflib.get_close_matches(wrong, names, n=3):
        if (meant := existing.joinpath(name, *rest)).exists():
            return f"did you mean {meant}?"
    return remedy if not rest else f"{remedy}: {existing} has no folder {wrong}"


def list_images(split: str, sources: tuple[Path, ...], problems: list[Problem]) -> list[Path]:
    """The images of one split, sorted; adds sources that are missing or hold none to `problems`."""
    images: list[Path] = []
    for source in sources:
        if source.is_dir():
            pattern = os.path.join(glob.escape(str(source)), "**", "*.*")
            names = glob.glob(pattern, recursive=True)
        elif source.is_file() and source.suffix.lower()[1:] not in IMAGE_SUFFIXES:
            try:
                names = _read_list(source)
            except (OSError, UnicodeDecodeError) as error:
                text = f"{split}: {source} is no list of images ({error}); write one path a line"
                problems.append(Problem("split", text))
                continue
        elif source.is_file():
            text = f"{split}: {source} is an image; give its folder, or a .txt file that lists images"
            problems.append(Problem("split", text))
            continue
        else:
            remedy = _nearest(source, "create it or correct the path")
            problems.append(Problem("split", f"{split}: {source} does not exist; {remedy}"))
            continue
        found = [Path(name) for name in names if name.rpartition(".")[-1].lower() in IMAGE_SUFFIXES]
        found = [path for path in found if not os.path.isdir(path)]  # Path.is_dir raises for an overlong name
        if not found:
            text = f"{split}: no images in {source}; put some there (jpg, png, ...) or correct the path"
            problems.append(Problem("split", text))
        images += found
    return sorted(images)


def _read_list(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    return [str(file.parent / line[2:]) if line.startswith("./") else os.path.abspath(line) for line in lines]
