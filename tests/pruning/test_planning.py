"""Recipes that say where to prune, carried out on tiny images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from prunetune.pruning import Detector, Pipeline, Pruned, PruningPlan, Source, StageRunner, StageStore, TrainingSetup
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.structure.depth import residual_blocks
from prunetune.spaces import ImageSize, LatencyShare, Recipe, Threshold
from prunetune.spaces.recipe import Importance

pytestmark = [pytest.mark.slow, pytest.mark.core]

NAMES = ("square", "disc")
RECIPE = Recipe(0.3, 1, Threshold.everywhere(0.9))
"""It has no recovery: what matters here is decided before."""


class ByChannels:
    """Latencies that fall with every channel and with the input's side; the dense network's is 2 at 64 px.

    Args:
        dense: The dense network's channels.
        is_predicted: Whether they are known without measuring.
    """

    is_calibrated = True

    def __init__(self, dense: Mapping[str, int], is_predicted: bool = True, side: int = 64) -> None:
        self.dense = self._largest = side / 32
        self._widths = dense
        self._whole, self._is_predicted = sum(dense.values()), is_predicted
        self.measured_channels: list[ChannelConfig] = []

    def at(self, imgsz: ImageSize | None) -> ByChannels:
        return self if not isinstance(imgsz, int) else ByChannels(self._widths, self._is_predicted, imgsz)

    def share(self, channels: Mapping[str, int]) -> float:
        return self._largest * sum(channels.values()) / self._whole

    def predicted(self, channels: ChannelConfig) -> float | None:
        return self.share(channels) if self._is_predicted else None

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> Any:
        return numpy.array([[self.share(widths)] for widths in networks]) if self._is_predicted else None

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        assert build().channels == channels
        self.measured_channels.append(channels)
        return self.share(channels)


@pytest.fixture(scope="module")
def stages(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> StageRunner:
    setup = TrainingSetup(str(shapes), "shapes", imgsz=64, batch=8)
    return StageRunner(setup, StageStore(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def pipeline(stages: StageRunner) -> Callable[..., Pipeline]:
    def make(latencies: ByChannels | None = None) -> Pipeline:
        source = Source("yolov5n.yaml", NAMES, dense_epochs=1)
        return Pipeline(source, stages, alignment=8, longest_sparse_epochs=1, latencies=latencies)

    return make


@pytest.fixture(scope="module")
def dense(pipeline: Callable[..., Pipeline]) -> ChannelConfig:
    return pipeline().original().channels


def surgeries(pipeline: Pipeline, recipe: Recipe) -> list[Pruned]:
    return [step for step in pipeline.run(recipe) if isinstance(step, Pruned)]


def pruned(pipeline: Pipeline, recipe: Recipe) -> Pruned:
    """The network right after the last surgery."""
    return surgeries(pipeline, recipe)[-1]


def judged(candidate: Pruned, dense: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """The channels now and before, of the groups that lost some."""
    return {root: (candidate.plan.channels[root], dense[root]) for root, _ in candidate.plan.keep}


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "lamp"])
def test_each_importance_cuts_its_own_channels(importance: Importance, pipeline: Callable[..., Pipeline]) -> None:
    by_gamma = pruned(pipeline(), RECIPE)
    recipe = replace(RECIPE, importance=importance, threshold=Threshold.everywhere(1.0))
    candidate = pruned(pipeline(), recipe)
    assert candidate.stage.parent == by_gamma.stage.parent, "the sparse phase is shared"
    assert candidate.plan.keep not in ((), by_gamma.plan.keep)
    stored = candidate.stage.record["plan"]
    assert stored["importance"] == importance
    assert PruningPlan.from_dict(stored) == candidate.plan
    assert candidate.warning is None, "only gammas have a place where they should part"
    again = pruned(pipeline(), recipe)
    assert (again.plan, again.stage.reused) == (candidate.plan, True)


def test_a_default_recipe_stores_what_it_did_before_there_were_choices(pipeline: Callable[..., Pipeline]) -> None:
    candidate = pruned(pipeline(), RECIPE)
    assert set(candidate.stage.record["plan"]) == {"keep", "channels", "threshold", "alignment"}
    assert set(candidate.stage.record["settings"]) == {"plan", "setup"}


def test_every_layer_keeps_the_floor_of_what_the_first_round_began_with(
    pipeline: Callable[..., Pipeline], dense: ChannelConfig
) -> None:
    strong = replace(RECIPE, threshold=Threshold.everywhere(9.0), floor=0.5, rounds=2)
    found = judged(pruned(pipeline(), strong), dense)
    first = judged(surgeries(pipeline(), strong)[0], dense)
    assert found == {}, "the second round has nothing to remove"
    assert first
    ends = [item.at_floor for item in surgeries(pipeline(), strong)]
    assert ends == [True, True], "already the first round left nothing to the second"
    assert all(kept == min(before, max(8, -(-before // 16) * 8)) for kept, before in first.values())


def test_a_smaller_input_leaves_more_channels(pipeline: Callable[..., Pipeline], dense: ChannelConfig) -> None:
    recipe = replace(RECIPE, threshold=LatencyShare(0.8), importance="l2")
    latencies = ByChannels(dense)
    own, small = (pruned(pipeline(latencies), replace(recipe, imgsz=size)) for size in (None, 32))
    assert latencies.share(own.plan.channels) == pytest.approx(0.8, rel=0.02)
    assert latencies.at(32).share(small.plan.channels) == pytest.approx(0.8, rel=0.02)
    assert own.stage.parent == small.stage.parent, "the sparse phase is shared"


def test_taylor_judges_at_the_size_that_is_planned_for(pipeline: Callable[..., Pipeline]) -> None:
    recipe = replace(RECIPE, importance="taylor", threshold=Threshold.everywhere(1.0))
    own, small = (pruned(pipeline(), replace(recipe, imgsz=size)) for size in (None, 32))
    assert own.plan.keep != small.plan.keep


def test_a_round_whose_goal_is_met_removes_nothing_and_is_not_at_its_end(
    pipeline: Callable[..., Pipeline], dense: ChannelConfig
) -> None:
    latencies = ByChannels(dense)
    latencies.dense = 8.0  # the first of two rounds to 0.5 then aims at 2, where the network is
    recipe = replace(RECIPE, threshold=LatencyShare(0.5), importance="l2", rounds=2)
    first, last = surgeries(pipeline(latencies), recipe)
    assert (first.plan.keep, first.at_floor) == ((), False)
    assert latencies.share(last.plan.channels) <= 0.5


def test_a_threshold_in_the_midst_of_the_gammas_is_told(pipeline: Callable[..., Pipeline]) -> None:
    stage = pruned(pipeline(), RECIPE).sparse
    assert stage is not None
    norms = [
        layer.weight
        for layer in Detector.load(stage.file(CHECKPOINT)).model.modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    ]
    middle = float(torch.cat(norms).abs().median())
    candidate = pruned(pipeline(), replace(RECIPE, threshold=Threshold.everywhere(middle)))
    assert candidate.warning is not None
    assert candidate.warning.startswith(f"nothing separates at threshold {middle:.3g}: ")
    assert "|" in candidate.warning
    assert pruned(pipeline(), replace(RECIPE, threshold=Threshold.everywhere(0.0))).warning is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": LatencyShare(0.9), "importance": "taylor"},
    ],
)
def test_so_many_blocks_go_in_the_first_round(
    pipeline: Callable[..., Pipeline], dense: ChannelConfig, options: dict[str, Any]
) -> None:
    latencies = ByChannels(dense) if options else None
    recipe = replace(RECIPE, depth=2, rounds=2, **options)
    first, second = surgeries(pipeline(latencies), recipe)
    gone = first.plan.blocks
    assert len(gone) >= 2
    assert second.plan.channels.keys() <= first.plan.channels.keys() < dense.keys()
    assert second.load().channels == second.plan.channels
    whole = pruned(pipeline(latencies), replace(recipe, depth=None, rounds=1))
    assert (whole.plan.blocks, whole.plan.channels.keys()) == ((), dense.keys())
    if latencies is not None:
        assert latencies.share(second.plan.channels) <= 0.9
    again = surgeries(pipeline(latencies), recipe)
    assert [item.stage.digest for item in again] == [first.stage.digest, second.stage.digest]
    assert all(item.stage.reused for item in again)


def test_a_detector_has_no_more_blocks_to_lose_than_it_has(pipeline: Callable[..., Pipeline]) -> None:
    candidate = pruned(pipeline(), replace(RECIPE, depth=50))
    assert residual_blocks(candidate.load().model) == ()
    assert len(candidate.plan.blocks) == 7
