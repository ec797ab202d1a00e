"""The pruning plan: from a detector's gammas, a threshold and an alignment to the channels that stay.

Channels are judged by the absolute value of their BatchNorm scale, as in network slimming (arXiv 1708.06519).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.pruning.channels import ChannelConfig, digest_of, natural_order, round_channels
from prunetune.pruning.groups import ChannelGroup, first_channel, module_of, widths_after
from prunetune.pruning.surgery import channel_config, channel_groups, layer_regions
from prunetune.spaces.alignment import Alignment, LayerKind
from prunetune.spaces.errors import ConfigError, ModelError
from prunetune.spaces.recipe import Region, Threshold


@dataclass(frozen=True)
class PruningPlan:
    """Which channels a surgery keeps. Hashable, and computed without touching a weight."""

    keep: tuple[tuple[str, tuple[int, ...]], ...]
    """Root of each group that loses channels, and the indices that it keeps, both in ascending order."""
    channels: ChannelConfig
    """What the whole network will have afterwards."""
    threshold: Threshold
    alignment: Alignment

    def digest(self) -> str:
        """A name for the surgery: two thresholds that keep the same channels are the same surgery."""
        return digest_of({"keep": self.keep, "alignment": self.alignment.as_json()})

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "keep": {root: list(kept) for root, kept in self.keep},
            "channels": self.channels.as_dict(),
            "threshold": self.threshold.as_json(),
            "alignment": self.alignment.as_json(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruningPlan:
        """The plan that `as_dict` wrote."""
        return cls(
            keep=_in_order({root: tuple(kept) for root, kept in values["keep"].items()}),
            channels=ChannelConfig.from_dict(values["channels"]),
            threshold=Threshold.parse(values["threshold"]),
            alignment=Alignment.parse(values["alignment"]),
        )


def plan_pruning(
    model: nn.Module,
    threshold: Threshold,
    alignment: Alignment | int,
    imgsz: int = 64,
    groups: Sequence[ChannelGroup] | None = None,
) -> PruningPlan:
    """Chooses the channels that stay. The detector is left exactly as it was.

    A channel's score is the largest |gamma| of all BatchNorms that scale it: a channel that skip connections
    tie goes only if all of its gammas are below the threshold. The number of survivors is rounded up to the
    group's alignment (`group_alignment`, `round_channels`) and filled with the highest scores; of equal scores the
    lower index stays. A higher threshold therefore keeps a subset. Groups with a layer that no BatchNorm scales,
    such as transposed convolutions and Detect's outputs, keep their full width: nothing judges what it writes. A
    group with layers in both regions gets the lower of the two thresholds; the supported families have none. The two
    halves of a convolution that its block splits, as C2f does, keep as many channels as the one that keeps more.

    Args:
        model: An ultralytics `DetectionModel`, not fused.
        threshold: Channels with a score below it go.
        alignment: Kept channels are multiples of it, or the full width. A number holds for all kinds of layers.
        imgsz: Side of the image to trace with, in px; a multiple of the largest stride.
        groups: What `channel_groups(model)` returned, to trace only once for plan and surgery.

    Raises:
        ModelError: The detector cannot be pruned (`channel_groups`), or has gammas that are not finite.
        ConfigError: The threshold is not finite or below 0, or the alignment no whole number above 0.
    """
    if groups is None:
        groups = channel_groups(model, imgsz)
    return Scores.of(model, alignment, groups).plan(threshold)


@dataclass(frozen=True, eq=False)
class ScoredGroup:
    """A group of layers whose channels are judged."""

    group: ChannelGroup
    scores: Tensor
    """Of each channel, in double precision."""
    regions: frozenset[Region]
    """Where its layers are: the lowest of these regions' thresholds decides."""
    alignment: int
    """It keeps a multiple of this, or its full width."""


@dataclass(frozen=True, eq=False)
class Scores:
    """All that a detector's plans are made from, read once for any number of thresholds. See `plan_pruning`."""

    groups: tuple[ScoredGroup, ...]
    """Those that can lose channels."""
    channels: ChannelConfig
    """The detector's."""
    alignment: Alignment

    @classmethod
    def of(cls, model: nn.Module, alignment: Alignment | int, groups: Sequence[ChannelGroup]) -> Scores:
        """Reads a detector's gammas.

        Args:
            model: An ultralytics `DetectionModel`, not fused.
            alignment: Kept channels are multiples of it, or the full width.
            groups: What `channel_groups(model)` returned.

        Raises:
            ModelError: The detector has gammas that are not finite.
            ConfigError: The alignment is no whole number above 0.
        """
        alignment = Alignment.parse(alignment)
        kinds, regions = layer_kinds(model, groups), layer_regions(model)
        scored = tuple(
            ScoredGroup(
                group,
                torch.stack([_gamma(model, name, group.width) for name in group.norms]).amax(dim=0),
                frozenset(regions[module_of(layer)] for layer in group.layers),
                group_alignment(group, kinds, alignment),
            )
            for group in groups
            if group.can_shrink
        )
        return cls(scored, channel_config(model), alignment)

    def plan(self, threshold: Threshold) -> PruningPlan:
        """The channels that stay at a threshold.

        Raises:
            ConfigError: The threshold is not finite or below 0.
        """
        if not all(math.isfinite(value) and value >= 0 for value in (threshold.backbone, threshold.head)):
            raise ConfigError(f"threshold: {threshold} is not a finite number from 0 on")
        counts = {}
        for item in self.groups:
            limit = min(threshold.for_region(region) for region in item.regions)
            survivors = int((item.scores >= limit).sum())
            counts[item.group.root] = round_channels(survivors, item.group.width, item.alignment)
        keep: dict[str, tuple[int, ...]] = {}
        for item in self.groups:
            kept = max(counts[root] for root in (item.group.root, *item.group.even_with))
            if kept == item.group.width:
                continue
            best = torch.sort(item.scores, descending=True, stable=True).indices[:kept]
            keep[item.group.root] = tuple(sorted(best.tolist()))
        channels = widths_after(self.channels, keep, [item.group for item in self.groups])
        return PruningPlan(_in_order(keep), channels, threshold, self.alignment)


def layer_kinds(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, LayerKind]:
    """The kind of every layer that writes a group's channels, as alignments tell layers apart.

    Args:
        model: The detector that the groups are of.
        groups: What `channel_groups(model)` returned.
    """
    readers = {reader.layer for group in groups for reader in group.readers}
    kinds: dict[str, LayerKind] = {}
    for name in (layer for group in groups for layer in group.layers):
        layer = model.get_submodule(module_of(name))
        if getattr(layer, "groups", 1) > 1:
            # Only a convolution with one channel to each of its groups is tied to the channels that it reads.
            kinds[name] = "depthwise"
        else:
            kinds[name] = "default" if module_of(name) in readers else "first"  # all others read a group's channels
    return kinds


def group_alignment(group: ChannelGroup, kinds: Mapping[str, LayerKind], alignment: Alignment) -> int:
    """The channels that a group is kept in multiples of: the least common multiple of what its layers want."""
    return math.lcm(*(alignment.of(kinds[layer]) for layer in group.layers))


def _in_order(keep: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((root, keep[root]) for root in sorted(keep, key=natural_order))


def _gamma(model: nn.Module, name: str, width: int) -> Tensor:
    """|gamma| of one BatchNorm, or of a half of one, in double precision, as the threshold is."""
    norm = model.get_submodule(module_of(name))
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine:
        raise ModelError(f"{name}: the BatchNorm has no gamma; build it with affine=True")
    gamma = norm.weight.detach().to("cpu", torch.float64).abs()
    if not bool(torch.isfinite(gamma).all()):
        raise ModelError(f"{name}: gammas are not finite, the training diverged; prune an earlier checkpoint")
    first = first_channel(name, width)
    return gamma[first : first + width]
