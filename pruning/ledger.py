"""What carrying out a recipe took: time, epochs, and the stages with what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prunetune.pruning.clock import Clock
from prunetune.pruning.store import StoredStage

DENSE = ("original", "early")
"""The kinds of stages that belong to the dense training."""


@dataclass
class Ledger:
    """What carrying out a recipe took.

    Attributes:
        clock: Seconds by part.
        epochs_trained: Epochs that ran.
        epochs_reused: Epochs that were read back.
        stages: Each stage with its digest, epochs, and whether it was read back.
        noted_before: Stages that an earlier attempt at the recipe has noted.
    """

    clock: Clock = field(default_factory=Clock)
    epochs_trained: int = 0
    epochs_reused: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)
    noted_before: frozenset[str] = frozenset()

    def begin_attempt(self) -> None:
        """Prepares for carrying out the recipe from its beginning: what was noted stays, and is not noted again."""
        self.noted_before = frozenset(stage["digest"] for stage in self.stages)

    def note(self, stage: StoredStage, trained: int, reused: int) -> None:
        """Notes a finished stage with its epochs, unless an earlier attempt has.

        The original and its beginning are left out: recipes start from them, and they are no part of any.
        """
        kind = stage.record["kind"]
        if kind not in DENSE and stage.digest not in self.noted_before:
            self.count(kind, stage.digest, trained, reused, stage.reused)

    def count(self, kind: str, digest: str, trained_epochs: int, reused_epochs: int, reused: bool) -> None:
        """Adds the epochs of a stage that is finished, or was ended early."""
        self.epochs_trained += trained_epochs
        self.epochs_reused += reused_epochs
        epochs = trained_epochs + reused_epochs
        self.stages.append({"kind": kind, "digest": digest, "epochs": epochs, "reused": reused})
