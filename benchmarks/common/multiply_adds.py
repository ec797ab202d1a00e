"""Multiply-adds of a detector's convolutions at any widths, without building the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import numpy.typing
import torch
from torch import nn

from prunetune.pruning.structure.depth import LAST, folded_inputs, residual_blocks
from prunetune.pruning.structure.groups import ChannelGroup, width_of
from prunetune.pruning.structure.layers import blank_image, is_depthwise

Array = numpy.typing.NDArray[numpy.float64]


class MultiplyAdds:
    """Counts a detector's multiply-adds.

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
