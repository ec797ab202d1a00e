"""Rounds with thresholds of their own, and recoveries that start from early or from new weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunetune.pruning import Detector, Pipeline, Source, StageRunner, StageStore, TrainingSetup
from prunetune.pruning.pipeline import Pruned, Recovered, Trained
from prunetune.pruning.stages.restarts import Restarts, renew
from prunetune.pruning.stages.stage import training_stage
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.splicing import Remains, compose
from prunetune.pruning.training.values import EARLY, early_phase, recovery_phase
from prunetune.spaces import ConfigError, Cost, Recipe, Threshold

NAMES = ("square", "disc")
RECIPE = Recipe(0.3, 1, Threshold.everywhere(2.0), recovery_epochs=1)
"""Its threshold is above every gamma: all layers end at their smallest width, which trains fast."""


def new_pipeline(setup: TrainingSetup, store: StageStore, **options: Any) -> Pipeline:
    stages = StageRunner(setup, store)
    source = Source("yolov5n.yaml", NAMES, dense_epochs=2)
    return Pipeline(source, stages, alignment=8, longest_sparse_epochs=1, **options)


@pytest.fixture(scope="module")
def pipeline(setup: TrainingSetup, store: StageStore) -> Pipeline:
    found = new_pipeline(setup, store, rewinds=True)
    found.original()
    return found


def carry_out(pipeline: Pipeline, recipe: Recipe) -> tuple[list[Pruned | Recovered], Cost]:
    before = pipeline.stages.meter.reading()
    networks = [step for step in pipeline.run(recipe) if not isinstance(step, Trained)]
    return networks, pipeline.stages.meter.reading() - before


def weights(stage: StoredStage) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = Detector.load(stage.file(CHECKPOINT)).model.state_dict()
    return found


# Digests


def test_the_stages_of_default_recipes_keep_their_names() -> None:
    setup = TrainingSetup("d.yaml", "data", imgsz=64, batch=8)
    names = [
        training_stage("recovery", "parent", setup, recovery_phase(3, "map50_95")).digest,
        training_stage("original", "parent", setup, recovery_phase(30, "f1")).digest,
    ]
    assert names == ["recovery-0f2555cf68cbe5f94f4b", "original-f1ffc0400495780a2b21"]


@pytest.mark.slow
def test_a_recovery_of_current_weights_starts_from_the_surgery(pipeline: Pipeline) -> None:
    (pruned, recovered), _ = carry_out(pipeline, RECIPE)
    assert recovered.stage.parent == pruned.stage.digest
    for start in ("rewind", "scratch"):
        others, _ = carry_out(pipeline, replace(RECIPE, start=start))
        assert others[0].stage.digest == pruned.stage.digest, "the gate sees the current weights"
        assert others[0].accuracy == pruned.accuracy
        assert others[1].stage.digest != recovered.stage.digest
        assert others[1].stage.channels == recovered.stage.channels


@pytest.mark.slow
def test_without_recovery_nothing_starts_anew(pipeline: Pipeline) -> None:
    recipe = replace(RECIPE, recovery_epochs=0)
    before, _ = carry_out(pipeline, recipe)
    after, _ = carry_out(pipeline, replace(recipe, start="rewind"))
    assert [item.stage.digest for item in after] == [item.stage.digest for item in before]


# Early weights


def test_the_beginning_is_a_share_of_the_training_and_an_epoch_at_least() -> None:
    for epochs, until in ((30, 3), (100, 10), (4, 1), (2, 1)):
        phase = early_phase(recovery_phase(epochs, "map50_95"))
        assert phase is not None
        assert (phase.epochs, phase.end) == (epochs, until)
        assert until == max(1, round(EARLY * epochs))
    assert early_phase(recovery_phase(1, "map50_95")) is None


@pytest.mark.slow
def test_a_beginning_that_is_trained_again_is_the_one_that_was_passed(
    pipeline: Pipeline, setup: TrainingSetup, tmp_path: Path
) -> None:
    passed = pipeline.early()
    assert passed.reused, "the dense training left it"
    other = new_pipeline(setup, StageStore(tmp_path))
    original = other.original()
    assert original.digest == pipeline.original().digest
    assert not list(tmp_path.glob("stages/early-*")), "no recipe asks for it"
    again = other.early()
    assert (again.digest, again.reused, again.epochs) == (passed.digest, False, 1)
    assert not list((tmp_path / "progress").iterdir())
    one, two, trained = weights(passed), weights(again), weights(original)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], trained[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [None, 2])
def test_a_rewound_network_has_the_early_weights_of_what_both_rounds_left(
    pipeline: Pipeline, depth: int | None
) -> None:
    recipe = replace(RECIPE, threshold=Threshold.everywhere(0.9), later_thresholds=(Threshold.everywhere(2.0),))
    found, cost = carry_out(pipeline, replace(recipe, rounds=2, start="rewind", depth=depth))
    assert [item.round for item in found] == [1, 1, 2, 2]
    assert "early" not in [use.kind for use in cost.stages], "it is no part of a recipe"

    restarts = Restarts("rewind", pipeline.stages, pipeline.original(), pipeline.early)
    starts = [restarts.after(found[index].stage, found[index].plan) for index in (0, 2)]
    assert [found[index].stage.parent for index in (1, 3)] == [start.digest for start in starts]
    early = pipeline.stages.load(pipeline.early()).model
    groups = channel_groups(early)
    left = compose(compose(Remains(), found[0].plan, groups), found[2].plan, groups)
    kept = left.kept
    assert (len(left.blocks) >= 2) == bool(depth)
    root = "model.0.conv"
    rewound = starts[1].build()
    assert rewound.channels == found[3].load().channels
    assert len(kept[root]) < early.get_submodule(root).out_channels
    assert torch.equal(rewound.model.get_submodule(root).weight, early.get_submodule(root).weight[list(kept[root])])
    statistics = rewound.model.get_submodule("model.0.bn").running_mean
    assert not torch.equal(statistics, early.get_submodule("model.0.bn").running_mean[list(kept[root])])


@pytest.mark.slow
def test_a_checkpoint_has_no_beginning(setup: TrainingSetup, store: StageStore, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    Detector.load("yolov5n.yaml", NAMES).save(file, {}, {})
    given = Pipeline(Source(str(file), NAMES, 2), StageRunner(setup, store), alignment=8, longest_sparse_epochs=1)
    with pytest.raises(ConfigError, match="start: rewind needs a model that is trained here"):
        list(given.run(replace(RECIPE, start="rewind")))
    pruned, recovered = given.run(replace(RECIPE, start="scratch", sparse_epochs=0))
    assert isinstance(pruned, Pruned)
    assert pruned.sparse is None
    assert isinstance(recovered, Recovered)
    assert len(recovered.curve) == 1


# New weights


def test_new_weights_are_those_of_a_network_that_was_built() -> None:
    built = Detector.load("yolov5n.yaml", NAMES, seed=3).model
    used = Detector.load("yolov5n.yaml", NAMES).model
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.mul_(1.5).add_(0.1)
        for norm in (layer for layer in used.modules() if isinstance(layer, nn.BatchNorm2d)):
            norm.running_mean += 1.0
    fresh = renew(used, 3)
    state, expected = fresh.state_dict(), built.state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight") and ".dfl." not in name:
            assert float(value.std()) == pytest.approx(float(expected[name].std()), rel=0.15), name
        elif ".bn." in name or (name.endswith("bias") and ".cv3." in name):
            assert torch.equal(value, expected[name]), name
    assert all(
        (one.eps, one.momentum) == (other.eps, other.momentum)
        for one, other in zip(fresh.modules(), built.modules(), strict=True)
        if isinstance(one, nn.BatchNorm2d)
    )
    again, other = renew(built, 3).state_dict(), renew(built, 4).state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state if ".dfl." not in name)
    assert not torch.equal(state["model.0.conv.weight"], other["model.0.conv.weight"])


@pytest.mark.slow
def test_prunings_of_equal_channels_share_a_recovery_from_scratch(pipeline: Pipeline) -> None:
    first, _ = carry_out(pipeline, replace(RECIPE, start="scratch"))
    second, cost = carry_out(pipeline, replace(RECIPE, start="scratch", sparsity=0.2))
    assert second[0].stage.digest != first[0].stage.digest
    assert second[1].stage.digest == first[1].stage.digest
    assert (cost.epochs_trained, cost.epochs_reused) == (1, 1), "its own sparse epoch, and that recovery"


# Thresholds


@pytest.mark.slow
def test_each_round_has_its_threshold(pipeline: Pipeline) -> None:
    recipe = replace(RECIPE, threshold=Threshold.everywhere(0.0), later_thresholds=(Threshold.everywhere(2.0),))
    found, _ = carry_out(pipeline, replace(recipe, rounds=3))
    plans = [item.plan for item in found if isinstance(item, Pruned)]
    assert [plan.threshold.backbone for plan in plans] == [0.0, 2.0, 2.0]
    assert [bool(plan.keep) for plan in plans] == [False, True, False], "one block is left after the second"
