"""How fast a machine trains: some steps of a few images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prunetune.pruning.data.dataset import Dataset, inspect_dataset
from prunetune.pruning.training.speed import EPOCHS, STEPS, measure_speed, speed_of
from prunetune.pruning.training.values import EpochRecord, TrainingSetup, TrainingSpeed
from prunetune.pruning.yolo.detector import Detector


@pytest.fixture(scope="module")
def dataset(shapes: Path) -> Dataset:
    return inspect_dataset(shapes)


def test_the_first_epoch_does_not_count_if_there_are_others() -> None:
    records = [EpochRecord(1, {}, 9.0, 9.0), EpochRecord(2, {}, 2.0, 0.5), EpochRecord(3, {}, 4.0, 1.5)]
    assert speed_of(records, steps=4, images=10) == TrainingSpeed(0.75, 0.1)
    assert speed_of(records[:1], steps=4, images=10) == TrainingSpeed(2.25, 0.9)


def test_an_epoch_takes_its_steps_and_its_images() -> None:
    assert TrainingSpeed(0.5, 0.25).epoch_s(steps=10, images=8) == 7.0


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 2, 5]), (8, [*range(8)]), (99, [*range(8)])])
def test_a_few_images_are_spread_over_a_split(dataset: Dataset, count: int, expected: list[int]) -> None:
    images = dataset.some_images("val", count)
    assert [int(image.stem) for image in images] == expected
    assert all(image.is_absolute() for image in images)


def test_images_that_are_left_out_are_not_taken(dataset: Dataset) -> None:
    first = dataset.some_images("val", 1)[0]
    assert first not in replace(dataset, left_out={first: "damaged"}).some_images("val", 99)


@pytest.mark.slow
def test_steps_are_trained_and_the_detector_stays_as_it_is(dataset: Dataset) -> None:
    detector = Detector.load("yolov5n.yaml", dataset.names)
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    batches = 0

    class Counted:
        def __enter__(self) -> None:
            nonlocal batches
            batches += 1

        def __exit__(self, *_: object) -> None:
            pass

    setup = TrainingSetup(data="unused", data_fingerprint="", imgsz=32, batch=4, hyperparameters={"fraction": 0.1})
    speed = measure_speed(detector, setup, dataset, Counted)
    assert speed.step_s > 0
    assert speed.image_s > 0
    assert batches in {epochs * (STEPS + 2) for epochs in range(1, EPOCHS + 1)}, "8 images validate in two batches"
    assert all(before[name].equal(value) for name, value in detector.model.state_dict().items())
