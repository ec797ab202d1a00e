"""Dominance and hypervolume of accuracy (up) and latency (down)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import moocore
import numpy as np

from prunetune.results.entries import Entry


def nondominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (map50_95, latency) points no other point dominates; equal points do not dominate each other."""
    if not points:
        return []
    costs = np.array([(-accuracy, latency) for accuracy, latency in points], dtype=float)
    return [bool(kept) for kept in moocore.is_nondominated(costs, keep_weakly=True)]


def hypervolume(entries: Iterable[Entry], reference_latency_ms: float) -> float:
    """The share of the unit square that the entries dominate; more is better.

    A point is (map50_95, latency / reference), the reference point is (0, 1): no accuracy at the latency of
    the dense network. Entries slower than that contribute nothing. Computed by moocore
    (Fonseca, Paquete and Lopez-Ibanez 2006).

    Args:
        entries: Any entries, dominated ones too.
        reference_latency_ms: The dense network's latency in ms.

    Raises:
        ValueError: The reference is not positive.
    """
    if not reference_latency_ms > 0:
        raise ValueError(f"reference_latency_ms: {reference_latency_ms} ms, must be above 0")
    costs = [
        (-item.map50_95, item.latency_ms / reference_latency_ms)
        for item in entries
        if item.map50_95 is not None and item.latency_ms is not None
    ]
    inside = [(accuracy, latency) for accuracy, latency in costs if accuracy < 0 and latency < 1]
    if not inside:
        return 0.0
    return float(moocore.hypervolume(np.array(inside, dtype=float), ref=np.array([0.0, 1.0])))
