"""The threshold that just meets a latency: bisection with made-up latencies, and plans of a real detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from prunetune.pruning import Detector, PlanLadder, PruningPlan, apply_plan, find_plan, plan_pruning
from prunetune.pruning.planning.plan import Scores
from prunetune.pruning.planning.threshold_search import CLOSE, first_within, round_goal
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.spaces import Alignment, ConfigError, Threshold
from prunetune.spaces.recipe import REGIONS, Importance, Region

Groups = tuple[ChannelGroup, ...]
BALANCES = st.floats(0.2, 5)


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A detector with gammas as a sparse phase leaves them: many at 0, some alike."""
    made, generator = Detector.load("yolov5n.yaml", names=("square", "disc")), torch.Generator().manual_seed(0)
    for module in made.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            gammas = torch.rand(module.weight.shape, generator=generator)
            gammas[gammas < 0.3] = 0.0
            module.weight.data = torch.where(gammas > 0.9, torch.tensor(0.95), gammas)
    return made


@pytest.fixture(scope="module")
def groups(detector: Detector) -> Groups:
    return channel_groups(detector.model)


@pytest.fixture(scope="module")
def ladder(detector: Detector, groups: Groups) -> PlanLadder:
    return PlanLadder.of(detector.model, 8, groups)


def size(channels: ChannelConfig) -> float:
    """A made-up latency, which falls with every block: of the dense network somewhat above 1."""
    return sum(channels.values()) / 4000


class MadeUp:
    """Latencies by a law. What is predicted may be off by a factor that depends on the channels."""

    def __init__(
        self,
        law: Callable[[ChannelConfig], float],
        off: Callable[[float], float] | None = None,
        is_calibrated: bool = True,
    ) -> None:
        self._law, self._off, self.is_calibrated = law, off, is_calibrated
        self.measurements: list[ChannelConfig] = []
        self.dense = 2.0

    def predicted(self, channels: ChannelConfig) -> float | None:
        share = self._law(channels)
        return None if self._off is None else share * self._off(share)

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> Any:
        shares = [self.predicted(ChannelConfig(widths)) for widths in networks]
        return None if None in shares else numpy.array(shares)[:, None]

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        self.measurements.append(channels)
        return self._law(channels)


class Equal:
    """Judges all channels alike."""

    importance: Importance = "gamma"

    def __init__(self, score: float = 1.0) -> None:
        self._score = score

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[torch.Tensor]:
        return [torch.full((group.width,), self._score, dtype=torch.float64) for group in groups]


def next_lower(scores: Scores, threshold: Threshold, region: Region) -> PruningPlan | None:
    """The plan when a region's threshold falls until its next block stays; None where nothing of it is removed."""
    own = [item for item in scores.groups if region in item.regions]
    below = {float(score) for item in own for score in item.scores if score < threshold.for_region(region)}
    plan = scores.plan(threshold)
    each = {name: threshold.for_region(name) for name in REGIONS}
    for score in sorted(below, reverse=True):
        wider = scores.plan(Threshold(**{**each, region: score}))
        if wider.channels != plan.channels:
            return wider
    return None


def not_built(plan: PruningPlan) -> Detector:
    raise AssertionError("a made-up latency needs no network")


# Bisection


@given(st.lists(st.floats(0.01, 2), min_size=1, max_size=400), st.floats(0.01, 2), st.sampled_from([0.0, 0.1]))
def test_bisection_finds_the_first_share_within_the_goal(values: list[float], goal: float, close: float) -> None:
    shares, asked = sorted(values, reverse=True), []

    def share_of(index: int) -> float:
        asked.append(index)
        return shares[index]

    found = first_within(share_of, len(shares), goal, close=close)
    assert len(asked) == len(set(asked)) <= math.ceil(math.log2(len(shares)))
    if shares[-1] > goal:
        assert found == len(shares) - 1, "the strongest, which is not enough"
        return
    assert shares[found] <= goal
    assert found == 0 or shares[found - 1] > goal or shares[found] >= goal * (1 - close)


@given(st.lists(st.floats(0.01, 2), min_size=2, max_size=400), st.floats(0.01, 2))
def test_shares_that_do_not_fall_evenly_still_give_one_within_the_goal(values: list[float], goal: float) -> None:
    asked: dict[int, float] = {}

    def share_of(index: int) -> float:
        asked[index] = values[index]
        return values[index]

    found = first_within(share_of, len(values), goal)
    within = [index for index, share in asked.items() if share <= goal]
    assert found == min(within, default=len(values) - 1)


@given(st.floats(1, 5), st.floats(0.1, 1), st.integers(1, 5))
def test_rounds_come_nearer_by_equal_factors(dense: float, goal: float, rounds: int) -> None:
    ways = [dense, *(round_goal(dense, goal, number / rounds) for number in range(1, rounds + 1))]
    assert ways[-1] == goal
    factors = [after / before for before, after in pairwise(ways)]
    assert factors == pytest.approx([factors[0]] * rounds)


# The ladder


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(balance=BALANCES, alignment=st.sampled_from([1, 8, 16]))
def test_a_ladder_has_every_plan_once_in_order(
    detector: Detector, groups: Groups, balance: float, alignment: int
) -> None:
    ladder = PlanLadder.of(detector.model, alignment, groups, balance)
    step = max(1, len(ladder) // 40)
    indices = sorted({*range(0, len(ladder), step), len(ladder) - 1})
    plans = [ladder.plan(index) for index in indices]
    for index, plan in zip(indices, plans, strict=True):
        threshold = ladder.threshold(index)
        assert threshold.head == balance * threshold.backbone
        assert plan == plan_pruning(detector.model, threshold, alignment, groups=groups)
    assert plans[0].channels == detector.channels, "nothing is removed"
    for weaker, stronger in pairwise(plans):
        assert all(stronger.channels[name] <= width for name, width in weaker.channels.items())
        assert stronger.channels != weaker.channels
    strongest = plans[-1].channels
    judged = [group for group in groups if len(group.norms) >= len(group.layers)]
    assert all(strongest[group.root] == min(group.width, alignment) for group in judged)


def test_no_plan_is_left_out(detector: Detector, groups: Groups, ladder: PlanLadder) -> None:
    scores = sorted({float(value) for norm in detector.model.modules() if isinstance(norm, nn.BatchNorm2d)
                     for value in norm.weight})  # fmt: skip
    on_ladder = {ladder.plan(index).channels for index in range(len(ladder))}
    assert len(on_ladder) == len(ladder) < 600
    for score in scores[:: len(scores) // 60]:
        threshold = ladder.threshold(1)
        cut = type(threshold)(score, score)
        assert plan_pruning(detector.model, cut, 8, groups=groups).channels in on_ladder


@settings(max_examples=8, deadline=None)
@given(floor=st.floats(0, 0.99), alignment=st.sampled_from([1, 8, 16]), balance=BALANCES)
def test_every_layer_keeps_the_floor(
    detector: Detector, groups: Groups, floor: float, alignment: int, balance: float
) -> None:
    scores = Scores.of(detector.model, alignment, groups, floor=floor)
    ladder = PlanLadder(scores, balance)
    step = max(1, len(ladder) // 20)
    plans = [ladder.plan(index) for index in sorted({*range(0, len(ladder), step), len(ladder) - 1})]
    assert plans[0].channels == detector.channels
    for weaker, stronger in pairwise(plans):
        assert stronger.channels != weaker.channels
        assert all(stronger.channels[name] <= width for name, width in weaker.channels.items())
    for item in scores.groups:
        width = item.group.width
        for plan in plans:
            kept = plan.channels[item.group.root]
            assert kept == width or kept % alignment == 0
            assert kept >= floor * width - 1e-6
        assert plans[-1].channels[item.group.root] - floor * width <= alignment, "and no more than that at the end"


def test_the_floor_is_a_share_of_the_dense_network(detector: Detector, groups: Groups) -> None:
    whole = {name: 2 * width for name, width in detector.channels.items()}
    scores = Scores.of(detector.model, 8, groups, floor=0.25, dense=whole)
    assert all(item.least == max(8, -(-item.group.width // 16) * 8) for item in scores.groups)
    everything = Scores.of(detector.model, 8, groups, floor=0.9, dense=whole)
    assert len(PlanLadder(everything)) == 1


@pytest.mark.parametrize("floor", [-0.1, 1.0, math.nan])
def test_a_floor_that_makes_no_sense_is_refused(detector: Detector, groups: Groups, floor: float) -> None:
    with pytest.raises(ConfigError, match="floor"):
        Scores.of(detector.model, 8, groups, floor=floor)


def test_a_threshold_is_told_in_few_digits(ladder: PlanLadder) -> None:
    told = [ladder.threshold(index).backbone for index in range(len(ladder))]
    assert told[0] == 0
    assert sum(float(f"{value:.4g}") == value for value in told) > 0.8 * len(told), "what a table shows cuts the same"


@pytest.mark.parametrize("balance", [0.0, -1.0, math.nan, math.inf])
def test_a_balance_that_makes_no_sense_is_refused(detector: Detector, groups: Groups, balance: float) -> None:
    with pytest.raises(ConfigError, match="balance"):
        PlanLadder.of(detector.model, Alignment.everywhere(8), groups, balance)


def test_scores_that_are_equal_are_parted(detector: Detector, groups: Groups) -> None:
    """By a step each group loses one block, and layers lose equal scores in proportion to their widths."""
    scores = Scores.of(detector.model, 8, groups, Equal())
    ladder = PlanLadder(scores)
    plans = [ladder.plan(index) for index in range(len(ladder))]
    for weaker, stronger in pairwise(plans):
        before, after = dict(weaker.keep), dict(stronger.keep)
        (root,) = [root for root, kept in after.items() if before.get(root) != kept]
        assert next(item.alignment for item in scores.groups if item.group.root == root) == 8
    middle = plans[len(plans) // 2]
    kept = {item.group.root: len(dict(middle.keep).get(item.group.root, range(item.group.width))) / item.group.width
            for item in scores.groups if item.group.width >= 64}  # fmt: skip
    assert max(kept.values()) - min(kept.values()) <= 8 / 64
    root, indices = middle.keep[-1]
    assert indices == tuple(range(len(indices))), f"the lower index of {root} stays"


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_threshold_at_or_above_equal_scores_takes_them_as_one(
    detector: Detector, groups: Groups, score: float
) -> None:
    scores = Scores.of(detector.model, 8, groups, Equal(score))
    assert scores.plan(Threshold.everywhere(score)).keep == ()
    assert scores.is_least(scores.plan(Threshold.everywhere(score + 1e-7)))


@settings(max_examples=10, deadline=None)
@given(place=st.floats(0.05, 1), room=st.floats(0, 0.08), balance=BALANCES)
def test_what_a_step_leaves_is_filled(
    detector: Detector, groups: Groups, place: float, room: float, balance: float
) -> None:
    scores = Scores.of(detector.model, 8, groups)
    ladder = PlanLadder(scores, balance)
    index = round(place * (len(ladder) - 1))
    plain = ladder.plan(index)
    limit = size(plain.channels) * (1 + room)
    plan = ladder.filled(index, lambda plan: size(plan.channels), limit)
    assert plan == plan_pruning(detector.model, plan.threshold, 8, groups=groups), "its thresholds say all of it"
    assert all(plan.channels[name] >= width for name, width in plain.channels.items())
    assert size(plan.channels) <= limit
    for region in REGIONS:
        wider = next_lower(scores, plan.threshold, region)
        assert wider is None or size(wider.channels) > limit, "no block more of any region fits"


def test_with_room_for_everything_nothing_is_removed(detector: Detector, ladder: PlanLadder) -> None:
    assert ladder.filled(len(ladder) - 1, lambda plan: size(plan.channels), math.inf).channels == detector.channels


# The search


@settings(max_examples=15, deadline=None)
@given(goal=st.floats(0.3, 1), level=st.floats(0.9, 1.1))
def test_a_large_step_is_filled(detector: Detector, ladder: PlanLadder, goal: float, level: float) -> None:
    """The first layer alone takes a third of the latency: its one step is a sixth of it."""

    def law(channels: ChannelConfig) -> float:
        return (size(channels) / size(detector.channels) + channels["model.0.conv"] / 32) / 1.5

    latencies = MadeUp(law, off=lambda _: level)
    plan = find_plan(ladder, latencies, not_built, goal)
    assert law(plan.channels) <= goal or plan == ladder.plan(len(ladder) - 1)
    if law(ladder.plan(len(ladder) - 1).channels) < 0.98 * goal:
        assert law(plan.channels) >= (1 - CLOSE) * goal
    assert len(latencies.measurements) <= 7


@settings(max_examples=25, deadline=None)
@given(goal=st.floats(0.05, 2))
def test_measured_latencies_are_met_with_few_measurements(ladder: PlanLadder, goal: float) -> None:
    latencies = MadeUp(size)
    plan = find_plan(ladder, latencies, not_built, goal)
    assert len(latencies.measurements) == len(set(latencies.measurements)) <= 10
    strongest, dense = size(ladder.plan(len(ladder) - 1).channels), size(ladder.plan(0).channels)
    if goal < strongest:
        assert plan == ladder.plan(len(ladder) - 1), "it is told over the budget"
    elif goal >= 1.02 * dense:
        assert plan.keep == (), "the dense network meets it: nothing is removed"
    else:
        index = next(index for index in range(len(ladder)) if ladder.plan(index) == plan)
        assert size(plan.channels) <= goal
        is_close = size(plan.channels) >= goal * (1 - CLOSE)
        assert is_close or index == 0 or size(ladder.plan(index - 1).channels) > goal


@settings(max_examples=40, deadline=None)
@given(goal=st.floats(0.4, 0.95), level=st.floats(0.85, 1.15), slope=st.floats(-0.1, 0.1))
def test_a_prediction_is_corrected_until_the_measured_latency_meets_the_goal(
    ladder: PlanLadder, goal: float, level: float, slope: float
) -> None:
    latencies = MadeUp(size, off=lambda share: level + slope * share)
    plan = find_plan(ladder, latencies, not_built, goal)
    assert size(plan.channels) <= goal
    assert size(plan.channels) >= (1 - CLOSE) * goal - 0.02
    assert len(latencies.measurements) <= 4


def test_a_right_prediction_is_measured_once(ladder: PlanLadder) -> None:
    latencies = MadeUp(size, off=lambda share: 1.0)
    plan = find_plan(ladder, latencies, not_built, 0.8)
    assert latencies.measurements == [plan.channels]
    rough = find_plan(ladder, latencies, not_built, 0.8, exact=False)
    assert rough == plan
    assert len(latencies.measurements) == 1, "on the way nothing needs to be measured"


def test_where_the_dense_network_meets_the_goal_nothing_is_removed(ladder: PlanLadder) -> None:
    latencies = MadeUp(lambda channels: 1 / size(channels), off=lambda _: 1.0, is_calibrated=False)  # smaller is slower
    latencies.dense = 0.5
    assert find_plan(ladder, latencies, not_built, 0.6).keep == ()
    assert latencies.measurements == []


def test_a_hopeless_prediction_ends_in_measuring(ladder: PlanLadder) -> None:
    latencies = MadeUp(size, off=lambda share: 0.1 + 0.001 * share)
    plan = find_plan(ladder, latencies, not_built, 0.5)
    assert size(plan.channels) <= 0.5


@pytest.mark.parametrize("power", [0.1, 0.3, 6, 20])
@pytest.mark.parametrize("goal", [0.4, 0.7, 0.95])
def test_a_prediction_that_bends_away_removes_no_more_than_it_must(
    ladder: PlanLadder, goal: float, power: float
) -> None:
    whole = size(ladder.plan(0).channels)
    latencies = MadeUp(lambda channels: 0.3 + 1.2 * (size(channels) / whole) ** power)
    latencies.predicted = lambda channels: 1.5 * size(channels) / whole  # type: ignore[method-assign]
    plan = find_plan(ladder, latencies, not_built, goal)
    share = latencies.measured(plan.channels, lambda: not_built(plan))
    if share > goal:
        assert plan == ladder.plan(len(ladder) - 1), "not even the strongest meets it"
        return
    weakest = next(
        plan
        for plan in map(ladder.plan, range(len(ladder)))
        if 1.2 * (size(plan.channels) / whole) ** power + 0.3 <= goal
    )
    assert share >= min((1 - CLOSE) * goal, latencies.measured(weakest.channels, lambda: not_built(plan)))


@settings(max_examples=40, deadline=None)
@given(goal=st.floats(0.4, 0.95), fixed=st.floats(0, 0.35), level=st.floats(0.6, 1.6), exact=st.booleans())
def test_a_guess_saves_most_of_the_measurements(
    ladder: PlanLadder, goal: float, fixed: float, level: float, exact: bool
) -> None:
    # A part of the latency does not depend on the channels, and the guess does not know of it.
    latencies = MadeUp(lambda channels: fixed + (1 - fixed) * size(channels), lambda _: level, is_calibrated=False)
    guess = MadeUp(size, lambda _: level)
    latencies.predicted = guess.predicted  # type: ignore[method-assign]
    plan = find_plan(ladder, latencies, not_built, goal, exact=exact)
    share = latencies.measured(plan.channels, lambda: not_built(plan))
    assert len(latencies.measurements) <= 6
    if fixed + (1 - fixed) * size(ladder.plan(len(ladder) - 1).channels) > goal:
        return
    assert (1 - (CLOSE if exact else 0.05)) * goal - 0.02 <= share <= goal


def test_the_head_can_be_spared(detector: Detector, groups: Groups) -> None:
    def removed(balance: float, region: str) -> float:
        ladder = PlanLadder.of(detector.model, 8, groups, balance)
        plan = find_plan(ladder, MadeUp(size), not_built, 0.8)
        assert plan.threshold.head == balance * plan.threshold.backbone
        names = [name for name in detector.channels if (int(name.split(".")[1]) < 10) == (region == "backbone")]
        return 1 - sum(plan.channels[name] for name in names) / sum(detector.channels[name] for name in names)

    assert removed(0.5, "head") < removed(1.0, "head") < removed(2.0, "head")
    assert removed(0.5, "backbone") > removed(1.0, "backbone") > removed(2.0, "backbone")


def test_the_detector_is_left_as_it_was_and_the_threshold_does_it_again(
    detector: Detector, groups: Groups, ladder: PlanLadder
) -> None:
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    built: list[ChannelConfig] = []

    class Building(MadeUp):
        def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
            built.append(build().channels)
            return super().measured(channels, build)

    latencies = Building(size)
    plan = find_plan(ladder, latencies, lambda plan: Detector(apply_plan(detector.model, plan, groups=groups), ""), 0.7)
    assert built == latencies.measurements, "what is measured is the plan's network"
    assert all(torch.equal(value, before[name]) for name, value in detector.model.state_dict().items())
    assert plan == plan_pruning(detector.model, plan.threshold, 8, groups=groups)
