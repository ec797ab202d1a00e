"""Accuracies are those that stock ultralytics finds, whatever the images' proportions, stride and channels."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageDraw

from prunetune.pruning.stages.stage import Stage
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.stages.stage_runner import StageRunner, Untrained
from prunetune.pruning.stages.store import StageStore, StoredStage
from prunetune.pruning.training.evaluation import evaluate
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.values import TrainingSetup, recovery_phase
from prunetune.pruning.yolo.detector import Detector, read_description
from prunetune.spaces import DatasetError, ImageSize, size_text
from prunetune.targets import Quantisation, quantise

SIZES = ((96, 64), (64, 96), (128, 48), (40, 100), (80, 80), (150, 60))
"""Width and height of the images in px, in turn."""

NAMES = ("square", "disc")

EPOCHS = 20
"""Of training, until something is found."""


def write_mixed(folder: Path, channels: int) -> Path:
    """Writes squares and discs on noise in images of several proportions; returns their data.yaml."""
    mode, bands = {1: ("L", 1), 3: ("RGB", 3), 4: ("RGBA", 4)}[channels]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(18):
        rng = np.random.default_rng(index)
        width, height = SIZES[index % len(SIZES)]
        noise = rng.integers(90, 140, (height, width, bands), dtype=np.uint8)
        picture, lines = Image.fromarray(noise.squeeze(), mode), []
        draw = ImageDraw.Draw(picture)
        for place in range(width // 50 + 1):
            side = int(rng.integers(16, min(30, height - 2)))
            x = min(place * 50 + int(rng.integers(0, 10)), width - side - 1)
            y = int(rng.integers(0, height - side))
            disc = int(rng.integers(0, 2))
            fill = (250, 40, 40, 250) if disc else (40, 40, 250, 40)
            (draw.ellipse if disc else draw.rectangle)((x, y, x + side, y + side), fill=fill[:bands])
            centre = ((x + side / 2) / width, (y + side / 2) / height)
            lines.append(f"{disc} {centre[0]:.6f} {centre[1]:.6f} {side / width:.6f} {side / height:.6f}")
        picture.save(folder / "images" / f"{index:02d}.png")
        (folder / "labels" / f"{index:02d}.txt").write_text("\n".join(lines) + "\n")
    data = folder / "data.yaml"
    data.write_text(f"train: images\nval: images\nchannels: {channels}\nnames: {list(NAMES)}\n")
    return data


def test_images_of_other_channels_than_the_data_set_says(tmp_path: Path) -> None:
    data = write_mixed(tmp_path / "mixed", channels=3)
    data.write_text(data.read_text().replace("channels: 3", "channels: 4"))
    with pytest.raises(DatasetError, match=r"channels: is 4, but .*00\.png has 3; correct the number or the image"):
        DataLoaders(TrainingSetup(str(data), "mixed", 64, batch=4)).train()


@dataclass(frozen=True)
class Learnt:
    """A detector that finds something, with the runner that trained it."""

    stages: StageRunner
    stage: StoredStage
    folder: Path

    @cached_property
    def detector(self) -> Detector:
        return Detector.load(self.stage.file(CHECKPOINT))

    def exported(self, imgsz: ImageSize) -> Path:
        """Its ONNX file."""
        file = self.folder / f"{size_text(imgsz)}.onnx"
        self.detector.export_onnx(file, imgsz)
        return file

    def score_of(self, file: Path, imgsz: ImageSize) -> float:
        """map50_95 of what ONNX Runtime makes of a file."""
        session = onnxruntime.InferenceSession(file)
        stages = self.stages.at(imgsz)
        return stages.evaluate_predictor(lambda images: session.run(None, {"images": images})[0], NAMES).map50_95

    def stock_score(self, file: Path, batch: int, **options: Any) -> float:
        """map50_95 as `YOLO(file).val` finds it."""
        from ultralytics import YOLO

        options |= {"data": self.stages.setup.data, "batch": batch, "device": "cpu", "plots": False, "verbose": False}
        return float(YOLO(file, task="detect").val(project=str(self.folder), **options).box.map)


COLOUR = ("yolov5n.yaml", 96, 3)


@pytest.fixture(
    scope="module",
    params=[
        COLOUR,
        *(
            pytest.param(shape, marks=pytest.mark.faults)
            for shape in [("yolov5n-p6.yaml", 128, 3), ("yolov5n.yaml", 96, 1), ("yolov5n.yaml", 96, 4)]
        ),
    ],
    ids=lambda param: "-".join(map(str, param)),
)
def learnt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    model, imgsz, channels = request.param
    folder = tmp_path_factory.mktemp("learnt")
    data = write_mixed(folder / "mixed", channels)
    setup = TrainingSetup(str(data), "mixed", imgsz, batch=6, hyperparameters={"mosaic": 0.0, "lr0": 0.004})
    untrained = Untrained({**read_description(model), "channels": channels}, NAMES, seed=0)
    stages = StageRunner(setup, StageStore(folder / "store"))
    detector = Detector.load(stages.train("sparse", untrained, recovery_phase(EPOCHS, "last")).stage.file(CHECKPOINT))
    stages.recalibrate(detector)  # after so few steps its statistics are still the first ones
    return Learnt(stages, stages.make(Stage("pruned", "", {}), lambda: detector).stage, folder)


@pytest.mark.slow
def test_scores_are_those_of_stock_ultralytics(learnt: Learnt) -> None:
    setup, checkpoint = learnt.stages.setup, learnt.stage.file(CHECKPOINT)
    assert learnt.stage.accuracy is not None
    scores = {6: learnt.stage.accuracy.map50_95}
    assert scores[6] > 0.05

    for batch in (1, 16):
        other = replace(setup, batch=batch)
        scores[batch] = evaluate(learnt.detector, other, DataLoaders(other)).map50_95
    stock = {batch: learnt.stock_score(checkpoint, batch, imgsz=setup.imgsz) for batch in scores}
    assert scores == pytest.approx(stock, abs=1e-3)
    assert stock[1] != stock[16], "padding alike tells batches apart"

    onnx = learnt.exported(setup.imgsz)
    assert learnt.score_of(onnx, setup.imgsz) == pytest.approx(learnt.stock_score(onnx, batch=1), abs=1e-3)


@pytest.mark.slow
def test_scores_at_a_smaller_size_are_those_of_stock_ultralytics(learnt: Learnt) -> None:
    imgsz = learnt.stages.setup.imgsz - learnt.detector.stride
    score = learnt.stages.at(imgsz).evaluate(learnt.detector).map50_95
    assert score == pytest.approx(learnt.stock_score(learnt.stage.file(CHECKPOINT), batch=6, imgsz=imgsz), abs=1e-3)
    assert score != pytest.approx(learnt.stage.accuracy.map50_95, abs=1e-3)
    onnx = learnt.exported(imgsz)
    assert learnt.score_of(onnx, imgsz) == pytest.approx(learnt.stock_score(onnx, batch=1), abs=1e-3)


@pytest.mark.slow
def test_scores_of_a_rectangle_are_those_that_stock_ultralytics_gets_from_its_file(learnt: Learnt) -> None:
    side = learnt.stages.setup.imgsz
    short = side - learnt.detector.stride
    for imgsz in ((short, side), (side, short)):
        onnx = learnt.exported(imgsz)
        (image,) = onnxruntime.InferenceSession(onnx).get_inputs()
        assert tuple(image.shape) == learnt.detector.input_shape(imgsz)
        assert tuple(image.shape[2:]) == imgsz
        score = learnt.stages.at(imgsz).evaluate(learnt.detector).map50_95
        assert score == pytest.approx(learnt.score_of(onnx, imgsz), abs=1e-3)
        assert score == pytest.approx(learnt.stock_score(onnx, batch=1, imgsz=list(imgsz)), abs=1e-3)
        assert score == pytest.approx(learnt.stock_score(onnx, batch=1), abs=1e-3), "the file says its size"


@pytest.mark.slow
@pytest.mark.parametrize("learnt", [COLOUR], indirect=True)
def test_stock_ultralytics_exports_a_checkpoint_for_its_rectangle(learnt: Learnt) -> None:
    from ultralytics import YOLO

    imgsz = (64, 96)
    stage = learnt.stages.at(imgsz).make(Stage("pruned", "", {"imgsz": imgsz}), lambda: learnt.detector).stage
    assert stage.accuracy is not None
    checkpoint = learnt.folder / "wide.pt"
    shutil.copyfile(stage.file(CHECKPOINT), checkpoint)
    onnx = Path(YOLO(checkpoint).export(format="onnx", device="cpu", simplify=True))
    assert tuple(onnxruntime.InferenceSession(onnx).get_inputs()[0].shape) == (1, 3, 64, 96)
    assert stage.accuracy.map50_95 == pytest.approx(learnt.stock_score(onnx, batch=1), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("learnt", [COLOUR], indirect=True)
@pytest.mark.parametrize("imgsz", [64, (64, 96)], ids=size_text)
def test_scores_in_int8_at_another_size_are_those_of_stock_ultralytics(learnt: Learnt, imgsz: ImageSize) -> None:
    images = [image[None].numpy() for batch in learnt.stages.at(imgsz).loaders.calibration() for image in batch]
    assert {image.shape for image in images} == {learnt.detector.input_shape(imgsz)}
    file = learnt.folder / f"{size_text(imgsz)}-int8.onnx"
    quantise(learnt.exported(imgsz), file, images, Quantisation(short_weights=True))
    score = learnt.score_of(file, imgsz)
    assert score == pytest.approx(learnt.stock_score(file, batch=1), abs=1e-3)
    assert score > 0.5 * learnt.stages.at(imgsz).evaluate(learnt.detector).map50_95 > 0
