"""A figure of networks that a study minimises or limits beside latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunetune.results.record.network_result import NetworkFigures
from prunetune.spaces.fields import mapping, number, numbers, text
from prunetune.targets.budget import FIGURES, MEMORY
from prunetune.targets.violation import violation

MEMORY_NOISE = 0.02
"""By this share memory may differ between two measurements of a network. As with latency, noise decides nothing."""


def figure_text(name: str, figures: NetworkFigures) -> str:
    """What a network has of one of `FIGURES`: `800,000 bytes`, `0.105 gflops`."""
    return f"{getattr(figures, name):{'.3g' if name in ('gflops', MEMORY) else ',.0f'}} {name}"


@dataclass(frozen=True)
class StudiedFigure:
    """One of `FIGURES` in a study. What the study does not tell is None or empty."""

    name: str
    is_objective: bool = False
    """Whether the study minimises it; else it is only a constraint."""
    budget_text: str | None = None
    """The limit as the user wrote it; None if there is none."""
    limit: float | None = None
    """In parameters, bytes, GFLOPs or MB."""
    references: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What `dense`, `half-width` and so on have of it, at the study's input size."""

    @property
    def dense(self) -> float | None:
        """What the dense network has of it."""
        return self.references.get("dense")

    @property
    def has_budget(self) -> bool:
        """Whether there is a limit."""
        return self.budget_text is not None

    def of(self, figures: NetworkFigures) -> float | None:
        """What a network has of it; None for memory that no target told."""
        return number(getattr(figures, self.name))

    def violation(self, figures: NetworkFigures) -> float:
        """How far a network is over the limit, as a share of it: at most 0 where it is not, or one is not known."""
        value = self.of(figures)
        if value is None or not self.limit:
            return 0.0
        return violation(value, (1 - MEMORY_NOISE) * value if self.name == MEMORY else None, self.limit)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        budget = None if not self.has_budget else {"text": self.budget_text, "limit": self.limit}
        told = {"name": self.name, "is_objective": self.is_objective}
        return {**told, "references": dict(self.references), "budget": budget}

    @classmethod
    def parse(cls, stored: Any) -> StudiedFigure | None:
        """The figure that `as_dict` wrote; None for one of another name."""
        told = mapping(stored)
        if (name := text(told.get("name"))) not in FIGURES:
            return None
        budget = mapping(told.get("budget"))
        return cls(
            name=name,
            is_objective=told.get("is_objective") is True,
            budget_text=text(budget.get("text")),
            limit=number(budget.get("limit")),
            references={key: value for key, value in numbers(told.get("references")).items() if value > 0},
        )
