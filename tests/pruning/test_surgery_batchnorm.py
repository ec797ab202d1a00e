"""BatchNorm: recalibrated statistics and the histogram of gammas."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunetune.pruning.training.batchnorm import (
    follow_within_an_epoch,
    gamma_distribution,
    gammas,
    norm_layers,
    recalibrate,
)
from prunetune.pruning.training.values import GammaDistribution
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.spaces.errors import DatasetError, ModelError


@pytest.fixture
def detector(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
    prepare_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return DetectionModel("yolov5n.yaml", nc=2, verbose=False)


def test_statistics_become_the_mean_over_the_batches(detector: Any) -> None:
    norm = detector.model[0].bn
    norm.running_mean.fill_(7.0)
    batches = [torch.rand(2, 3, 64, 64) * scale for scale in (0.2, 0.6, 1.0)]
    with torch.no_grad():
        outputs = [detector.model[0].conv(images) for images in batches]
    recalibrate(detector, iter(batches))
    means = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs])
    variances = torch.stack([output.var(dim=(0, 2, 3)) for output in outputs])
    torch.testing.assert_close(norm.running_mean, means.mean(dim=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, variances.mean(dim=0), atol=1e-5, rtol=1e-4)
    assert norm.num_batches_tracked == 3


def test_nothing_but_statistics_changes(detector: Any) -> None:
    detector.train()
    detector.model[2].eval()
    weights = {name: weight.detach().clone() for name, weight in detector.named_parameters()}
    modes = [module.training for module in detector.modules()]
    recalibrate(detector, [torch.rand(2, 3, 64, 64)])
    assert [module.training for module in detector.modules()] == modes
    assert all(torch.equal(weights[name], weight) for name, weight in detector.named_parameters())
    assert all(weight.grad is None for weight in detector.parameters())
    assert all(norm.momentum == 0.03 for norm in detector.modules() if isinstance(norm, nn.BatchNorm2d))


def test_a_failing_batch_leaves_modes_and_momenta_in_order(detector: Any) -> None:
    detector.train()
    with pytest.raises(RuntimeError):
        recalibrate(detector, [torch.rand(1, 5, 64, 64)])
    assert all(module.training for module in detector.modules())
    assert detector.model[0].bn.momentum == 0.03


def test_no_batch_is_an_error_and_changes_nothing(detector: Any) -> None:
    detector.model[0].bn.running_mean.fill_(7.0)
    with pytest.raises(DatasetError, match="at least one batch"):
        recalibrate(detector, [])
    assert (detector.model[0].bn.running_mean == 7.0).all()


def test_gammas_are_absolute_and_detached(detector: Any) -> None:
    detector.model[0].bn.weight.data.fill_(-0.25)
    found = gammas(detector)
    assert next(iter(found)) == "model.0.bn"
    assert sum(map(len, found.values())) == sum(
        norm.num_features for norm in detector.modules() if isinstance(norm, nn.BatchNorm2d)
    )
    assert (found["model.0.bn"] == 0.25).all()
    found["model.0.bn"].zero_()
    assert (detector.model[0].bn.weight == -0.25).all()


def test_the_histogram_counts_every_gamma_once(detector: Any) -> None:
    for norm in detector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.constant_(norm.weight, 1.01)
    detector.model[0].bn.weight.data[:8] = torch.tensor([0.0, 5e-4, 0.005, 0.05, -0.05, 2.49, 2.5, 30.0])
    histogram = gamma_distribution(detector)
    assert GammaDistribution.parse(json.loads(json.dumps(histogram.as_dict()))) == histogram
    total = sum(map(len, gammas(detector).values()))
    backbone, neck, head = (histogram.counts[region] for region in ("backbone", "neck", "head"))
    assert len(histogram.edges) == 101
    assert (histogram.edges[0], histogram.edges[-1]) == (0.0, 2.5)
    assert sum(backbone) + sum(neck) + sum(head) == total
    assert (backbone[0], backbone[2], backbone[-1]) == (3, 2, 3)
    assert neck[40] == sum(neck) > 0
    assert head[40] == sum(head) > 0
    assert histogram.quantiles == pytest.approx(dict.fromkeys(("5", "25", "50", "75", "95"), 1.01))
    assert histogram.below == pytest.approx({"0.001": 2 / total, "0.01": 3 / total, "0.1": 5 / total})


def test_a_diverged_detector_still_has_a_histogram(detector: Any) -> None:
    for norm in detector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.constant_(norm.weight, float("nan"))
    histogram = gamma_distribution(detector)
    assert (histogram.quantiles, histogram.below) == ({}, {})
    assert sum(histogram.counts["head"]) == 0


def test_a_detector_without_batchnorm_is_refused(detector: Any) -> None:
    detector.eval().fuse(verbose=False)
    for act in (gammas, gamma_distribution):
        with pytest.raises(ModelError, match="no BatchNorm"):
            act(detector)
    with pytest.raises(ModelError, match="no BatchNorm"):
        recalibrate(detector, [torch.rand(1, 3, 64, 64)])


@pytest.mark.parametrize(
    ("steps", "batch", "momentum"),
    [(10, 16, 0.25), (10, 64, 0.3), (40, 64, 0.075), (100, 64, 0.03), (5000, 16, 0.03), (8, 1, 0.03), (1, 99, 1.0)],
)
def test_running_statistics_follow_within_an_epoch(
    detector: nn.Module, steps: int, batch: int, momentum: float
) -> None:
    follow_within_an_epoch(detector, steps, batch)
    assert {norm.momentum for norm in norm_layers(detector).values()} == {momentum}


@given(st.integers(1, 10_000), st.integers(1, 1024))
def test_no_training_follows_slower_than_ultralytics_own(steps: int, batch: int) -> None:
    one = nn.BatchNorm2d(1, momentum=0.03)
    follow_within_an_epoch(one, steps, batch)
    assert 0.03 <= (one.momentum or 0) <= 1
