"""The pruning plan: from the scores of a detector's channels, a threshold and an alignment to the channels that stay.

Channels are judged by the absolute value of their BatchNorm scale, as in network slimming (arXiv 1708.06519), or by
another importance (`prunetune.pruning.planning.importance`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.pruning.planning.importance import Gamma, Judge
from prunetune.pruning.structure.channels import ChannelConfig, digest_of, natural_order, round_channels
from prunetune.pruning.structure.depth import LAST, LAST_NORM, name_after, name_before
from prunetune.pruning.structure.groups import (
    LEAST_OF_PART,
    ChannelGroup,
    module_of,
    tied_roots,
    width_of,
    widths_after,
)
from prunetune.pruning.structure.layers import channel_config, is_depthwise, layer_regions
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.spaces.alignment import Alignment, LayerKind
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.recipe import OPTIONS, Importance, Region, Threshold

GAMMA: Judge = Gamma()

APART = 1e-9
"""How far scores that are equal are put apart, as a part of them: fp32 does not show it."""

ABOVE_ZERO = 1e-60
"""The same where they are 0."""


@dataclass(frozen=True)
class PruningPlan:
    """Which channels a surgery keeps. Hashable, and computed without touching a weight."""

    keep: tuple[tuple[str, tuple[int, ...]], ...]
    """Root of each group that loses channels, and the indices that it keeps, both in ascending order."""
    channels: ChannelConfig
    """What the whole network will have afterwards."""
    threshold: Threshold | None
    """None if no threshold chose the channels, but their numbers were given (`Scores.keeping`)."""
    alignment: Alignment
    importance: Importance = "gamma"
    """What the channels were judged by."""
    blocks: tuple[str, ...] = ()
    """Residual blocks that go whole, in ascending order. They, like `keep`, are called as they are before the surgery;
    `channels` has the names that stay."""

    def digest(self) -> str:
        """A name for the surgery: whatever threshold and importance came to these channels."""
        blocks = {"blocks": self.blocks} if self.blocks else {}
        return digest_of({"keep": self.keep, "alignment": self.alignment.as_json(), **blocks})

    def after(self, blocks: Sequence[str]) -> PruningPlan:
        """The same surgery on the network that this one was planned for had, with blocks that went before.

        Args:
            blocks: Residual blocks, called as they were with all of them there.
        """
        gone = {*blocks, *(name_before(block, blocks) for block in self.blocks)}
        keep = _in_order({name_before(root, blocks): kept for root, kept in self.keep})
        return replace(self, keep=keep, blocks=tuple(sorted(gone, key=natural_order)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON. The importance is left out where it is the recipe's default."""
        return {
            "keep": {root: list(kept) for root, kept in self.keep},
            "channels": self.channels.as_dict(),
            **({} if self.threshold is None else {"threshold": self.threshold.as_json()}),
            "alignment": self.alignment.as_json(),
            **({} if self.importance == OPTIONS["importance"] else {"importance": self.importance}),
            **({"blocks": list(self.blocks)} if self.blocks else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruningPlan:
        """The plan that `as_dict` wrote."""
        return cls(
            keep=_in_order({root: tuple(kept) for root, kept in values["keep"].items()}),
            channels=ChannelConfig.from_dict(values["channels"]),
            threshold=Threshold.parse(values["threshold"]) if "threshold" in values else None,
            alignment=Alignment.parse(values["alignment"]),
            importance=values.get("importance", OPTIONS["importance"]),
            blocks=tuple(values.get("blocks", ())),
        )


def plan_pruning(
    model: nn.Module,
    threshold: Threshold,
    alignment: Alignment | int,
    groups: Sequence[ChannelGroup] | None = None,
    judge: Judge = GAMMA,
) -> PruningPlan:
    """Chooses the channels that stay. The detector is left exactly as it was.

    By default a channel's score is the largest |gamma| of all BatchNorms that scale it: a channel that skip connections
    tie goes only if all of its gammas are below the threshold. The number of survivors is rounded up to the
    group's alignment (`group_alignment`, `round_channels`) and filled with the highest scores; of equal scores the
    lower index stays. A higher threshold therefore keeps a subset. Groups with a layer that no BatchNorm scales,
    such as transposed convolutions and Detect's outputs, keep their full width, whatever the importance. A group with
    layers in several regions gets the lowest of their thresholds; the supported families have none. The two halves of a
    convolution that its block splits, as C2f does, keep as many channels as the one that keeps more; so do the parts
    that a grouped convolution writes or reads, each its best ones.

    Args:
        model: An ultralytics `DetectionModel`, not fused.
        threshold: Channels with a score below it go.
        alignment: Kept channels are multiples of it, or the full width. A number holds for all kinds of layers.
        groups: What `channel_groups(model)` returned, to trace only once for plan and surgery.
        judge: Gives the channels their scores; by their gammas if it is not given.

    Raises:
        ModelError: The detector cannot be pruned (`channel_groups`), or has gammas that are not finite.
        ConfigError: The threshold is not finite or below 0, or the alignment no whole number above 0.
    """
    if groups is None:
        groups = channel_groups(model)
    return Scores.of(model, alignment, groups, judge).plan(threshold)


@dataclass(frozen=True, eq=False)
class ScoredGroup:
    """A group of layers whose channels are judged."""

    group: ChannelGroup
    scores: Tensor
    """Of each channel, in double precision; no two of a detector's are equal (`_parted`)."""
    regions: frozenset[Region]
    """Where its layers are: the lowest of these regions' thresholds decides."""
    alignment: int
    """It keeps a multiple of this, or its full width."""
    least: int
    """Channels that it keeps in any case: a multiple of the alignment, or its full width."""

    @cached_property
    def ranked(self) -> Tensor:
        """The scores, parts by ranks: in each part from the highest to the lowest."""
        return self._sorted.values

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The channels from the most important to the least, of each part one in turn. Of equal scores the lower index
        comes first."""
        starts = torch.arange(0, self.group.width, self.group.width // self.group.parts)
        return tuple((self._sorted.indices + starts[:, None]).T.flatten().tolist())

    @cached_property
    def _sorted(self) -> Any:
        return torch.sort(self.scores.view(self.group.parts, -1), dim=1, descending=True, stable=True)

    def survivors(self, threshold: Threshold) -> int:
        """The channels that reach a threshold, if each part had as many as the one that has most."""
        return self.group.parts * int((self.ranked >= self.limit(threshold)).sum(dim=1).max())

    def limit(self, threshold: Threshold) -> float:
        """What a score must reach for its channel to stay."""
        return min(threshold.for_region(region) for region in self.regions)


@dataclass(frozen=True, eq=False)
class ScoredBlock:
    """A residual block that can go whole."""

    name: str
    scores: Tensor
    """Of the channels of its last BatchNorm, by themselves: what the block adds to them. In double precision."""
    region: Region

    def goes(self, threshold: Threshold) -> bool:
        """Whether all of its channels are below a threshold."""
        return self.highest < threshold.for_region(self.region)

    @property
    def highest(self) -> float:
        """The score that a threshold must be above."""
        return float(self.scores.max())


@dataclass(frozen=True, eq=False)
class Scores:
    """All that a detector's plans are made from, read once for any number of thresholds. See `plan_pruning`."""

    groups: tuple[ScoredGroup, ...]
    """Those that can lose channels."""
    channels: ChannelConfig
    """The detector's."""
    alignment: Alignment
    importance: Importance = "gamma"
    blocks: tuple[ScoredBlock, ...] = ()
    """The residual blocks that can go."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        alignment: Alignment | int,
        groups: Sequence[ChannelGroup],
        judge: Judge = GAMMA,
        floor: float = 0.0,
        dense: Mapping[str, int] | None = None,
        blocks: Sequence[str] = (),
    ) -> Scores:
        """Judges a detector's channels.

        Args:
            model: An ultralytics `DetectionModel`, not fused.
            alignment: Kept channels are multiples of it, or the full width.
            groups: What `channel_groups(model)` returned.
            judge: Gives the channels their scores.
            floor: The least share of its channels that every layer keeps, from 0 on and below 1, rounded up to the
                alignment.
            dense: Layer name to the output channels that the floor is a share of: those that the first round began
                with. The model's own if they are not given.
            blocks: The residual blocks that can go.

        Raises:
            ModelError: The detector has gammas that are not finite.
            ConfigError: The alignment is no whole number above 0, or the floor not from 0 on and below 1.
        """
        if not 0 <= floor < 1:
            raise ConfigError(f"floor: {floor!r} is no share of a layer's channels, from 0 on and below 1")
        alignment = Alignment.parse(alignment)
        kinds, regions = layer_kinds(model, groups), layer_regions(model)
        channels = channel_config(model)
        judged = [group for group in groups if group.can_shrink]
        by_root = {group.root: group for group in judged}
        branches = [branch_of(name, channels) for name in blocks]
        found = _parted(judge.scores(model, [*judged, *branches]), [*judged, *branches])
        ends = zip(blocks, branches, found[len(judged) :], strict=True)
        scored = []
        for group, scores in zip(judged, found[: len(judged)], strict=True):
            tied = [by_root[root] for root in tied_roots(group)]
            # Blocks of each part: all of these groups keep equally many there.
            each = [math.lcm(group_alignment(one, kinds, alignment), one.parts) // one.parts for one in tied]
            block = group.parts * math.lcm(*each)
            whole = width_of(group.root, dense or channels)
            least = LEAST_OF_PART * group.parts if any(one.parts > 1 for one in tied) else 0
            scored.append(
                ScoredGroup(
                    group,
                    scores,
                    frozenset(regions[module_of(layer)] for layer in group.layers),
                    block,
                    # What floating point adds to a product such as 0.1 * 30 is no channel.
                    round_channels(max(least, math.ceil(floor * whole - 1e-9)), group.width, block),
                )
            )
        whole_blocks = tuple(ScoredBlock(name, scores, regions[branch.root]) for name, branch, scores in ends)
        return cls(tuple(scored), channels, alignment, judge.importance, whole_blocks)

    @property
    def tied(self) -> tuple[tuple[ScoredGroup, ...], ...]:
        """The groups, those together that keep equally many channels in each part: mostly one alone."""
        items = {item.group.root: item for item in self.groups}
        roots = dict.fromkeys(tuple(sorted(tied_roots(item.group))) for item in self.groups)
        return tuple(tuple(items[root] for root in each) for each in roots)

    def is_least(self, plan: PruningPlan) -> bool:
        """Whether no other plan leaves less: each layer has as few channels as it may have, each block is gone."""
        kept = dict(plan.keep)
        return len(plan.blocks) == len(self.blocks) and all(
            len(kept.get(item.group.root, range(item.group.width))) <= item.least
            for item in self.groups
            if name_after(item.group.root, plan.blocks) is not None
        )

    def plan(self, threshold: Threshold) -> PruningPlan:
        """The channels that stay at a threshold.

        Raises:
            ConfigError: The threshold is not finite or below 0.
        """
        if not all(math.isfinite(value) and value >= 0 for value in threshold.values):
            raise ConfigError(f"threshold: {threshold} is not a finite number from 0 on")
        kept = {
            item.group.root: max(
                item.least,
                round_channels(item.survivors(threshold), item.group.width, item.alignment),
            )
            for item in self.groups
        }
        blocks = [block.name for block in self.blocks if block.goes(threshold)]
        return self.keeping(kept, threshold, blocks)

    def keeping(
        self, kept: Mapping[str, int], threshold: Threshold | None = None, blocks: Sequence[str] = ()
    ) -> PruningPlan:
        """The plan that keeps so many channels of each group, the most important ones.

        Args:
            kept: Root of a group to the channels that it keeps, at least; a group that is not named keeps all.
            threshold: What chose them; None if the numbers were given.
            blocks: The residual blocks that go.
        """
        keep: dict[str, tuple[int, ...]] = {}
        each = {
            item.group.root: kept.get(item.group.root, item.group.width) // item.group.parts for item in self.groups
        }
        for item in self.groups:
            count = item.group.parts * max(each[root] for root in tied_roots(item.group))
            if count < item.group.width and name_after(item.group.root, blocks) is not None:
                keep[item.group.root] = tuple(sorted(item.order[:count]))
        widths = widths_after(self.channels, keep, [item.group for item in self.groups])
        channels = ChannelConfig(
            {name: widths[layer] for layer in widths if (name := name_after(layer, blocks)) is not None}
        )
        gone = tuple(sorted(blocks, key=natural_order))
        return PruningPlan(_in_order(keep), channels, threshold, self.alignment, self.importance, gone)


def _parted(scores: Sequence[Tensor], groups: Sequence[ChannelGroup]) -> list[Tensor]:
    """Scores of which none are equal, so that a threshold can take any number of channels.

    Those that were equal leave all groups in proportion to their widths; in a part the lower index stays. Others keep
    their order, as far as fp32 tells them apart.

    Args:
        scores: Of each group, in double precision.
        groups: The groups.
    """
    widest = max((group.width for group in groups), default=1)
    parted = []
    for place, (score, group) in enumerate(zip(scores, groups, strict=True)):
        order = score.view(group.parts, -1).argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1).flatten().double()
        apart = 1 - rank * group.parts / group.width - place / len(groups) / widest  # above 0, at most 1
        parted.append(score * (1 + APART * apart) + ABOVE_ZERO * apart)
    return parted


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
        if is_depthwise(layer):
            kinds[name] = "depthwise"
        else:
            kinds[name] = "default" if module_of(name) in readers else "first"  # all others read a group's channels
    return kinds


def group_alignment(group: ChannelGroup, kinds: Mapping[str, LayerKind], alignment: Alignment) -> int:
    """The channels that a group is kept in multiples of: the least common multiple of what its layers want."""
    return math.lcm(*(alignment.of(kinds[layer]) for layer in group.layers))


def branch_of(block: str, channels: Mapping[str, int]) -> ChannelGroup:
    """What a residual block adds to its input, as channels that are judged by themselves.

    Args:
        block: The block.
        channels: The network's, by layer.
    """
    return ChannelGroup(channels[f"{block}.{LAST}"], (f"{block}.{LAST}",), (f"{block}.{LAST_NORM}",), ())


def _in_order(keep: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((root, keep[root]) for root in sorted(keep, key=natural_order))
