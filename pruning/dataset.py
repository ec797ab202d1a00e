"""One look at a data set before anything is trained on it.

ultralytics skips an unreadable image or a wrong label with a warning, hours before anybody sees the map that
it cost. Here all of it is found at once, within seconds, and said in one error. Imports neither torch nor
ultralytics.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, UnidentifiedImageError

from prunetune.pruning.data_yaml import IMAGE_SUFFIXES, Description, describe, list_images
from prunetune.pruning.labels import LabelFile, Problem, read_labels
from prunetune.spaces.errors import DatasetError
from prunetune.spaces.files import write_text

_LOGGER = logging.getLogger(__name__)

_IMAGE_FORMATS = IMAGE_SUFFIXES | {"jpeg2000"}
_SMALLEST_SIDE = 10  # px; ultralytics leaves out anything smaller
_MOST_PROBLEMS = 10
_JPEG_END = b"\xff\xd9"
_CACHE_VERSION = 1


@dataclass(frozen=True)
class Split:
    """What one split holds."""

    images: int
    """Number of images."""
    boxes: int
    """Number of labelled objects."""
    background: int
    """Images without any object."""


@dataclass(frozen=True)
class Dataset:
    """A data set that was looked through and can be trained on."""

    file: Path
    """The `data.yaml`, absolute."""
    names: tuple[str, ...]
    """Class names by index."""
    splits: Mapping[str, Split]
    """`train`, `val` and, where there is one, `test`."""
    fingerprint: str
    """16 hex digits: class names, image names and sizes, labels. Does not depend on where the folder lies."""
    sources: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """The folders and lists of each split, absolute."""
    root: Path | None = None
    """The folder that names of images are told from."""
    channels: int = 3
    """Channels of the images as networks see them: 3 for colour, 1 for grayscale."""

    @property
    def has_test(self) -> bool:
        """Whether there are labelled images that neither training nor the search has seen."""
        return "test" in self.splits and self.splits["test"].boxes > 0

    def as_yaml(self) -> str:
        """A `data.yaml` with absolute paths, which means the same everywhere.

        ultralytics resolves a relative `path` against the current folder, not against the yaml's.
        """
        sources = {split: [str(path) for path in paths] for split, paths in self.sources.items()}
        root = {} if self.root is None else {"path": str(self.root)}
        names = {"names": dict(enumerate(self.names))}
        channels = {} if self.channels == 3 else {"channels": self.channels}
        return yaml.safe_dump({**root, **sources, **names, **channels}, allow_unicode=True, sort_keys=False)


def inspect_dataset(data: str | Path, cache: Path | None = None) -> Dataset:
    """Reads a `data.yaml`, decodes every image and parses every label.

    Args:
        data: A `data.yaml` as ultralytics reads it: `train`, `val` and optionally `test`, each a folder,
            a .txt list or a list of those; `names`; optionally `nc`, and `path` (absolute, or relative to the
            yaml).
        cache: A JSON file that remembers sound data sets. One whose names, sizes and times of files have not
            changed is not decoded again.

    Raises:
        DatasetError: Something is wrong; every problem with its file and remedy, the first ten in full.
        StoreError: The cache cannot be written.
    """
    file = Path(data).expanduser().absolute()
    problems: list[Problem] = []
    described = describe(file, problems)
    images = {split: list_images(split, paths, problems) for split, paths in described.sources.items()}
    if problems and not any(images.values()):
        raise _error(data, problems)
    pairs = {split: [_pair(image) for image in found] for split, found in images.items()}
    listing = _listing(described, pairs)
    if cache is not None and not problems:
        known = _read_cache(cache, file, listing, described)
        if known is not None:
            return known

    checked = _check_all(pairs, described, problems)
    for split, members in pairs.items():
        if members and not any(checked[pair.image].labels.lines for pair in members):
            if split == "test":  # often published without labels; training can do without
                _LOGGER.warning("%s: the test split has no labels and is not used", file)
            else:
                problems.append(_no_labels(split, members))
    if problems:
        raise _error(data, problems)

    dataset = Dataset(
        file=file,
        names=described.names,
        splits={split: _summary(members, checked) for split, members in pairs.items()},
        fingerprint=_fingerprint(described, pairs, checked),
        sources=described.sources,
        root=described.root,
        channels=described.channels,
    )
    if cache is not None:
        _write_cache(cache, dataset, listing)
    return dataset


@dataclass(frozen=True)
class _Pair:
    """An image and the label file that belongs to it, with what the file system says of both."""

    image: Path
    label: Path
    image_stat: tuple[int, int] | None
    label_stat: tuple[int, int] | None


@dataclass(frozen=True)
class _Checked:
    labels: LabelFile
    problems: tuple[Problem, ...]
    rewritten: bool
    """ultralytics saves such an image anew when it first reads it."""


def _pair(image: Path) -> _Pair:
    # The last folder called `images` becomes `labels`; without one the labels lie beside the images.
    before, folder, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    label = f"{before}{os.sep}labels{os.sep}{after}" if folder else after
    label_file = Path(label.rpartition(".")[0] + ".txt")
    return _Pair(image, label_file, _stat(image), _stat(label_file))


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):  # a ValueError: a NUL inside the name
        return None
    return found.st_size, found.st_mtime_ns


def _check_all(
    pairs: Mapping[str, list[_Pair]], described: Description, problems: list[Problem]
) -> dict[Path, _Checked]:
    # An image is looked at once, also where val and test are one folder.
    unique = {pair.image: pair for members in pairs.values() for pair in members}
    classes = len(described.names) or None
    _LOGGER.info("looking through %d images of %s", len(unique), described.root)
    Image.init()  # loads Pillow's plugins once; threads would race for it
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda pair: _check(pair, classes), unique.values())
        checked = dict(zip(unique, results, strict=True))
    for result in checked.values():
        problems += result.problems
    if rewritten := [path for path, result in checked.items() if result.rewritten]:
        _LOGGER.warning(
            "%d JPEG files have bytes after their end (%s is the first): ultralytics will save them anew, "
            "which changes the data set's fingerprint; better save them anew beforehand",
            len(rewritten),
            rewritten[0],
        )
    return checked


def _check(pair: _Pair, classes: int | None) -> _Checked:
    labels = read_labels(pair.label, classes) if pair.label_stat is not None else LabelFile()
    try:
        rewritten = _check_image(pair)
    except _UnusableImageError as error:
        kind = "image" if pair.image_stat else "missing image"
        return _Checked(labels, (Problem(kind, f"{pair.image}: {error}"), *labels.problems), rewritten=False)
    return _Checked(labels, labels.problems, rewritten)


class _UnusableImageError(ValueError):
    pass


def _check_image(pair: _Pair) -> bool:
    """Decodes an image. Returns whether ultralytics will rewrite it."""
    remedy = "replace it, or remove it with its label"
    if pair.image_stat is None:
        raise _UnusableImageError("does not exist; restore it, or remove it from the list of images")
    if pair.image_stat[0] == 0:
        raise _UnusableImageError(f"is empty (0 bytes); {remedy}")
    try:
        with pair.image.open("rb") as stream, Image.open(stream) as image:
            image.load()
            kind, size = (image.format or "").lower(), image.size
            stream.seek(-2, os.SEEK_END)
            ending = stream.read()
    except Exception as error:  # each decoder fails in its own way; whatever it is, the image is unusable
        # ultralytics, once imported, answers an unknown format by importing a reader for yet another one.
        unknown = isinstance(error, (UnidentifiedImageError, ImportError))
        reason = "no known image format" if unknown else str(error)
        raise _UnusableImageError(f"cannot be decoded ({reason}); {remedy}") from error
    if kind not in _IMAGE_FORMATS:
        raise _UnusableImageError(f"is {kind.upper()} inside, which ultralytics refuses; save it as PNG")
    if min(size) < _SMALLEST_SIDE:
        width, height = size
        raise _UnusableImageError(f"is {width} x {height} px, below {_SMALLEST_SIDE} px a side; {remedy}")
    return kind == "jpeg" and ending != _JPEG_END


def _no_labels(split: str, members: list[_Pair]) -> Problem:
    expected = members[0].label
    found = "the label files are empty" if any(pair.label_stat for pair in members) else "there is no label file"
    return Problem(
        "split",
        f"{split}: no labels: {found} for any of its {len(members)} images; for {members[0].image} "
        f"the labels are expected in {expected}",
    )


def _error(data: str | Path, problems: list[Problem]) -> DatasetError:
    """The first problems in full, some of each kind: a thousand wrong lines must not hide a broken image."""
    seen: dict[str, int] = {}
    ranks = []
    for problem in problems:
        seen[problem.kind] = rank = seen.get(problem.kind, 0) + 1
        ranks.append(0 if problem.kind in ("yaml", "split") else rank)
    chosen = sorted(sorted(range(len(problems)), key=ranks.__getitem__)[:_MOST_PROBLEMS])
    lines = [problems[index].text for index in chosen]
    if len(problems) > len(lines):
        lines.append(f"and {len(problems) - len(lines)} more, {len(problems)} in all")
    return DatasetError(lines, str(data))


def _summary(members: list[_Pair], checked: Mapping[Path, _Checked]) -> Split:
    boxes = [checked[pair.image].labels.boxes for pair in members]
    return Split(images=len(boxes), boxes=sum(boxes), background=boxes.count(0))


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]


def _fingerprint(described: Description, pairs: Mapping[str, list[_Pair]], checked: Mapping[Path, _Checked]) -> str:
    def entry(pair: _Pair) -> tuple[str, int, str]:
        size = pair.image_stat[0] if pair.image_stat else 0
        return _name(pair.image, described.root), size, checked[pair.image].labels.digest

    content = {split: sorted(entry(pair) for pair in members) for split, members in sorted(pairs.items())}
    return _digest([described.names, content, *_unusual(described)])


def _unusual(described: Description) -> list[int]:
    """What only some data sets have, so that the fingerprints of all others stay as they were."""
    return [] if described.channels == 3 else [described.channels]


def _listing(described: Description, pairs: Mapping[str, list[_Pair]]) -> str:
    files = {split: [(str(p.image), p.image_stat, p.label_stat) for p in members] for split, members in pairs.items()}
    return _digest([_CACHE_VERSION, str(described.root), described.names, files, *_unusual(described)])


def _read_cache(cache: Path, file: Path, listing: str, described: Description) -> Dataset | None:
    try:
        entry = json.loads(cache.read_text(encoding="utf-8"))[str(file)]
        if entry["listing"] != listing:
            return None
        splits = {str(split): Split(**counts) for split, counts in entry["splits"].items()}
        fingerprint = str(entry["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent, of another version or damaged: look again and write it anew
    return Dataset(file, described.names, splits, fingerprint, described.sources, described.root, described.channels)


def _write_cache(cache: Path, dataset: Dataset, listing: str) -> None:
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = {}
    if not isinstance(entries, dict):
        entries = {}
    splits = {split: asdict(counts) for split, counts in dataset.splits.items()}
    entries[str(dataset.file)] = {"listing": listing, "fingerprint": dataset.fingerprint, "splits": splits}
    write_text(cache, json.dumps(entries, indent=1))
