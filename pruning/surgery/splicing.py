"""Splicing: a network whose backbone has one pruning's widths, and whose neck and head have another's.

Both prunings come from the same dense network, so a channel that both kept is the same channel, and all of them are
called as in the dense network, whichever residual blocks went. Each part takes its
weights from its own network. Where the neck reads the backbone, it keeps its weights for the channels that its own
network read there; channels that are new to it begin with weights of zero, so that they change nothing until training
has found a use for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from prunetune.pruning.planning.plan import PruningPlan
from prunetune.pruning.structure.channels import ChannelConfig, natural_order
from prunetune.pruning.structure.depth import folded_inputs, name_after, name_before
from prunetune.pruning.structure.groups import ChannelGroup, first_of_parts, module_of, width_of, widths_after
from prunetune.pruning.structure.layers import channel_config, layer_regions, region_of
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import ModelError
from prunetune.spaces.recipe import Region, Threshold

Part: TypeAlias = Literal["backbone", "head"]
"""A splice has two: the neck comes with the head."""

Kept = Mapping[str, tuple[int, ...]]
"""Root of each group of layers to the dense network's channels that are left of it, in ascending order. A group that is
not named is whole."""


@dataclass(frozen=True)
class Remains:
    """What surgeries left of a dense network, in its names."""

    kept: Kept = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    """The residual blocks that went."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; blocks only where some went."""
        kept = {root: list(channels) for root, channels in self.kept.items()}
        return {"kept": kept, **({"blocks": list(self.blocks)} if self.blocks else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Remains:
        """What `as_dict` wrote."""
        kept = {root: tuple(channels) for root, channels in values["kept"].items()}
        return cls(kept, tuple(values.get("blocks", ())))

    def widths(self, dense: ChannelConfig, groups: Iterable[ChannelGroup]) -> ChannelConfig:
        """The channels of the layers that are left, by the names that these have now.

        Args:
            dense: The dense network's.
            groups: Those of the dense network.
        """
        widths = widths_after(dense, self.kept, groups)
        named = ((name_after(layer, self.blocks), width) for layer, width in widths.items())
        return ChannelConfig({name: width for name, width in named if name is not None})


@dataclass(frozen=True, eq=False)
class Donor:
    """A network that gives a part of itself.

    Attributes:
        model: The network.
        left: What it has of the dense network.
        is_pruned: Whether it came from the dense network. Of one that was trained by itself only the number of channels
            counts: they have nothing in common with those of other networks.
    """

    model: nn.Module
    left: Remains = field(default_factory=lambda: Remains())
    is_pruned: bool = True

    @classmethod
    def narrow(cls, model: nn.Module, groups: Sequence[ChannelGroup]) -> Donor:
        """A network of the same description with fewer channels, trained by itself.

        Args:
            model: The network.
            groups: Those of the dense network.
        """
        channels = channel_config(model)
        widths = {group.root: width_of(group.root, channels) for group in groups}
        kept = {
            group.root: first_of_parts(group, widths[group.root])
            for group in groups
            if widths[group.root] < group.width
        }
        return cls(model, Remains(kept), is_pruned=False)


def compose(left: Remains, plan: PruningPlan, groups: Sequence[ChannelGroup]) -> Remains:
    """What is left of the dense network after one more surgery.

    Args:
        left: What was left before it.
        plan: The surgery, in channels and blocks of what was left.
        groups: Those of the dense network.
    """
    cut = {name_before(root, left.blocks): kept for root, kept in plan.keep}
    found = {}
    for group in groups:
        before = left.kept.get(group.root, tuple(range(group.width)))
        after = tuple(before[index] for index in cut[group.root]) if group.root in cut else before
        if len(after) < group.width:
            found[group.root] = after
    gone = {*left.blocks, *(name_before(block, left.blocks) for block in plan.blocks)}
    return Remains(found, tuple(sorted(gone, key=natural_order)))


def cut_to(dense: nn.Module, left: Remains, groups: Sequence[ChannelGroup]) -> nn.Module:
    """A copy of the dense network with what surgeries left of it, and its own weights.

    Its statistics of BatchNorm are the dense network's: recalibrate them.

    Args:
        dense: A network with the dense network's channels.
        left: What was left.
        groups: Those of the dense network.
    """
    plan = PruningPlan(
        tuple(left.kept.items()),
        left.widths(channel_config(dense), groups),
        Threshold.everywhere(0.0),
        Alignment.everywhere(1),
        blocks=left.blocks,
    )
    return apply_plan(dense, plan, groups=groups)


def spliced_remains(backbone: Remains, head: Remains, dense: nn.Module, groups: Sequence[ChannelGroup]) -> Remains:
    """What a spliced network has: the channels and blocks of one network in the backbone, of the other in neck and
    head.

    Raises:
        ModelError: Layers of both parts share channels.
    """
    regions = layer_regions(dense)
    parts: dict[Part, Remains] = {"backbone": backbone, "head": head}
    found = {group.root: parts[_part(group, regions)].kept.get(group.root) for group in groups}
    gone = [block for part, left in parts.items() for block in left.blocks if _part_of(region_of(dense, block)) == part]
    kept = {root: kept for root, kept in found.items() if kept is not None}
    return Remains(kept, tuple(sorted(gone, key=natural_order)))


def splice(dense: nn.Module, backbone: Donor, head: Donor, groups: Sequence[ChannelGroup] | None = None) -> nn.Module:
    """Puts a network together. The given ones are left as they are.

    Its statistics of BatchNorm are its donors': recalibrate them.

    Args:
        dense: The network that both were pruned from.
        backbone: Gives the backbone's widths and weights.
        head: Gives those of neck and head.
        groups: What `channel_groups(dense)` returned.

    Raises:
        ModelError: A donor was not pruned from the dense network, or layers of both parts share channels.
    """
    groups = groups or channel_groups(dense)
    left = spliced_remains(backbone.left, head.left, dense, groups)
    dense_channels = channel_config(dense)
    for donor in (backbone, head):
        if channel_config(donor.model) != donor.left.widths(dense_channels, groups):
            raise ModelError("a part was not pruned from the given dense network; splice prunings of one network")
    spliced = cut_to(dense, left, groups)
    weights = {"backbone": backbone.model.state_dict(), "head": head.model.state_dict()}
    chosen = {"backbone": backbone.left, "head": head.left}
    readers = {reader.layer for group in groups for reader in group.readers}
    regions = layer_regions(dense)
    state: dict[str, Tensor] = {}
    for key, fresh in spliced.state_dict().items():
        layer, _, kind = key.rpartition(".")
        part = _part_of(region_of(dense, layer))
        given = weights[part][key].to(fresh.device, fresh.dtype)
        if kind == "weight" and name_before(layer, left.blocks) in readers:
            # A part that was trained by itself has nothing in common with what it reads of the other.
            common = None if backbone.is_pruned and head.is_pruned else part
            wanted, there = (_inputs(dense, groups, layer, each, regions, common) for each in (left, chosen[part]))
            given = _with_inputs(spliced.get_submodule(layer), given, fresh, wanted, there)
        state[key] = given
    spliced.load_state_dict(state)
    return spliced


def _with_inputs(
    layer: nn.Module, given: Tensor, fresh: Tensor, wanted: Sequence[int | None], there: Sequence[int | None]
) -> Tensor:
    """A weight with other input channels: those that were there as they were, new ones as zeros.

    Args:
        layer: The convolution.
        given: Its weight.
        fresh: One of the right shape, taken where no input channel was there.
        wanted: The positions of the input channels that are needed, in the dense layer; None: has no equal.
        there: Those of the given weight.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        return _placed(given, fresh, wanted, there, 0)
    assert isinstance(layer, nn.Conv2d)  # what reads a group's channels
    groups = range(layer.groups)  # each with rows and input channels of its own

    def run(inputs: Sequence[int | None], group: int) -> Sequence[int | None]:
        part = len(inputs) // layer.groups
        return inputs[group * part : (group + 1) * part]

    rows = zip(given.chunk(layer.groups), fresh.chunk(layer.groups), groups, strict=True)
    return torch.cat([_placed(old, new, run(wanted, group), run(there, group), 1) for old, new, group in rows])


def _placed(
    given: Tensor, fresh: Tensor, wanted: Sequence[int | None], there: Sequence[int | None], dim: int
) -> Tensor:
    place = {position: index for index, position in enumerate(there) if position is not None}
    pairs = [(index, place[position]) for index, position in enumerate(wanted) if position in place]
    if not pairs:
        return fresh
    found = torch.zeros_like(fresh)
    to, come_from = (torch.tensor(indices, device=given.device) for indices in zip(*pairs, strict=True))
    return found.index_copy(dim, to, given.index_select(dim, come_from))


def _inputs(
    dense: nn.Module,
    groups: Sequence[ChannelGroup],
    layer: str,
    left: Remains,
    regions: Mapping[str, Region],
    common: Part | None,
) -> list[int | None]:
    """The input channels of a layer that are left, by their positions in the dense layer.

    With `common`, those that come from the other part are None.
    """
    layer = name_before(layer, left.blocks)
    folded = {place for reader, places in folded_inputs(dense, left.blocks) if reader == layer for place in places}
    found: dict[int, int | None] = {}
    for group in groups:
        staying = set(left.kept.get(group.root, range(group.width)))
        for reader in (reader for reader in group.readers if reader.layer == layer):
            for position, channel in zip(reader.positions, reader.channels, strict=True):
                if channel in staying and position not in folded:
                    is_other = common is not None and _part_of(regions[module_of(group.root)]) != common
                    found[position] = None if is_other else position
    return [found[position] for position in sorted(found)]


def _part_of(region: Region) -> Part:
    return "backbone" if region == "backbone" else "head"


def _part(group: ChannelGroup, regions: Mapping[str, Region]) -> Part:
    found = {_part_of(regions[module_of(layer)]) for layer in group.layers}
    if len(found) > 1:
        raise ModelError(f"{group.root}: shares its channels with layers of backbone and head, so it cannot be spliced")
    return found.pop()
