"""The recipe: one point of a search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from prunetune.spaces.deployment import ImageSize, parse_size

Region: TypeAlias = Literal["backbone", "neck", "head"]
"""The parts of a detector that can have thresholds of their own. The head is the last block, Detect; the neck is what
lies between it and the backbone."""

REGIONS: tuple[Region, ...] = get_args(Region)

SparsityUnit: TypeAlias = Literal["lambda", "pull"]
"""`lambda` is the coefficient of network slimming (arXiv 1708.06519). `pull` is the total shrinkage that a gamma
without any gradient of its own would see over the space's longest sparse phase: it means the same in a run of
fifty steps and in one of a hundred thousand."""


Shrinkage: TypeAlias = Literal["proximal", "subgradient"]
"""How the penalty acts: a soft-threshold step beside the optimizer's, or `lambda * sign(gamma)` in the gradient, which
only an optimizer such as SGD takes for what it is: Adam divides by its size."""

Start: TypeAlias = Literal["current", "rewind", "scratch"]
"""The weights that a recovery starts from: those after the surgery, those of an early checkpoint of the dense training
(Lottery Ticket, arXiv 1903.01611), or new ones (Rethinking the Value of Network Pruning, arXiv 1810.05270)."""

Importance: TypeAlias = Literal["gamma", "l1", "l2", "taylor", "lamp"]
"""What a channel is judged by: its BatchNorm scale (arXiv 1708.06519), the norm of its weights (arXiv 1608.08710), what
its removal changes in the loss to first order (arXiv 1906.10771), or its squared weights relative to those of the
channels of its layer that are larger (LAMP, arXiv 2010.07611)."""


@dataclass(frozen=True)
class Threshold:
    """An absolute threshold on channels' importance, for each region: channels below it go."""

    backbone: float
    head: float
    neck: float | None = None
    """None: the head's."""

    def __post_init__(self) -> None:
        if self.neck == self.head:
            object.__setattr__(self, "neck", None)  # equal thresholds have one form

    @classmethod
    def everywhere(cls, value: float) -> Threshold:
        """One global threshold, as in network slimming."""
        return cls(backbone=value, head=value)

    @classmethod
    def parse(cls, value: float | Mapping[str, float]) -> Threshold:
        """From a number, or from a mapping with `backbone`, `head` and perhaps `neck`."""
        if isinstance(value, Mapping):
            neck = value.get("neck")
            return cls(float(value["backbone"]), float(value["head"]), None if neck is None else float(neck))
        return cls.everywhere(float(value))

    def for_region(self, region: Region) -> float:
        """The threshold of one region."""
        if region == "neck" and self.neck is not None:
            return self.neck
        return self.backbone if region == "backbone" else self.head

    @property
    def values(self) -> tuple[float, ...]:
        """The regions' thresholds from the image on; without the neck's where that is the head's."""
        return (self.backbone, self.head) if self.neck is None else (self.backbone, self.neck, self.head)

    def as_json(self) -> float | dict[str, float]:
        """One number if the regions agree, else one number per region."""
        if len(set(self.values)) == 1:
            return self.backbone
        neck = {} if self.neck is None else {"neck": self.neck}
        return {"backbone": self.backbone, **neck, "head": self.head}

    def __str__(self) -> str:
        if len(set(self.values)) == 1:
            return f"{self.backbone:.4g}"
        return " / ".join(f"{value:.4g}" for value in self.values)


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
    """Channels with an importance below it are removed. With a `LatencyShare` it is found in each round."""
    rounds: int = 1
    """How often sparse training, pruning and recovery are repeated (iterative magnitude pruning)."""
    recovery_epochs: int = 0
    """Epochs of ordinary training after each surgery."""
    sparsity_unit: SparsityUnit = "pull"
    later_thresholds: tuple[Threshold, ...] = ()
    """The thresholds of the rounds from the second on. Rounds without one have that of the round before."""
    shrinkage: Shrinkage = "proximal"
    importance: Importance = "gamma"
    floor: float = 0.0
    """The least share of its channels that every layer keeps."""
    depth: int | None = None
    """Residual blocks that go in the first round, the least important first; beside them go all whose last BatchNorm
    has no channel that reaches the threshold, in any round. None: all blocks stay."""
    start: Start = "current"
    recovery_lr: float = 1.0
    """The learning rate of recoveries, in multiples of that of all other trainings."""
    distillation: float = 0.0
    """Weight of the dense original's features in the loss of a recovery (ultralytics' `dis`); 0 goes without."""
    sparse_distillation: float = 0.0
    """The same in sparse phases."""
    imgsz: ImageSize | None = None
    """The input size that the network is pruned, recovered and measured for; None: the study's, at which it is also
    trained sparse."""

    @property
    def epochs(self) -> int:
        """Epochs of training that the recipe asks for when nothing can be reused."""
        return self.rounds * (self.sparse_epochs + self.recovery_epochs)

    def cut(self, number: int) -> Threshold | LatencyShare:
        """How much a round cuts away.

        Args:
            number: The round, from 1.
        """
        given = (self.threshold, *self.later_thresholds)
        return given[min(number, len(given)) - 1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, tables and trial attributes. What has its default among `OPTIONS` is left out."""
        cut = self.threshold
        later = [threshold.as_json() for threshold in self.later_thresholds]
        return {
            "sparsity": self.sparsity,
            "sparsity_unit": self.sparsity_unit,
            "sparse_epochs": self.sparse_epochs,
            **(cut.as_dict() if isinstance(cut, LatencyShare) else {"threshold": cut.as_json()}),
            **({"later_thresholds": later} if later else {}),
            "rounds": self.rounds,
            "recovery_epochs": self.recovery_epochs,
            **self.options,
        }

    @property
    def options(self) -> dict[str, Any]:
        """Those of `OPTIONS` that differ from their defaults."""
        values = {name: getattr(self, name) for name in OPTIONS}
        used = {name: value for name, value in values.items() if value != OPTIONS[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in used.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `as_dict` wrote."""
        rest = dict(values)
        return cls(
            sparsity=float(rest.pop("sparsity")),
            sparsity_unit=rest.pop("sparsity_unit"),
            sparse_epochs=int(rest.pop("sparse_epochs")),
            threshold=_take_cut(rest),
            later_thresholds=tuple(map(Threshold.parse, rest.pop("later_thresholds", ()))),
            rounds=int(rest.pop("rounds")),
            recovery_epochs=int(rest.pop("recovery_epochs")),
            imgsz=None if (size := rest.pop("imgsz", None)) is None else parse_size(size),
            **rest,
        )

    def __str__(self) -> str:
        rounds = f"{self.rounds} x " if self.rounds > 1 else ""
        cut = str(self.threshold) if isinstance(self.threshold, LatencyShare) else f"threshold {self.threshold}"
        later = "".join(f", then {threshold}" for threshold in self.later_thresholds)
        unit = "epoch" if self.sparse_epochs == 1 else "epochs"
        options = "".join(f", {name} {_shown(value)}" for name, value in self.options.items())
        return (
            f"{rounds}({self.sparsity_unit} {self.sparsity:.3g} for {self.sparse_epochs} {unit}, "
            f"{cut}{later}, recover {self.recovery_epochs}{options})"
        )


_NOT_OPTIONS = {"threshold", "later_thresholds", "rounds", "recovery_epochs", "sparsity_unit"}

OPTIONS: dict[str, Any] = {
    item.name: item.default for item in fields(Recipe) if item.default is not MISSING and item.name not in _NOT_OPTIONS
}
"""The parameters of a recipe that a space need not name, with their defaults."""


def _shown(value: float | str | list[int]) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else f"{value:.3g}"


def _take_cut(values: dict[str, Any]) -> Threshold | LatencyShare:
    """Takes the keys that say how much is cut away out of a recipe's plain values."""
    if "latency" in values:
        return LatencyShare(float(values.pop("latency")), float(values.pop("balance", 1.0)))
    return Threshold.parse(values.pop("threshold"))
