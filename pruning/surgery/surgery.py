"""Surgery: cuts the channels and residual blocks that a plan does not keep out of a copy of the detector."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from prunetune.pruning.planning.plan import PruningPlan
from prunetune.pruning.structure.blocks import splits
from prunetune.pruning.structure.channels import natural_order
from prunetune.pruning.structure.depth import residual_blocks, without_blocks
from prunetune.pruning.structure.groups import ChannelGroup, first_channel, module_of
from prunetune.pruning.structure.layers import CONVOLUTIONS, channel_config, is_depthwise
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.spaces.errors import ModelError


@torch.inference_mode(False)
def apply_plan(model: nn.Module, plan: PruningPlan, groups: Sequence[ChannelGroup] | None = None) -> nn.Module:
    """Cuts what the plan does not keep out of a copy. The original is left exactly as it was.

    The result holds classes of torch and ultralytics only. BatchNorms keep their eps and momentum, the
    detector its stride, names, yaml and mode. All weights can be trained again, except for Detect's fixed
    decoder (dfl): loaded checkpoints come with gradients switched off.

    Args:
        model: The `DetectionModel` that the plan was made for.
        plan: What to keep.
        groups: What `channel_groups(model)` returned, to trace only once for plan and surgery.

    Returns:
        The pruned detector, on the same device and in the same precision.

    Raises:
        ModelError: The plan was made for another detector, or the detector cannot be pruned.
    """
    by_root = {group.root: group for group in (groups or channel_groups(model))}
    outputs: dict[str, set[int]] = {}
    inputs: dict[str, set[int]] = {}
    for root, kept in plan.keep:
        group = by_root.get(root)
        if group is None or not kept or kept[-1] >= group.width:
            raise _misfit(root, "no group of layers with these channels")
        lost = set(range(group.width)) - set(kept)
        for name in (*group.layers, *group.norms, *group.scales):
            first = first_channel(name, group.width)
            outputs.setdefault(module_of(name), set()).update(first + channel for channel in lost)
        for reader in group.readers:
            arrivals = zip(reader.positions, reader.channels, strict=True)
            inputs.setdefault(reader.layer, set()).update(place for place, channel in arrivals if channel in lost)
    for name in set(plan.blocks) - set(residual_blocks(model)):
        raise _misfit(name, "no residual block")
    pruned = copy.deepcopy(model)
    for name, lost in outputs.items():
        _drop_outputs(pruned, name, lost)
    for name, lost in inputs.items():
        _drop_inputs(pruned.get_submodule(name), name, lost)
    for block in (block for block in pruned.modules() if splits(block)):
        block.c = block.cv1.conv.out_channels // 2  # type: ignore[union-attr, operator, assignment]
    if plan.blocks:
        pruned = without_blocks(pruned, plan.blocks)
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and ".dfl." not in name)
    result = channel_config(pruned)
    if result != plan.channels:
        name = min(dict(result.items() ^ plan.channels.items()), key=natural_order)
        raise _misfit(
            name,
            f"{result.get(name, 'no')} channels after surgery, {plan.channels.get(name, 'none')} planned",
        )
    return pruned


def _drop_outputs(model: nn.Module, name: str, lost: set[int]) -> None:
    owner, _, own = name.rpartition(".")
    layer = getattr(model.get_submodule(owner), own)
    if isinstance(layer, nn.Parameter):
        _drop(model.get_submodule(owner), own, 0, lost)
        return
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features -= len(lost)
        for statistics in ("running_mean", "running_var"):
            _drop(layer, statistics, 0, lost)
    else:
        if is_depthwise(layer):
            layer.in_channels = layer.groups = layer.in_channels - len(lost)
        layer.out_channels -= len(lost)
    if isinstance(layer, nn.ConvTranspose2d):
        _drop_by_group(layer, name, lost)
    else:
        _drop(layer, "weight", 0, lost)
    _drop(layer, "bias", 0, lost)


def _drop_inputs(layer: nn.Module, name: str, lost: set[int]) -> None:
    assert isinstance(layer, CONVOLUTIONS)  # readers are convolutions
    layer.in_channels -= len(lost)
    if isinstance(layer, nn.ConvTranspose2d):
        _drop(layer, "weight", 0, lost)
    else:
        _drop_by_group(layer, name, lost)


def _drop_by_group(layer: nn.Conv2d | nn.ConvTranspose2d, name: str, lost: set[int]) -> None:
    """Takes channels out of the second dimension of a weight, which counts within each of the layer's groups."""
    weight, groups = layer.weight.detach(), layer.groups
    part = weight.shape[1]
    kept = [[index for index in range(part) if group * part + index not in lost] for group in range(groups)]
    if len({len(indices) for indices in kept}) > 1:
        raise _misfit(name, f"its {groups} groups would read unequally many channels")
    rows = zip(weight.chunk(groups), kept, strict=True)
    left = [row.index_select(1, torch.tensor(indices, device=row.device)) for row, indices in rows]
    layer.weight = nn.Parameter(torch.cat(left))


def _drop(owner: nn.Module, name: str, dim: int, lost: set[int]) -> None:
    """Takes channels out of a parameter or buffer."""
    values = getattr(owner, name)
    if values is None:
        return
    kept = [channel for channel in range(values.shape[dim]) if channel not in lost]
    left = values.detach().index_select(dim, torch.tensor(kept, device=values.device))
    setattr(owner, name, nn.Parameter(left) if isinstance(values, nn.Parameter) else left)


def _misfit(name: str, reason: str) -> ModelError:
    return ModelError(f"{name}: the plan was made for another detector ({reason}); plan again from this one")
