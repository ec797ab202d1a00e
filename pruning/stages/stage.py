"""Stages: the steps of a recipe, each named by what it does and by what it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunetune.pruning.stages.store import digest_of
from prunetune.pruning.training.values import Phase, TrainingSetup

STAGE_VERSION = 2
"""Raised when the same settings no longer give the same result, so that old stages are not taken for new ones."""


@dataclass(frozen=True)
class Stage:
    """One step. Two stages with the same digest have the same result.

    Attributes:
        kind: `original`, `early`, `sparse`, `pruning`, `recovery` or `control`.
        parent: Digest of the stage it starts from; empty for the first.
        settings: Plain values that decide the result.
    """

    kind: str
    parent: str
    settings: Mapping[str, Any] = field(hash=False)

    @property
    def digest(self) -> str:
        """The stage's name."""
        return f"{self.kind}-{digest_of([STAGE_VERSION, self.kind, self.parent, self.settings])}"


def training_stage(kind: str, parent: str, setup: TrainingSetup, phase: Phase) -> Stage:
    """A training. The name of a constant-rate phase ends in its epochs: the others are on the same trunk."""
    return Stage(kind, parent, {"setup": setup.identity(), "phase": _plain(phase), "epochs": phase.epochs})


def trunk(kind: str, parent: str, setup: TrainingSetup, phase: Phase) -> str:
    """The name that all lengths of an extensible phase share; any other phase is a trunk of its own."""
    stage = training_stage(kind, parent, setup, phase)
    if phase.extensible():
        return Stage(kind, parent, {**stage.settings, "epochs": None}).digest
    return stage.digest


def _plain(phase: Phase) -> dict[str, Any]:
    # Rounded, because lambda and learning rate are quotients: the last bit must not make another stage.
    # An option that is not used is left out: the names of stages outlive the options that came later.
    options: dict[str, Any] = {}
    if phase.penalty and phase.shrinkage != "proximal":
        options["shrinkage"] = phase.shrinkage
    if phase.lr_factor != 1:
        options["lr_factor"] = float(f"{phase.lr_factor:.9g}")
    if phase.distillation:
        options |= {"distillation": float(f"{phase.distillation:.9g}"), "teacher": phase.teacher}
    return {
        "schedule": phase.schedule,
        "warmup_epochs": round(phase.warmup_epochs, 6),
        "choose": phase.choose,
        "penalty": float(f"{phase.penalty:.9g}"),
        "gamma_lr": None if phase.gamma_lr is None else float(f"{phase.gamma_lr:.9g}"),
        **options,
        **({} if phase.until is None else {"until": phase.until}),
    }
