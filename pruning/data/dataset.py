"""One look at a data set before anything is trained on it.

ultralytics leaves out an image that it cannot read, or whose labels are wrong, with a warning, hours before anybody
sees the map that it cost. Here each image is read as ultralytics reads it, within seconds, and what is left out is
counted and listed. What cannot be meant is an error: a wrong yaml, a split without usable images or labels, and a split
most of which would be left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prunetune.pruning.data.data_facts import DataFacts, SharedImages, Split, shared_images
from prunetune.pruning.data.data_source import locate
from prunetune.pruning.data.data_yaml import Description, describe, list_images
from prunetune.pruning.data.labels import Problem, wrong_line
from prunetune.spaces.errors import DatasetError
from prunetune.spaces.files import file_sha256, write_text

_LOGGER = logging.getLogger(__name__)

MOST_LEFT_OUT = 0.5
"""Share of a split's images. When more of them cannot be used, something else is wrong with the data set."""

_MOST_PROBLEMS = 10
_MOST_NAMED = 3
_CACHE_VERSION = 2


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
    """16 hex digits: class names, names and sizes of the images that are used, labels. Does not depend on where the
    folder lies."""
    sources: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """The folders and lists of each split, absolute."""
    root: Path | None = None
    """The folder that names of images are told from."""
    channels: int = 3
    """Channels of the images as networks see them: 3 for colour, 1 for grayscale."""
    keypoints: tuple[int, int] | None = None
    """How many points, of how many numbers, stand behind each box in lines of that length; a detector ignores them."""
    left_out: Mapping[Path, str] = field(default_factory=dict)
    """Images that nothing uses, with the reason."""
    shared: tuple[SharedImages, ...] = ()
    """Which splits have images in common."""

    @property
    def facts(self) -> DataFacts:
        """What a study keeps of it."""
        return DataFacts(self.splits, self.shared)

    @property
    def has_test(self) -> bool:
        """Whether there are labelled images that neither training nor the search has seen."""
        return "test" in self.splits and self.splits["test"].boxes > 0

    def some_images(self, split: str, count: int) -> list[Path]:
        """Images of a split that are used, absolute and spread over it; all if there are not more than `count`."""
        listed = list_images(split, tuple(self.sources[split]), [])
        used = [path for image in listed if (path := image.absolute()) not in self.left_out]
        return [used[index * len(used) // count] for index in range(count)] if len(used) > count else used

    def newly_left_out(self, earlier: Path) -> str:
        """The images that are left out and were not before, in words; empty where there are none.

        Args:
            earlier: What `as_yaml` gave then, in a file.
        """
        try:
            known = dict(yaml.safe_load(earlier.read_text(encoding="utf-8")).get("left_out") or {})
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):  # nothing is known
            return ""
        new = [_printable(str(image)) for image in self.left_out if _entry(image) not in known]
        if not new:
            return ""
        more = f" and {len(new) - _MOST_NAMED} more" if len(new) > _MOST_NAMED else ""
        what = "1 more image is" if len(new) == 1 else f"{len(new)} more images are"
        return f"{what} left out, for itself or its label: {', '.join(new[:_MOST_NAMED])}{more}"

    def as_yaml(self) -> str:
        """A `data.yaml` with absolute paths, which means the same everywhere, and lists the images that are left out.

        ultralytics resolves a relative `path` against the current folder, not against the yaml's.
        """
        sources = {split: [str(path) for path in paths] for split, paths in self.sources.items()}
        root = {} if self.root is None else {"path": str(self.root)}
        content: dict[str, Any] = {**root, **sources, "names": dict(enumerate(self.names))}
        if self.channels != 3:
            content["channels"] = self.channels
        if self.keypoints is not None:
            content["kpt_shape"] = list(self.keypoints)
        if self.left_out:
            content["left_out"] = {_entry(image): reason for image, reason in self.left_out.items()}
        return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


def inspect_dataset(data: str | Path, cache: Path | None = None) -> Dataset:
    """Reads a `data.yaml`, and every image with its labels as ultralytics does. No file is changed.

    Args:
        data: What ultralytics takes: a `data.yaml`, its folder, an archive of that, or the name of a data set that it
            describes itself, such as `coco8`. Nothing is downloaded.
        cache: A JSON file that remembers data sets. One whose names, sizes and times of files have not changed is not
            read again.

    Raises:
        DatasetError: Something is wrong that the study cannot do without; every problem with its file and remedy, the
            first ten in full.
        StoreError: The cache cannot be written.
    """
    source = locate(data)
    problems: list[Problem] = []
    described = describe(source, problems)
    images = {split: list_images(split, paths, problems) for split, paths in described.sources.items()}
    if problems and not any(images.values()):
        raise _error(data, problems)
    pairs = {split: [_pair(image) for image in found] for split, found in images.items()}
    listing = _listing(described, pairs)
    if cache is not None and not problems:
        known = _read_cache(cache, source.file, listing, described)
        if known is not None:
            return known

    looks = _look_through(pairs, described)
    used = {split: [pair for pair in members if not looks[pair.image].problems] for split, members in pairs.items()}
    for split, members in pairs.items():
        if len(members) - len(used[split]) > MOST_LEFT_OUT * len(members):
            problems += _most_left_out(split, members, looks)
        elif members and not any(looks[pair.image].boxes for pair in used[split]):
            if split == "test":  # often published without labels; training can do without
                _LOGGER.warning("%s: the test split has no labels and is not used", source.file)
            else:
                problems.append(_no_labels(split, members))
    if problems:
        raise _error(data, problems)

    dataset = Dataset(
        file=source.file,
        names=described.names,
        splits={split: _summary(members, used[split], looks) for split, members in pairs.items()},
        fingerprint=_fingerprint(described, used, looks),
        sources=described.sources,
        root=described.root,
        channels=described.channels,
        keypoints=described.keypoints,
        left_out={
            image: _printable("; ".join(item.text for item in look.problems))
            for image, look in looks.items()
            if look.problems
        },
        shared=shared_images({split: [looks[pair.image].content for pair in used[split]] for split in used}),
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
class _Look:
    """What was found in an image and its labels."""

    boxes: int = 0
    content: str = ""
    """Digest of the image's bytes."""
    labels: str = ""
    """Digest of the label file's; empty where there is none."""
    problems: tuple[Problem, ...] = ()
    """Why it is left out."""


def _pair(image: Path) -> _Pair:
    # The last folder called `images` becomes `labels`; without one the labels lie beside the images.
    before, folder, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    label = f"{before}{os.sep}labels{os.sep}{after}" if folder else after
    label_file = Path(label.rpartition(".")[0] + ".txt")
    return _Pair(image.absolute(), label_file, _stat(image), _stat(label_file))


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):  # a ValueError: a NUL inside the name
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _look_through(pairs: Mapping[str, list[_Pair]], described: Description) -> dict[Path, _Look]:
    from prunetune.pruning.data.images import THREADS, read_images

    # An image is looked at once, also where val and test are one folder.
    unique = {pair.image: pair for members in pairs.values() for pair in members}
    _LOGGER.info("looking through %d images of %s", len(unique), described.root)
    results = read_images(described.arguments(str(pair.image), str(pair.label)) for pair in unique.values())
    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(lambda pair, result: _look(pair, result, described), unique.values(), results)
        return dict(zip(unique, looks, strict=True))


def _look(pair: _Pair, result: Any, described: Description) -> _Look:
    from prunetune.pruning.data.images import is_decodable

    if result[0] is None:
        return _Look(problems=tuple(_reasons(pair, result, described)))
    if not is_decodable(pair.image, described.channels):  # ultralytics would stop at it in the midst of a training
        return _Look(problems=(_unusable(pair.image, "cannot be decoded"),))
    return _Look(len(result[1]), file_sha256(pair.image), file_sha256(pair.label) if pair.label_stat else "")


def _reasons(pair: _Pair, result: Any, described: Description) -> Iterable[Problem]:
    """Why ultralytics leaves out an image: for itself, for its labels, or both."""
    from prunetune.pruning.data.images import read_images, reason

    if pair.image_stat is None:
        text = "does not exist; restore it, or remove it from the list of images"
        yield Problem("missing image", f"{pair.image}: {text}")
    elif pair.image_stat[0] == 0:
        yield _unusable(pair.image, "is empty (0 bytes)")
    else:
        (alone,) = read_images([described.arguments(str(pair.image), "")])
        if alone[0] is None:
            yield _unusable(pair.image, f"cannot be used ({reason(alone)})")
        elif (wrong := wrong_line(pair.label, described.classes, described.pose_columns)) is not None:
            yield wrong
        else:
            yield Problem("label", f"{pair.label}: {reason(result)}; correct it")
        return
    if pair.label_stat and (wrong := wrong_line(pair.label, described.classes, described.pose_columns)) is not None:
        yield wrong


def _unusable(image: Path, what: str) -> Problem:
    return Problem("image", f"{image}: {what}; replace it, or remove it with its label")


def _most_left_out(split: str, members: list[_Pair], looks: Mapping[Path, _Look]) -> list[Problem]:
    problems = [problem for pair in members for problem in looks[pair.image].problems]
    count = sum(bool(looks[pair.image].problems) for pair in members)
    text = f"{split}: {count} of its {len(members)} images cannot be used; a study does without some, not without most"
    return [Problem("split", text), *problems]


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
    lines = [_printable(problems[index].text) for index in chosen]
    if len(problems) > len(lines):
        lines.append(f"and {len(problems) - len(lines)} more, {len(problems)} in all")
    return DatasetError(lines, str(data))


def _summary(members: list[_Pair], used: list[_Pair], looks: Mapping[Path, _Look]) -> Split:
    boxes = [looks[pair.image].boxes for pair in used]
    return Split(len(boxes), sum(boxes), boxes.count(0), left_out=len(members) - len(used))


def _printable(text: str) -> str:
    """A text in one line, with characters of names that cannot be shown escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _entry(image: Path) -> str | bytes:
    """An image in a `data.yaml`: its name, or the bytes of one with characters that YAML does not hold, or changes."""
    return str(image) if str(image).isprintable() else os.fsencode(image)


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]


def _fingerprint(described: Description, used: Mapping[str, list[_Pair]], looks: Mapping[Path, _Look]) -> str:
    def entry(pair: _Pair) -> tuple[str, int, str]:
        size = pair.image_stat[0] if pair.image_stat else 0
        return _name(pair.image, described.root), size, looks[pair.image].labels

    content = {split: sorted(entry(pair) for pair in members) for split, members in sorted(used.items())}
    return _digest([described.names, content, *_unusual(described)])


def _unusual(described: Description) -> list[Any]:
    """What only some data sets have, so that the fingerprints of all others stay as they were."""
    channels = [] if described.channels == 3 else [described.channels]
    return channels if described.keypoints is None else [*channels, ["kpt_shape", *described.keypoints]]


def _listing(described: Description, pairs: Mapping[str, list[_Pair]]) -> str:
    files = {split: [(str(p.image), p.image_stat, p.label_stat) for p in members] for split, members in pairs.items()}
    return _digest([_CACHE_VERSION, str(described.root), described.names, files, *_unusual(described)])


def _read_cache(cache: Path, file: Path, listing: str, described: Description) -> Dataset | None:
    try:
        entry = json.loads(cache.read_text(encoding="utf-8"))[str(file)]
        if entry["listing"] != listing:
            return None
        facts = DataFacts.parse(entry["facts"])
        left_out = {Path(image): str(reason) for image, reason in entry["left_out"].items()}
        fingerprint = str(entry["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent, of another version or damaged: look again and write it anew
    return Dataset(
        file,
        described.names,
        facts.splits,
        fingerprint,
        described.sources,
        described.root,
        described.channels,
        described.keypoints,
        left_out,
        facts.shared,
    )


def _write_cache(cache: Path, dataset: Dataset, listing: str) -> None:
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = {}
    if not isinstance(entries, dict):
        entries = {}
    entries[str(dataset.file)] = {
        "listing": listing,
        "fingerprint": dataset.fingerprint,
        "facts": dataset.facts.as_dict(),
        "left_out": {str(image): reason for image, reason in dataset.left_out.items()},
    }
    write_text(cache, json.dumps(entries, indent=1))
