"""The recipe: one point of a search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Region: TypeAlias = Literal["backbone", "head"]
"""The two parts of a detector that can have thresholds of their own. The neck and Detect belong to the head."""

SparsityUnit: TypeAlias = Literal["lambda", "pull"]
"""`lambda` is the coefficient of network slimming (arXiv 1708.06519). `pull` is the total shrinkage that a gamma
without any gradient of its own would see over the space's longest sparse phase: it means the same in a run of
fifty steps and in one of a hundred thousand."""


@dataclass(frozen=True)
class Threshold:
    """An absolute threshold on BatchNorm gammas, for each region: channels whose gamma is below go."""

    backbone: float
    head: float

    @classmethod
    def everywhere(cls, value: float) -> Threshold:
        """One global threshold, as in network slimming."""
        return cls(backbone=value, head=value)

    @classmethod
    def parse(cls, value: float | Mapping[str, float]) -> Threshold:
        """From a number, or from a mapping with `backbone` and `head`."""
        if isinstance(value, Mapping):
            return cls(backbone=float(value["backbone"]), head=float(value["head"]))
        return cls.everywhere(float(value))

    def for_region(self, region: Region) -> float:
        """The threshold of one region."""
        return self.backbone if region == "backbone" else self.head

    def as_json(self) -> float | dict[str, float]:
        """One number if the regions agree, else one number per region."""
        if self.backbone == self.head:
            return self.backbone
        return {"backbone": self.backbone, "head": self.head}

    def __str__(self) -> str:
        if self.backbone == self.head:
            return f"{self.backbone:.4g}"
        return f"{self.backbone:.4g} / {self.head:.4g}"


@dataclass(frozen=True)
class Recipe:
    """How to make a small detector from a large one. Hashable: equal recipes make equal detectors."""

    sparsity: float
    """Strength of the L1 penalty on BatchNorm gammas, in `sparsity_unit`."""
    sparse_epochs: int
    """Epochs of sparse training in each round."""
    threshold: Threshold
    """Channels with a gamma below it are removed."""
    rounds: int = 1
    """How often sparse training, pruning and recovery are repeated (iterative magnitude pruning)."""
    recovery_epochs: int = 0
    """Epochs of ordinary training after each surgery."""
    sparsity_unit: SparsityUnit = "pull"
    extra: tuple[tuple[str, Any], ...] = field(default=())
    """Further parameters of the space by name, for stages that know them."""

    @property
    def epochs(self) -> int:
        """Epochs of training that the recipe asks for when nothing can be reused."""
        return self.rounds * (self.sparse_epochs + self.recovery_epochs)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, tables and trial attributes."""
        return {
            "sparsity": self.sparsity,
            "sparsity_unit": self.sparsity_unit,
            "sparse_epochs": self.sparse_epochs,
            "threshold": self.threshold.as_json(),
            "rounds": self.rounds,
            "recovery_epochs": self.recovery_epochs,
            **dict(self.extra),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `as_dict` wrote."""
        rest = dict(values)
        return cls(
            sparsity=float(rest.pop("sparsity")),
            sparsity_unit=rest.pop("sparsity_unit"),
            sparse_epochs=int(rest.pop("sparse_epochs")),
            threshold=Threshold.parse(rest.pop("threshold")),
            rounds=int(rest.pop("rounds")),
            recovery_epochs=int(rest.pop("recovery_epochs")),
            extra=tuple(sorted(rest.items())),
        )

    def __str__(self) -> str:
        rounds = f"{self.rounds} x " if self.rounds > 1 else ""
        return (
            f"{rounds}({self.sparsity_unit} {self.sparsity:.3g} for {self.sparse_epochs} epochs, "
            f"threshold {self.threshold}, recover {self.recovery_epochs})"
        )
