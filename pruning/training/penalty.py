"""The penalty on gammas: what is penalised, and the two ways in which it acts.

The penalty is lambda times the sum of `|gamma|` over all BatchNorms whose channels can go.

A proximal step comes after the optimizer's and shrinks by lambda times the learning rate, whatever the optimizer. A
subgradient is a part of the gradient. It is what network slimming (arXiv 1708.06519) did with SGD, where momentum m
multiplies its pull by 1 / (1 - m); Adam divides it by its own size, and it never gives an exact zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunetune.pruning.structure.channels import natural_order
from prunetune.pruning.structure.groups import first_channel, module_of
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.training.batchnorm import norm_layers


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


def penalty_layers(model: nn.Module) -> tuple[str, ...]:
    """The BatchNorms that are penalised, by name: those whose channels can go.

    Args:
        model: An ultralytics `DetectionModel`.
    """
    names = {name for group in channel_groups(model) if group.can_shrink for name in group.norms}
    return tuple(sorted(names, key=natural_order))


def penalized_gammas(model: nn.Module, layers: Sequence[str]) -> list[Gammas]:
    """A network's own gammas.

    Args:
        model: The network.
        layers: The names of the BatchNorms.
    """
    norms = norm_layers(model)

    def gammas(name: str) -> Gammas:
        gamma = norms[module_of(name)].weight
        if module_of(name) == name:
            return Gammas(gamma)
        width = len(gamma) // 2
        first = first_channel(name, width)
        return Gammas(gamma, slice(first, first + width))

    return [gammas(name) for name in layers]


@torch.no_grad()
def shrink(penalized: Iterable[Gammas], step: float) -> None:
    """The proximal step of `step` times the penalty, in place: a soft threshold."""
    for gammas in penalized:
        values = gammas.values
        values.copy_(values.sign() * (values.abs() - step).clamp_(min=0))


@torch.no_grad()
def add_subgradient(penalized: Iterable[Gammas], coefficient: float) -> None:
    """Adds the subgradient of `coefficient` times the penalty to the gammas' gradients; 0 where a gamma is zero.

    The gradients must have their true size: where a scaler enlarged them, after they are unscaled.
    """
    for gammas in penalized:
        if (gradients := gammas.gradients) is not None:
            gradients.add_(gammas.values.sign(), alpha=coefficient)


@torch.no_grad()
def penalty(penalized: Iterable[Gammas]) -> float:
    """The penalty for a lambda of 1."""
    return float(sum(gammas.values.abs().sum() for gammas in penalized))
