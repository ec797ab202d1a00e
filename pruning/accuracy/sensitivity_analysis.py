"""Sensitivity analysis: each group of layers loses channels alone, and the network is judged without any training.

A layer that can lose half of its channels for nothing is one to prune; one whose first block costs points is not.
BatchNorm is recalibrated after each surgery (EagleEye, arXiv 2007.02491): else its outdated statistics would decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from prunetune.pruning.accuracy.sensitivity import GroupSensitivity, Removal, Sensitivity
from prunetune.pruning.planning.importance import create_judge
from prunetune.pruning.planning.plan import ScoredGroup, Scores
from prunetune.pruning.structure.channels import round_channels
from prunetune.pruning.structure.groups import module_of
from prunetune.pruning.structure.layers import layer_regions
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.values import TrainingSetup
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.recipe import Importance

SHARES = (0.25, 0.5, 0.75)
"""Of a group's channels, to be removed."""


class Networks(Protocol):
    """Judges networks on one data set, as a `StageRunner` does."""

    @property
    def setup(self) -> TrainingSetup:
        """The data set and the input size."""

    def recalibrate(self, detector: Detector) -> None:
        """Computes a network's BatchNorm statistics again, on training images."""

    def evaluate(self, detector: Detector) -> Accuracy:
        """The accuracy of a network on the validation split."""

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """A network's loss per image on batches of training images; gradients flow."""


def analyse(
    detector: Detector,
    networks: Networks,
    alignment: Alignment | int,
    importance: Importance = "taylor",
    model: str = "",
    shares: Sequence[float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Removes shares of the channels of each group alone, and evaluates what is left with recalibrated BatchNorm.

    Args:
        detector: A trained one. It is left as it was.
        networks: Judges.
        alignment: Channels are kept in multiples of it, where that leaves some to go.
        importance: What channels are judged by; the least important ones go.
        model: What the network is called; its own source if it is not given.
        shares: Of each group's channels, to be removed, rising; `SHARES` if they are not given.
        progress: Is told how many networks of how many were judged.

    Raises:
        ModelError: The detector cannot be pruned.
        ConfigError: The alignment is none, or the input size does not fit the detector.
    """
    alignment = Alignment.parse(alignment)
    groups = channel_groups(detector.model)
    scores = Scores.of(detector.model, 1, groups, create_judge(importance, networks.losses))
    blocks = {item.group.root: item for item in Scores.of(detector.model, alignment, groups).groups}
    regions = layer_regions(detector.model)
    plans = [
        (tied, _distinct(tied, [blocks[item.group.root] for item in tied], shares or SHARES)) for tied in scores.tied
    ]
    total, done = 2 + sum(len(set(kept.values())) for _, kept in plans), 0

    def judged(network: Detector, *, recalibrate: bool = True) -> float:
        nonlocal done
        if recalibrate:
            networks.recalibrate(network)
        accuracy = networks.evaluate(network).map50_95
        done += 1
        progress(done, total)
        return accuracy

    given, whole = judged(detector, recalibrate=False), judged(detector.copy())
    found = []
    for tied, kept in plans:
        accuracies = {}
        for count in sorted(set(kept.values()), reverse=True):
            plan = scores.keeping({item.group.root: item.group.parts * count for item in tied})
            accuracies[count] = judged(Detector(apply_plan(detector.model, plan, groups=groups), detector.source))
        parts = sum(item.group.parts for item in tied)
        layers = tuple(layer for item in tied for layer in item.group.layers)
        removals = tuple(Removal(share, parts * count, accuracies[count]) for share, count in kept.items())
        channels = sum(item.group.width for item in tied)
        found.append(GroupSensitivity(layers, regions[module_of(layers[0])], channels, removals))
    return Sensitivity(model or detector.source, importance, alignment, networks.setup.size, given, whole, tuple(found))


def kept_of_part(exact: Sequence[ScoredGroup], aligned: Sequence[ScoredGroup], share: float) -> int:
    """How many channels each part of groups keeps that lose a share of them together.

    As many as a plan would keep: in whole blocks, rounded up. Where that removes nothing, in single channels.

    Args:
        exact: The groups, with an alignment of 1.
        aligned: The same, with the target's.
        share: What is to go, above 0 and below 1.

    Returns:
        The channels: the whole width where none may go.
    """
    width = exact[0].group.width // exact[0].group.parts
    # What floating point adds to a product such as 0.9 * 30 is no channel.
    wanted = math.ceil((1 - share) * width - 1e-9)
    kept = width
    for items in (aligned, exact):
        if kept == width:
            block = max(item.alignment // item.group.parts for item in items)
            least = max(item.least // item.group.parts for item in items)
            kept = max(least, round_channels(wanted, width, block))
    return kept


def _distinct(
    exact: Sequence[ScoredGroup], aligned: Sequence[ScoredGroup], shares: Sequence[float]
) -> dict[float, int]:
    """By share, what each part keeps, where anything goes."""
    width = exact[0].group.width // exact[0].group.parts
    kept = {share: kept_of_part(exact, aligned, share) for share in shares}
    return {share: count for share, count in kept.items() if count < width}
