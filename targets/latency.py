"""The result of a measurement."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunetune.spaces.errors import TargetError
from prunetune.spaces.fields import mapping, number
from prunetune.targets.spec import MINIMUM_ROUNDS


@dataclass(frozen=True)
class Latency:
    """How long one network takes for one batch on one target.

    Compare by `ratio`: a clock that changes with temperature or with neighbours moves every time in ms, but
    moves a network and its reference alike.
    """

    median_ms: float
    """Median time of a run, in ms."""
    spread_ms: float
    """Interquartile range of the times, in ms."""
    runs: int
    """Rounds that were timed; 0 if the latency was predicted."""
    ratio: float
    """Median of the ratios to the reference, each taken within one round. Exactly 1 for the reference."""
    ratio_spread: float
    """Interquartile range of these ratios."""
    ratio_low: float
    """Lower end of the 95 % confidence interval of the ratio."""
    ratio_high: float
    """Upper end of it."""
    outliers: int
    """Rounds whose ratio lies more than 1.5 interquartile ranges outside the quartiles (Tukey's fences). They count
    like any other."""
    samples_ms: tuple[float, ...] = field(default=(), repr=False)
    """The time of each round, in ms. Empty for a latency that was read back."""
    memory_mb: float | None = None
    """The most memory that the runtime took, in MB of 10^6 bytes; None where the target does not tell it."""

    @classmethod
    def from_samples(cls, samples_ms: Sequence[float], reference_ms: Sequence[float]) -> Latency:
        """The statistics of one network's rounds.

        Args:
            samples_ms: The network's time in each round, in ms.
            reference_ms: The reference's time in the same rounds, in ms.

        Raises:
            TargetError: There are no rounds, their numbers differ, or a run of the reference took no time.
        """
        if not samples_ms or len(samples_ms) != len(reference_ms):
            raise TargetError(
                f"a latency needs as many rounds of the network as of the reference, and at least one, "
                f"not {len(samples_ms)} and {len(reference_ms)}"
            )
        if min(reference_ms) <= 0:
            raise TargetError("the reference took no measurable time; choose a larger one, or a larger input_shape")
        ratios = [sample / reference for sample, reference in zip(samples_ms, reference_ms, strict=True)]
        low, high = median_interval(ratios)
        return cls(
            median_ms=statistics.median(samples_ms),
            spread_ms=_interquartile_range(samples_ms),
            runs=len(samples_ms),
            ratio=statistics.median(ratios),
            ratio_spread=_interquartile_range(ratios),
            ratio_low=low,
            ratio_high=high,
            outliers=_outliers(ratios),
            samples_ms=tuple(samples_ms),
        )

    @property
    def uncertainty(self) -> float:
        """How far the ratio may be off, as a share of it: half of its 95 % confidence interval. Infinite for so few
        rounds that there is none."""
        if 0 < self.runs < MINIMUM_ROUNDS:
            return math.inf
        return (self.ratio_high - self.ratio_low) / 2 / self.ratio

    def normalized(self, reference_ms: float, dense_ms: float, *, predicted: bool = False) -> NormalizedLatency:
        """The latency by which networks of one study compare: the ratio times the reference's time.

        Args:
            reference_ms: The reference's latency at the study's start, in ms.
            dense_ms: The dense network's, then.
            predicted: Whether a table stood in for a device that could be measured.
        """
        ms = self.ratio * reference_ms
        return NormalizedLatency(
            ms=ms,
            ratio_to_dense=ms / dense_ms,
            low_ms=self.ratio_low * reference_ms if self.runs >= MINIMUM_ROUNDS else None,
            spread_ms=self.ratio_spread * reference_ms,
            uncertainty=self.uncertainty if math.isfinite(self.uncertainty) else None,
            predicted=predicted,
            memory_mb=self.memory_mb,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and trial attributes, without the samples."""
        return {
            "median_ms": self.median_ms,
            "spread_ms": self.spread_ms,
            "runs": self.runs,
            "ratio": self.ratio,
            "ratio_spread": self.ratio_spread,
            "ratio_low": self.ratio_low,
            "ratio_high": self.ratio_high,
            "outliers": self.outliers,
            **({} if self.memory_mb is None else {"memory_mb": self.memory_mb}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Latency:
        """The latency that `as_dict` wrote."""
        return cls(
            median_ms=float(values["median_ms"]),
            spread_ms=float(values["spread_ms"]),
            runs=int(values["runs"]),
            ratio=float(values["ratio"]),
            ratio_spread=float(values["ratio_spread"]),
            ratio_low=float(values["ratio_low"]),
            ratio_high=float(values["ratio_high"]),
            outliers=int(values["outliers"]),
            memory_mb=number(values.get("memory_mb")),
        )


@dataclass(frozen=True)
class NormalizedLatency:
    """A network's latency on one target of a study, which compares with every other of that study."""

    ms: float
    """The ratio to the reference, times the reference's median latency at the study's start."""
    ratio_to_dense: float | None = None
    """In multiples of the dense network's."""
    low_ms: float | None = None
    """Lower end of its 95 % confidence interval; None where there is none, as of a prediction."""
    spread_ms: float | None = None
    """Interquartile range."""
    uncertainty: float | None = None
    """How far it may be off, as a share of it: half of its 95 % confidence interval."""
    predicted: bool = False
    """Whether a table stood in for a device that could be measured."""
    memory_mb: float | None = None
    """As of `Latency`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what is not known."""
        return {name: value for name, value in vars(self).items() if value is not None and value is not False}

    @classmethod
    def parse(cls, stored: Any) -> NormalizedLatency | None:
        """The latency that `as_dict` wrote; None for anything else."""
        told = mapping(stored)
        ms = number(told.get("ms"))
        if ms is None or ms <= 0:
            return None
        optional = ("ratio_to_dense", "low_ms", "spread_ms", "uncertainty", "memory_mb")
        known = {name: number(told.get(name)) for name in optional}
        return cls(ms, **known, predicted=told.get("predicted") is True)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of a median, whatever the distribution: two order statistics.

    The number of values below the true median is binomial with p = 1/2. Below six values no interval has 95 %, and
    the smallest and the largest value are given.

    Args:
        values: At least one, in any order.
    """
    ordered = sorted(values)
    count = len(ordered)
    rank, below = 0, 0.5**count  # `below`: the probability that at most `rank` values lie below the true median
    while below + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    return ordered[rank], ordered[count - 1 - rank]


def _interquartile_range(values: Sequence[float]) -> float:
    lower, upper = _quartiles(values)
    return upper - lower


def _outliers(values: Sequence[float]) -> int:
    lower, upper = _quartiles(values)
    reach = 1.5 * (upper - lower)
    return sum(not lower - reach <= value <= upper + reach for value in values)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper
