"""Latency over channels as a staircase: which multiples of channels cost nothing to be rounded up to.

Hardware that computes `b` channels together takes as long for `b + 1` as for `2 b`. So its latency over the channels
of a layer is a staircase, and the alignment to prune with is the length of its steps. Real curves are not that clean.
They have a fixed part, noise, and widths that a runtime has no good code for, which may cost more than wider ones.

**The statistic.** For a multiple `m`, take the measured widths `w` that are no multiples of it, and compare each with
the next multiple `r(w)` above. The cost of rounding up is

    sum over w of t(r(w)) - t(w)  /  sum over w of slope * (r(w) - w)

where `slope` is the latency of one channel, taken over a whole period of the largest multiple, on which every
staircase is as steep as its ramp. The cost is 0 where `w` and `r(w)` are on one step, 1 where each channel has its
price, negative where rounding up saves time. It has no unit and needs no knowledge of how fast the hardware is.

Widths are compared by class, that is by the largest power of two that divides them, and **the dearest class speaks
for the multiple**. An average over all widths would not do: where odd widths are very slow, rounding them up to 64
saves so much that it hides what 16 channels more cost a width of 48. On a staircase of step `b`, the dearest class
costs 0 for every `m` up to `b` and 1 for every `m` above it. `FREE`, half way, tells the two apart.

Each round of a measurement gives one value, and the median over the rounds with its 95 % interval is the cost: drift
hits a whole round alike, and an outlier one value only. The alignment is the largest multiple that is free.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunetune.targets.latency import median_interval

MULTIPLES = (2, 4, 8, 16, 32, 64)
"""What a device may prefer, beside 1: no preference."""

LOWEST, HIGHEST = MULTIPLES[-1], 2 * MULTIPLES[-1]
WIDTHS = (*(start + past for start in range(LOWEST, HIGHEST, 8) for past in (0, 1, 2, 4)), HIGHEST)
"""The widths to measure: one period of the largest multiple, with eight widths of each of the narrow classes."""

FREE = 0.5
"""Below this cost, rounding up is nearer to free than to the price of the channels that it adds."""

LEAST_GROWTH, MOST_GROWTH = 0.1, 1.5
"""While the channels double, a latency in proportion grows by 1. A curve far from that says nothing about channels:
below, a fixed cost takes the time; above, a cache or a memory limit was passed on the way."""


@dataclass(frozen=True)
class LatencyCurve:
    """Latency of one convolution over a number of channels."""

    name: str
    times_ms: Mapping[int, Sequence[float]]
    """For each of `WIDTHS` one time a round, in ms. Equal positions are of one round."""

    @property
    def growth(self) -> float:
        """By what share the latency grows over the period, in which the channels double."""
        narrow, wide = self.times_ms[LOWEST], self.times_ms[HIGHEST]
        return statistics.median(last / first - 1 for first, last in zip(narrow, wide, strict=True))

    @property
    def tells(self) -> bool:
        """Whether the latency follows the channels."""
        return LEAST_GROWTH <= self.growth <= MOST_GROWTH

    def costs(self, multiple: int, divisor: int) -> list[float]:
        """What rounding up to a multiple costs the widths of one class, in each round.

        Args:
            multiple: The multiple to round up to.
            divisor: The class: the largest power of two that divides its widths. Below `multiple`.
        """
        widths = [width for width in self.times_ms if width & -width == divisor]
        added = sum(_rounded(width, multiple) - width for width in widths)
        rounds = list(zip(*self.times_ms.values(), strict=True))
        slope = statistics.median(
            (self.times_ms[HIGHEST][index] - self.times_ms[LOWEST][index]) / sum(times)
            for index, times in enumerate(rounds)
        ) / (HIGHEST - LOWEST)
        return [
            sum(self.times_ms[_rounded(width, multiple)][index] - self.times_ms[width][index] for width in widths)
            / sum(times)
            / (slope * added)
            for index, times in enumerate(rounds)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: for each width the median of its times, in ms."""
        medians = {str(width): statistics.median(times) for width, times in self.times_ms.items()}
        return {"name": self.name, "growth": self.growth, "median_ms": medians}


@dataclass(frozen=True)
class RoundingCost:
    """What rounding up to a multiple costs: 0 nothing, 1 as much as the added channels would on a ramp."""

    multiple: int
    cost: float
    """Of the dearest class of widths."""
    low: float
    """Lower end of its 95 % confidence interval."""
    high: float
    """Upper end of it."""

    @property
    def free(self) -> bool:
        """Whether it is nearer to nothing than to the full price."""
        return self.cost < FREE

    @property
    def certain(self) -> bool:
        """Whether the whole interval says the same."""
        return self.high < FREE or self.low >= FREE

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"multiple": self.multiple, "cost": self.cost, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class AlignmentCurve:
    """The cost of rounding up, over the multiples: what the latencies of one kind of convolution say together."""

    costs: tuple[RoundingCost, ...]
    """For each of `MULTIPLES`; empty if no curve tells anything."""

    @property
    def multiple(self) -> int | None:
        """The largest multiple that is free; 1 if none is; None if no curve tells anything."""
        return max((cost.multiple for cost in self.costs if cost.free), default=1) if self.costs else None

    @property
    def certain(self) -> bool:
        """Whether the measurement leaves no doubt about it, or about any larger multiple."""
        return all(cost.certain for cost in self.costs if cost.multiple >= (self.multiple or 1))


def find_alignment_curve(curves: Sequence[LatencyCurve]) -> AlignmentCurve:
    """Judges curves of one kind of convolution together. Their median counts: the rule of most shapes.

    Args:
        curves: Each measured for itself. Of longer ones as many rounds count as the shortest has.
    """
    telling = [curve for curve in curves if curve.tells]
    if not telling:
        return AlignmentCurve(())
    return AlignmentCurve(tuple(_dearest(telling, multiple) for multiple in MULTIPLES))


def _dearest(curves: Sequence[LatencyCurve], multiple: int) -> RoundingCost:
    classes = []
    for divisor in (1, *MULTIPLES):
        if divisor < multiple:
            each = zip(*(curve.costs(multiple, divisor) for curve in curves), strict=False)
            values = [statistics.median(costs) for costs in each]
            classes.append((statistics.median(values), *median_interval(values)))
    return RoundingCost(multiple, *max(classes))


def _rounded(width: int, multiple: int) -> int:
    return -(-width // multiple) * multiple
