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
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunetune.pruning.surgery import channel_groups
from prunetune.pruning.training import Phase


@dataclass(frozen=True)
class Block:
    """Gammas that are penalised together, channel by channel."""

    gammas: tuple[Tensor, ...]
    """One vector for each BatchNorm, all equally long."""
    weight: float = 1.0

    @property
    def norms(self) -> Tensor:
        """The norm of each channel's gammas."""
        return self.gammas[0].abs() if len(self.gammas) == 1 else torch.stack(self.gammas).norm(dim=0)

    @property
    def scale(self) -> float:
        """What a channel's norm is multiplied by in the penalty."""
        return self.weight * math.sqrt(len(self.gammas))


def norm_layers(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The BatchNorms that have gammas, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None
    }


def penalty_layers(model: nn.Module, phase: Phase) -> tuple[tuple[str, ...], ...]:
    """The BatchNorms of each block, by name.

    Args:
        model: An ultralytics `DetectionModel`.
        phase: Whether channels are tied.
    """
    names = list(norm_layers(model))
    ties = [group.norms for group in channel_groups(model) if len(group.norms) > 1] if phase.tied else []
    tied = {name for tie in ties for name in tie}
    return (*((name,) for name in names if name not in tied), *ties)


def penalty_blocks(model: nn.Module, layers: Sequence[Sequence[str]], weights: Mapping[str, float]) -> list[Block]:
    """The blocks of a network, over its own gammas.

    Args:
        model: The network.
        layers: The BatchNorms of each block.
        weights: Of BatchNorms by name; 1 for those that are not there.
    """
    norms = norm_layers(model)
    return [Block(tuple(norms[name].weight for name in names), weights.get(names[0], 1.0)) for names in layers]


@torch.no_grad()
def shrink(blocks: Iterable[Block], step: float) -> None:
    """The proximal step of `step` times the penalty, in place: soft-thresholds each channel's norm."""
    for block in blocks:
        if len(block.gammas) == 1:
            gamma = block.gammas[0]
            gamma.copy_(gamma.sign() * (gamma.abs() - step * block.scale).clamp_(min=0))
            continue
        norms = block.norms
        left = (1 - step * block.scale / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(min=0)
        for gamma in block.gammas:
            gamma.mul_(left)


@torch.no_grad()
def add_subgradient(blocks: Iterable[Block], coefficient: float) -> None:
    """Adds the subgradient of `coefficient` times the penalty to the gammas' gradients; 0 where a channel is at zero.

    The gradients must have their true size: where a scaler enlarged them, after they are unscaled.
    """
    for block in blocks:
        norms = block.norms
        for gamma in block.gammas:
            if gamma.grad is not None:
                direction = torch.where(norms > 0, gamma / norms, 0)
                gamma.grad.add_(direction, alpha=coefficient * block.scale)


@torch.no_grad()
def penalty(blocks: Iterable[Block]) -> float:
    """The penalty for a lambda of 1."""
    return float(sum(block.scale * block.norms.sum() for block in blocks))
