"""The layers of an ultralytics model: their names, their channels, and the part of the network that they are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.spaces.deployment import Deployment, ImageSize
from prunetune.spaces.errors import ModelError
from prunetune.spaces.recipe import Region

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def channel_config(model: nn.Module) -> ChannelConfig:
    """Output channels of every Conv2d and ConvTranspose2d of a detector."""
    return ChannelConfig({name: layer.out_channels for name, layer in convolutions(model)})


def layer_regions(model: nn.Module) -> dict[str, Region]:
    """The region of every convolution: `backbone` by the detector's yaml, `head` for the last block, else `neck`.

    Raises:
        ModelError: The model is no ultralytics detector.
    """
    return {name: region_of(model, name) for name, _ in convolutions(model)}


def region_of(model: nn.Module, name: str) -> Region:
    """The region of one layer by its name: `model.3.conv` is in a backbone that has four blocks or more.

    Raises:
        ModelError: The model is no ultralytics detector.
    """
    block, description = int(name.split(".")[1]), _description(model)
    if block < len(description["backbone"]):
        return "backbone"
    return "head" if block == len(blocks_of(model)) - 1 else "neck"


def convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
    """All Conv2d and ConvTranspose2d by name, in the order of the modules."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, CONVOLUTIONS)]


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a convolution reads each of its channels by itself, so that it writes as many as it reads."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def is_grouped(layer: nn.Module) -> bool:
    """Whether a convolution has groups that each read and write channels of their own; depthwise ones do not count."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_depthwise(layer)


def blocks_of(model: nn.Module) -> nn.Sequential:
    """The blocks of a detector's yaml, the last one its head.

    Raises:
        ModelError: The model is no ultralytics detector.
    """
    _description(model)
    blocks = model.model
    if not isinstance(blocks, nn.Sequential):
        raise _no_detector(model)
    return blocks


def image_channels(model: nn.Module) -> int:
    """Channels of the image that a detector takes."""
    return int(_description(model).get("channels", 3))


def coarsest_stride(model: nn.Module) -> int:
    """The side in px that images of a detector are multiples of; at least 32, as everywhere in ultralytics.

    Raises:
        ModelError: The model is no ultralytics detector.
    """
    _description(model)
    strides: Any = model.stride
    return max(int(max(strides)), 32)


def size_problem(imgsz: ImageSize, stride: int, name: str) -> str | None:
    """What is wrong with the first side in px that no input of a network can have; None if both are right.

    Args:
        imgsz: The input's size.
        stride: The network's, which ultralytics rounds other sides up to a multiple of.
        name: The network's.
    """
    for side in Deployment(imgsz).height_width:
        below, over = divmod(side, stride)
        if over or not below:
            near = [str(count * stride) for count in (below, below + 1) if count]
            return f"{side} is no multiple of {stride}, the stride of {name}; take {' or '.join(near)}"
    return None


def blank_image(model: nn.Module) -> torch.Tensor:
    """A small black image to follow through a detector: (1, channels, height, width), as its weights are.

    Raises:
        ModelError: The model is no ultralytics detector.
    """
    side, weight = 2 * coarsest_stride(model), next(model.parameters())
    return torch.zeros(1, image_channels(model), side, side, device=weight.device, dtype=weight.dtype)


def _description(model: nn.Module) -> Mapping[str, Any]:
    description = getattr(model, "yaml", None)
    if not isinstance(description, Mapping) or "backbone" not in description or not hasattr(model, "model"):
        raise _no_detector(model)
    return description


def _no_detector(model: nn.Module) -> ModelError:
    return ModelError(f"{type(model).__name__} is no ultralytics DetectionModel; pass YOLO(...).model")
