"""Residual blocks: which of a detector's can go whole, the network without them, and what its layers are called then.

`x + branch(x)` without its branch is `x`. In C3, C3k and RepC3 the blocks follow one another in a `Sequential`, which
becomes shorter, or empty. C2f and its kin also concatenate what each block writes: without the block they would bring
its input a second time, so the following convolution's weights for both are added up, and the concatenation becomes
shorter. Either way what is left is a network of stock ultralytics.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from prunetune.pruning.structure.channels import natural_order

LAST = "cv2.conv"
"""A block's last convolution, within the block."""

LAST_NORM = "cv2.bn"
"""The BatchNorm after it, whose gammas and biases are all that the block adds to its input."""


def residual_blocks(model: nn.Module) -> tuple[str, ...]:
    """The bottlenecks with a shortcut, by name, in natural order. Those among layers of other kinds are left out.

    Args:
        model: An ultralytics `DetectionModel`.
    """
    found = [
        name
        for name, block in model.named_modules()
        if _is_bottleneck(block) and block.add and all(map(_is_bottleneck, _siblings(model, name)))
    ]
    return tuple(sorted(found, key=natural_order))


def without_blocks(model: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """A copy in which the blocks' inputs take the place of their outputs. The original is left exactly as it was.

    Where the last BatchNorms' gammas and biases are 0, the outputs stay the same.

    Args:
        model: An ultralytics `DetectionModel`, not fused.
        blocks: Some of its `residual_blocks`.
    """
    model = copy.deepcopy(model)
    for name in sorted(blocks, key=natural_order, reverse=True):  # those behind a block are renamed by its going
        container, index = _place(name)
        modules: Any = model.get_submodule(container)
        if isinstance(modules, nn.ModuleList):
            _fold(model.get_submodule(container.rpartition(".")[0]), index)
        del modules[index]
    return model


def folded_inputs(model: nn.Module, blocks: Sequence[str]) -> Iterator[tuple[str, range]]:
    """The input channels of convolutions that go with each of some blocks: the layer, and their positions in it.

    Args:
        model: The network with the blocks.
        blocks: Some of its `residual_blocks`.
    """
    for name in blocks:
        container, index = _place(name)
        if isinstance(model.get_submodule(container), nn.ModuleList):
            owner = container.rpartition(".")[0]
            width = model.get_submodule(owner).c
            assert isinstance(width, int)  # C2f's
            yield f"{owner}.cv2.conv", range((2 + index) * width, (3 + index) * width)


def name_after(name: str, blocks: Sequence[str]) -> str | None:
    """What a layer is called when blocks are gone; None for a layer of theirs.

    Args:
        name: A layer, or a half of one, in the network with the blocks.
        blocks: The blocks.
    """
    for block in sorted(blocks, key=natural_order, reverse=True):
        if name.startswith(f"{block}."):
            return None
        name = _moved(name, block, -1)
    return name


def name_before(name: str, blocks: Sequence[str]) -> str:
    """What a layer was called before blocks went: the inverse of `name_after`."""
    for block in sorted(blocks, key=natural_order):
        name = _moved(name, block, 1)
    return name


def lacks_only_blocks(names: Collection[str], dense: Collection[str], blocks: Sequence[str]) -> bool:
    """Whether layers are those of a dense network without some of its residual blocks, or without any.

    Args:
        names: The layers.
        dense: The dense network's.
        blocks: Its `residual_blocks`.
    """
    # What is left is numbered anew: it is always the last ones of a container that are missing.
    gone = [block for block in blocks if not any(name.startswith(f"{block}.") for name in names)]
    return set(names) == {name_after(name, gone) for name in dense} - {None}


def _is_bottleneck(module: nn.Module) -> bool:
    return type(module).__name__ == "Bottleneck"


def _siblings(model: nn.Module, block: str) -> Iterator[nn.Module]:
    yield from model.get_submodule(_place(block)[0]).children()


def _moved(name: str, block: str, by: int) -> str:
    """The name when the places from a block on move."""
    container, index = _place(block)
    if not name.startswith(f"{container}."):
        return name
    own, _, rest = name.removeprefix(f"{container}.").partition(".")
    return name if int(own) < index else ".".join(filter(None, (container, str(int(own) + by), rest)))


def _place(block: str) -> tuple[str, int]:
    container, _, index = block.rpartition(".")
    return container, int(index)


def _fold(owner: Any, index: int) -> None:
    """Gives what C2f's last convolution reads of a block to what it reads of the block's input."""
    conv, width, start = owner.cv2.conv, owner.c, (2 + index) * owner.c
    weight = conv.weight.detach().clone()
    weight[:, start - width : start] += weight[:, start : start + width]
    conv.weight = nn.Parameter(torch.cat((weight[:, :start], weight[:, start + width :]), dim=1))
    conv.in_channels -= width
