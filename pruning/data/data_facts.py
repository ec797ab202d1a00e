"""What a data set is found to hold, to be kept with a study: how much of it is used, and which splits share images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from typing import Any, TypeVar

_USED_FOR = {"train": "which networks learn from", "val": "which chooses checkpoints and recipes"}


@dataclass(frozen=True)
class Split:
    """What one split holds."""

    images: int
    """Number of images that are used."""
    boxes: int
    """Number of labelled objects on them."""
    background: int
    """Images without any object."""
    left_out: int = 0
    """Images that ultralytics cannot use, or whose labels are wrong: nothing uses them."""


@dataclass(frozen=True)
class SharedImages:
    """Images of a split that stand in an earlier one as well, under whatever names: their bytes are equal."""

    first: str
    """`train` or `val`."""
    second: str
    """`val` or `test`."""
    images: int
    """Images of `second` that are also in `first`."""
    of: int
    """All images of `second`."""

    def __str__(self) -> str:
        verb = "is" if self.images == 1 else "are"
        return f"{self.images} of {self.of} {self.second} images {verb} also in {self.first}, {_USED_FOR[self.first]}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class DataFacts:
    """Counts of a data set's splits, and what they share."""

    splits: Mapping[str, Split] = field(default_factory=dict)
    """By `train`, `val` and `test`."""
    shared: tuple[SharedImages, ...] = ()

    def shared_by(self, split: str) -> tuple[SharedImages, ...]:
        """What a split shares with earlier ones."""
        return tuple(item for item in self.shared if item.second == split)

    @property
    def left_out(self) -> str | None:
        """How many images are left out, in words."""
        told = ", ".join(f"{name} {split.left_out}" for name, split in self.splits.items() if split.left_out)
        count = sum(split.left_out for split in self.splits.values())
        total = count + sum(split.images for split in self.splits.values())
        return f"{count} of {total} images are left out, as ultralytics leaves them out ({told})" if count else None

    def notes(self, file: object = None) -> list[str]:
        """One line for each thing that a user should know before networks are trained.

        Args:
            file: Where the images that are left out are listed, if they are.
        """
        where = "" if file is None else f"; left_out in {file} lists them, with reasons"
        told = [] if self.left_out is None else [f"data: {self.left_out}{where}"]
        return told + [f"data: {item}: accuracy on {item.second} says less of new images" for item in self.shared]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "shared": [item.as_dict() for item in self.shared],
        }

    @classmethod
    def parse(cls, told: Any) -> DataFacts:
        """What `as_dict` wrote. What is missing, as in studies of earlier versions, or damaged is left out."""
        told = told if isinstance(told, Mapping) else {}
        given, shared = told.get("splits"), told.get("shared")
        splits = {
            str(name): _parse(Split, item) for name, item in (given if isinstance(given, Mapping) else {}).items()
        }
        items = [_parse(SharedImages, item) for item in (shared if isinstance(shared, list) else ())]
        return cls(
            {name: split for name, split in splits.items() if split is not None},
            tuple(item for item in items if item is not None and item.first in _USED_FOR),
        )


def shared_images(digests: Mapping[str, Sequence[str]]) -> tuple[SharedImages, ...]:
    """Compares each two splits.

    Args:
        digests: A digest of every image's content, by split, in the order of `train`, `val`, `test`.
    """
    found = []
    for first, second in combinations(digests, 2):
        known = set(digests[first])
        if count := sum(digest in known for digest in digests[second]):
            found.append(SharedImages(first, second, count, len(digests[second])))
    return tuple(found)


_Fact = TypeVar("_Fact", Split, SharedImages)


def _parse(kind: type[_Fact], told: Any) -> _Fact | None:
    if not isinstance(told, Mapping):
        return None
    values = {item.name: told[item.name] for item in fields(kind) if item.name in told}
    wanted = {item.name: str if item.type == "str" else int for item in fields(kind)}
    try:
        return kind(**values) if all(type(value) is wanted[name] for name, value in values.items()) else None
    except TypeError:  # a field is missing
        return None
