"""Whole recipes on tiny images: what is reused, what is recorded, and what stock ultralytics makes of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning import Candidate, Detector, Pipeline, Source, StageStore, TrainingSetup
from prunetune.pruning.evaluation import evaluate
from prunetune.pruning.pipeline import CHECKPOINT, Ledger
from prunetune.spaces import ModelError, Recipe, Threshold

CarryOut = Callable[[Recipe], tuple[list[Candidate], Ledger]]
RECIPE = Recipe(0.3, 1, Threshold.everywhere(0.85), rounds=1, recovery_epochs=2)
NAMES = ("square", "disc")


@pytest.fixture(scope="module")
def setup(write_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainingSetup:
    data = write_data(tmp_path_factory.mktemp("learnable"), {"train": 96, "val": 24, "test": 8})
    return TrainingSetup(str(data), "learnable", imgsz=64, batch=8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    return StageStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def pipeline(setup: TrainingSetup, store: StageStore) -> Pipeline:
    return Pipeline(Source("yolov5n.yaml", NAMES, dense_epochs=12), setup, store, alignment=8, longest_sparse_epochs=2)


@pytest.fixture
def run(pipeline: Pipeline) -> CarryOut:
    def carry_out(recipe: Recipe) -> tuple[list[Candidate], Ledger]:
        pipeline.original()
        pipeline.ledger = Ledger()
        return list(pipeline.run(recipe)), pipeline.ledger

    return carry_out


@pytest.mark.slow
def test_a_repeated_recipe_is_read_back(run: CarryOut) -> None:
    first, _ = run(RECIPE)
    again, ledger = run(RECIPE)
    assert (ledger.epochs_trained, ledger.epochs_reused) == (0, 3)
    assert [item.stage.digest for item in again] == [item.stage.digest for item in first]
    assert all(item.stage.reused for item in again)


def test_equal_plans_share_their_recovery(run: CarryOut) -> None:
    (_, one), _ = run(RECIPE)
    nearly = replace(RECIPE, threshold=Threshold.everywhere(0.85 + 1e-9))
    (_, other), ledger = run(nearly)
    assert one.plan.keep == other.plan.keep
    assert other.stage.digest == one.stage.digest
    assert ledger.epochs_trained == 0


def test_a_longer_sparse_phase_extends_a_shorter_one(run: CarryOut) -> None:
    run(RECIPE)
    _, ledger = run(replace(RECIPE, sparse_epochs=2, recovery_epochs=0))
    assert (ledger.epochs_trained, ledger.epochs_reused) == (1, 1)


def test_the_second_round_starts_from_the_first_ones_recovery(run: CarryOut, store: StageStore) -> None:
    (_, recovered, second, _), _ = run(replace(RECIPE, rounds=2))
    sparse = store.find(second.stage.record["parent"])
    assert sparse is not None
    assert sparse.record["parent"] == recovered.stage.digest
    assert second.round == 2
    assert second.last


@pytest.mark.slow
def test_stock_ultralytics_gets_the_recorded_accuracy(
    run: CarryOut, pipeline: Pipeline, setup: TrainingSetup, stock_ultralytics: Callable[..., dict[str, Any]]
) -> None:
    recovered = run(replace(RECIPE, threshold=Threshold.everywhere(0.75), recovery_epochs=12))[0][-1]
    assert recovered.plan.keep
    assert recovered.accuracy.map50_95 > 0.05
    assert evaluate(recovered.load(), setup, pipeline.loaders) == recovered.accuracy
    stock = stock_ultralytics("val", recovered.checkpoint, setup.data, 64, 8)
    assert stock["map50_95"] == pytest.approx(recovered.accuracy.map50_95, abs=0.001)


def test_a_checkpoint_is_taken_as_it_is(pipeline: Pipeline, setup: TrainingSetup, tmp_path: Path) -> None:
    trained = pipeline.original().file(CHECKPOINT)
    taken = Pipeline(Source(str(trained), NAMES, 12), setup, StageStore(tmp_path), alignment=8, longest_sparse_epochs=1)
    original = taken.original()
    assert original.record["accuracy"] == pipeline.original().record["accuracy"]
    assert taken.ledger.epochs_trained == 0
    wrong = Pipeline(
        Source(str(trained), ("one",), 1), setup, StageStore(tmp_path), alignment=8, longest_sparse_epochs=1
    )
    with pytest.raises(ModelError, match="has 2 classes"):
        wrong.original()


def test_narrow_controls_have_half_the_channels(pipeline: Pipeline) -> None:
    dense = Detector.load("yolov5n.yaml", NAMES)
    half = Detector.build(pipeline.narrow_description("half-width"), NAMES)
    assert half.channels["model.3.conv"] * 2 == dense.channels["model.3.conv"]


@pytest.mark.slow
def test_a_detector_with_deconvolution_goes_all_the_way(setup: TrainingSetup, tmp_path: Path) -> None:
    pipeline = Pipeline(
        Source("yolov5n-deconv.yaml", NAMES, 1), setup, StageStore(tmp_path), alignment=8, longest_sparse_epochs=1
    )
    candidates = list(pipeline.run(replace(RECIPE, threshold=Threshold.everywhere(1.0), recovery_epochs=1)))
    assert candidates[-1].stage.record["params"] < Detector.load("yolov5n-deconv.yaml", NAMES).params
