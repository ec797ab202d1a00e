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
class LatencyShare:
    """In a threshold's place: the latency is given, and the threshold that just meets it is searched."""

    share: float
    """The latency, as a share of the budget: 1 just keeps it."""
    balance: float = 1.0
    """The threshold of neck and head, in multiples of the backbone's."""

    def as_dict(self) -> dict[str, float]:
        """A recipe's keys for it."""
        return {"latency": self.share, "balance": self.balance}

    def __str__(self) -> str:
        balance = "" if self.balance == 1 else f", balance {self.balance:.3g}"
        return f"latency {self.share:.3g} x budget{balance}"


@dataclass(frozen=True)
class Recipe:
    """How to make a small detector from a large one. Hashable: equal recipes make equal detectors."""

    sparsity: float
    """Strength of the L1 penalty on BatchNorm gammas, in `sparsity_unit`."""
    sparse_epochs: int
    """Epochs of sparse training in each round."""
    threshold: Threshold | LatencyShare
    """Channels with a gamma below it are removed. With a `LatencyShare` it is found in each round."""
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
        cut = self.threshold
        return {
            "sparsity": self.sparsity,
            "sparsity_unit": self.sparsity_unit,
            "sparse_epochs": self.sparse_epochs,
            **(cut.as_dict() if isinstance(cut, LatencyShare) else {"threshold": cut.as_json()}),
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
            threshold=_take_cut(rest),
            rounds=int(rest.pop("rounds")),
            recovery_epochs=int(rest.pop("recovery_epochs")),
            extra=tuple(sorted(rest.items())),
        )

    def __str__(self) -> str:
        rounds = f"{self.rounds} x " if self.rounds > 1 else ""
        cut = self.threshold if isinstance(self.threshold, LatencyShare) else f"threshold {self.threshold}"
        return (
            f"{rounds}({self.sparsity_unit} {self.sparsity:.3g} for {self.sparse_epochs} epochs, "
            f"{cut}, recover {self.recovery_epochs})"
        )


def _take_cut(values: dict[str, Any]) -> Threshold | LatencyShare:
    """Takes the keys that say how much is cut away out of a recipe's plain values."""
    if "latency" in values:
        return LatencyShare(float(values.pop("latency")), float(values.pop("balance", 1.0)))
    return Threshold.parse(values.pop("threshold"))
