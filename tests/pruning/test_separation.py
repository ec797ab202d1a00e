"""Gammas that part at a threshold, and gammas that do not."""

from __future__ import annotations

import re

import numpy
import pytest
import torch
from torch import nn

from prunetune.pruning import Detector
from prunetune.pruning.planning.plan import Scores
from prunetune.pruning.planning.separation import BINS, histogram, unseparated
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.spaces import Threshold


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("yolov5n.yaml", names=("square", "disc"))


@pytest.fixture(scope="module")
def groups(detector: Detector) -> tuple[ChannelGroup, ...]:
    return channel_groups(detector.model)


class Gammas:
    """Detectors with gammas of one distribution."""

    def __init__(self, detector: Detector, groups: tuple[ChannelGroup, ...]) -> None:
        self._detector, self._groups = detector, groups

    def warning(self, threshold: float | Threshold, *parts: tuple[float, float, float], seed: int = 0) -> str | None:
        """What is said about gammas of which shares are drawn around means; each part is (share, mean, deviation)."""
        drawn = numpy.random.default_rng(seed)
        shares, means, deviations = (numpy.array(column) for column in zip(*parts, strict=True))
        for module in self._detector.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                chosen = drawn.choice(len(parts), size=module.num_features, p=shares)
                values = means[chosen] + deviations[chosen] * drawn.standard_normal(module.num_features)
                module.weight.data = torch.tensor(values, dtype=torch.float32)
        scores = Scores.of(self._detector.model, 8, self._groups)
        return unseparated(scores, threshold if isinstance(threshold, Threshold) else Threshold.everywhere(threshold))


@pytest.fixture(scope="module")
def gammas(detector: Detector, groups: tuple[ChannelGroup, ...]) -> Gammas:
    return Gammas(detector, groups)


SPARSE = ((0.5, 0.0, 0.001), (0.5, 0.7, 0.15))
"""As a long sparse phase leaves them."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.2, 0.3])
def test_between_two_clusters_they_separate(gammas: Gammas, threshold: float, seed: int) -> None:
    assert gammas.warning(threshold, *SPARSE, seed=seed) is None


@pytest.mark.parametrize("seed", range(3))
def test_right_above_the_zeros_they_separate_whatever_the_rest_is(gammas: Gammas, seed: int) -> None:
    assert gammas.warning(0.005, (0.5, 0.0, 0.0), (0.5, 0.5, 0.2), seed=seed) is None


def test_some_of_the_zeros_may_stay(gammas: Gammas) -> None:
    assert gammas.warning(5e-61, (0.5, 0.0, 0.0), (0.5, 0.5, 0.2)) is None


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8])
def test_in_the_midst_of_a_cluster_they_do_not(gammas: Gammas, threshold: float) -> None:
    said = gammas.warning(threshold, *SPARSE)
    assert said is not None
    assert re.fullmatch(
        rf"nothing separates at threshold {threshold}: \d+% of the gammas are within [\d.]+ of it 0 \S+\|\S+ [\d.]+",
        said,
    )


def test_one_shifted_cluster_does_not_separate(gammas: Gammas) -> None:
    """A short sparse phase: all are lower, and none parts from the others."""
    assert gammas.warning(0.6, (1.0, 0.6, 0.1)) is not None
    assert gammas.warning(0.5, (1.0, 0.6, 0.1)) is not None


def test_dense_gammas_are_all_alike(gammas: Gammas) -> None:
    said = gammas.warning(0.99, (1.0, 1.0, 0.01))
    assert said is not None
    assert "gammas are alike, 0.9" in said


def test_a_tail_may_be_cut_anywhere(gammas: Gammas) -> None:
    assert gammas.warning(0.3, (1.0, 0.6, 0.15)) is None


@pytest.mark.parametrize("threshold", [0.0, 9.0])
def test_what_removes_nothing_or_all_needs_no_valley(gammas: Gammas, threshold: float) -> None:
    assert gammas.warning(threshold, (1.0, 0.6, 0.1)) is None


def test_the_region_is_named_where_thresholds_differ(gammas: Gammas) -> None:
    said = gammas.warning(Threshold(backbone=0.2, head=0.7), *SPARSE)
    assert said is not None
    assert "at threshold 0.7 of head and neck: " in said
    assert "0.2" not in said.split(":")[0]
    everywhere = gammas.warning(Threshold(backbone=0.65, neck=0.7, head=0.75), *SPARSE)
    assert everywhere is not None
    assert all(f"of {region}: " in everywhere for region in ("backbone", "neck", "head"))


def test_a_histogram_is_one_line() -> None:
    drawn = histogram([0.0] * 50 + [1.0] * 50, 0.5)
    low, bars, top = drawn.split(" ")
    assert (low, top) == ("0", "1")
    left, right = bars.split("|")
    assert (len(left), len(right)) == (BINS // 2, BINS // 2)
    assert left[0] == right[-1] == "█"
    assert set(left[1:] + right[:-1]) == {"·"}
