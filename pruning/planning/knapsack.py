"""The planner that knows what layers cost: importance per microsecond over aligned blocks (HALP, arXiv 2110.10811).

A global threshold removes where scores are low, wherever time is spent. Here blocks of channels go one after the other,
each time the one that gives up least importance for the latency that it saves, until the network is as fast as it
should be. What a block saves depends on its neighbours' widths, because a convolution costs by inputs times outputs, so
it is predicted anew whenever one of them has changed. Blocks leave a layer from the least important channel on. A
residual block goes in one step, which gives up what its last BatchNorm adds and saves all of its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy
import torch
from torch import nn

from prunetune.pruning.planning.plan import PruningPlan, ScoredBlock, ScoredGroup, Scores
from prunetune.pruning.structure.depth import LAST, folded_inputs, residual_blocks
from prunetune.pruning.structure.groups import ChannelGroup, module_of, width_of
from prunetune.pruning.structure.layers import blank_image, is_depthwise
from prunetune.spaces.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[numpy.float64]"

Costs: TypeAlias = Callable[[Sequence[Mapping[str, int]]], Array]
"""From networks, each layer name to channels, to their latencies in any unit: networks by limits. The largest of a
network's is what counts."""

AT_ONCE = (1, 2, 4)
"""How many blocks may go in one step. One block may save nothing, where two reach a layout that one would spoil."""

MOST_BLOCKS = 64
"""A group is divided into so many blocks or fewer. Wider ones are as many times the alignment as it takes."""


@dataclass(frozen=True)
class _Step:
    """What a group may lose next."""

    kept: int
    """Channels of each part that it would keep; of a residual block 0."""
    lost: float
    """The importance of what goes."""
    costs: Array
    """The change of each limit's latency: below 0 where it becomes faster."""

    def rank(self, current: Array) -> tuple[bool, float, float]:
        """The order in which steps are taken: by importance per latency, then the larger one.

        Args:
            current: The latency at each limit now.
        """
        saved = float(current.max() - (current + self.costs).max())
        return (False, self.lost / saved, -saved) if saved > 0 else (True, self.lost, 0.0)


class KnapsackLadder:
    """The plans of the knapsack planner, from nothing removed to one block or the floor everywhere.

    From step to step one group loses a block of channels, or up to four; or a residual block goes.

    Args:
        scores: The detector's.
        costs: Predicts latencies.
        balance: The scores of neck and head are divided by it, as if their threshold were so many times the backbone's.

    Raises:
        ConfigError: The balance is not from 0.001 to 1000.
    """

    def __init__(self, scores: Scores, costs: Costs, balance: float = 1.0) -> None:
        if not 1e-3 <= balance <= 1e3:
            raise ConfigError(f"balance: {balance!r} is not from 0.001 to 1000")
        self._scores = scores
        self._steps = _descend(scores, costs, balance)
        """After each step, the roots of the groups that lost channels, each with what it keeps; or the residual block
        that went, with 0."""

    def __len__(self) -> int:
        return 1 + len(self._steps)

    def plan(self, index: int) -> PruningPlan:
        """The plan of a step, from 0."""
        kept = {root: count for kept in self._steps[:index] for root, count in kept.items()}
        return self._scores.keeping(kept, blocks=[block.name for block in self._scores.blocks if block.name in kept])

    def filled(self, index: int, share_of: Callable[[PruningPlan], float], limit: float) -> PruningPlan:
        """The plan of a step: each is one group's alone, and small."""
        return self.plan(index)


class _Unit:
    """Groups that keep equally many channels in each part: one, or those of a convolution's two halves.

    Args:
        items: The groups.
        balance: See `KnapsackLadder`.
    """

    def __init__(self, items: Sequence[ScoredGroup], balance: float) -> None:
        self._parts = {item.group.root: item.group.parts for item in items}
        self.levels = _levels(items)
        self.kept = self.levels[0]
        totals = zip(*(_worth(item, balance) for item in items), strict=True)
        self.worth = [sum(each) for each in totals]
        self.touched = {
            module_of(layer)
            for item in items
            for layer in (*item.group.layers, *(reader.layer for reader in item.group.readers))
        }
        """The layers whose cost depends on it."""
        self.items = tuple(items)
        self._layers = [(module_of(layer), item.group.parts) for item in items for layer in item.group.layers]

    def narrowed(self, widths: Mapping[str, int], count: int) -> dict[str, int]:
        """The network's widths when each part keeps so many channels instead of those that it has."""
        narrow = dict(widths)
        for layer, parts in self._layers:
            if layer in narrow:  # else its residual block is gone
                narrow[layer] -= parts * (self.kept - count)
        return narrow

    def is_gone(self, widths: Mapping[str, int]) -> bool:
        """Whether all of its layers were in residual blocks that a network has no more."""
        return not any(layer in widths for layer, _ in self._layers)

    def channels(self) -> dict[str, int]:
        """The root of each group, and how many channels it keeps."""
        return {root: parts * self.kept for root, parts in self._parts.items()}


class _Block:
    """A residual block, as a unit that has one step.

    Args:
        block: The block.
        item: The group that its last convolution belongs to; None for one that cannot lose channels.
        unit: That of the group.
        layers: The names of all layers.
        balance: See `KnapsackLadder`.
    """

    levels = (1, 0)

    def __init__(
        self, block: ScoredBlock, item: ScoredGroup | None, unit: _Unit | None, layers: Iterable[str], balance: float
    ) -> None:
        self.kept = 1
        self._name, self._item, self._unit = block.name, item, unit
        self._scores = block.scores / (1.0 if block.region == "backbone" else balance)
        readers = () if item is None else item.group.readers
        self.touched = {layer for layer in layers if layer.startswith(f"{self._name}.")}
        self.touched |= {reader.layer for reader in readers}  # one of them may concatenate what it writes

    @property
    def worth(self) -> tuple[float, float]:
        """What it adds to the channels that are left, when it is gone and when it is not."""
        if self._item is None or self._unit is None:
            return (0.0, float(self._scores.sum()))
        left = self._item.order[: self._unit.kept * self._item.group.parts]
        return (0.0, float(self._scores[list(left)].sum()))

    def narrowed(self, widths: Mapping[str, int], count: int) -> dict[str, int]:
        """The network's widths without it."""
        return {layer: width for layer, width in widths.items() if not layer.startswith(f"{self._name}.")}

    def is_gone(self, widths: Mapping[str, int]) -> bool:
        """Never: a block does not go with another one."""
        return False

    def channels(self) -> dict[str, int]:
        """Its name, and that nothing is left of it."""
        return {self._name: 0}


def _units(scores: Scores, balance: float) -> dict[str, _Unit | _Block]:
    """By the root of the first group, or the name of the residual block."""
    units = {tied[0].group.root: _Unit(tied, balance) for tied in scores.tied}
    writes = {layer: (item, unit) for unit in units.values() for item in unit.items for layer in item.group.layers}
    blocks = {}
    for block in scores.blocks:
        item, unit = writes.get(f"{block.name}.{LAST}", (None, None))
        blocks[block.name] = _Block(block, item, unit, scores.channels, balance)
    return {**units, **blocks}


def _descend(scores: Scores, costs: Costs, balance: float) -> list[dict[str, int]]:
    units = _units(scores, balance)
    neighbours = _neighbours(units)
    widths = scores.channels.as_dict()
    current = costs([widths])[0]
    steps: dict[str, list[_Step]] = {}
    stale = set(units)
    taken: list[dict[str, int]] = []
    while True:
        proposals = [(root, count) for root in sorted(stale) for count in _next(units[root].levels, units[root].kept)]
        steps.update({root: [] for root in stale})
        if proposals:
            changes = costs([units[root].narrowed(widths, count) for root, count in proposals]) - current
            for (root, count), change in zip(proposals, changes, strict=True):
                worth = units[root].worth
                steps[root].append(_Step(count, worth[units[root].kept] - worth[count], change))
        best = min(
            ((step.rank(current), root, step) for root, found in steps.items() for step in found),
            key=lambda entry: entry[:2],
            default=None,
        )
        if best is None:
            return taken
        _, root, step = best
        widths = units[root].narrowed(widths, step.kept)
        units[root].kept = step.kept
        for other in [other for other in neighbours[root] if other in units and units[other].is_gone(widths)]:
            del units[other], steps[other]
        current = current + step.costs
        taken.append(units[root].channels())
        stale = neighbours[root] & units.keys()


def _levels(items: Sequence[ScoredGroup]) -> list[int]:
    """The numbers of channels that groups may keep together in each part, falling from its width."""
    (width,) = {item.group.width // item.group.parts for item in items}
    least = max(item.least // item.group.parts for item in items)
    alignment = math.lcm(*(item.alignment // item.group.parts for item in items))
    block = alignment * max(1, -(-width // (alignment * MOST_BLOCKS)))
    highest = (width - 1) // block * block
    between = range(highest, least, -block)
    return [width, *between, least] if least < width else [width]


def _next(levels: Sequence[int], kept: int) -> list[int]:
    """What a group may keep after its next step."""
    place = levels.index(kept)
    return [levels[place + blocks] for blocks in AT_ONCE if place + blocks < len(levels)]


def _worth(item: ScoredGroup, balance: float) -> list[float]:
    """The importance of a group that keeps 0, 1, 2, ... channels of each part, the best ones."""
    # As with a threshold, of several regions' the one that spares the group most decides.
    factor = min(1.0 if region == "backbone" else balance for region in item.regions)
    return list(accumulate((item.ranked.sum(dim=0) / factor).tolist(), initial=0.0))


def _neighbours(units: Mapping[str, _Unit | _Block]) -> dict[str, set[str]]:
    """The units, itself among them, whose savings change when a unit loses channels.

    Those are the ones that some layer joins with it: it writes for the one and reads the other, or reads both.
    """
    touched: dict[str, set[str]] = {}
    for root, unit in units.items():
        for layer in unit.touched:
            touched.setdefault(layer, set()).add(root)
    found = {root: {root} for root in units}
    for roots in touched.values():
        for root in roots:
            found[root] |= roots
    return found


class MultiplyAdds:
    """Multiply-adds of a detector's convolutions in the place of latencies, where nothing predicts those.

    Args:
        model: The detector.
        groups: All of its groups.
    """

    @torch.inference_mode(False)
    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        positions = _positions(model)
        self._kernels: dict[str, float] = {}
        self._reads: dict[str, tuple[float, list[tuple[str, float]]]] = {}
        parts: dict[str, list[tuple[str, float]]] = {}
        read: dict[str, int] = {}
        for group in groups:
            for reader in group.readers:
                parts.setdefault(reader.layer, []).append((group.root, len(reader.positions) / group.width))
                read[reader.layer] = read.get(reader.layer, 0) + len(reader.positions)
        self._folds: dict[str, list[str]] = {}
        """The last convolutions of residual blocks whose outputs a layer reads beside their inputs."""
        for block in residual_blocks(model):
            for folded, _ in folded_inputs(model, [block]):
                self._folds.setdefault(folded, []).append(f"{block}.{LAST}")
        for name, count in positions.items():
            layer = model.get_submodule(name)
            assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))  # by `_positions`
            kernel = count * math.prod(layer.kernel_size)
            if is_depthwise(layer):
                self._kernels[name], self._reads[name] = kernel, (1, [])
                continue
            self._kernels[name] = kernel / layer.groups
            self._reads[name] = (layer.in_channels - read.get(name, 0), parts.get(name, []))

    def __call__(self, networks: Sequence[Mapping[str, int]]) -> Array:
        """Of each network, as a column."""
        return numpy.array([[self._count(widths)] for widths in networks])

    def _count(self, widths: Mapping[str, int]) -> float:
        total = 0.0
        for name, kernel in self._kernels.items():
            if name not in widths:  # in a residual block that is gone
                continue
            constant, parts = self._reads[name]
            inputs = constant + sum(share * width_of(root, widths) for root, share in parts)
            for block in self._folds.get(name, ()):
                if block not in widths:
                    inputs -= widths[f"{name.removesuffix('cv2.conv')}cv1.conv"] // 2  # C2f's `c`
            total += kernel * inputs * widths[name]
        return total


def _positions(model: nn.Module) -> dict[str, int]:
    """How often each convolution applies its kernel to a small image: the layers' shares do not depend on its size."""
    found: dict[str, int] = {}
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))}

    def count(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        features = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        found[names[layer]] = math.prod(features.shape[2:])

    hooks = [layer.register_forward_hook(count) for layer in names]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(blank_image(model))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return found
