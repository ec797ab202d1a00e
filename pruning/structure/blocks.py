"""What Torch-Pruning cannot see by itself in ultralytics' blocks, put into a form that it can follow.

The detector is never changed: what is traced is a shadow of it, with modules of its own in the same memory.

- C2f and its kin compute one convolution and split its output in two. In the shadow that convolution is two (`Halves`),
  and so are its name and its channels.
- Attention takes channels apart into heads and keys. In the shadow a `Fence` stands in its place: a convolution that
  reads all of what attention reads, and writes as many channels as attention does. What meets a fence stays whole.
- A grouped convolution reads other channels for each of its groups. In the shadow it is a plain one; which channels
  belong together is read from the detector.
- Heads decode boxes, masks and keypoints, which would tie all their outputs to each other. In the shadow they end with
  their last convolutions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from prunetune.pruning.structure.layers import blocks_of, is_grouped

_PLAIN = {"Conv", "DWConv", "C3", "C3k", "Bottleneck", "SPP", "SPPF", "Concat", "Upsample", "ConvTranspose2d"}
_SPLITTING = {"C2f", "C3k2", "C2PSA"}
_HEADS = {"Detect", "Segment", "Segment26", "Pose", "Pose26", "OBB", "OBB26"}
_IN_HEADS = {"DFL", "Proto", "Proto26", "RealNVP"}
_ATTENTION = {"PSABlock", "Attention", "A2C2f", "ABlock", "AAttn"}

PRUNABLE_BLOCKS = frozenset(_PLAIN | _SPLITTING | _ATTENTION | _HEADS | _IN_HEADS)
"""Blocks whose channels can be followed. Others might be cut wrongly, or make Torch-Pruning hang."""

FAMILIES = "supported are YOLOv5 (with and without deconvolution), YOLOv8, YOLO11, YOLO12 and YOLO26"

_BRANCHES = ("cv2", "cv3", "cv4", "one2one_cv2", "one2one_cv3", "one2one_cv4")
_HALF = re.compile(r"\.parts\.(\d)\.(\w+)$")


class Fence(nn.Conv2d):
    """Stands in a traced network where channels become something else: what it reads and writes must stay whole."""

    def __init__(self, reads: int, writes: int, like: Tensor) -> None:
        super().__init__(reads, writes, 1, bias=False, device=like.device, dtype=like.dtype)


class Halves(nn.Module):
    """A convolution block whose output is split in two, as two blocks that compute the same.

    Args:
        block: ultralytics' Conv. Its weights are shared, not copied.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(_half(block, number) for number in range(2))

    def forward(self, features: Tensor) -> _Split:
        """What the block's owner asks to be split, and is already."""
        return _Split(part(features) for part in self.parts)


class _Split(tuple[Tensor, ...]):
    """Two halves of a tensor, for who would chunk or split it in two along its channels."""

    def chunk(self, chunks: int, dim: int) -> _Split:
        return self

    def split(self, sizes: tuple[int, int], dim: int) -> _Split:
        return self


def splits(block: nn.Module) -> bool:
    """Whether a block computes one convolution, `cv1`, and splits its output in two halves of `c` channels."""
    return any(kind.__name__ in ("C2f", "C2PSA") for kind in type(block).__mro__)


def split_halves(model: nn.Module) -> None:
    """Puts `Halves` in the place of all convolutions whose output is split in two. The outputs stay the same."""
    for block in [block for block in model.modules() if splits(block)]:
        block.cv1 = Halves(block.cv1)  # type: ignore[arg-type]


def shadow_of(model: nn.Module) -> nn.Module:
    """The same network in the same memory, with modules, modes and gradient flags of its own, ready to be traced."""
    memory: dict[int, Any] = {id(weight): nn.Parameter(weight.detach()) for weight in model.parameters()}
    memory |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    shadow = copy.deepcopy(model, memory).eval()
    for layer in filter(is_grouped, shadow.modules()):
        _join_groups(layer)
    split_halves(shadow)
    for block in list(shadow.modules()):
        kind = type(block).__name__
        if kind in ("Attention", "AAttn"):
            _fence_attention(block)
        elif kind == "A2C2f":
            _take_out_scale(block)
    _cut_decoder(blocks_of(shadow)[-1])
    return shadow


def shadow_names(shadow: nn.Module) -> dict[nn.Module, str]:
    """The layers of a shadow by the names that the detector has for them; fences have none."""
    return {
        module: _HALF.sub(r".\2:\1", name) for name, module in shadow.named_modules() if not isinstance(module, Fence)
    }


def scale_of(model: nn.Module, layer: str) -> str | None:
    """The parameter that scales what a layer writes, beside its BatchNorm; A2C2f has one in larger networks."""
    owner = layer.removesuffix(".cv2.conv")
    if owner == layer or getattr(model.get_submodule(owner), "gamma", None) is None:
        return None
    return f"{owner}.gamma"


def _half(block: Any, number: int) -> nn.Module:
    """One half of a Conv of ultralytics, in its memory."""
    half = copy.copy(block)
    half._modules = dict(block._modules)
    width = block.conv.out_channels // 2
    chosen = slice(number * width, (number + 1) * width)
    half.conv, half.bn = copy.copy(block.conv), copy.copy(block.bn)
    for layer in (half.conv, half.bn):
        layer._parameters, layer._buffers = dict(layer._parameters), dict(layer._buffers)
        for name, weight in layer._parameters.items():
            layer._parameters[name] = None if weight is None else nn.Parameter(weight.detach()[chosen])
        for name, values in layer._buffers.items():
            layer._buffers[name] = values[chosen] if values is not None and values.dim() else values
    half.conv.out_channels = half.bn.num_features = width
    return half


def _join_groups(layer: Any) -> None:
    """Makes a grouped convolution one that reads every channel for each that it writes."""
    layer.groups = 1
    sides = (layer.out_channels, layer.in_channels)
    sides = sides[::-1] if isinstance(layer, nn.ConvTranspose2d) else sides
    layer.weight = nn.Parameter(layer.weight.new_zeros(*sides, *layer.kernel_size))


def _fence_attention(attention: Any) -> None:
    """Keeps the queries, keys and values of an attention module whole."""
    reads, writes = attention.qkv.conv, attention.proj.conv
    attention.inner = Fence(reads.out_channels, writes.in_channels, reads.weight)
    # Attention shapes its result like its input; AAttn counts its own channels, and so can read and write fewer.
    if type(attention).__name__ == "Attention":
        attention.outer = Fence(reads.in_channels, writes.out_channels, reads.weight)

    def forward(features: Tensor) -> Tensor:
        values = attention.inner(attention.qkv(features))
        result: Tensor = attention.proj(values + attention.pe(values))
        return result + attention.outer(features) if hasattr(attention, "outer") else result

    attention.forward = forward


def _take_out_scale(block: Any) -> None:
    """Leaves the addition of a scaled A2C2f without its scale, whose channels are those of its last convolution."""
    if block.gamma is None:
        return
    block.gamma = None
    unscaled = block.forward
    block.forward = lambda features: features + unscaled(features)


def _cut_decoder(head: Any) -> None:
    """Lets a head return what its last convolutions write."""

    def branches(features: list[Tensor]) -> list[Tensor]:
        return [output for level, x in enumerate(features) for output in _level_outputs(head, level, x)] + _masks(
            head, features
        )

    if hasattr(head, "proto"):
        weight = head.proto.cv3.conv.weight
        head.fence = Fence(len(weight), 1, weight)  # the last convolution of a Proto has a BatchNorm
    head.forward = branches


def _level_outputs(head: Any, level: int, features: Tensor) -> Iterable[Tensor]:
    for name in _BRANCHES:
        branch = getattr(head, name, None)
        if branch is None:
            continue
        output = branch[level](features)
        ends = [getattr(head, f"{name}{end}") for end in ("_kpts", "_sigma") if hasattr(head, f"{name}{end}")]
        yield from ([end[level](output) for end in ends] or [output])


def _masks(head: Any, features: list[Tensor]) -> list[Tensor]:
    if not hasattr(head, "proto"):
        return []
    head.proto.training = True  # Proto26 then computes its semantic masks too
    found = head.proto(features if type(head.proto).__name__ == "Proto26" else features[0])
    prototypes, *semantic = found if isinstance(found, tuple) else (found,)
    return [head.fence(prototypes), *semantic]
