"""Sparsity where time is spent: each layer's pull, by the time that one of its channels takes on the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.groups import ChannelGroup, widths_after

MOST = 8.0
"""No layer is pulled more than so many times as strongly as without weights, nor less than an eighth: a layer whose
channels cost next to nothing still loses those that nobody misses."""

MOST_LAMBDA = 0.4
"""No weight makes more than this of lambda. Adam moves a gamma by its learning rate at most, and the proximal step by
lambda times as much: from 1 on every gamma of a layer goes, however much the detector needs it. In a short run a bound
of 0.7 already brought a twentieth of all gammas to 0, where their 5 % quantile was 0.28 without weights."""

NOISE = 1e-6
"""Costs of less than this share of the highest are all alike."""


class ChannelCosts(Protocol):
    """What networks take on a study's targets."""

    def time(self, channels: ChannelConfig) -> float:
        """What a network takes, in any unit: only ratios of differences count.

        Raises:
            ConfigError: It cannot be told.
        """
        ...


def penalty_weights(
    groups: Sequence[ChannelGroup], channels: ChannelConfig, costs: ChannelCosts, coefficient: float
) -> tuple[tuple[str, float], ...]:
    """The weight of each BatchNorm's gammas, by name; of mean 1 over the channels, so that a pull means the same.

    A channel's cost is what the network gains when its group loses half of its channels, for each of them: the time of
    one channel alone would be lost in a table's noise, and between the steps of the hardware.

    Args:
        groups: The detector's.
        channels: Its widths.
        costs: What networks take.
        coefficient: lambda, which bounds the weights from above.

    Returns:
        Nothing where lambda leaves no room for weights.

    Raises:
        ConfigError: The costs cannot be told.
    """
    most = min(MOST, MOST_LAMBDA / coefficient) if coefficient else 1.0
    if most <= 1:
        return ()
    prunable = [group for group in groups if group.can_shrink and group.width > 1]
    whole = costs.time(channels)
    widths = {group.root: group.width for group in prunable}
    gains = {group.root: (whole - costs.time(_halved(channels, group))) / _half(group) for group in prunable}
    weights = balanced(gains, widths, most)
    return tuple((name, weights[group.root]) for group in prunable for name in group.norms)


def balanced(costs: Mapping[str, float], widths: Mapping[str, int], most: float = MOST) -> dict[str, float]:
    """Weights in proportion to costs within bounds, with mean 1 over all channels.

    They are rounded to powers of the square root of 2 before the mean is set: tables that differ by noise shall give
    equal weights, and so equal stages. That may move one beyond its bound, by that root at most.

    Args:
        costs: Of one channel, by group. What is not above 0 is noise, and gets the least weight.
        widths: Channels by group.
        most: The upper bound, above 1; the lower one is 1 / `MOST`.
    """
    if not any(cost > 0 for cost in costs.values()):
        return dict.fromkeys(costs, 1.0)
    total = sum(widths[name] for name in costs)

    def mean(weights: Mapping[str, float]) -> float:
        return sum(weights[name] * widths[name] for name in weights) / total

    def bounded(scale: float) -> dict[str, float]:
        return {name: min(most, max(1 / MOST, scale * cost)) for name, cost in costs.items()}

    highest = max(costs.values())
    low, high = 1 / MOST / highest, most / max(NOISE * highest, min(cost for cost in costs.values() if cost > 0))
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean(bounded(middle)) < 1 else (low, middle)
    rounded = {name: 2 ** (round(2 * math.log2(weight)) / 2) for name, weight in bounded(high).items()}
    factor = 1 / mean(rounded)
    return {name: float(f"{weight * factor:.6g}") for name, weight in rounded.items()}


def _halved(channels: ChannelConfig, group: ChannelGroup) -> ChannelConfig:
    return widths_after(channels, {group.root: range(group.width - _half(group))}, [group])


def _half(group: ChannelGroup) -> int:
    """Half of a group's channels, of each of its parts alike."""
    return group.parts * (group.width // group.parts // 2)
