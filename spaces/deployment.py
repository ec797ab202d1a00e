"""How a network runs on a target."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from prunetune.spaces.fields import integer, items, mapping, text

ImageSize: TypeAlias = int | tuple[int, int]
"""Side of a square input in px, or the (height, width) of a rectangle."""


def parse_size(value: Any) -> ImageSize:
    """An input's size from 640, [384, 640] or `384x640`. Equal sides have one form.

    Raises:
        ValueError: It is none, or not above 0.
    """
    sides = value
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+)(?:\s*x\s*(\d+))?\s*", value)):
        sides = [int(side) for side in found.groups() if side is not None]
    sides = [sides] if isinstance(sides, int) else sides
    is_size = isinstance(sides, list | tuple) and 1 <= len(sides) <= 2
    if not is_size or any(type(side) is not int or side < 1 for side in sides):
        raise ValueError(f"takes px, such as 640, or [height, width], such as [384, 640], not {value!r}")
    return sides[0] if sides[0] == sides[-1] else (sides[0], sides[1])


def size_text(imgsz: ImageSize) -> str:
    """`640`, `384x640`."""
    return "x".join(map(str, imgsz)) if isinstance(imgsz, tuple) else str(imgsz)


def plain_size(imgsz: ImageSize) -> int | list[int]:
    """Plain values for JSON: 640, [384, 640]."""
    return list(imgsz) if isinstance(imgsz, tuple) else imgsz


@dataclass(frozen=True)
class Deployment:
    """Input size and precision.

    Attributes:
        imgsz: Side of the square input in px, or (height, width).
        precision: `fp32`, `fp16`, `bf16` or `int8`.
    """

    imgsz: ImageSize
    precision: str = "fp32"

    @property
    def height_width(self) -> tuple[int, int]:
        """The input's sides in px."""
        return self.imgsz if isinstance(self.imgsz, tuple) else (self.imgsz, self.imgsz)

    @property
    def pixels(self) -> int:
        """Of the input."""
        height, width = self.height_width
        return height * width

    def label(self, other: Deployment) -> str:
        """What tells it from another one in a network's name: `96`, `96-int8`, `384x640`."""
        return size_text(self.imgsz) + ("" if self.precision == other.precision else f"-{self.precision}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"imgsz": plain_size(self.imgsz), "precision": self.precision}

    @classmethod
    def parse(cls, stored: Any) -> Deployment | None:
        """The deployment that `as_dict` wrote; None for anything else."""
        told = mapping(stored)
        side, sides = integer(told.get("imgsz")), [integer(item) for item in items(told.get("imgsz"))]
        precision = text(told.get("precision"))
        if precision is None:
            return None
        if side is not None:
            return cls(side, precision)
        if len(sides) == 2 and sides[0] is not None and sides[1] is not None:
            return cls((sides[0], sides[1]), precision)
        return None

    def __str__(self) -> str:
        return f"{size_text(self.imgsz)}{'' if isinstance(self.imgsz, tuple) else ' px'} {self.precision}"
