"""From a latency to the threshold that just meets it: a search over plans, without training and without surgery.

As the threshold rises, the plan changes only where a layer loses a block of channels. So there are some hundred
plans, each a subset of the one before, and bisection would need about eight latencies. A guess, held against what is
measured for its choice, needs two or three. What a latency is a share of, and how it is known, the caller says: this
module knows no hardware and no budget.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
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
from prunetune.spaces.recipe import REGIONS, Region, Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSE = 0.01
"""A measured latency that is below the wanted one by no more than this share ends the search: measurements are not
more exact."""

ROUGH = 0.05
"""The same where a round aims at a point on the way."""

CORRECTIONS = 4
"""How often a prediction is corrected by the latency that was measured for its choice."""

FILLS = 3
"""How many plans are measured to fill what a step of the ladder leaves of a latency."""


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


class PlanLadder:
    """The plans of a threshold, from nothing removed to one block, or the floor, everywhere; each in the one before.

    The threshold rises from step to step, in the head `balance` times as high as in the backbone.

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
        self._steps: dict[Region, list[float]] = {region: [0.0] for region in REGIONS}
        """The thresholds of the backbone at which each region loses something more, rising."""
        for region, steps in self._steps.items():
            highest = [score for item in scores.groups if region in item.regions for score in _opening(item)]
            highest += [block.highest for block in scores.blocks if block.region == region]
            steps += sorted({_least_above(score, self._factor(region)) for score in highest})
        self._lowest = sorted({step for steps in self._steps.values() for step in steps})
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
        value = _of_step(self._lowest, index)
        return Threshold(value, self._balance * value)

    def plan(self, index: int) -> PruningPlan:
        """The plan of a step, from 0."""
        if index not in self._plans:
            self._plans[index] = self._scores.plan(self.threshold(index))
        return self._plans[index]

    def filled(self, index: int, share_of: Callable[[PruningPlan], float], limit: float) -> PruningPlan:
        """The plan of a step, and of what it removes the most important blocks taken back, as long as they fit.

        The regions' thresholds part for it: each falls, the block of the highest score first, until its next block does
        not fit. So the thresholds still say the whole plan.

        Args:
            index: The step, from 0.
            share_of: What a plan takes.
            limit: The most that it may take.
        """
        plan, value = self.plan(index), _of_step(self._lowest, index)
        values = {region: self._factor(region) * value for region in REGIONS}
        places = {region: bisect_right(steps, value) - 1 for region, steps in self._steps.items()}
        while places := {region: place for region, place in places.items() if place}:
            region = max(places, key=lambda region: self._steps[region][places[region]])
            place = places.pop(region) - 1
            lower = {**values, region: self._factor(region) * _of_step(self._steps[region], place)}
            wider = self._scores.plan(Threshold(**lower))
            if share_of(wider) <= limit:
                plan, values, places[region] = wider, lower, place
        return plan

    def _factor(self, region: Region) -> float:
        """A region's threshold in multiples of the backbone's."""
        return 1.0 if region == "backbone" else self._balance


def find_plan(
    ladder: PlanLadder,
    latencies: LatencyShares,
    build: Callable[[PruningPlan], Detector],
    goal: float,
    *,
    exact: bool = True,
) -> PruningPlan:
    """The plan that removes least of those found to meet a latency; its threshold, if it has one, does it again.

    Where latencies are predicted, the choice is measured, and corrected by what the prediction was off: the measured
    latency is what must meet the goal. What is left of it, because the next step of the ladder is a large one, is
    filled (`PlanLadder.filled`). A detector that meets the goal as it is loses nothing, or what makes no percent of its
    latency. If even the strongest pruning does not meet it, that one is returned; whoever measures it next sees.

    Args:
        ladder: The plans.
        latencies: How slow they are.
        build: Makes a plan's network.
        goal: The latency to meet, as a share of the limit.
        exact: Whether it must be met by measured numbers, and to a percent. A round on the way to another one needs
            neither: a prediction or 5 % will do.
    """
    shares: dict[PruningPlan, float] = {}

    def measured(plan: PruningPlan) -> float:
        if plan not in shares:
            shares[plan] = latencies.measured(plan.channels, lambda: build(plan))
        return shares[plan]

    def predicted(plan: PruningPlan) -> float:
        share = latencies.predicted(plan.channels)
        assert share is not None  # it was not for another plan of the same detector
        return share

    def measured_at(index: int) -> float:
        return measured(ladder.plan(index))

    def predicted_at(index: int) -> float:
        return predicted(ladder.plan(index))

    if latencies.dense <= goal:
        return ladder.plan(0)
    close = CLOSE if exact else ROUGH
    if latencies.predicted(ladder.plan(0).channels) is None:
        return ladder.plan(first_within(measured_at, len(ladder), goal, close=close))
    if not exact and latencies.is_calibrated:
        return ladder.plan(first_within(predicted_at, len(ladder), goal))
    index = _corrected(predicted_at, measured_at, len(ladder), goal, close)
    best = ladder.plan(index)
    if not exact or measured(best) > goal:
        return best
    for _ in range(FILLS):
        if shares[best] >= goal * (1 - close):
            break
        aim = _aim([(predicted(plan), share) for plan, share in shares.items()], goal, close)
        plan = ladder.filled(index, predicted, aim)
        if plan in shares:
            break
        if shares[best] < measured(plan) <= goal:
            best = plan
    return best


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
    points: list[tuple[float, float]] = []
    over, found = -1, count
    for _ in range(1 + CORRECTIONS):
        aim = _aim(points, goal, close)
        index = min(max(first_within(predicted, count, aim), over + 1), found - 1)
        share = measured(index)
        points.append((predicted(index), share))
        if share > goal:
            over = index
        else:
            found = index
            if share >= goal * (1 - close):
                break
        if found - over <= 1:
            break
    if found == count:
        return found - 1 if over == count - 1 else first_within(measured, count, goal, close=close, above=over)
    if measured(found) < goal * (1 - close) and found - over > 1:  # predictions that are off by more than a line
        return first_within(measured, found + 1, goal, close=close, above=over)
    return found


def _aim(points: Sequence[tuple[float, float]], goal: float, close: float) -> float:
    """The prediction to look for next, by what those of measured plans were off.

    Args:
        points: What was predicted and what was measured, for each plan.
        goal: The largest share that is wanted.
        close: A share so near below the goal is wanted.
    """
    if not points:
        return goal
    middle = goal * (1 - close / 2)
    # The straight line through the two that enclose the goal, or through the two that are nearest to it.
    within = max((share for _, share in points if share <= goal), default=None)
    above = min((share for _, share in points if share > goal), default=None)
    (one, share), *others = sorted(points, key=lambda point: (point[1] not in (within, above), abs(point[1] - goal)))
    for other, other_share in others[:1]:
        if (one - other) * (share - other_share) > 0:
            return one + (one - other) * (middle - share) / (share - other_share)
    return one * middle / share


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


def _of_step(lowest: Sequence[float], place: int) -> float:
    """A threshold of a step: 0 for the first, else one from its lowest to the next one's that has few digits."""
    if not place:
        return 0.0
    return _between(lowest[place], lowest[place + 1] if place + 1 < len(lowest) else 1.1 * lowest[place])


def _between(low: float, high: float) -> float:
    """A number from `low` on and below `high`: near their middle, with as few digits as there can be."""
    middle = low + (high - low) / 2
    for digits in range(3, 17):
        rounded = float(f"{middle:.{digits}g}")
        if low <= rounded < high:
            return rounded
    return middle if middle < high else low
