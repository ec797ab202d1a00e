"""Whether a latency is over its limit. Noise decides nothing: every place that compares the two asks here.

A latency that was measured is known by its median and by the lower end of its 95 % interval. It is over a limit only if
both are. One whose interval reaches down to the limit, or below it, is on the edge: measured again it may well be
within. It is kept and marked.
"""

from __future__ import annotations

WIDEST = 0.05
"""An interval reaches down by no more than this share of the latency: on a busy machine it would let in everything."""


def violation(latency_ms: float, low_ms: float | None, limit_ms: float) -> float:
    """How far a latency is over a limit, as a share of the limit: at most 0 where it is not, and 0 on the edge.

    Args:
        latency_ms: The median, in ms.
        low_ms: The lower end of its 95 % interval, in ms. None where there is no interval, as of a prediction: then the
            median alone decides.
        limit_ms: The limit, in ms.
    """
    excess = latency_ms / limit_ms - 1
    if low_ms is None or max(low_ms, (1 - WIDEST) * latency_ms) > limit_ms:
        return excess
    return min(excess, 0.0)


def is_on_edge(latency_ms: float, low_ms: float | None, limit_ms: float) -> bool:
    """Whether a latency is above a limit, but not surely; for the arguments see `violation`."""
    return latency_ms > limit_ms and violation(latency_ms, low_ms, limit_ms) <= 0
