"""What a detector scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from prunetune.spaces.fields import mapping, numbers

Choice: TypeAlias = Literal["map50_95", "f1", "both", "last"]
"""Which epoch's weights a phase ends with: the best by map50_95, by F1, or by both, their geometric mean, in which a
percent of one is worth a percent of the other; or the last."""


@dataclass(frozen=True)
class Accuracy:
    """What a detector scores on one split, averaged over the classes, each from 0 to 1."""

    map50: float
    map50_95: float
    precision: float
    recall: float
    f1: float
    """Precision, recall and F1 are those at the confidence where the classes' mean F1 is best."""
    confidence: float | None = None
    """That confidence, a threshold to begin with; None where it is not known, or nothing was found."""
    classes: Mapping[str, Mapping[str, float]] | None = field(default=None, hash=False)
    """`map50` and `map50_95` of each class that the split has, by its name; None where they were not kept."""

    def as_dict(self) -> dict[str, Any]:
        """All five figures, and the confidence and those of the classes where they are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def parse(cls, stored: Any) -> Accuracy | None:
        """The accuracy that `as_dict` wrote; None where one of its five figures is missing or damaged."""
        known = numbers(stored)
        names = ("map50", "map50_95", "precision", "recall", "f1")
        figures = [known[name] for name in names if 0 <= known.get(name, -1.0) <= 1]
        if len(figures) < 5:
            return None
        classes = mapping(mapping(stored).get("classes"))
        by_class = {str(name): numbers(values) for name, values in classes.items()} or None
        map50, map50_95, precision, recall, f1 = figures
        return cls(map50, map50_95, precision, recall, f1, known.get("confidence"), by_class)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Accuracy:
        """The accuracy that `as_dict` wrote.

        Raises:
            ValueError: It is damaged.
        """
        if (found := cls.parse(values)) is None:
            raise ValueError(f"no accuracy: {values!r}")
        return found

    def score(self, choice: Choice) -> float:
        """The figure that a checkpoint is chosen by."""
        if choice == "both":
            return math.sqrt(self.f1 * self.map50_95)
        return self.f1 if choice == "f1" else self.map50_95
