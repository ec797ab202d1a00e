"""A target as a study knows it: what it is, its budget, and how fast the controls are on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunetune.results.entries import Reading, mapping, number, text
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.violation import is_on_edge, violation


@dataclass(frozen=True)
class StudiedTarget:
    """One of a study's targets. What the study does not tell is None or empty."""

    name: str
    kind: str
    alignment: Alignment | None
    is_objective: bool
    """Whether the study minimises the latency on it; else it is only a constraint."""
    budget_text: str | None
    """The budget as the user wrote it; None if there is none on this target."""
    budget_ms: float | None
    """The budget's limit in ms."""
    dense_ms: float | None
    """The dense network's latency at the study's start, in ms."""

    @property
    def has_budget(self) -> bool:
        """Whether a limit is known."""
        return self.budget_text is not None or self.budget_ms is not None

    def violation(self, reading: Reading | None) -> float:
        """How far a latency is over the budget, as a share of it: at most 0 where it is not, or one of both is not
        known; see `spaces.violation`."""
        if reading is None or not self.budget_ms:
            return 0.0
        return violation(reading.latency_ms, reading.latency_low_ms, self.budget_ms)

    def is_on_edge(self, reading: Reading | None) -> bool:
        """Whether a latency is above the budget, but not surely."""
        if reading is None or not self.budget_ms:
            return False
        return is_on_edge(reading.latency_ms, reading.latency_low_ms, self.budget_ms)


def studied_targets(attributes: Mapping[str, Any]) -> list[StudiedTarget]:
    """The targets of a study, from its user attributes, in the order of its description."""
    told = attributes.get("targets")
    return [_target(item) for item in (told if isinstance(told, list) else []) if text(mapping(item).get("name"))]


def _target(told: Mapping[str, Any]) -> StudiedTarget:
    budget = mapping(told.get("budget"))
    try:
        alignment = Alignment.parse(told.get("alignment"))
    except ConfigError:
        alignment = None
    return StudiedTarget(
        name=told["name"],
        kind=text(told.get("kind")) or "",
        alignment=alignment,
        is_objective=told.get("is_objective") is True,
        budget_text=text(budget.get("text")),
        budget_ms=number(budget.get("limit_ms")),
        dense_ms=number(mapping(told.get("references")).get("dense")),
    )
