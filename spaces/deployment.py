"""How a network runs on a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunetune.spaces.fields import integer, items, mapping, text


@dataclass(frozen=True)
class Deployment:
    """Input size and precision.

    Attributes:
        imgsz: Side of the square input in px, or (height, width).
        precision: `fp32`, `fp16`, `bf16` or `int8`.
    """

    imgsz: int | tuple[int, int]
    precision: str = "fp32"

    @property
    def height_width(self) -> tuple[int, int]:
        """The input's sides in px."""
        return self.imgsz if isinstance(self.imgsz, tuple) else (self.imgsz, self.imgsz)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "imgsz": list(self.imgsz) if isinstance(self.imgsz, tuple) else self.imgsz,
            "precision": self.precision,
        }

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
        size = "x".join(map(str, self.imgsz)) if isinstance(self.imgsz, tuple) else f"{self.imgsz} px"
        return f"{size} {self.precision}"
