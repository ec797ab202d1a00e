"""From a recipe to its plan: who judges the channels, and where the threshold lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prunetune.pruning.planning.importance import Losses, create_judge
from prunetune.pruning.planning.plan import PruningPlan, Scores, branch_of
from prunetune.pruning.planning.separation import unseparated
from prunetune.pruning.planning.threshold_search import LatencyShares, PlanLadder, find_plan, round_goal
from prunetune.pruning.stages.stage_runner import StageRunner
from prunetune.pruning.structure.depth import residual_blocks, without_blocks
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces import Alignment, ConfigError, LatencyShare, Recipe, Threshold


class Planned(NamedTuple):
    """The plan of one round."""

    plan: PruningPlan
    at_floor: bool
    """Whether every layer has as few channels after it as it may have."""
    warning: str | None = None
    """Why its threshold may lie where no gammas separate."""


@dataclass(frozen=True)
class Planning:
    """Plans surgeries by recipes.

    Attributes:
        stages: Gives the training images, where the importance needs them. They have the size that is planned for.
        alignment: Channels are kept in multiples of this.
        latencies: What networks take at that size, for recipes that give a latency in the place of a threshold.
    """

    stages: StageRunner
    alignment: Alignment
    latencies: LatencyShares | None = None

    def scores(
        self, detector: Detector, groups: Sequence[ChannelGroup], recipe: Recipe, dense: Mapping[str, int] | None
    ) -> Scores:
        """The channels as the recipe judges them.

        Args:
            detector: Is judged.
            groups: What `channel_groups` returned for it.
            recipe: Says how, and what every layer keeps.
            dense: The channels of the study's dense detector, of which the recipe's floor is a share.
        """
        judge = create_judge(recipe.importance, self.stages.losses)
        blocks = () if recipe.depth is None else residual_blocks(detector.model)
        return Scores.of(detector.model, self.alignment, groups, judge, recipe.floor, dense, blocks)

    def plan(
        self,
        detector: Detector,
        groups: Sequence[ChannelGroup],
        recipe: Recipe,
        cut: Threshold | LatencyShare,
        way: float,
        dense: Mapping[str, int] | None = None,
        *,
        first: bool = True,
    ) -> Planned:
        """Plans one round.

        Args:
            detector: Is to be pruned.
            groups: What `channel_groups` returned for it.
            recipe: What is carried out.
            cut: The round's threshold, or the latency of the last round.
            way: The round's number over the number of rounds: 1 for the last.
            dense: As in `scores`.
            first: Whether it is the first round, in which the recipe's `depth` goes.

        Raises:
            ConfigError: The cut is a latency, and no latencies are known.
        """
        if first and recipe.depth and (blocks := least_blocks(detector, recipe.depth, self.stages.losses)):
            short = Detector(without_blocks(detector.model, blocks), detector.source)
            self.stages.recalibrate(short)
            planned = self._planned(short, channel_groups(short.model), recipe, cut, way, dense)
            return planned._replace(plan=planned.plan.after(blocks))
        return self._planned(detector, groups, recipe, cut, way, dense)

    def _planned(
        self,
        detector: Detector,
        groups: Sequence[ChannelGroup],
        recipe: Recipe,
        cut: Threshold | LatencyShare,
        way: float,
        dense: Mapping[str, int] | None,
    ) -> Planned:
        scores = self.scores(detector, groups, recipe, dense)
        plan = scores.plan(cut) if isinstance(cut, Threshold) else self._fill(detector, groups, cut, way, scores)
        if plan.threshold is None or recipe.importance != "gamma":
            return Planned(plan, scores.is_least(plan))
        return Planned(plan, scores.is_least(plan), unseparated(scores, plan.threshold))

    def _fill(
        self,
        detector: Detector,
        groups: Sequence[ChannelGroup],
        cut: LatencyShare,
        way: float,
        scores: Scores,
    ) -> PruningPlan:
        """The plan that just meets a latency, or what a round aims at on its way there."""
        if self.latencies is None:
            raise ConfigError(f"{cut}: a plan can be found where latencies are known; give the pipeline latencies")

        def build(plan: PruningPlan) -> Detector:
            return Detector(apply_plan(detector.model, plan, groups=groups), detector.source)

        goal = round_goal(self.latencies.dense, cut.share, way)
        return find_plan(PlanLadder(scores, cut.balance), self.latencies, build, goal, exact=way >= 1)


def least_blocks(detector: Detector, count: int, losses: Losses) -> list[str]:
    """The residual blocks whose removal changes the loss least to first order (Taylor; arXiv 1906.10771).

    Gammas do not tell blocks apart: after short sparse phases those of all last BatchNorms are alike.

    Args:
        detector: The network.
        count: How many, at most.
        losses: Gives its losses on training images.
    """
    names, channels = residual_blocks(detector.model), detector.channels
    if not names:
        return []
    scores = create_judge("taylor", losses).scores(detector.model, [branch_of(name, channels) for name in names])
    effects = dict(zip(names, (float(each.sum()) for each in scores), strict=True))
    return sorted(names, key=effects.__getitem__)[:count]
