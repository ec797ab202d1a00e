"""Whole recipes on tiny images: what is reused, what is recorded, and what stock ultralytics makes of the result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from prunetune.pruning import Detector, Pipeline, Source, StageBusyError, StageRunner, StageStore, TrainingSetup
from prunetune.pruning.pipeline import Pruned, Recovered, Trained, accuracy_curve, mismatch
from prunetune.pruning.stages.lease import StageLease
from prunetune.pruning.stages.stage import training_stage, trunk
from prunetune.pruning.stages.stage_files import CHECKPOINT, HISTORY, STATE, read_history
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.training.evaluation import evaluate, evaluate_predictor
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.sparsity import sparse_phase
from prunetune.pruning.training.values import EpochRecord, recovery_phase
from prunetune.spaces import Cost, ModelError, Recipe, StageUse, StoreError, Threshold
from prunetune.targets import Network, OnnxRuntimeSpec, Quantisation, create_predictor, quantise

pytestmark = pytest.mark.slow

NetworkStep = Pruned | Recovered

NAMES = ("square", "disc")
RECIPE = Recipe(0.3, 1, Threshold.everywhere(2.0), rounds=1, recovery_epochs=2)
"""Its threshold is above every gamma: all layers end at their smallest width, which trains fast."""


def new_pipeline(
    setup: TrainingSetup,
    store: StageStore,
    source: Source | None = None,
    longest_sparse_epochs: int = 3,
    **options: Any,
) -> Pipeline:
    """A pipeline over a stage runner that gets the options."""
    source = source or Source("yolov5n.yaml", NAMES, dense_epochs=1)
    stages = StageRunner(setup, store, **options)
    return Pipeline(source, stages, alignment=8, longest_sparse_epochs=longest_sparse_epochs)


def carry_out(pipeline: Pipeline, recipe: Recipe) -> tuple[list[NetworkStep], Cost]:
    """The networks of a recipe, and what only they took."""
    pipeline.original()
    before = pipeline.stages.meter.reading()
    networks = [step for step in pipeline.run(recipe) if not isinstance(step, Trained)]
    return networks, pipeline.stages.meter.reading() - before


def parent_of(stage: StoredStage, store: StageStore) -> StoredStage:
    parent = store.find(stage.parent)
    assert parent is not None
    return parent


def same_weights(one: Path, other: Path) -> bool:
    weights = [Detector.load(file).model.state_dict() for file in (one, other)]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture(scope="module")
def pipeline(setup: TrainingSetup, store: StageStore) -> Pipeline:
    return new_pipeline(setup, store)


@pytest.fixture(scope="module")
def candidates(pipeline: Pipeline) -> list[NetworkStep]:
    return carry_out(pipeline, RECIPE)[0]


# What is reused


def test_a_repeated_recipe_is_read_back(candidates: list[NetworkStep], setup: TrainingSetup, store: StageStore) -> None:
    again, cost = carry_out(new_pipeline(setup, StageStore(store.root)), RECIPE)
    assert (cost.epochs_trained, cost.epochs_reused) == (0, 3)
    assert [item.stage.digest for item in again] == [item.stage.digest for item in candidates]
    assert [item.accuracy for item in again] == [item.accuracy for item in candidates]
    assert [item.plan for item in again] == [item.plan for item in candidates]
    assert all(item.stage.reused for item in again)
    assert [use.was_stored for use in cost.stages] == [True, True, True]
    assert cost.seconds.get("train", 0.0) == 0.0


def test_two_thresholds_with_one_plan_share_their_recovery(pipeline: Pipeline, candidates: list[NetworkStep]) -> None:
    nearly = replace(RECIPE, threshold=Threshold.everywhere(2.0 + 1e-9))
    others, cost = carry_out(pipeline, nearly)
    assert others[0].plan.keep == candidates[0].plan.keep
    assert [item.stage.digest for item in others] == [item.stage.digest for item in candidates]
    assert cost.epochs_trained == 0


def test_another_threshold_shares_the_sparse_phase(pipeline: Pipeline, candidates: list[NetworkStep]) -> None:
    (pruned, _), cost = carry_out(pipeline, replace(RECIPE, threshold=Threshold.everywhere(0.0), recovery_epochs=0))
    assert pruned.stage.parent == candidates[0].stage.parent
    assert cost.epochs_trained == 0
    assert pruned.stage.digest != candidates[0].stage.digest
    assert pruned.stage.params == Detector.load("yolov5n.yaml", NAMES).params, "nothing is below 0"


def test_a_longer_sparse_phase_extends_a_shorter_one(
    pipeline: Pipeline, candidates: list[NetworkStep], setup: TrainingSetup, store: StageStore, tmp_path: Path
) -> None:
    longer = replace(RECIPE, sparse_epochs=3, recovery_epochs=0)
    (extended, _), cost = carry_out(pipeline, longer)
    assert (cost.epochs_trained, cost.epochs_reused) == (2, 1)
    other = StageStore(tmp_path)
    at_once, cost = carry_out(new_pipeline(setup, other, checkpoints=frozenset({2})), longer)
    assert (cost.epochs_trained, cost.epochs_reused) == (3, 0)
    assert at_once[0].stage.digest == extended.stage.digest
    one, two = parent_of(extended.stage, store), parent_of(at_once[0].stage, other)
    assert same_weights(one.file(CHECKPOINT), two.file(CHECKPOINT))
    # On its way it left a stage for recipes that stop there.
    _, cost = carry_out(new_pipeline(setup, other), replace(longer, sparse_epochs=2))
    assert (cost.epochs_trained, cost.epochs_reused) == (0, 2)


def test_the_second_round_starts_from_the_first_ones_recovery(pipeline: Pipeline, store: StageStore) -> None:
    recipe = replace(RECIPE, rounds=2, recovery_epochs=1)
    (first, recovered, second, final), cost = carry_out(pipeline, recipe)
    assert parent_of(second.stage, store).parent == recovered.stage.digest
    assert [item.round for item in (first, recovered, second, final)] == [1, 1, 2, 2]
    assert [item.last for item in (first, recovered, second, final)] == [False, False, True, True]
    assert [isinstance(item, Recovered) for item in (first, recovered, second, final)] == [False, True, False, True]
    assert second.stage.params <= first.stage.params
    assert cost.epochs_trained + cost.epochs_reused == recipe.epochs


def test_what_others_left_in_the_store_changes_no_result(setup: TrainingSetup, tmp_path: Path) -> None:
    recipe = Recipe(0.3, 2, Threshold.everywhere(0.9), rounds=2, recovery_epochs=2)
    used = new_pipeline(setup, StageStore(tmp_path / "used"))
    for other in (
        replace(recipe, sparse_epochs=1, rounds=1),  # the trunk is there, but shorter
        replace(recipe, threshold=Threshold.everywhere(0.7), rounds=1),
        replace(recipe, sparsity=0.2, rounds=1),
    ):
        carry_out(used, other)
    used.original()
    pruned = next(used.run(recipe))
    assert isinstance(pruned, Pruned)
    with closing(used.stages.train_in_parts("recovery", pruned.stage, recovery_phase(2, "map50_95"), [1])) as parts:
        next(parts)
    after_others, saved = carry_out(used, recipe)
    alone, paid = carry_out(new_pipeline(setup, StageStore(tmp_path / "empty")), recipe)

    assert (paid.epochs_trained, paid.epochs_reused) == (recipe.epochs, 0)
    assert (saved.epochs_trained, saved.epochs_reused) == (recipe.epochs - 3, 3), "two of the trunk, one of recovery"
    for one, other in zip(after_others, alone, strict=True):
        assert one.stage.digest == other.stage.digest
        assert one.plan == other.plan
        assert one.accuracy == other.accuracy
        assert same_weights(one.checkpoint, other.checkpoint)


def test_whoever_stops_asking_pays_for_no_recovery(pipeline: Pipeline) -> None:
    over_budget = replace(RECIPE, threshold=Threshold(0.0, 2.0))
    pipeline.original()
    before = pipeline.stages.meter.reading()
    assert isinstance(next(pipeline.run(over_budget)), Pruned)
    assert [use.kind for use in (pipeline.stages.meter.reading() - before).stages] == ["sparse", "pruning"]


class KilledError(Exception):
    pass


def up_to_rung(pipeline: Pipeline, recipe: Recipe, rung: int) -> tuple[Trained, Cost]:
    """The first step at a rung, after which nobody asks for more, and what it took."""
    pipeline.original()
    before = pipeline.stages.meter.reading()
    trained = next(step for step in pipeline.run(recipe, {rung}) if isinstance(step, Trained))
    return trained, pipeline.stages.meter.reading() - before


def test_a_recovery_that_was_dropped_at_a_rung_goes_on_from_there(
    candidates: list[NetworkStep], setup: TrainingSetup, store: StageStore, tmp_path: Path
) -> None:
    pruned, recovered = candidates
    elsewhere = StageStore(tmp_path / "store")
    for stage in (*store.root.glob("stages/original-*"), *store.root.glob("stages/sparse-*"), pruned.stage.folder):
        shutil.copytree(stage, elsewhere.root / "stages" / stage.name)
    me, first = new_pipeline(setup, elsewhere), read_history(recovered.stage)[0].accuracy
    assert first is not None
    trained, cost = up_to_rung(me, RECIPE, 1)
    assert trained == Trained(1, 1, 2, first, (first.map50_95,), is_whole=False)
    assert cost.stages[-1] == StageUse("recovery", recovered.stage.digest, trained=1)
    assert cost.seconds["train"] > 0

    again, cost = up_to_rung(me, RECIPE, 1)
    assert (again, cost.epochs_trained, cost.epochs_reused) == (trained, 0, 2)
    whole, cost = carry_out(me, RECIPE)
    assert (cost.epochs_trained, cost.epochs_reused) == (1, 2)
    assert whole[-1].accuracy == recovered.accuracy
    assert same_weights(whole[-1].checkpoint, recovered.checkpoint)


def test_rungs_change_no_result_and_count_no_epoch_twice(
    pipeline: Pipeline, setup: TrainingSetup, store: StageStore, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, rounds=2, recovery_epochs=3)
    at_once, _ = carry_out(pipeline, recipe)
    elsewhere = StageStore(tmp_path / "store")
    for stage in store.root.glob("stages/original-*"):
        shutil.copytree(stage, elsewhere.root / "stages" / stage.name)
    me = new_pipeline(setup, elsewhere)
    me.original()
    before = me.stages.meter.reading()
    steps = list(me.run(recipe, [2, 1, 2, 0, 3, 9]))
    cost = me.stages.meter.reading() - before
    assert (cost.epochs_trained, cost.epochs_reused) == (recipe.epochs, 0)
    assert [type(step).__name__ for step in steps] == [
        "Pruned", "Recovered", "Pruned", "Trained", "Trained", "Recovered"
    ]  # fmt: skip
    rungs, final = [step for step in steps if isinstance(step, Trained)], steps[-1]
    assert isinstance(final, Recovered)
    assert [(step.round, step.epoch, step.epochs) for step in rungs] == [(2, 1, 3), (2, 2, 3)]
    assert [step.curve for step in rungs] == [final.curve[:1], final.curve[:2]]
    assert [step.accuracy.map50_95 for step in rungs] == [max(step.curve) for step in rungs]
    assert same_weights(final.checkpoint, at_once[-1].checkpoint)
    assert final.accuracy == at_once[-1].accuracy


def test_a_recovery_that_is_there_costs_nothing_at_a_rung(pipeline: Pipeline, candidates: list[NetworkStep]) -> None:
    pipeline.original()
    before = pipeline.stages.meter.reading()
    *_, trained, recovered = pipeline.run(RECIPE, {1})
    assert isinstance(trained, Trained)
    assert isinstance(recovered, Recovered)
    assert (trained.epoch, trained.is_whole) == (1, True)
    assert recovered.accuracy == candidates[-1].accuracy
    assert recovered.curve == accuracy_curve(read_history(recovered.stage))
    cost = pipeline.stages.meter.reading() - before
    assert cost.stages[-1] == StageUse("recovery", recovered.stage.digest, reused=2, was_stored=True)
    assert (cost.epochs_trained, cost.epochs_reused) == (0, 3)


def test_who_stops_at_every_safe_point_trains_no_epoch_twice(setup: TrainingSetup, tmp_path: Path) -> None:
    recipe = replace(RECIPE, sparse_epochs=2, recovery_epochs=3)
    heard: list[tuple[str, int]] = []

    def listener(kind: str, *_: int) -> Callable[[EpochRecord], None]:
        return lambda record: heard.append((kind, record.epoch))

    def stop() -> None:
        raise KilledError

    stops = 0
    while True:
        store = StageStore(tmp_path / "store")
        pipeline = new_pipeline(setup, store, longest_sparse_epochs=2, listener=listener, safe_point=stop)
        try:
            carry_out(pipeline, recipe)
            break
        except KilledError:
            stops += 1
    epochs = [("original", 1), ("sparse", 1), ("sparse", 2), ("recovery", 1), ("recovery", 2), ("recovery", 3)]
    assert heard == epochs
    assert stops == len(epochs) + 1, "after each epoch, and after surgery"


def test_an_interrupted_recipe_loses_its_last_epoch_at_most(setup: TrainingSetup, tmp_path: Path) -> None:
    recipe = replace(RECIPE, sparse_epochs=2, recovery_epochs=3)
    heard: list[tuple[str, int]] = []

    def pipeline(store: StageStore, dies: tuple[str, int] | None = None) -> Pipeline:
        def listener(kind: str, *_: int) -> Callable[[EpochRecord], None]:
            def hear(record: EpochRecord) -> None:
                heard.append((kind, record.epoch))
                if heard[-1] == dies:
                    raise KilledError

            return hear

        return new_pipeline(setup, store, longest_sparse_epochs=2, listener=listener)

    for dies in (("sparse", 1), ("recovery", 1), ("recovery", 2)):
        with pytest.raises(KilledError):
            carry_out(pipeline(StageStore(tmp_path / "cut"), dies), recipe)
    survivor, cost = carry_out(pipeline(StageStore(tmp_path / "cut")), recipe)
    epochs = [("original", 1), ("sparse", 1), ("sparse", 2), ("recovery", 1), ("recovery", 2), ("recovery", 3)]
    assert heard == epochs, "no epoch was trained twice"
    assert (cost.epochs_trained, cost.epochs_reused) == (1, 4)
    assert list((tmp_path / "cut" / "progress").iterdir()) == []

    whole, _ = carry_out(pipeline(StageStore(tmp_path / "whole")), recipe)
    assert whole[-1].stage.digest == survivor[-1].stage.digest
    assert same_weights(whole[-1].checkpoint, survivor[-1].checkpoint)


def test_a_damaged_stage_or_progress_is_trained_again(
    pipeline: Pipeline, candidates: list[NetworkStep], setup: TrainingSetup, store: StageStore
) -> None:
    before = Detector.load(candidates[-1].checkpoint).model.state_dict()
    content = candidates[-1].checkpoint.read_bytes()
    candidates[-1].checkpoint.write_bytes(content[:1000])
    for digest in [path.name for path in (store.root / "stages").iterdir()]:
        store.save_progress(digest, lambda path: path.write_bytes(b"damaged") and None)
    again, cost = carry_out(new_pipeline(setup, store), RECIPE)
    assert (cost.epochs_trained, cost.epochs_reused) == (2, 1)
    after = Detector.load(again[-1].checkpoint).model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


# What another process trains


def test_a_damaged_checkpoint_of_a_stage_says_how_to_go_on(
    candidates: list[NetworkStep], setup: TrainingSetup, store: StageStore, tmp_path: Path
) -> None:
    damaged = StageStore(tmp_path / "store")
    for stage in (*store.root.glob("stages/original-*"), *store.root.glob("stages/sparse-*")):
        shutil.copytree(stage, damaged.root / "stages" / stage.name)
    for file in damaged.root.glob(f"stages/sparse-*/{CHECKPOINT}"):
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(StoreError, match=r"sparse-.*: this stage is damaged .*; run: prunetune store verify --remove"):
        carry_out(new_pipeline(setup, damaged), RECIPE)


def test_what_another_process_trains_is_not_trained(
    setup: TrainingSetup, store: StageStore, pipeline: Pipeline
) -> None:
    """Nor is another length of it, which would start with the same epochs."""
    heard: list[str] = []

    def listener(kind: str, *_: int) -> Callable[[EpochRecord], None]:
        return lambda record: heard.append(kind)

    recipe = replace(RECIPE, sparsity=0.05, sparse_epochs=2)
    original = pipeline.original()
    phase = sparse_phase(2, pipeline.sparsity(recipe))
    base = trunk("sparse", original.digest, setup, phase)
    wanted = training_stage("sparse", original.digest, setup, phase).digest
    me = new_pipeline(setup, StageStore(store.root), listener=listener)
    with store.lease(base, "another length"):
        for epochs in (1, 2):
            with pytest.raises(StageBusyError) as caught:
                carry_out(me, replace(recipe, sparse_epochs=epochs))
        assert (caught.value.digest, caught.value.trunk) == (wanted, base)
    assert heard == []
    next(me.run(recipe))
    assert heard == ["sparse", "sparse"]
    assert list(store.progress(base).parent.glob("*.lease")) == []


def test_a_stage_that_was_published_before_the_lease_is_read_back(
    setup: TrainingSetup, store: StageStore, pipeline: Pipeline
) -> None:
    recipe = replace(RECIPE, sparsity=0.06, recovery_epochs=0)
    pipeline.original()

    class Late(StageStore):
        """Gets its lease when another process has just released it."""

        def lease(self, trunk: str, digest: str) -> StageLease:
            if self.find(digest) is None:
                next(new_pipeline(setup, store).run(recipe))
            return super().lease(trunk, digest)

    _, cost = carry_out(new_pipeline(setup, Late(store.root)), recipe)
    assert (cost.epochs_trained, cost.epochs_reused) == (0, 1)


def test_a_process_that_lost_its_lease_stops_after_the_epoch(
    setup: TrainingSetup, store: StageStore, pipeline: Pipeline
) -> None:
    heard: list[int] = []
    recipe = replace(RECIPE, sparsity=0.07, sparse_epochs=4)
    pipeline.original()
    others: list[StageLease] = []

    def listener(kind: str, *_: int) -> Callable[[EpochRecord], None]:
        def hear(record: EpochRecord) -> None:
            heard.append(record.epoch)
            if record.epoch == 1:
                (file,) = store.progress("any").parent.glob("*.lease")
                file.unlink()  # taken for dead
                others.append(store.lease(file.stem, "taken over"))

        return hear

    me = new_pipeline(setup, StageStore(store.root), listener=listener)
    with pytest.raises(StageBusyError):
        next(me.run(recipe))
    assert heard == [1]
    (other,) = others
    other.release()
    next(new_pipeline(setup, store, listener=listener).run(recipe))
    assert heard == [1, 2, 3, 4], "it goes on from the last epoch that was stored under the lease"


def test_a_recipe_that_was_put_aside_counts_each_epoch_once(
    setup: TrainingSetup, store: StageStore, pipeline: Pipeline
) -> None:
    recipe = replace(RECIPE, sparsity=0.08)
    pipeline.original()
    me = new_pipeline(setup, StageStore(store.root))
    me.original()
    start = me.stages.meter.reading()
    steps = me.run(recipe)
    pruned = next(steps)
    assert isinstance(pruned, Pruned)
    base = training_stage("recovery", pruned.stage.digest, setup, recovery_phase(2, "map50_95")).digest
    with store.lease(base, base), pytest.raises(StageBusyError):
        next(steps)
    first = me.stages.meter.reading()
    list(me.run(recipe))
    cost = (first - start).then(me.stages.meter.reading() - first)
    assert (cost.epochs_trained, cost.epochs_reused) == (3, 0)
    assert [(use.kind, use.was_stored) for use in cost.stages] == [
        ("sparse", False),
        ("pruning", False),
        ("recovery", False),
    ]


# Under a teacher


def test_the_dense_original_teaches(pipeline: Pipeline, candidates: list[NetworkStep], store: StageStore) -> None:
    original = pipeline.original().digest
    taught, cost = carry_out(pipeline, replace(RECIPE, distillation=6.0))
    assert [use.kind for use in cost.stages] == ["sparse", "pruning", "recovery"]
    assert taught[0].stage.digest == candidates[0].stage.digest, "the sparse phase is the other recipe's"
    assert taught[-1].stage.digest != candidates[-1].stage.digest
    phase = taught[-1].stage.record["settings"]["phase"]
    assert (phase["distillation"], phase["teacher"]) == (6.0, original)
    assert "distillation" not in candidates[-1].stage.record["settings"]["phase"]
    assert "dis_loss" in read_history(taught[-1].stage)[-1].losses
    assert not same_weights(taught[-1].checkpoint, candidates[-1].checkpoint)


def test_a_sparse_phase_under_a_teacher_goes_on_from_a_shorter_one(pipeline: Pipeline, store: StageStore) -> None:
    recipe = replace(RECIPE, sparse_distillation=2.0, recovery_epochs=0)
    carry_out(pipeline, recipe)
    longer, cost = carry_out(pipeline, replace(recipe, sparse_epochs=2))
    assert (cost.epochs_trained, cost.epochs_reused) == (1, 1)
    phase = parent_of(longer[0].stage, store).record["settings"]["phase"]
    assert (phase["distillation"], phase["teacher"]) == (2.0, pipeline.original().digest)


def test_a_teacher_that_is_gone_is_missed_at_once(
    setup: TrainingSetup, store: StageStore, pipeline: Pipeline, tmp_path: Path
) -> None:
    original = pipeline.original()
    other = StageStore(tmp_path / "store")
    phase = recovery_phase(1, "map50_95").taught(6.0, original.digest)
    with pytest.raises(StoreError, match=r"original-.*, whose network teaches, was removed; run the same command"):
        StageRunner(setup, other).train("recovery", original, phase)


# How gammas are penalised


def test_the_recipe_says_how_gammas_are_penalised(pipeline: Pipeline, store: StageStore) -> None:
    recipe = replace(RECIPE, sparsity=0.02, recovery_epochs=0, shrinkage="subgradient")
    candidates, _ = carry_out(pipeline, recipe)
    assert parent_of(candidates[0].stage, store).record["settings"]["phase"]["shrinkage"] == "subgradient"


# What is recorded


def test_a_stage_records_what_it_is(candidates: list[NetworkStep], store: StageStore) -> None:
    pruned, recovered = (item.stage for item in candidates)
    sparse = parent_of(pruned, store)
    original = parent_of(sparse, store)
    kinds = [stage.kind for stage in (original, sparse, pruned, recovered)]
    assert kinds == ["original", "sparse", "pruning", "recovery"]
    detector = candidates[-1].load()
    for stage in (pruned, recovered):
        assert stage.channels == candidates[0].plan.channels.as_dict() == detector.channels.as_dict()
        assert stage.params == detector.params
        assert stage.gflops == pytest.approx(detector.gflops(64))
    dense = original.channels
    kept = [(width, dense[name]) for name, width in recovered.channels.items()]
    assert all(width % 8 == 0 or width == before for width, before in kept)
    assert sum(width for width, _ in kept) < sum(before for _, before in kept)
    assert set(recovered.record["versions"]) == {"prunetune", "torch", "ultralytics", "torch-pruning"}
    stored = torch.load(recovered.file(CHECKPOINT), weights_only=False)["prunetune"]
    assert stored["channels"] == recovered.channels, "the checkpoint alone says what it is"


def test_a_sparse_stage_keeps_what_an_extension_and_a_report_need(
    pipeline: Pipeline, candidates: list[NetworkStep], store: StageStore
) -> None:
    sparse = parent_of(candidates[0].stage, store)
    assert sparse.file(STATE).is_file()
    (record,) = read_history(sparse)
    expected = pipeline.sparsity(RECIPE).coefficient
    assert sparse.record["settings"]["phase"]["penalty"] == pytest.approx(expected, rel=1e-6)
    assert record.losses["sl_loss"] > 0
    assert record.gammas is not None
    assert sum(record.gammas.counts["backbone"]) > 0
    recovered = candidates[-1].stage
    assert not recovered.file(STATE).exists(), "optimizer states of finished recoveries would fill the disk"
    assert recovered.file(HISTORY).is_file()
    assert [item.epoch for item in read_history(recovered)] == [1, 2]
    assert recovered.best_epoch in (1, 2)


def test_time_is_counted_by_part(setup: TrainingSetup, tmp_path: Path) -> None:
    pipeline = new_pipeline(setup, StageStore(tmp_path))
    list(pipeline.run(replace(RECIPE, recovery_epochs=1)))
    seconds = pipeline.stages.meter.reading().seconds
    assert {"load", "train", "validate", "surgery", "recalibrate", "store", "setup"} <= set(seconds)
    assert all(value >= 0 for value in seconds.values())


# Where it starts from


def test_a_checkpoint_is_taken_as_it_is(pipeline: Pipeline, setup: TrainingSetup, tmp_path: Path) -> None:
    trained = pipeline.original()
    source = Source(str(trained.file(CHECKPOINT)), NAMES, dense_epochs=12)
    taken = new_pipeline(setup, StageStore(tmp_path), source)
    original = taken.original()
    assert same_weights(original.file(CHECKPOINT), trained.file(CHECKPOINT))
    assert original.accuracy == trained.accuracy
    assert (taken.stages.meter.reading().epochs_trained, original.epochs) == (0, 0)
    (pruned, _), cost = carry_out(taken, replace(RECIPE, recovery_epochs=0))
    assert cost.epochs_trained == 1
    assert pruned.stage.params < original.params


def test_a_checkpoint_for_other_classes(pipeline: Pipeline, setup: TrainingSetup, tmp_path: Path) -> None:
    source = Source(str(pipeline.original().file(CHECKPOINT)), ("one",), dense_epochs=1)
    with pytest.raises(ModelError, match=r"checkpoint\.pt: has 2 classes, but the data set has 1; train the detector"):
        new_pipeline(setup, StageStore(tmp_path), source).original()
    assert list((tmp_path / "stages").iterdir()) == []


def test_classes_have_the_names_and_the_order_of_the_data_set(pipeline: Pipeline) -> None:
    """Else what it finds would be called by the wrong name, in the study and where it ships."""
    trained = Detector.load(pipeline.original().file(CHECKPOINT))
    assert mismatch(trained, NAMES, 3) is None
    problem = mismatch(trained, tuple(reversed(NAMES)), 3)
    assert problem == (
        f"finds {NAMES[0]!r} as class 0, which is {NAMES[1]!r} in the data set; name both alike, in one order"
    )
    assert mismatch(Detector.load("yolov5n.yaml"), tuple(f"class {number}" for number in range(80)), 3) is None


def test_a_damaged_checkpoint_leaves_nothing(setup: TrainingSetup, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"damaged")
    source = Source(str(tmp_path / "broken.pt"), NAMES, dense_epochs=1)
    with pytest.raises(ModelError, match=r"broken\.pt: cannot be read"):
        new_pipeline(setup, StageStore(tmp_path / "store"), source).original()
    assert list((tmp_path / "store" / "stages").iterdir()) == []


def test_controls(pipeline: Pipeline) -> None:
    original = pipeline.original()
    dense = pipeline.control("dense", 1)
    assert dense.parent == original.digest
    assert (dense.channels, dense.epochs) == (original.channels, 1)
    half = pipeline.control("half-width", 1)
    assert half.epochs == 1 + 1, "the original's epochs and as many as the recipes"
    body = {name: width for name, width in original.channels.items() if not name.startswith("model.24")}
    assert {name: half.channels[name] for name in body} == {name: width // 2 for name, width in body.items()}
    assert pipeline.control("half-width", 1).reused
    quarter = Detector.build(pipeline.source.description("quarter-width"), NAMES)
    # ultralytics rounds narrow layers up to a multiple of 8
    assert sum(quarter.channels[name] for name in body) == pytest.approx(sum(body.values()) / 4, rel=0.05)


def test_controls_of_a_checkpoint_have_its_architecture(
    pipeline: Pipeline, setup: TrainingSetup, tmp_path: Path
) -> None:
    source = Source(str(pipeline.original().file(CHECKPOINT)), NAMES, dense_epochs=1)
    narrow = source.description("half-width")
    expected = pipeline.source.description("half-width")
    assert Detector.build(narrow, NAMES).channels == Detector.build(expected, NAMES).channels


def test_a_detector_with_deconvolution_goes_all_the_way(setup: TrainingSetup, tmp_path: Path) -> None:
    source = Source("yolov5n-deconv.yaml", NAMES, dense_epochs=1)
    recipe = replace(RECIPE, rounds=2, recovery_epochs=1)
    candidates, cost = carry_out(new_pipeline(setup, StageStore(tmp_path), source), recipe)
    assert cost.epochs_trained == recipe.epochs
    small, dense = candidates[-1].load(), Detector.load("yolov5n-deconv.yaml", NAMES)
    assert small.params < dense.params
    upsampling = [m for m in small.model.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert len(upsampling) == 2


# What others make of a detector that has learnt something

LEARNT = 0.1
"""From this map50_95 on comparing a detector's accuracies shows something."""


@pytest.fixture(scope="module")
def learnt(
    write_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[NetworkStep, TrainingSetup]:
    """A pruned detector whose map50_95 is clearly above 0, so that comparing it shows something."""
    data = write_data(tmp_path_factory.mktemp("learnable"), {"train": 32, "val": 16})
    easy = {"lr0": 0.003, "mosaic": 0.0, "translate": 0.0, "scale": 0.0}
    setup = TrainingSetup(str(data), "learnable", imgsz=64, batch=4, hyperparameters=easy)
    store = StageStore(tmp_path_factory.mktemp("learnt"))
    pipeline = new_pipeline(setup, store, Source("yolov5n.yaml", NAMES, dense_epochs=10))
    recipe = replace(RECIPE, sparsity=0.1, threshold=Threshold.everywhere(0.0), recovery_epochs=0)
    pruned = next(pipeline.run(recipe))
    assert isinstance(pruned, Pruned)
    assert pruned.sparse is not None
    gammas = read_history(pruned.sparse)[-1].gammas
    assert gammas is not None
    low = gammas.quantiles["25"]
    for epochs in (8, 16, 32, 64):  # how soon it learns depends on the processor: the last digits are its own
        (*_, recovered), _ = carry_out(
            pipeline, replace(recipe, threshold=Threshold.everywhere(low), recovery_epochs=epochs)
        )
        if recovered.accuracy.map50_95 > LEARNT:
            break
    assert recovered.stage.params < 0.8 * pipeline.original().params
    assert recovered.accuracy.map50_95 > LEARNT
    return recovered, setup


def test_the_recorded_accuracy_is_what_evaluating_gives(learnt: tuple[NetworkStep, TrainingSetup]) -> None:
    candidate, setup = learnt
    assert evaluate(candidate.load(), setup, DataLoaders(setup)) == candidate.accuracy
    classes = candidate.accuracy.classes
    assert classes is not None
    assert set(classes) == {"square", "disc"}
    for name in ("map50", "map50_95"):
        mean = sum(figures[name] for figures in classes.values()) / 2
        assert mean == pytest.approx(getattr(candidate.accuracy, name), abs=1e-4)
    best = max(accuracy_curve(read_history(candidate.stage)))
    assert candidate.accuracy.map50_95 == pytest.approx(best, abs=1e-4), "the best epoch was kept"


def test_stock_ultralytics_gets_the_recorded_accuracy(
    learnt: tuple[NetworkStep, TrainingSetup], stock_ultralytics: Callable[..., dict[str, Any]]
) -> None:
    candidate, setup = learnt
    stock = stock_ultralytics("val", candidate.checkpoint, setup.data, setup.imgsz, setup.batch)
    assert stock["metrics/mAP50-95(B)"] == pytest.approx(candidate.accuracy.map50_95, abs=0.001)
    assert stock["metrics/mAP50(B)"] == pytest.approx(candidate.accuracy.map50, abs=0.001)
    assert stock["metrics/precision(B)"] == pytest.approx(candidate.accuracy.precision, abs=0.001)
    assert stock["metrics/recall(B)"] == pytest.approx(candidate.accuracy.recall, abs=0.001)
    assert stock["f1"] == pytest.approx(candidate.accuracy.f1, abs=0.001)
    confidence = candidate.accuracy.confidence
    assert confidence is not None
    assert stock["f1_curve"][round(999 * confidence)] == pytest.approx(candidate.accuracy.f1, abs=0.005)
    assert stock["dtype"] == "torch.float32"


def test_a_runtime_gets_the_accuracy_that_stock_ultralytics_gets_from_the_file(
    learnt: tuple[NetworkStep, TrainingSetup], stock_ultralytics: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    candidate, setup = learnt
    detector, loaders = candidate.load(), DataLoaders(setup)
    images = [image[None].numpy() for batch in loaders.calibration() for image in batch]
    detector.export_onnx(tmp_path / "fp32.onnx", setup.imgsz)
    quantise(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", images, Quantisation(short_weights=True))
    found = {}
    for precision in ("fp32", "int8"):
        file = tmp_path / f"{precision}.onnx"
        predict = create_predictor(OnnxRuntimeSpec(), Network("best", (1, 3, setup.imgsz, setup.imgsz), onnx=file))
        accuracy = evaluate_predictor(predict, detector.names, setup, loaders)
        stock = stock_ultralytics("val", file, setup.data, setup.imgsz, setup.batch)
        assert accuracy.map50_95 == pytest.approx(stock["metrics/mAP50-95(B)"], abs=0.001)
        assert accuracy.map50 == pytest.approx(stock["metrics/mAP50(B)"], abs=0.001)
        found[precision] = accuracy.map50_95
    assert found["fp32"] > LEARNT / 2
    assert found["int8"] > found["fp32"] / 2


def test_onnx_computes_what_the_checkpoint_does_to_a_thousandth(
    learnt: tuple[NetworkStep, TrainingSetup], tmp_path: Path
) -> None:
    candidate, setup = learnt
    detector = candidate.load()
    detector.export_onnx(tmp_path / "best.onnx", setup.imgsz)
    session = onnxruntime.InferenceSession(tmp_path / "best.onnx", providers=["CPUExecutionProvider"])
    network = detector.model.eval()
    for file in sorted((Path(setup.data).parent / "images" / "val").glob("*.png")):
        image = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            expected = network(image)[0].numpy()
        (got,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        # A box that a hardly trained network puts far outside of the image has fewer digits behind the point.
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-3)
