"""Accuracies from matches, image by image, and how far they may be off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.pruning.accuracy.bootstrap import bootstrap, percentile_interval
from prunetune.pruning.accuracy.matches import IOUS, Matches, MatchRecorder
from prunetune.pruning.training.evaluation import evaluate
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.values import TrainingSetup
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.errors import StoreError


def made(seed: int, images: int = 6, classes: int = 3, right: float = 0.6) -> Matches:
    """Random detections, no two of the same confidence."""
    rng = np.random.default_rng(seed)
    count, objects = int(rng.integers(0, 40)), int(rng.integers(1, 20))
    limit = rng.integers(0, IOUS + 1, (count, 1)) * (rng.random((count, 1)) < right)
    lost = rng.random((count, IOUS)) < 0.2  # to a surer detection of the same object, at some thresholds
    return Matches(
        images=np.array([f"{index}.png" for index in range(images)]),
        correct=(np.arange(IOUS) < limit) & ~lost,
        confidence=rng.permutation(count).astype(np.float32) / 50,
        predicted=rng.integers(0, classes, count),
        image=rng.integers(0, images, count),
        target=rng.integers(0, classes, objects),
        target_image=rng.integers(0, images, objects),
    )


def drawn(matches: Matches, counts: np.ndarray) -> tuple[float, float]:
    """What ultralytics says of the images that were drawn, laid side by side."""
    prepare_ultralytics()
    from ultralytics.utils.metrics import ap_per_class

    rows = np.repeat(np.arange(len(matches.image)), counts[matches.image])
    objects = np.repeat(matches.target, counts[matches.target_image])
    # It sorts by confidence and leaves the order of equals open; copies of one detection are equal anyway.
    found = ap_per_class(matches.correct[rows], matches.confidence[rows], matches.predicted[rows], objects)[5]
    return float(found[:, 0].mean()), float(found.mean())


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_a_draw_scores_as_its_images_do(seed: int, counts: list[int]) -> None:
    matches, often = made(seed), np.array(counts)
    if not often[matches.target_image].any():
        assert np.isnan(matches.map(often)).all()
    else:
        assert matches.map(often) == pytest.approx(drawn(matches, often), abs=1e-9)
    assert matches.map() == matches.map(np.ones(6, dtype=int))


def test_draws_are_the_same_for_all_networks_and_for_a_seed() -> None:
    one, other = made(3), made(4)
    found = bootstrap({"a": one, "b": other, "c": one}, 50, seed=7)
    assert found["a"].shape == (50, 2)
    np.testing.assert_array_equal(found["a"], found["c"])
    np.testing.assert_array_equal(found["b"], bootstrap({"b": other}, 50, seed=7)["b"])
    assert not np.array_equal(found["b"], bootstrap({"b": other}, 50, seed=8)["b"])


def test_an_interval_narrows_with_the_images() -> None:
    few, many = made(1, images=10, right=0.5), made(1, images=10, right=0.5)
    many = Matches(
        images=np.array([f"{index}.png" for index in range(160)]),
        **{
            name: np.concatenate([getattr(few, name) + (10 * copy if "image" in name else 0) for copy in range(16)])
            for name in ("confidence", "predicted", "image", "target", "target_image")
        },
        correct=np.concatenate([few.correct] * 16),
    )
    widths = []
    for matches in (few, many):
        low, high = percentile_interval(bootstrap({"a": matches}, 200, seed=0)["a"][:, 0])
        widths.append(high - low)
    assert 0 < widths[1] < widths[0] / 2  # a quarter, as the square root of the images says, but for chance


def test_an_interval_holds_the_middle_of_the_draws() -> None:
    samples = np.append(np.linspace(0, 1, 1001), [np.nan] * 50)
    assert percentile_interval(samples) == pytest.approx((0.025, 0.975))
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()


def test_networks_on_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="different images"):
        bootstrap({"a": made(1), "b": made(1, images=7)}, 10, seed=0)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    matches = made(5)
    matches.save(tmp_path / "m" / "matches.npz")
    again = Matches.load(tmp_path / "m" / "matches.npz")
    assert again.map() == matches.map()
    assert list(again.images) == list(matches.images)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nonsense")
    for name in ("bad.npz", "missing.npz"):
        with pytest.raises(StoreError, match=name):
            Matches.load(tmp_path / name)


@pytest.mark.slow
def test_what_a_validation_matched_scores_as_the_validation(shapes: Path) -> None:
    """Untrained, and with the threshold of the validator at 0.001 full of wrong detections."""
    setup = TrainingSetup(data=str(shapes), data_fingerprint="", imgsz=64, batch=3)
    loaders, recorder = DataLoaders(setup), MatchRecorder()
    accuracy = evaluate(Detector.load("yolov5n.yaml", ("square", "disc")), setup, loaders, "test", recorder)
    matches = recorder.matches()
    assert matches.size == 8
    assert sorted(matches.images) == [f"{index:03d}.png" for index in range(8)]
    assert matches.map() == pytest.approx((accuracy.map50, accuracy.map50_95), abs=1e-6)
