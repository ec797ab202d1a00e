"""From a latency to the threshold that just meets it: a search over plans, without training and without surgery.

As the threshold rises, the plan changes only where a layer loses a block of channels. So there are some hundred
plans, each a subset of the one before, and bisection would need about eight latencies. A guess, held against what is
measured for its choice, needs two or three. What a latency is a share of, and how it is known, the caller says: this
module knows no hardware and no budget.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from prunetune.pruning.planning.plan import PruningPlan, ScoredGroup, Scores
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.deployment import ImageSize
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.recipe import Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSE = 0.01
"""A measured latency that is below the wanted one by no more than this share ends the search: measurements are not
more exact."""

ROUGH = 0.05
"""The same where a round aims at a point on the way."""

CORRECTIONS = 4
"""How often a prediction is corrected by the latency that was measured for its choice."""


class LatencyShares(Protocol):
    """What a network's latency is as a share of its limit: 1 just keeps it. Depends on channels and input size only."""

    def at(self, imgsz: ImageSize | None) -> LatencyShares:
        """The same at another input size, as shares of the same limits.

        Args:
            imgsz: Side of a square or (height, width) in px; None for the study's own.
        """

    @property
    def dense(self) -> float:
        """Of the detector that the study starts from."""

    @property
    def is_calibrated(self) -> bool:
        """Whether predictions are good to some percent. Else they are guesses, good for the order of networks."""

    def predicted(self, channels: ChannelConfig) -> float | None:
        """Without measuring, in a millisecond or less; None where only a measurement can tell."""

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> NDArray[Any] | None:
        """Of many networks at once, at each limit apart: networks by limits. None where `predicted` is.

        Args:
            networks: Layer name to channels.
        """

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        """As it is measured, or was.

        Args:
            channels: The network's.
            build: Makes it. Not called for channels whose latency is known.
        """


class Ladder(Protocol):
    """The plans of one detector, from nothing removed to all that may be, each a part of the one before."""

    def __len__(self) -> int: ...

    def plan(self, index: int) -> PruningPlan:
        """The plan on a rung, from 0."""


class PlanLadder:
    """The plans of a threshold, from nothing removed to one block, or the floor, everywhere; each in the one before.

    The threshold rises from rung to rung, in the head `balance` times as high as in the backbone.

    Args:
        scores: The detector's.
        balance: The threshold of neck and head, in multiples of the backbone's.

    Raises:
        ConfigError: The balance is not from 0.001 to 1000.
    """

    def __init__(self, scores: Scores, balance: float = 1.0) -> None:
        if not 1e-3 <= balance <= 1e3:
            raise ConfigError(f"balance: {balance!r} is not from 0.001 to 1000")
        self._scores, self._balance = scores, balance
        steps = {
            _least_above(score, min(1.0 if region == "backbone" else balance for region in item.regions))
            for item in scores.groups
            for score in _opening(item)
        } | {_least_above(block.highest, 1.0 if block.region == "backbone" else balance) for block in scores.blocks}
        self._lowest = [0.0, *sorted(steps)]
        """The smallest threshold of each plan."""
        self._plans: dict[int, PruningPlan] = {}

    @classmethod
    def of(
        cls, model: nn.Module, alignment: Alignment | int, groups: Sequence[ChannelGroup], balance: float = 1.0
    ) -> PlanLadder:
        """The plans of a detector by its gammas; see `plan_pruning`.

        Raises:
            ModelError: The detector has gammas that are not finite.
        """
        return cls(Scores.of(model, alignment, groups), balance)

    def __len__(self) -> int:
        return len(self._lowest)

    def threshold(self, index: int) -> Threshold:
        """A threshold of a plan: 0 for the first, else one between its ends that has few digits, to be told and given
        again."""
        low = self._lowest[index]
        high = self._lowest[index + 1] if index + 1 < len(self) else 1.1 * low
        value = _between(low, high) if index else 0.0
        return Threshold(value, self._balance * value)

    def plan(self, index: int) -> PruningPlan:
        """The plan on a rung, from 0."""
        if index not in self._plans:
            self._plans[index] = self._scores.plan(self.threshold(index))
        return self._plans[index]


def find_plan(
    ladder: Ladder,
    latencies: LatencyShares,
    build: Callable[[PruningPlan], Detector],
    goal: float,
    *,
    exact: bool = True,
) -> PruningPlan:
    """The plan that removes least of those found to meet a latency; its threshold, if it has one, does it again.

    Where latencies are predicted, the choice is measured, and corrected by what the prediction was off: the measured
    latency is what must meet the goal. A detector that meets the goal as it is loses nothing, or what makes no percent
    of its latency. If even the strongest pruning does not meet it, that one is returned; whoever measures it next sees.

    Args:
        ladder: The plans.
        latencies: How slow they are.
        build: Makes a plan's network.
        goal: The latency to meet, as a share of the limit.
        exact: Whether it must be met by measured numbers, and to a percent. A round on the way to another one needs
            neither: a prediction or 5 % will do.
    """

    def measured(index: int) -> float:
        plan = ladder.plan(index)
        return latencies.measured(plan.channels, lambda: build(plan))

    if latencies.dense <= goal:
        return ladder.plan(0)
    close = CLOSE if exact else ROUGH
    if latencies.predicted(ladder.plan(0).channels) is None:
        return ladder.plan(first_within(measured, len(ladder), goal, close=close))

    def predicted(index: int) -> float:
        share = latencies.predicted(ladder.plan(index).channels)
        assert share is not None  # it was not for another plan of the same detector
        return share

    if not exact and latencies.is_calibrated:
        return ladder.plan(first_within(predicted, len(ladder), goal))
    return ladder.plan(_corrected(predicted, measured, len(ladder), goal, close))


def first_within(
    share_of: Callable[[int], float], count: int, goal: float, *, close: float = 0.0, above: int = -1
) -> int:
    """Bisects for the first of shares, falling as they are, that is within a goal.

    Shares need not fall strictly, as measured ones do not: what is returned was within the goal, and nothing lower
    that was asked for was. Only the last is taken unasked, where no other was within.

    Args:
        share_of: The share at an index from 0.
        count: How many there are; at least one.
        goal: The largest share that is wanted.
        close: A share so near below the goal, as a part of it, ends the search.
        above: The last index that is known to be over the goal.
    """
    over, found = above, count - 1
    while found - over > 1:
        middle = (over + found) // 2
        share = share_of(middle)
        if share > goal:
            over = middle
            continue
        found = middle
        if share >= goal * (1 - close):
            break
    return found


def round_goal(dense: float, goal: float, way: float) -> float:
    """What a round aims at: the geometric way from the dense latency to the goal.

    Args:
        dense: The dense network's latency.
        goal: What the last round is to meet.
        way: The round's number over the number of rounds: 1 for the last.
    """
    return goal if way >= 1 else dense ** (1 - way) * goal**way


def _corrected(
    predicted: Callable[[int], float], measured: Callable[[int], float], count: int, goal: float, close: float
) -> int:
    """The choice of a prediction, held against measurements until it is close or has no better neighbour."""
    shares: dict[int, float] = {}
    over, found = -1, count
    for _ in range(1 + CORRECTIONS):
        aim = _aim(predicted, shares, over, found, goal, close)
        index = min(max(first_within(predicted, count, aim), over + 1), found - 1)
        shares[index] = measured(index)
        if shares[index] > goal:
            over = index
        else:
            found = index
            if shares[index] >= goal * (1 - close):
                break
        if found - over <= 1:
            break
    if found == count:
        return found - 1 if over == count - 1 else first_within(measured, count, goal, close=close, above=over)
    if shares[found] < goal * (1 - close) and found - over > 1:  # predictions that are off by more than a line
        return first_within(measured, found + 1, goal, close=close, above=over)
    return found


def _aim(
    predicted: Callable[[int], float], shares: dict[int, float], over: int, found: int, goal: float, close: float
) -> float:
    """The prediction to look for next, by what those of measured plans were off.

    Args:
        predicted: The prediction for an index.
        shares: What was measured, by index.
        over: The last index that is over the goal; -1 if none is known.
        found: The first index that is within it; beyond the last if none is known.
        goal: The largest share that is wanted.
        close: A share so near below the goal is wanted.
    """
    if not shares:
        return goal
    middle = goal * (1 - close / 2)
    # The straight line through the two that enclose the goal, or through the two that are nearest to it.
    nearest = sorted(shares, key=lambda index: (index not in (over, found), abs(shares[index] - goal)))
    one = nearest[0]
    for other in nearest[1:2]:
        rise = predicted(one) - predicted(other)
        if rise * (shares[one] - shares[other]) > 0:
            return predicted(one) + rise * (middle - shares[one]) / (shares[one] - shares[other])
    return predicted(one) * middle / shares[one]


def _opening(item: ScoredGroup) -> list[float]:
    """The scores that a threshold must be above for the group to lose a block more."""
    parts = item.group.parts
    highest: list[float] = item.ranked.amax(dim=0).tolist()  # a part keeps as many as the one that keeps most
    return highest[item.least // parts :: item.alignment // parts]


LEAST = 1e4 * sys.float_info.min
"""A threshold above 0 in every region, whatever the balance."""


def _least_above(score: float, factor: float) -> float:
    """The smallest number whose product with a factor is above a score."""
    # Scores come from fp32 and are 0 or far above this. Just above 0 is one place, whatever the factor.
    if score < LEAST:
        return LEAST
    value = score / factor
    while value * factor > score:
        value = math.nextafter(value, 0.0)
    while value * factor <= score:
        value = math.nextafter(value, math.inf)
    return value


def _between(low: float, high: float) -> float:
    """A number from `low` on and below `high`: near their middle, with as few digits as there can be."""
    middle = low + (high - low) / 2
    for digits in range(3, 17):
        rounded = float(f"{middle:.{digits}g}")
        if low <= rounded < high:
            return rounded
    return middle if middle < high else low
