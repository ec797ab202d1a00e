"""The planner that fills a latency: real detectors by the work of their layers, and toys that can be solved."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunetune.pruning import Detector, PlanLadder, PruningPlan, apply_plan, find_plan
from prunetune.pruning.planning import knapsack as module
from prunetune.pruning.planning.knapsack import MOST_BLOCKS, KnapsackLadder, MultiplyAdds
from prunetune.pruning.planning.plan import ScoredGroup, Scores
from prunetune.pruning.planning.threshold_search import CLOSE, first_within
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.structure.groups import ChannelGroup, Reader
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.yolo.detector import read_description
from prunetune.spaces import Alignment, ConfigError
from prunetune.targets import read_conv_graph

Groups = tuple[ChannelGroup, ...]


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A detector with gammas as a sparse phase leaves them: many at 0, some alike."""
    made, generator = Detector.load("yolov5n.yaml", names=("square", "disc")), torch.Generator().manual_seed(0)
    for layer in made.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            gammas = torch.rand(layer.weight.shape, generator=generator)
            gammas[gammas < 0.3] = 0.0
            layer.weight.data = torch.where(gammas > 0.9, torch.tensor(0.95), gammas)
    return made


@pytest.fixture(scope="module")
def groups(detector: Detector) -> Groups:
    return channel_groups(detector.model)


@pytest.fixture(scope="module")
def work(detector: Detector, groups: Groups) -> MultiplyAdds:
    return MultiplyAdds(detector.model, groups)


@pytest.fixture(scope="module")
def ladder(detector: Detector, groups: Groups, work: MultiplyAdds) -> KnapsackLadder:
    return KnapsackLadder(Scores.of(detector.model, 8, groups), work)


def cost(costs: Any, plan: PruningPlan) -> float:
    return float(costs([plan.channels]).max())


def kept_importance(scores: Scores, plan: PruningPlan) -> float:
    kept = dict(plan.keep)
    return sum(
        float(item.scores[list(kept.get(item.group.root, range(item.group.width)))].sum()) for item in scores.groups
    )


# The ladder


@pytest.mark.parametrize(
    ("alignment", "floor", "balance"), [(8, 0.0, 1.0), (16, 0.3, 0.6), (32, 0.1, 3.0), (4, 0.5, 1.0)]
)
def test_plans_are_nested_and_aligned_and_keep_the_floor(
    detector: Detector, groups: Groups, work: MultiplyAdds, alignment: int, floor: float, balance: float
) -> None:
    scores = Scores.of(detector.model, alignment, groups, floor=floor)
    ladder = KnapsackLadder(scores, work, balance)
    plans = [ladder.plan(index) for index in range(0, len(ladder), 7)] + [ladder.plan(len(ladder) - 1)]
    assert plans[0].channels == detector.channels, "nothing is removed"
    for weaker, stronger in pairwise(plans):
        assert stronger.channels != weaker.channels
        earlier = dict(weaker.keep)
        assert all(set(kept) <= set(earlier.get(root, kept)) for root, kept in stronger.keep)
    for item, plan in itertools.product(scores.groups, plans):
        kept = plan.channels[item.group.root]
        assert kept == item.group.width or kept % alignment == 0
        assert min(item.group.width, max(alignment, floor * item.group.width)) <= kept <= item.group.width
    strongest = plans[-1].channels
    assert all(strongest[item.group.root] == item.least for item in scores.groups)


def test_a_plan_names_its_planner_and_has_no_threshold(detector: Detector, ladder: KnapsackLadder) -> None:
    plan = ladder.plan(len(ladder) // 2)
    assert plan.threshold is None
    stored = plan.as_dict()
    assert stored["planner"] == "knapsack"
    assert "threshold" not in stored
    assert PruningPlan.from_dict(stored) == plan
    assert Detector(apply_plan(detector.model, plan), "").channels == plan.channels


def test_of_a_group_the_least_important_channels_go(detector: Detector, groups: Groups, ladder: KnapsackLadder) -> None:
    scores = {item.group.root: item.scores for item in Scores.of(detector.model, 8, groups).groups}
    for root, kept in ladder.plan(len(ladder) // 2).keep:
        gone = sorted(set(range(len(scores[root]))) - set(kept))
        assert scores[root][gone].max() <= scores[root][list(kept)].min()


def test_savings_are_known_anew_wherever_they_change(
    detector: Detector, groups: Groups, work: MultiplyAdds, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores.of(detector.model, 16, groups)
    some = KnapsackLadder(scores, work)
    roots = {item.group.root for item in scores.groups}
    monkeypatch.setattr(module, "_neighbours", lambda groups: dict.fromkeys(roots, roots))
    every = KnapsackLadder(scores, work)
    assert [some.plan(index).keep for index in range(len(some))] == [every.plan(i).keep for i in range(len(every))]


def test_wide_groups_without_alignment_go_in_larger_blocks(detector: Detector, groups: Groups) -> None:
    def channels(networks: Sequence[Mapping[str, int]]) -> Any:
        return numpy.array([[float(sum(widths.values()))] for widths in networks])

    ladder = KnapsackLadder(Scores.of(detector.model, 1, groups), channels)
    widths = {group.root: group.width for group in groups}
    for root in ("model.7.conv", "model.0.conv"):
        levels = {ladder.plan(index).channels[root] for index in range(len(ladder))}
        block = max(1, widths[root] // MOST_BLOCKS)
        assert all(level in (1, widths[root]) or level % block == 0 for level in levels)


@pytest.mark.parametrize("balance", [0.0, float("nan"), 2000.0])
def test_a_balance_that_makes_no_sense_is_refused(
    detector: Detector, groups: Groups, work: MultiplyAdds, balance: float
) -> None:
    with pytest.raises(ConfigError, match="balance"):
        KnapsackLadder(Scores.of(detector.model, 8, groups), work, balance)


# What is gained


@pytest.mark.parametrize("goal", [0.8, 0.5, 0.3])
def test_at_equal_cost_it_keeps_more_importance_than_a_threshold(
    detector: Detector, groups: Groups, work: MultiplyAdds, ladder: KnapsackLadder, goal: float
) -> None:
    scores = Scores.of(detector.model, 8, groups)
    whole = cost(work, ladder.plan(0))

    def best(rungs: Any) -> PruningPlan:
        plan: PruningPlan = rungs.plan(
            first_within(lambda index: cost(work, rungs.plan(index)), len(rungs), goal * whole)
        )
        return plan

    by_knapsack, by_threshold = best(ladder), best(PlanLadder(scores))
    assert 0.97 * goal * whole <= cost(work, by_knapsack) <= goal * whole
    gained = kept_importance(scores, by_knapsack) - kept_importance(scores, by_threshold)
    assert gained >= 0
    assert gained > 0 or goal == 0.8, "there both need to remove no more than channels of importance 0"


def test_of_equal_importance_it_goes_where_time_is_spent(groups: Groups, work: MultiplyAdds) -> None:
    alike = Detector.load("yolov5n.yaml", names=("square", "disc"))  # all gammas are 1
    scores = Scores.of(alike.model, 8, groups)
    ladder = KnapsackLadder(scores, work)
    before = ladder.plan(0).channels
    first = next(name for name, width in ladder.plan(1).channels.items() if width != before[name])

    def saved_per_channel(item: ScoredGroup) -> float:
        widths = {**before, **dict.fromkeys(item.group.layers, item.group.width - 8)}
        return float((work([before]) - work([widths]))[0, 0])

    assert first in max(scores.groups, key=saved_per_channel).group.layers


def test_the_limit_that_is_furthest_above_counts(detector: Detector, groups: Groups) -> None:
    scores = Scores.of(detector.model, 8, groups)
    early = {item.group.root for item in scores.groups if item.regions == {"backbone"}}

    def two(networks: Sequence[Mapping[str, int]]) -> Any:
        sums = [[sum(w for name, w in widths.items() if (name in early) == side) for side in (True, False)]
                for widths in networks]  # fmt: skip
        return numpy.array(sums, float) * [10.0, 1.0]  # the first limit is far away, the second is kept

    ladder = KnapsackLadder(scores, two)
    changed = {root for root, _ in ladder.plan(20).keep}
    assert changed <= early


def test_neck_and_head_can_be_spared(detector: Detector, groups: Groups, work: MultiplyAdds) -> None:
    scores = Scores.of(detector.model, 8, groups)

    def removed(balance: float, is_backbone: bool) -> float:
        ladder = KnapsackLadder(scores, work, balance)
        whole = cost(work, ladder.plan(0))
        plan = ladder.plan(first_within(lambda index: cost(work, ladder.plan(index)), len(ladder), 0.5 * whole))
        names = [item.group.root for item in scores.groups if (item.regions == {"backbone"}) == is_backbone]
        return 1 - sum(plan.channels[name] for name in names) / sum(detector.channels[name] for name in names)

    assert removed(0.3, is_backbone=False) < removed(1.0, is_backbone=False) < removed(3.0, is_backbone=False)
    assert removed(0.3, is_backbone=True) > removed(3.0, is_backbone=True)


# Toys


def toy(importances: list[list[float]], alignment: int) -> Scores:
    """A chain of layers, each read by the next."""
    names = [f"model.{index}.conv" for index in range(len(importances))]
    items = []
    for index, (name, values) in enumerate(zip(names, importances, strict=True)):
        width = len(values)
        every = tuple(range(width))
        readers = (Reader(names[index + 1], every, every),) if index + 1 < len(names) else ()
        group = ChannelGroup(width, (name,), (f"model.{index}.bn",), readers)
        scores = torch.tensor(values, dtype=torch.float64)
        items.append(ScoredGroup(group, scores, frozenset({"backbone"}), alignment, min(width, alignment)))
    widths = {name: len(values) for name, values in zip(names, importances, strict=True)}
    return Scores(tuple(items), ChannelConfig(widths), Alignment.everywhere(alignment))


def chain(pixels: list[float], image: int = 3) -> Any:
    """What a chain of 1 x 1 convolutions takes: inputs times outputs times pixels."""

    def costs(networks: Sequence[Mapping[str, int]]) -> Any:
        found = []
        for widths in networks:
            sizes = [image, *widths.values()]
            found.append([sum(a * b * c for a, b, c in zip(sizes, sizes[1:], pixels, strict=False))])
        return numpy.array(found, float)

    return costs


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), goal=st.floats(0.25, 0.9))
def test_greedy_comes_near_the_best_of_all_choices(seed: int, goal: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks, alignment = 6, 2
    importances: list[Tensor] = [torch.rand(blocks * alignment, generator=generator) for _ in range(3)]
    scores = toy([values.tolist() for values in importances], alignment)
    costs = chain((100 * torch.rand(3, generator=generator) + 10).tolist())
    limit = goal * float(costs([scores.channels])[0, 0])
    ladder = KnapsackLadder(scores, costs)
    found = ladder.plan(first_within(lambda index: cost(costs, ladder.plan(index)), len(ladder), limit))

    ordered = [torch.sort(values.double(), descending=True).values.cumsum(0).tolist() for values in importances]
    best, after = 0.0, 0.0
    for counts in itertools.product(range(1, blocks + 1), repeat=3):
        widths = {name: alignment * count for name, count in zip(scores.channels, counts, strict=True)}
        taken = sum(sums[alignment * count - 1] for sums, count in zip(ordered, counts, strict=True))
        spent = float(costs([widths])[0, 0])
        if spent <= limit:
            best = max(best, taken)
        if spent <= 0.85 * limit:
            after = max(after, taken)
    if cost(costs, found) > limit:
        assert best == 0, "nothing meets it"
        return
    # Blocks are large here: the step over the limit may leave up to one of them unused.
    assert kept_importance(scores, found) >= min(0.9 * best, after)


def test_two_blocks_go_together_where_one_saves_nothing() -> None:
    """A layout of 16 channels, and blocks of 8."""
    scores = toy([[1.0] * 32, [1.0] * 32], 8)

    def padded(networks: Sequence[Mapping[str, int]]) -> Any:
        return numpy.array([[float(sum(-(-width // 16) * 16 for width in widths.values()))] for widths in networks])

    ladder = KnapsackLadder(scores, padded)
    assert sorted(ladder.plan(1).channels.values()) == [16, 32]


# The work


def test_work_is_what_the_exported_network_does(
    detector: Detector, groups: Groups, work: MultiplyAdds, ladder: KnapsackLadder, tmp_path: Path
) -> None:
    file = tmp_path / "dense.onnx"
    detector.export_onnx(file, 64)
    skeleton = read_conv_graph(file)
    for index in (0, len(ladder) // 2, len(ladder) - 1):
        channels = ladder.plan(index).channels
        # The fixed decoder of boxes is counted here and not there: its inputs are no features.
        assert float(work([channels])[0, 0]) == pytest.approx(skeleton.multiply_adds(channels), rel=0.005)


# The search


class Measuring:
    """Latencies by the work, of which predictions are off."""

    is_calibrated = True
    dense = 2.0

    def __init__(self, work: MultiplyAdds, whole: float) -> None:
        self._work, self._whole = work, whole
        self.measurements: list[ChannelConfig] = []

    def share(self, channels: Mapping[str, int]) -> float:
        return 2 * (0.2 + 0.8 * float(self._work([channels])[0, 0]) / self._whole)

    def predicted(self, channels: ChannelConfig) -> float | None:
        return 1.1 * self.share(channels)

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> Any:
        return numpy.array([[1.1 * self.share(widths)] for widths in networks])

    def measured(self, channels: ChannelConfig, build: Any) -> float:
        self.measurements.append(channels)
        return self.share(channels)


@pytest.mark.parametrize("goal", [0.7, 1.0, 1.5])
def test_the_measured_latency_is_just_met(ladder: KnapsackLadder, work: MultiplyAdds, goal: float) -> None:
    latencies = Measuring(work, cost(work, ladder.plan(0)))
    plan = find_plan(ladder, latencies, lambda plan: Detector(nn.Identity(), ""), goal)
    assert (1 - CLOSE) * goal - 0.01 <= latencies.share(plan.channels) <= goal
    assert len(latencies.measurements) <= 4


# Blocks that split a convolution's output, as C2f does


@pytest.mark.parametrize(("name", "channels"), [("yolov5n.yaml", 1), ("yolov5n.yaml", 4), ("yolov5n-p6.yaml", 3)])
def test_multiply_adds_of_other_images_and_strides(name: str, channels: int) -> None:
    made = Detector.build({**read_description(name), "channels": channels}, ("square", "disc"))
    (counted,) = MultiplyAdds(made.model, channel_groups(made.model))([made.channels])[0]
    side = 2 * made.stride
    assert 2e-9 * counted == pytest.approx(made.gflops(side), rel=0.02)


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml"])
def test_both_halves_of_a_split_keep_equally_many(name: str) -> None:
    made, generator = Detector.load(name, names=("square", "disc")), torch.Generator().manual_seed(0)
    for layer in made.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data = torch.rand(layer.weight.shape, generator=generator)
    groups = channel_groups(made.model)
    costs = MultiplyAdds(made.model, groups)
    scores = Scores.of(made.model, 8, groups)
    ladder = KnapsackLadder(scores, costs)
    plans = [ladder.plan(index) for index in range(0, len(ladder), max(1, len(ladder) // 7))]
    assert [cost(costs, plan) for plan in plans] == sorted((cost(costs, plan) for plan in plans), reverse=True)
    for before, plan in pairwise(plans):
        kept, had = dict(plan.keep), dict(before.keep)
        assert all(set(channels) <= set(had.get(root, channels)) for root, channels in kept.items())
        for item in scores.groups:
            left = {len(kept.get(root, range(item.group.width))) for root in (item.group.root, *item.group.even_with)}
            assert len(left) == 1
    (pruned, counted) = (apply_plan(made.model, plans[-1], groups=groups), cost(costs, plans[-1]))
    own = MultiplyAdds(pruned, channel_groups(pruned))
    assert cost(own, PruningPlan.from_dict(plans[-1].as_dict())) == pytest.approx(counted)
