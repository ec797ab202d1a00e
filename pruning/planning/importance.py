"""What channels are judged by: one score for each channel of each group, higher for what should stay.

Layers that additions tie lose their channels together, so a group has one score for a channel, whatever number of
layers writes it. `gamma`, `l1`, `l2` and `lamp` take the largest of its layers' scores: a tied channel goes only if
each of its layers would give it up. `taylor` adds what the layers contribute before it squares: that is what removing
all of them changes in the loss, to first order.

Gammas are what they are, as in network slimming, and a threshold on them is absolute. The other scores have no scale of
their own, so they are given in multiples of an average channel's: 1 is the mean of the group for `l1` and `l2`, because
BatchNorm makes the scale of a layer's weights arbitrary, and the mean of the whole detector for `taylor` and `lamp`,
which compare across layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from prunetune.pruning.structure.groups import ChannelGroup, first_channel, module_of
from prunetune.spaces.errors import ConfigError, ModelError
from prunetune.spaces.recipe import Importance

Losses = Callable[[nn.Module], Iterator[Tensor]]
"""From a detector to its loss, per image, on each of some batches of training images; gradients flow."""


class Judge(Protocol):
    """Gives the channels of groups their scores."""

    @property
    def importance(self) -> Importance:
        """What it judges by."""

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
        """For each group, a score for each channel: finite, from 0 on, in double precision on the CPU.

        Args:
            model: The detector, not fused. It is left exactly as it was.
            groups: Groups of it, whose layers all have BatchNorms.

        Raises:
            ModelError: The training diverged: there are gammas, weights or gradients that are not finite.
        """


def create_judge(importance: Importance, losses: Losses | None = None) -> Judge:
    """The judge of a recipe's importance.

    Args:
        importance: What to judge by.
        losses: The detector's losses; `taylor` needs them.

    Raises:
        ConfigError: `taylor` is to judge without losses.
    """
    if importance == "gamma":
        return Gamma()
    if importance == "lamp":
        return Lamp()
    if importance != "taylor":
        return WeightNorm(importance)
    if losses is None:
        raise ConfigError("importance: taylor needs training images; choose gamma, l1, l2 or lamp where there are none")
    return Taylor(losses)


@dataclass(frozen=True)
class Gamma:
    """|gamma|, the BatchNorm's scale (network slimming, arXiv 1708.06519)."""

    importance: Importance = "gamma"

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
        """The largest |gamma| of each channel."""
        found = [[_gamma(model, name, group.width).abs() for name in group.norms] for group in groups]
        return [torch.stack(gammas).amax(dim=0) for gammas in found]


@dataclass(frozen=True)
class WeightNorm:
    """The norm of the weights that write a channel (arXiv 1608.08710), in multiples of the mean in its layer."""

    importance: Importance = "l1"

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
        """The largest of the tied layers' norms, in multiples of the group's mean."""
        order = 1 if self.importance == "l1" else 2
        return [
            _relative(
                torch.stack(
                    [_relative(_filters(model, name, group.width).norm(p=order, dim=1)) for name in group.layers]
                ).amax(dim=0)
            )
            for group in groups
        ]  # fmt: skip


@dataclass(frozen=True)
class Lamp:
    """Layer-adaptive magnitude (arXiv 2010.07611), by channels instead of weights.

    A channel's squared weights, over those of all channels of its layer that have as many or more. The largest of each
    layer has 1, the most there is: no layer is emptied before all others are.
    """

    importance: Importance = "lamp"

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
        """The largest of the tied layers' scores, in multiples of the detector's mean."""
        found = [[_filters(model, name, group.width).square() for name in group.layers] for group in groups]
        scores = [torch.stack([_lamp(square.sum(dim=1)) for square in squares]).amax(dim=0) for squares in found]
        return _relative_to_all(scores)


@dataclass(frozen=True)
class Taylor:
    """What removing a channel changes in the loss, to first order (arXiv 1906.10771), in its BatchNorm.

    For each batch (gradient times value) of gamma and beta, added up over the tied layers, squared; of that the root of
    the mean over the batches. Statistics are the running ones. The batches decide the result, so they should always be
    the same.
    """

    losses: Losses
    importance: Importance = "taylor"

    @torch.inference_mode(False)
    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
        """The root of the mean square, in multiples of the detector's mean."""
        for group in groups:
            for name in group.norms:
                _gamma(model, name, group.width)  # a training that diverged is told as what it is
        probe = copy.deepcopy(model).eval()
        for parameter in probe.parameters():
            parameter.requires_grad_(False)
        names = dict.fromkeys(module_of(name) for group in groups for name in group.norms)
        parameters = [parameter for name in names for parameter in _affine(probe.get_submodule(name))]
        for parameter in parameters:
            parameter.requires_grad_(True)
        squares = [torch.zeros(group.width, dtype=torch.float64) for group in groups]
        batches = 0
        with torch.enable_grad():
            for loss in self.losses(probe):
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                pairs = (
                    torch.zeros_like(parameter) if gradient is None else gradient * parameter.detach()
                    for gradient, parameter in zip(gradients, parameters, strict=True)
                )
                effects = {name: (next(pairs) + next(pairs)).cpu().double() for name in names}
                for group, square in zip(groups, squares, strict=True):
                    parts = [_part(effects[module_of(name)], name, group.width) for name in group.norms]
                    square += torch.stack(parts).sum(dim=0).square()
                batches += 1
        if not batches:
            raise ConfigError("importance: taylor needs at least one batch of training images; the data set gave none")
        found = [(square / batches).sqrt() for square in squares]
        if not all(bool(torch.isfinite(score).all()) for score in found):
            raise ModelError("taylor: gradients are not finite, the training diverged; prune an earlier checkpoint")
        return _relative_to_all(found)


def _gamma(model: nn.Module, name: str, width: int) -> Tensor:
    """The scale of one BatchNorm, or of a half of one, in double precision, as the threshold is."""
    norm = model.get_submodule(module_of(name))
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine:
        raise ModelError(f"{name}: the BatchNorm has no gamma; build it with affine=True")
    gamma = norm.weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(gamma).all()):
        raise ModelError(f"{name}: gammas are not finite, the training diverged; prune an earlier checkpoint")
    return _part(gamma, name, width)


def _affine(norm: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    assert isinstance(norm, nn.BatchNorm2d)  # `_gamma` has looked
    return norm.weight, norm.bias


def _filters(model: nn.Module, name: str, width: int) -> Tensor:
    """The weights of a convolution or of a half of one, a row for each channel that it writes, in double precision."""
    layer = model.get_submodule(module_of(name))
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))  # what writes a group's channels
    weight = layer.weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"{name}: weights are not finite, the training diverged; prune an earlier checkpoint")
    if isinstance(layer, nn.ConvTranspose2d):  # inputs by the outputs of their group
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return _part(weight.flatten(1), name, width)


def _part(values: Tensor, name: str, width: int) -> Tensor:
    """What belongs to a layer, or to a half of one, by its name."""
    first = first_channel(name, width)
    return values[first : first + width]


def _lamp(squares: Tensor) -> Tensor:
    ordered, indices = torch.sort(squares, descending=True, stable=True)
    scores = torch.zeros_like(squares)
    scores[indices] = torch.nan_to_num(ordered / ordered.cumsum(dim=0))
    return scores


def _relative(scores: Tensor) -> Tensor:
    """Scores in multiples of their mean; all 0 where all are."""
    return torch.nan_to_num(scores / scores.mean())


def _relative_to_all(scores: list[Tensor]) -> list[Tensor]:
    if not scores:
        return scores
    mean = torch.cat(scores).mean()
    return [torch.nan_to_num(score / mean) for score in scores]
