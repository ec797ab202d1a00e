"""What carrying out a recipe cost: seconds by part of the work, and the stages with their epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prunetune.spaces.fields import integer, items, mapping, numbers, text


@dataclass(frozen=True)
class StageUse:
    """A stage that a recipe needed, and what it took: to the end, or up to where it was cut off."""

    kind: str
    """`sparse`, `pruning`, `recovery`, ..."""
    digest: str
    """The stage's name; of one that was cut off, its trunk's."""
    trained: int = 0
    """Epochs that ran."""
    reused: int = 0
    """Epochs that were read back."""
    was_stored: bool = False
    """Whether the whole stage was read back."""

    @property
    def epochs(self) -> int:
        """Its epochs, whoever trained them."""
        return self.trained + self.reused

    @classmethod
    def parse(cls, stored: Any) -> StageUse | None:
        """The use that `asdict` gave; None for anything else."""
        told = mapping(stored)
        kind, digest = text(told.get("kind")), text(told.get("digest"))
        if kind is None or digest is None:
            return None
        trained, reused = integer(told.get("trained")) or 0, integer(told.get("reused")) or 0
        return cls(kind, digest, trained, reused, told.get("was_stored") is True)


MOST_S = 1e10
"""Three hundred years: what is stored above it is damaged."""


@dataclass(frozen=True)
class Cost:
    """What some work took. Costs add up."""

    seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    """By part: `train`, `validate`, `measure`, `surgery`, ..."""
    stages: tuple[StageUse, ...] = ()
    """In the order in which they were needed."""

    @property
    def total_s(self) -> float:
        """All seconds."""
        return sum(self.seconds.values())

    @property
    def epochs_trained(self) -> int:
        """Epochs that ran."""
        return sum(stage.trained for stage in self.stages)

    @property
    def epochs_reused(self) -> int:
        """Epochs that were read back."""
        return sum(stage.reused for stage in self.stages)

    def __add__(self, other: Cost) -> Cost:
        seconds = Counter(self.seconds)
        seconds.update(other.seconds)
        return Cost(dict(seconds), self.stages + other.stages)

    def __sub__(self, earlier: Cost) -> Cost:
        """What came since an earlier reading of the same meter."""
        seconds = {part: spent - earlier.seconds.get(part, 0.0) for part, spent in self.seconds.items()}
        return Cost({part: spent for part, spent in seconds.items() if spent > 0}, self.stages[len(earlier.stages) :])

    def then(self, attempt: Cost) -> Cost:
        """This cost of a recipe's first attempts, with that of the one that began it anew.

        What the first ones made is read back by the later one: it is counted once, as it was made. What the later one
        trained on in a stage that they began counts as well.
        """
        made = {stage.digest for stage in self.stages}
        further = tuple(stage for stage in attempt.stages if stage.trained or stage.digest not in made)
        return self + Cost(attempt.seconds, further)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"seconds": dict(self.seconds), "stages": [asdict(stage) for stage in self.stages]}

    @classmethod
    def parse(cls, stored: Any) -> Cost:
        """The cost that `as_dict` wrote; what is damaged is missing."""
        told = mapping(stored)
        stages = map(StageUse.parse, items(told.get("stages")))
        seconds = {part: spent for part, spent in numbers(told.get("seconds")).items() if 0 <= spent < MOST_S}
        return cls(seconds, tuple(stage for stage in stages if stage is not None))
