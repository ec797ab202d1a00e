"""Reads a `data.yaml` and lists the images of its splits, both as ultralytics does."""

from __future__ import annotations

import difflib
import glob
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prunetune.pruning.yolo.compat import datasets_folder
from prunetune.pruning.data.data_source import DataSource
from prunetune.pruning.data.labels import Problem
from prunetune.spaces.errors import DatasetError

IMAGE_SUFFIXES = frozenset(
    ("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp")
)
"""Endings of the files that ultralytics takes for images, in lower case."""
_SPLITS = ("train", "val", "test")
_LOGGER = logging.getLogger(__name__)
_MOST_CLASSES = 100_000  # without names; a larger number is a mistake


@dataclass(frozen=True)
class Description:
    """What the yaml says, with paths resolved."""

    root: Path
    names: tuple[str, ...]
    sources: dict[str, tuple[Path, ...]]
    channels: int = 3
    keypoints: tuple[int, int] | None = None
    """`kpt_shape`: points behind each box, and numbers of each."""

    @property
    def classes(self) -> int:
        """How many; without end where the names could not be read."""
        return len(self.names) or sys.maxsize

    @property
    def pose_columns(self) -> int | None:
        """Length of a line that is a box with keypoints."""
        return 5 + self.keypoints[0] * self.keypoints[1] if self.keypoints and self.keypoints[0] else None

    def arguments(self, image: str, labels: str) -> tuple[Any, ...]:
        """Those of ultralytics' `verify_image_label`."""
        points, numbers = self.keypoints or (0, 0)
        return image, labels, "", False, self.classes, points, numbers, False


def describe(source: DataSource, problems: list[Problem]) -> Description:
    """Reads the yaml; adds what is wrong with its keys to `problems` and goes on without them.

    Raises:
        DatasetError: The file is missing, cannot be parsed, or is no mapping.
    """
    file = source.file
    content = _load_yaml(file)
    if "val" not in content and "validation" in content:  # ultralytics knows both
        content["val"] = content.pop("validation")
    names, channels, keypoints = _names(content, problems), _channels(content, problems), _keypoints(content, problems)
    root = source.root or _root(file, content, problems)
    if root is None:
        return Description(file.parent, names, {}, channels, keypoints)
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
    for path in (root, *(path for paths in sources.values() for path in paths)):
        has_break = len(str(path).splitlines()) > 1
        if has_break or os.fsencode(path) != str(path).encode("utf-8", "replace"):
            text = f"{path}: its name is not UTF-8 or has a line break, which no yaml can hold; rename it"
            problems.append(Problem("yaml", text))
            return Description(root, names, {}, channels, keypoints)
    return Description(root, names, sources, channels, keypoints)


def _root(file: Path, content: Mapping[str, Any], problems: list[Problem]) -> Path | None:
    """Where paths start: beside the yaml, else in the current folder, or in ultralytics' folder for data sets."""
    given = content.get("path")
    if given is not None and not isinstance(given, str):
        problems.append(Problem("yaml", f"path: must be a folder, not {given!r}; remove it or correct it"))
        return file.parent.resolve()
    try:
        path = Path(given or ".").expanduser()
        folders = [(start / path).resolve() for start in (file.parent, Path.cwd(), datasets_folder())]
        if (found := next((folder for folder in folders if folder.exists()), None)) is not None:
            return found
    except (OSError, ValueError, RuntimeError) as error:
        problems.append(_no_path("path", given, error))
        return None
    remedy = _nearest(folders[0], "correct it")
    if content.get("download"):
        link = str(content["download"])
        get = link if link.startswith("http") and "\n" not in link else "the images"
        remedy = f"prunetune downloads nothing: get {get}, and unpack it to {folders[-1]}, or correct it"
    looked = " or ".join(dict.fromkeys(str(folder.parent) for folder in folders))
    problems.append(Problem("yaml", f"path: {given} does not exist in {looked}; {remedy}"))
    return None


def _keypoints(content: Mapping[str, Any], problems: list[Problem]) -> tuple[int, int] | None:
    if "kpt_shape" not in content:
        return None
    match content["kpt_shape"]:
        case [int(points), int(numbers)] if points >= 0 and numbers >= 0:
            return points, numbers
    text = f"kpt_shape: must be [points, numbers of each], such as [17, 3], not {content['kpt_shape']!r}"
    problems.append(Problem("yaml", f"{text}; correct it, or remove it where labels are boxes"))
    return None


def _load_yaml(file: Path) -> dict[str, Any]:
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
    if names is None and content.get("nc") is not None:  # as ultralytics calls them
        stated = str(content["nc"]).removesuffix(".0")
        if stated.isdecimal() and 0 < int(stated) <= _MOST_CLASSES:
            return tuple(f"class_{index}" for index in range(int(stated)))
        problems.append(Problem("yaml", f"nc: must be the number of classes, not {content['nc']!r}; correct it"))
        return ()
    if names is None:
        problems.append(_missing_key("names", content, "add the class names: 'names: {0: first, 1: second}'"))
        return ()
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        text = f"names: must list the classes or map indices to them, not {names!r}"
        problems.append(Problem("yaml", text))
        return ()
    indices = [int(key) for key in names if str(key).strip().isdecimal()]
    if len(set(indices)) < len(indices):
        again = next(index for index in indices if indices.count(index) > 1)
        text = f"names: {again} is there twice, as a number and as text; give each class an index of its own"
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
    if "\\" in str(path):
        return "its separators are those of Windows: write / in place of \\"
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
        lines: list[str] = []
        if source.is_dir():
            pattern = os.path.join(glob.escape(str(source)), "**", "*.*")
            names = glob.glob(pattern, recursive=True)
        elif source.is_file() and source.suffix.lower()[1:] not in IMAGE_SUFFIXES:
            try:
                names = lines = _read_list(source)
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
        found = [Path(name) for name in names if _is_image(name)]
        lines = [line for line in lines if line.strip()]
        others = [line for line in lines if not _is_image(line)]
        if found and others:
            text = "%s: %d of its %d lines name no image file and are not used, such as %r"
            _LOGGER.warning(text, source, len(others), len(lines), others[0])
        found = [path for path in found if not os.path.isdir(path)]  # Path.is_dir raises for an overlong name
        if not found:
            text = f"{split}: no images in {source}; put some there (jpg, png, ...) or correct the path"
            if others:
                none = f"none of the {len(lines)} lines of {source} names an image file, such as {others[0]!r}"
                text = f"{split}: {none}; correct their ends"
            problems.append(Problem("split", text))
        images += found
    return sorted(images)


def _is_image(name: str) -> bool:
    return name.rpartition(".")[-1].lower() in IMAGE_SUFFIXES


def _read_list(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    return [f"{file.parent}{os.sep}{line[2:]}" if line.startswith("./") else line for line in lines]
