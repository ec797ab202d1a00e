"""Dominance and hypervolume of accuracy (up) and latencies or other figures (down)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import moocore
import numpy as np


def nondominated(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other point dominates; equal points do not dominate each other.

    Args:
        points: (map50_95, latency, further latencies ...) each, all of one length.
    """
    if not points:
        return []
    costs = np.array([(-accuracy, *latencies) for accuracy, *latencies in points], dtype=float)
    return [bool(kept) for kept in moocore.is_nondominated(costs, keep_weakly=True)]


def hypervolume(points: Iterable[Sequence[float]], references_ms: Sequence[float]) -> float:
    """The share of the unit cube that the points dominate; more is better.

    Latencies are divided by their references. The reference point is (0, 1, ...): no accuracy at the latencies of the
    dense network. Points slower than that on any target contribute nothing. Computed by moocore (Fonseca, Paquete
    and Lopez-Ibanez 2006).

    Args:
        points: (map50_95, latency in ms, further latencies ...) each, dominated ones too.
        references_ms: The dense network's latencies in ms, in the same order.

    Raises:
        ValueError: A reference is not positive.
    """
    if not all(reference > 0 for reference in references_ms):
        raise ValueError(f"references_ms: {list(references_ms)} ms, must be above 0")
    costs = [
        (-accuracy, *(latency / reference for latency, reference in zip(latencies, references_ms, strict=True)))
        for accuracy, *latencies in points
    ]
    inside = [cost for cost in costs if cost[0] < 0 and max(cost[1:]) < 1]
    if not inside:
        return 0.0
    return float(moocore.hypervolume(np.array(inside, dtype=float), ref=np.array([0.0] + [1.0] * len(references_ms))))


def ranks(points: Sequence[Sequence[float]]) -> list[int]:
    """The non-dominated rank of each point: 0 for those that no other dominates, 1 for those that then remain, ...

    Args:
        points: (map50_95, further latencies ...) each, all of one length; without latencies the order of accuracies.
    """
    if not points:
        return []
    costs = np.array([(-accuracy, *latencies) for accuracy, *latencies in points], dtype=float)
    return [int(rank) for rank in moocore.pareto_rank(costs)]
