"""Recipes for other input sizes than the study's, on tiny images: what is shared, what is trained and scored there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from prunetune.pruning import Detector, Pipeline, Source, StageRunner, StageStore, TrainingSetup
from prunetune.pruning.accuracy.detections import detect
from prunetune.pruning.pipeline import Pruned, Recovered, Trained
from prunetune.pruning.stages.stage import training_stage
from prunetune.pruning.training.values import recovery_phase
from prunetune.pruning.yolo.export import export_openvino
from prunetune.spaces import ConfigError, ImageSize, Recipe, StageUse, Threshold

NAMES = ("square", "disc")
RECIPE = Recipe(0.3, 1, Threshold.everywhere(2.0), recovery_epochs=1)
"""Its threshold is above every gamma: all layers end at their smallest width, which trains fast."""


@pytest.fixture(scope="module")
def pipeline(setup: TrainingSetup, store: StageStore) -> Pipeline:
    source = Source("yolov5n.yaml", NAMES, dense_epochs=1)
    return Pipeline(source, StageRunner(setup, store), alignment=8, longest_sparse_epochs=1)


def carry_out(pipeline: Pipeline, recipe: Recipe) -> list[Pruned | Recovered]:
    return [step for step in pipeline.run(recipe) if not isinstance(step, Trained)]


def parents(networks: list[Pruned | Recovered], store: StageStore) -> list[str]:
    """The stages that surgeries started from."""
    return [network.stage.parent for network in networks if isinstance(network, Pruned)]


@contextmanager
def sizes_seen() -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Heights and widths of the batches of images that networks are trained on meanwhile, and of all others."""
    found: dict[str, set[tuple[int, int]]] = {"trained": set(), "seen": set()}

    def hear(layer: nn.Module, images: tuple[Any, ...]) -> None:
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and len(images[0]) > 1:
            does = "trained" if layer.training and layer.weight.requires_grad else "seen"
            found[does].add(tuple(images[0].shape[2:]))

    handle = nn.modules.module.register_module_forward_pre_hook(hear)
    try:
        yield found
    finally:
        handle.remove()


# Names of stages


def test_a_rectangle_is_trained_on_squares_of_its_longer_side() -> None:
    setup = TrainingSetup("d.yaml", "data", imgsz=640)
    wide, tall = setup.at((384, 640)), setup.at((640, 384))
    assert (wide.imgsz, wide.size, tall.imgsz, tall.size) == (640, (384, 640), 640, (640, 384))
    assert (wide.at(96).imgsz, wide.at(96).size) == (96, 96)
    assert wide.at(640) == setup.at(640) == setup.at((640, 640)) == setup


def test_stages_of_each_size_have_names_of_their_own_and_those_of_squares_stay() -> None:
    setup = TrainingSetup("d.yaml", "data", imgsz=64, batch=8)
    phase = recovery_phase(3, "map50_95")

    def name(imgsz: ImageSize) -> str:
        return training_stage("recovery", "parent", setup.at(imgsz), phase).digest

    assert name(64) == "recovery-0f2555cf68cbe5f94f4b"
    assert name(96) == training_stage("recovery", "parent", replace(setup, imgsz=96), phase).digest
    assert len({name(size) for size in (64, 96, (64, 96), (96, 64), (32, 96))}) == 5


def test_a_runner_has_one_runner_for_each_size(setup: TrainingSetup, store: StageStore) -> None:
    heard: list[tuple[str, int, int]] = []
    stages = StageRunner(setup, store, listener=lambda *begun: heard.append(begun) or (lambda _: None))
    assert stages.at(None) is stages
    assert stages.at(64) is stages
    small = stages.at(32)
    assert small is stages.at(32)
    assert small is not stages
    assert (small.at(64), small.at(None), small.at((32, 64))) == (stages, small, stages.at((32, 64)))
    assert (small.setup.imgsz, small.store, small.meter) == (32, stages.store, stages.meter)
    assert "loaders" not in vars(small), "images are read when they are needed"
    assert small.loaders is not stages.loaders


# Recipes


@pytest.mark.slow
def test_sizes_share_the_sparse_phase_and_nothing_after_it(pipeline: Pipeline, store: StageStore) -> None:
    own = carry_out(pipeline, RECIPE)
    assert [network.stage.digest for network in carry_out(pipeline, replace(RECIPE, imgsz=64))] == [
        network.stage.digest for network in own
    ]
    before = pipeline.stages.meter.reading()
    with sizes_seen() as seen:
        pruned, recovered = carry_out(pipeline, replace(RECIPE, imgsz=96))
    assert seen == {"trained": {(96, 96)}, "seen": {(96, 96), (128, 128)}}, "ultralytics pads what it validates"
    assert pruned.stage.parent == own[0].stage.parent, "the sparse phase is shared"
    assert pruned.plan == own[0].plan
    assert pruned.stage.digest != own[0].stage.digest
    assert recovered.stage.digest != own[1].stage.digest
    uses = (pipeline.stages.meter.reading() - before).stages
    assert [(use.kind, use.trained, use.reused) for use in uses if use.kind != "original"] == [
        ("sparse", 0, 1),
        ("pruning", 0, 0),
        ("recovery", 1, 0),
    ]
    larger = pipeline.stages.at(96)
    assert recovered.accuracy == larger.evaluate(recovered.load())
    assert recovered.stage.gflops == recovered.load().gflops(96) > own[1].stage.gflops
    assert recovered.stage.params == own[1].stage.params


@pytest.mark.slow
def test_each_round_is_sparse_at_the_studys_size(pipeline: Pipeline, store: StageStore) -> None:
    recipe = replace(RECIPE, rounds=2, imgsz=96)
    (first, recovered, second, _) = carry_out(pipeline, recipe)
    trunk = store.find(second.stage.parent)
    assert trunk is not None
    assert trunk.parent == recovered.stage.digest
    assert trunk.record["settings"]["setup"]["imgsz"] == 64
    assert [network.stage.record["settings"]["setup"]["imgsz"] for network in (first, recovered, second)] == [96] * 3


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_a_killed_recovery_of_another_size_goes_on(pipeline: Pipeline, store: StageStore) -> None:
    recipe = replace(RECIPE, imgsz=96, recovery_epochs=2)

    def dies(*_: Any) -> Callable[[Any], None]:
        def hear(record: Any) -> None:
            raise KilledError

        return hear

    pipeline.original()
    next(pipeline.run(recipe))
    killed = Pipeline(
        pipeline.source,
        StageRunner(pipeline.stages.setup, store, listener=dies),
        alignment=8,
        longest_sparse_epochs=1,
    )
    with pytest.raises(KilledError):
        carry_out(killed, recipe)
    before = pipeline.stages.meter.reading()
    recovered = carry_out(pipeline, recipe)[-1]
    use = (pipeline.stages.meter.reading() - before).stages[-1]
    assert use == StageUse("recovery", recovered.stage.digest, trained=1, reused=1)


@pytest.mark.slow
def test_a_rectangle_is_recovered_on_squares_and_scored_as_it_is(pipeline: Pipeline) -> None:
    with sizes_seen() as seen:
        pruned, recovered = carry_out(pipeline, replace(RECIPE, imgsz=(64, 96)))
    assert seen == {"trained": {(96, 96)}, "seen": {(64, 96)}}
    wide = pipeline.stages.at((64, 96))
    for network in (pruned, recovered):
        assert network.accuracy == wide.evaluate(network.load())
        assert network.stage.gflops == network.load().gflops((64, 96))
    assert recovered.stage.gflops == pytest.approx(recovered.load().gflops(96) * 2 / 3, rel=1e-3)
    images = next(wide.loaders.calibration())
    assert tuple(images.shape) == (8, 3, 64, 96)
    square = pipeline.run(replace(RECIPE, imgsz=96))
    assert next(square).stage.digest != pruned.stage.digest
    file = sorted((Path(wide.setup.data).parent / "images" / "val").glob("*.png"))[0]
    ((_, *_),) = detect(recovered.checkpoint, [file], (64, 96), 1e-9, "cpu")


def test_an_export_for_a_rectangle(tmp_path: Path) -> None:
    detector = Detector.load("yolov5n.yaml", NAMES)
    detector.export_onnx(tmp_path / "wide.onnx", (32, 64))
    session = onnxruntime.InferenceSession(tmp_path / "wide.onnx")
    assert tuple(session.get_inputs()[0].shape) == detector.input_shape((32, 64)) == (1, 3, 32, 64)
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        expected = detector.model.eval()(image)[0].numpy()
    np.testing.assert_allclose(session.run(None, {"images": image.numpy()})[0], expected, atol=1e-3)
    openvino = pytest.importorskip("openvino")
    export_openvino(detector.model, tmp_path / "wide_openvino_model", (32, 64))
    (file,) = (tmp_path / "wide_openvino_model").glob("*.xml")
    assert list(openvino.Core().read_model(file).input(0).shape) == [1, 3, 32, 64]


# Sizes that no network takes


@pytest.mark.slow
def test_nothing_is_trained_or_scored_at_sizes_that_are_no_multiples_of_the_stride(pipeline: Pipeline) -> None:
    detector = pipeline.stages.load(pipeline.original())
    message = "imgsz: 80 is no multiple of 32, the stride of .*; take 64 or 96"
    for size in (80, (80, 96), (64, 80)):
        with pytest.raises(ConfigError, match=message):
            next(pipeline.run(replace(RECIPE, imgsz=size)))
        with pytest.raises(ConfigError, match=message):
            pipeline.stages.at(size).evaluate(detector)
        with pytest.raises(ConfigError, match=message):
            pipeline.stages.at(size).train("recovery", pipeline.original(), recovery_phase(1, "last"))


def test_every_export_refuses_them(tmp_path: Path) -> None:
    detector = Detector.load("yolov5n.yaml", NAMES)
    message = "imgsz: 80 is no multiple of 32, the stride of .*; take 64 or 96"
    for size in (80, (64, 80)):
        with pytest.raises(ConfigError, match=message):
            detector.export_onnx(tmp_path / "odd.onnx", size)
        with pytest.raises(ConfigError, match=message):
            export_openvino(detector.model, tmp_path / "odd", size)
    assert not list(tmp_path.iterdir())
    assert detector.imgsz_problem(16) == f"16 is no multiple of 32, the stride of {detector.source}; take 32"
    assert detector.imgsz_problem((32, 640)) is None
