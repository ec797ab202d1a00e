"""BatchNorms: their scales, which judge the channels, and their statistics, which surgery outdates."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from prunetune.pruning.structure.layers import region_of
from prunetune.pruning.training.values import GammaDistribution
from prunetune.spaces.errors import DatasetError, ModelError
from prunetune.spaces.recipe import Region

WINDOWS = 3
"""In how many time constants of the running statistics an epoch is done: 5 % of the old ones are left."""

FEWEST_IMAGES = 64
"""Running statistics over fewer images than this are noise."""

HISTOGRAM_TOP = 2.5
"""Upper edge of gamma histograms. Larger gammas, 3 % in detectors that others trained, count in the last bin."""


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measures the statistics of all BatchNorms anew, in place: their mean over the batches.

    Surgery changes what every layer sees, so the running statistics no longer fit. Measuring them again,
    without any training, predicts well how good the detector will be after recovery (EagleEye, arXiv
    2007.02491).

    Args:
        model: The detector. Weights, modes and momenta are the same afterwards.
        batches: Images as the detector gets them in training: (N, 3, H, W), floating point, 0 to 1.

    Raises:
        DatasetError: There is no batch.
        ModelError: The detector has no BatchNorm.
    """
    norms = list(norm_layers(model).values())
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise DatasetError("recalibrating BatchNorm needs at least one batch of images; the data set gave none")
    weight = next(model.parameters())
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's way to ask for a cumulative average
            norm.train()
        with torch.no_grad():
            for images in itertools.chain([first], rest):
                model(images.to(weight.device, weight.dtype))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training


def follow_within_an_epoch(model: nn.Module, steps: int, batch: int) -> None:
    """Sets momenta by which running statistics follow the weights within an epoch, however few steps it has.

    Validation normalises by running statistics. With ultralytics' momentum of 0.03 an epoch of ten steps leaves 74 % of
    the old ones beside new weights, and a detector that has learnt looks as if it had forgotten: map50_95 of 0.002
    where 0.65 was right (benchmarks/RESULTS.md, "Training on"). From a hundred steps on nothing changes.

    Args:
        model: The detector that is trained.
        steps: Batches in an epoch.
        batch: Images in a batch.
    """
    for norm in norm_layers(model).values():
        norm.momentum = max(norm.momentum or 0.0, min(WINDOWS / steps, batch / FEWEST_IMAGES, 1.0))


def gammas(model: nn.Module) -> dict[str, Tensor]:
    """|gamma| of every channel by name of its BatchNorm: vectors on the CPU, detached from the weights.

    Raises:
        ModelError: The detector has no BatchNorm.
    """
    return {name: norm.weight.detach().abs().cpu() for name, norm in norm_layers(model).items()}


def gamma_distribution(model: nn.Module, bins: int = 100) -> GammaDistribution:
    """The distribution of |gamma|, with the shares below 0.001, 0.01 and 0.1.

    Gammas that are not finite are left out: it is the loss that tells of a divergence.

    Args:
        model: The detector.
        bins: Bins of equal width between 0 and 2.5; what lies above counts in the last one.

    Raises:
        ModelError: The detector has no BatchNorm.
    """
    edges = np.linspace(0.0, HISTOGRAM_TOP, bins + 1)
    counts = {region: np.zeros(bins, dtype=np.int64) for region in get_args(Region)}
    finite = []
    for name, gamma in gammas(model).items():
        values = gamma.double().numpy()
        finite.append(values[np.isfinite(values)])
        counts[region_of(model, name)] += np.histogram(np.minimum(finite[-1], HISTOGRAM_TOP), edges)[0]
    everything = np.concatenate(finite)
    percents, limits = ((5, 25, 50, 75, 95), (0.001, 0.01, 0.1)) if everything.size else ((), ())
    return GammaDistribution(
        edges=tuple(edges.round(6).tolist()),
        counts={region: tuple(numbers.tolist()) for region, numbers in counts.items()},
        quantiles={str(percent): float(np.percentile(everything, percent)) for percent in percents},
        below={str(limit): float((everything < limit).mean()) for limit in limits},
    )


def norm_layers(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The BatchNorms that have gammas, by name.

    Raises:
        ModelError: There is none.
    """
    modules = model.named_modules()
    norms = {name: norm for name, norm in modules if isinstance(norm, nn.BatchNorm2d) and norm.affine}
    if not norms:
        raise ModelError(
            "the detector has no BatchNorm; if it was fused for inference, give the checkpoint from training"
        )
    return norms
