"""Tracing: which layers of a detector share their channels, and which read them.

Torch-Pruning (DepGraph, arXiv 2301.12900) follows the channels through additions and concatenations. What it finds is
read once into values, and checked for gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch_pruning
from torch import nn

from prunetune.pruning.structure.blocks import FAMILIES, PRUNABLE_BLOCKS, Fence, scale_of, shadow_names, shadow_of
from prunetune.pruning.structure.channels import natural_order
from prunetune.pruning.structure.groups import LEAST_OF_PART, ChannelGroup, Reader, first_channel, module_of
from prunetune.pruning.structure.layers import (
    CONVOLUTIONS,
    blank_image,
    blocks_of,
    convolutions,
    image_channels,
    is_depthwise,
    is_grouped,
)
from prunetune.spaces.errors import ModelError


@torch.inference_mode(False)
def channel_groups(model: nn.Module) -> tuple[ChannelGroup, ...]:
    """Traces which layers share channels and which read them, in natural order of the groups' roots.

    The result holds names and indices only. It fits every detector of the same description and channels.

    Args:
        model: An ultralytics `DetectionModel`, not fused. It is not changed.

    Raises:
        ModelError: A block cannot be pruned, the detector has no BatchNorm, or the model is no detector.
    """
    _check_blocks(model)
    shadow = shadow_of(model)
    names = shadow_names(shadow)
    # The graph is read from autograd. Without forward_fn, Torch-Pruning hides errors behind a second try.
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(
            shadow, blank_image(model), forward_fn=lambda network, image: network(image), verbose=False
        )
        traced = graph.get_all_groups(root_module_types=CONVOLUTIONS)
        read = [_read_group(items, graph, names, model) for items in traced]
    groups = sorted((group for group in read if group is not None), key=lambda group: natural_order(group.root))
    _check_coverage(model, groups)
    return tuple(_tied(groups, model))


def _read_group(
    items: Iterable[Any], graph: torch_pruning.DependencyGraph, names: Mapping[nn.Module, str], model: nn.Module
) -> ChannelGroup | None:
    """One group; None for what only a fence writes."""
    widths: dict[str, int] = {}
    norms: list[str] = []
    readers = set[Reader]()
    whole = False
    for item in items:
        layer: Any = item.dep.target.module
        if isinstance(layer, Fence):
            whole = True
            continue
        if not isinstance(layer, (*CONVOLUTIONS, nn.BatchNorm2d)):
            continue
        name = names[layer]
        if (
            isinstance(layer, CONVOLUTIONS)
            and not is_depthwise(layer)
            and graph.is_in_channel_pruning_fn(item.dep.handler)
        ):
            readers.add(Reader(module_of(name), tuple(item.idxs), tuple(item.root_idxs)))  # two halves read the same
            continue
        width = layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer.out_channels
        if sorted(zip(item.idxs, item.root_idxs, strict=True)) != [(index, index) for index in range(width)]:
            raise _not_followed(name, "its channels are tied to a part of another layer's")
        if isinstance(layer, nn.BatchNorm2d):
            norms.append(name)
        else:
            widths[name] = width
    if not widths:
        return None
    layers = sorted(widths, key=natural_order)
    return ChannelGroup(
        width=widths[layers[0]],
        layers=tuple(layers),
        norms=tuple(sorted(norms, key=natural_order)),
        readers=tuple(sorted(readers, key=lambda reader: natural_order(reader.layer))),
        scales=tuple(scale for scale in (scale_of(model, layer) for layer in layers) if scale is not None),
        whole=whole,
    )


def _tied(groups: Sequence[ChannelGroup], model: nn.Module) -> list[ChannelGroup]:
    """Divides the groups into parts, and ties those whose parts keep equally many channels, or all."""
    even = {group.root: {group.root} for group in groups}
    part = {group.root: group.width for group in groups}
    """Width of a group's parts."""
    for roots, width in _even_runs(groups, model):
        merged = set[str]().union(*(even[root] for root in roots))
        shared = math.gcd(width, *(part[root] for root in merged))
        for root in merged:
            even[root], part[root] = merged, shared
    narrow = {group.root for group in groups if part[group.root] <= LEAST_OF_PART and part[group.root] < group.width}
    rigid = {group.root for group in groups if not group.can_shrink} | narrow
    return [
        replace(
            group,
            even_with=tuple(sorted(even[group.root] - {group.root}, key=natural_order)),
            whole=group.whole
            or group.root in narrow
            or (len(even[group.root]) > 1 and not even[group.root].isdisjoint(rigid)),
            parts=group.width // part[group.root],
        )
        for group in groups
    ]


def _even_runs(groups: Sequence[ChannelGroup], model: nn.Module) -> Iterator[tuple[set[str], int]]:
    """Roots of groups whose runs of so many channels must keep equally many; 0 stands for all of a group's."""
    group_of = {layer: group for group in groups for layer in group.layers}
    for layer in group_of:
        if layer.endswith(":0"):
            yield {group_of[f"{module_of(layer)}:{half}"].root for half in range(2)}, 0
    for name, module in convolutions(model):
        if not is_grouped(module):
            continue
        for layer, group in group_of.items():
            if module_of(layer) == name:
                yield {group.root}, math.gcd(module.out_channels // module.groups, first_channel(layer, group.width))
        # What is read may be a concatenation, whose seams need not lie between the convolution's groups.
        read = [(group, reader) for group in groups for reader in group.readers if reader.layer == name]
        seams = {
            position - channel
            for _, reader in read
            for position, channel in zip(reader.positions, reader.channels, strict=True)
        }
        if read:
            yield {group.root for group, _ in read}, math.gcd(module.in_channels // module.groups, *seams)


def _check_blocks(model: nn.Module) -> None:
    for index, block in enumerate(blocks_of(model)):
        for name, part in block.named_modules(prefix=f"model.{index}"):
            kind = type(part).__name__
            is_known = kind in PRUNABLE_BLOCKS or (part is not block and type(part).__module__.startswith("torch."))
            if not is_known:
                raise ModelError(f"{name}: a {kind} block cannot be pruned yet; {FAMILIES}")
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        raise ModelError(
            "the detector has no BatchNorm, so its channels have no gamma to be judged by; if it was fused "
            "for inference, give the checkpoint from training"
        )


def _check_coverage(model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
    """Each channel must have one writer and be known to all its readers, or surgery would cut in the dark."""
    written: dict[str, list[str]] = {}
    for name in (name for group in groups for name in (*group.layers, *group.norms)):
        written.setdefault(module_of(name), []).append(name)
    read: dict[str, list[int]] = {}
    for reader in (reader for group in groups for reader in group.readers):
        read.setdefault(reader.layer, []).extend(reader.positions)
    for name, layer in model.named_modules():
        if not isinstance(layer, (*CONVOLUTIONS, nn.BatchNorm2d)) or ".dfl." in name:
            continue
        found = sorted(written.get(name, []))
        if found not in ([name], [f"{name}:0", f"{name}:1"]):
            raise _not_followed(name, f"its channels belong to {len(found)} groups instead of 1")
        if isinstance(layer, nn.BatchNorm2d) or is_depthwise(layer):
            continue
        reads_image = name not in read and layer.in_channels == image_channels(model)
        if not reads_image and sorted(read.get(name, [])) != list(range(layer.in_channels)):
            raise _not_followed(name, "the origin of its input channels is unknown")


def _not_followed(name: str, reason: str) -> ModelError:
    return ModelError(f"{name}: this layer cannot be pruned consistently, {reason}; {FAMILIES}")
