"""The penalty on gammas: what is penalised, how strongly, and the two ways in which it acts.

The penalty is lambda times a sum over blocks of gammas, `weight * |gamma|`. A block is the gammas of one BatchNorm, or,
where additions tie channels together, those of all BatchNorms of the tied channels: a channel's gammas then count by
their Euclidean norm times the root of their number (group lasso, Yuan and Lin 2006), so that they reach zero together,
and equal gammas are pulled as strongly as without ties.

A proximal step comes after the optimizer's and shrinks by lambda times the learning rate, whatever the optimizer. A
subgradient is a part of the gradient. It is what network slimming (arXiv 1708.06519) did with SGD, where momentum m
multiplies its pull by 1 / (1 - m); Adam divides it by its own size, and it never gives an exact zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunetune.pruning.batchnorm import norm_layers
from prunetune.pruning.channels import natural_order
from prunetune.pruning.groups import first_channel, module_of
from prunetune.pruning.tracing import channel_groups
from prunetune.pruning.training import Phase


@dataclass(frozen=True)
class Gammas:
    """The gammas of a BatchNorm, or of a half of one."""

    parameter: Tensor
    channels: slice = field(default_factory=lambda: slice(None))

    @property
    def values(self) -> Tensor:
        """They themselves, in the parameter's memory."""
        return self.parameter[self.channels]

    @property
    def gradients(self) -> Tensor | None:
        """The same of the gradient; None before there is one."""
        return None if self.parameter.grad is None else self.parameter.grad[self.channels]


@dataclass(frozen=True)
class Block:
    """Gammas that are penalised together, channel by channel."""

    gammas: tuple[Gammas, ...]
    """One vector for each BatchNorm, all equally long."""
    weight: float = 1.0

    @classmethod
    def of(cls, *parameters: Tensor, weight: float = 1.0) -> Block:
        """Of whole BatchNorms."""
        return cls(tuple(map(Gammas, parameters)), weight)

    @property
    def norms(self) -> Tensor:
        """The norm of each channel's gammas."""
        values = [gamma.values for gamma in self.gammas]
        return values[0].abs() if len(values) == 1 else torch.stack(values).norm(dim=0)

    @property
    def scale(self) -> float:
        """What a channel's norm is multiplied by in the penalty."""
        return self.weight * math.sqrt(len(self.gammas))


def penalty_layers(model: nn.Module, phase: Phase) -> tuple[tuple[str, ...], ...]:
    """The BatchNorms of each block, by name; those whose channels cannot go are in none.

    Args:
        model: An ultralytics `DetectionModel`.
        phase: Whether channels are tied.
    """
    prunable = [group for group in channel_groups(model) if group.can_shrink]
    ties = [group.norms for group in prunable if len(group.norms) > 1] if phase.tied else []
    tied = {name for tie in ties for name in tie}
    single = sorted({name for group in prunable for name in group.norms} - tied, key=natural_order)
    return (*((name,) for name in single), *ties)


def penalty_blocks(model: nn.Module, layers: Sequence[Sequence[str]], weights: Mapping[str, float]) -> list[Block]:
    """The blocks of a network, over its own gammas.

    Args:
        model: The network.
        layers: The BatchNorms of each block.
        weights: Of BatchNorms by name; 1 for those that are not there.
    """
    norms = norm_layers(model)

    def gammas(name: str) -> Gammas:
        gamma = norms[module_of(name)].weight
        if module_of(name) == name:
            return Gammas(gamma)
        width = len(gamma) // 2
        first = first_channel(name, width)
        return Gammas(gamma, slice(first, first + width))

    return [Block(tuple(map(gammas, names)), weights.get(names[0], 1.0)) for names in layers]


@torch.no_grad()
def shrink(blocks: Iterable[Block], step: float) -> None:
    """The proximal step of `step` times the penalty, in place: soft-thresholds each channel's norm."""
    for block in blocks:
        if len(block.gammas) == 1:
            gamma = block.gammas[0].values
            gamma.copy_(gamma.sign() * (gamma.abs() - step * block.scale).clamp_(min=0))
            continue
        norms = block.norms
        left = (1 - step * block.scale / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(min=0)
        for gammas in block.gammas:
            gammas.values.mul_(left)


@torch.no_grad()
def add_subgradient(blocks: Iterable[Block], coefficient: float) -> None:
    """Adds the subgradient of `coefficient` times the penalty to the gammas' gradients; 0 where a channel is at zero.

    The gradients must have their true size: where a scaler enlarged them, after they are unscaled.
    """
    for block in blocks:
        norms = block.norms
        for gammas in block.gammas:
            if (gradients := gammas.gradients) is not None:
                direction = torch.where(norms > 0, gammas.values / norms, 0)
                gradients.add_(direction, alpha=coefficient * block.scale)


@torch.no_grad()
def penalty(blocks: Iterable[Block]) -> float:
    """The penalty for a lambda of 1."""
    return float(sum(block.scale * block.norms.sum() for block in blocks))
