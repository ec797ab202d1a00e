"""Accuracies are those that stock ultralytics finds, whatever the images' proportions, stride and channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageDraw

from prunetune.pruning.detector import Detector, read_description
from prunetune.pruning.evaluation import evaluate
from prunetune.pruning.loaders import DataLoaders
from prunetune.pruning.stage_files import CHECKPOINT
from prunetune.pruning.stage_runner import StageRunner, Untrained
from prunetune.pruning.stages import Stage
from prunetune.pruning.store import StageStore
from prunetune.pruning.training import TrainingSetup, recovery_phase
from prunetune.spaces import DatasetError

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


def stock_score(file: Path, data: Path, imgsz: int, batch: int) -> float:
    """map50_95 as `YOLO(file).val` finds it."""
    from ultralytics import YOLO

    options = {"data": str(data), "imgsz": imgsz, "batch": batch, "device": "cpu", "plots": False, "verbose": False}
    return float(YOLO(file, task="detect").val(project=str(file.parent), **options).box.map)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "imgsz", "channels"),
    [("yolov5n.yaml", 96, 3), ("yolov5n-p6.yaml", 128, 3), ("yolov5n.yaml", 96, 1), ("yolov5n.yaml", 96, 4)],
)
def test_scores_are_those_of_stock_ultralytics(model: str, imgsz: int, channels: int, tmp_path: Path) -> None:
    data = write_mixed(tmp_path / "mixed", channels)
    setup = TrainingSetup(str(data), "mixed", imgsz, batch=6, hyperparameters={"mosaic": 0.0, "lr0": 0.004})
    untrained = Untrained({**read_description(model), "channels": channels}, NAMES, seed=0)
    stages = StageRunner(setup, StageStore(tmp_path / "store"))
    learnt = Detector.load(stages.train("sparse", untrained, recovery_phase(EPOCHS, "last")).stage.file(CHECKPOINT))
    stages.recalibrate(learnt)  # after so few steps its statistics are still the first ones
    stage = stages.make(Stage("pruned", "", {}), lambda: learnt).stage
    checkpoint, onnx = stage.file(CHECKPOINT), tmp_path / "model.onnx"
    assert stage.accuracy is not None
    scores = {6: stage.accuracy.map50_95}
    assert scores[6] > 0.05

    detector = Detector.load(checkpoint)
    for batch in (1, 16):
        other = replace(setup, batch=batch)
        scores[batch] = evaluate(detector, other, DataLoaders(other)).map50_95
    stock = {batch: stock_score(checkpoint, data, imgsz, batch) for batch in scores}
    assert scores == pytest.approx(stock, abs=1e-3)
    assert stock[1] != stock[16], "padding alike tells batches apart"

    detector.export_onnx(onnx, imgsz)
    session = onnxruntime.InferenceSession(onnx)
    exported = stages.evaluate_predictor(lambda images: session.run(None, {"images": images})[0], NAMES)
    assert exported.map50_95 == pytest.approx(stock_score(onnx, data, imgsz, batch=1), abs=1e-3)
