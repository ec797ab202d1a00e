"""A target as a study knows it: what it is, its budget, and how fast the reference networks are on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.fields import mapping, number, numbers, text
from prunetune.targets.latency import NormalizedLatency
from prunetune.targets.violation import is_on_edge, violation

SHORTEST_MS = 1e-9
"""No network is faster: what is stored below it is damaged."""


@dataclass(frozen=True)
class StudiedTarget:
    """One of a study's targets. What the study does not tell is None or empty."""

    name: str
    kind: str = ""
    alignment: Alignment | None = None
    is_objective: bool = False
    """Whether the study minimises the latency on it; else it is only a constraint."""
    budget_text: str | None = None
    """The budget as the user wrote it; None if there is none on this target."""
    budget_ms: float | None = None
    """The budget's limit in ms."""
    references: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The latencies of `dense`, `half-width` and so on at the study's start, in ms."""
    fingerprint: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What tells the device apart from others."""
    memory_mb: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The references' peak memory there, in MB; empty where it does not tell that."""

    @property
    def dense_ms(self) -> float | None:
        """The dense network's latency at the study's start, in ms."""
        return self.references.get("dense")

    @property
    def has_budget(self) -> bool:
        """Whether a limit is known."""
        return self.budget_text is not None or self.budget_ms is not None

    def violation(self, latency: NormalizedLatency | None) -> float:
        """How far a latency is over the budget, as a share of it: at most 0 where it is not, or one of both is not
        known; see `spaces.violation`."""
        if latency is None or not self.budget_ms:
            return 0.0
        return violation(latency.ms, latency.low_ms, self.budget_ms)

    def is_on_edge(self, latency: NormalizedLatency | None) -> bool:
        """Whether a latency is above the budget, but not surely."""
        if latency is None or not self.budget_ms:
            return False
        return is_on_edge(latency.ms, latency.low_ms, self.budget_ms)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        budget = {"text": self.budget_text, "limit_ms": self.budget_ms} if self.has_budget else None
        return {
            "name": self.name,
            "kind": self.kind,
            "alignment": None if self.alignment is None else self.alignment.as_json(),
            "is_objective": self.is_objective,
            "fingerprint": dict(self.fingerprint),
            "references": dict(self.references),
            "budget": budget,
            **({"memory_mb": dict(self.memory_mb)} if self.memory_mb else {}),
        }

    @classmethod
    def parse(cls, stored: Any) -> StudiedTarget | None:
        """The target that `as_dict` wrote; None for one without a name."""
        told = mapping(stored)
        if (name := text(told.get("name"))) is None:
            return None
        budget = mapping(told.get("budget"))
        try:
            alignment = Alignment.parse(told.get("alignment"))
        except ConfigError:
            alignment = None
        return cls(
            name=name,
            kind=text(told.get("kind")) or "",
            alignment=alignment,
            is_objective=told.get("is_objective") is True,
            budget_text=text(budget.get("text")),
            budget_ms=number(budget.get("limit_ms")),
            references={name: ms for name, ms in numbers(told.get("references")).items() if ms > SHORTEST_MS},
            fingerprint={str(key): str(value) for key, value in mapping(told.get("fingerprint")).items()},
            memory_mb=numbers(told.get("memory_mb")),
        )
