"""Surgery: finds out which layers share their channels, and cuts channels out of a copy of the detector.

Torch-Pruning (DepGraph, arXiv 2301.12900) follows the channels through additions and concatenations. What
it finds is read once into values, checked for gaps, and serves the plan as well as the cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch_pruning
from torch import Tensor, nn

from prunetune.pruning.channels import ChannelConfig, natural_order
from prunetune.spaces.errors import ModelError
from prunetune.spaces.recipe import Region

if TYPE_CHECKING:
    from prunetune.pruning.plan import PruningPlan

PRUNABLE_BLOCKS = frozenset(
    {"Conv", "C3", "Bottleneck", "SPP", "SPPF", "Concat", "Upsample", "ConvTranspose2d", "Detect"}
)
"""Blocks whose channels Torch-Pruning follows. Others make it raise IndexError (C2f), make it hang
(attention), or might be cut wrongly, so they are refused by name before any tracing."""

_FAMILIES = "supported are YOLOv5 n to x and its deconvolution variant"
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Reader:
    """A convolution that reads a group's channels, perhaps from a concatenation, perhaps several times."""

    layer: str
    positions: tuple[int, ...]
    """Input channels of the convolution."""
    channels: tuple[int, ...]
    """For each of them, the group's channel that arrives there."""


@dataclass(frozen=True)
class ChannelGroup:
    """Layers that share their output channels, because additions tie them: they lose channels together."""

    width: int
    layers: tuple[str, ...]
    """Convolutions that write the channels, in natural order. The first is the group's root and name."""
    norms: tuple[str, ...]
    """BatchNorms of these channels."""
    readers: tuple[Reader, ...]

    @property
    def root(self) -> str:
        """The name of the group: its first convolution."""
        return self.layers[0]


def channel_config(model: nn.Module) -> ChannelConfig:
    """Output channels of every Conv2d and ConvTranspose2d of a detector."""
    return ChannelConfig({name: layer.out_channels for name, layer in _convolutions(model)})


def layer_regions(model: nn.Module) -> dict[str, Region]:
    """The region of every convolution: `backbone` by the detector's yaml, `head` for the last block, else `neck`.

    Raises:
        ModelError: The model is no ultralytics detector.
    """
    return {name: region_of(model, name) for name, _ in _convolutions(model)}


def region_of(model: nn.Module, name: str) -> Region:
    """The region of one layer by its name: `model.3.conv` is in a backbone that has four blocks or more.

    Raises:
        ModelError: The model is no ultralytics detector.
    """
    block, description = int(name.split(".")[1]), _description(model)
    if block < len(description["backbone"]):
        return "backbone"
    return "head" if block == len(_blocks(model)) - 1 else "neck"


@torch.inference_mode(False)
def channel_groups(model: nn.Module, imgsz: int = 64) -> tuple[ChannelGroup, ...]:
    """Traces which layers share channels and which read them, in natural order of the groups' roots.

    The result holds names and indices only. It fits every detector of the same description and channels.

    Args:
        model: An ultralytics `DetectionModel`, not fused. It is not changed.
        imgsz: Side of the image to trace with, in px; a multiple of the largest stride.

    Raises:
        ModelError: A block cannot be pruned, the detector has no BatchNorm, or the model is no detector.
    """
    _check_blocks(model)
    shadow = _shadow(model)
    names = {module: name for name, module in shadow.named_modules()}
    weight = next(shadow.parameters())
    image = torch.zeros(1, _image_channels(model), imgsz, imgsz, device=weight.device, dtype=weight.dtype)
    # The graph is read from autograd. Without forward_fn, Torch-Pruning hides errors behind a second try.
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(
            shadow, image, forward_fn=lambda network, image: network(image), verbose=False
        )
        traced = graph.get_all_groups(root_module_types=_CONVOLUTIONS)
        groups = [_read_group(items, names) for items in traced]
    groups.sort(key=lambda group: natural_order(group.root))
    _check_coverage(model, groups)
    return tuple(groups)


@torch.inference_mode(False)
def apply_plan(
    model: nn.Module, plan: PruningPlan, imgsz: int = 64, groups: Sequence[ChannelGroup] | None = None
) -> nn.Module:
    """Cuts the channels that the plan does not keep out of a copy. The original is left exactly as it was.

    The result holds classes of torch and ultralytics only. BatchNorms keep their eps and momentum, the
    detector its stride, names, yaml and mode. All weights can be trained again, except for Detect's fixed
    decoder (dfl): loaded checkpoints come with gradients switched off.

    Args:
        model: The `DetectionModel` that the plan was made for.
        plan: What to keep.
        imgsz: Side of the image to trace with, in px; a multiple of the largest stride.
        groups: What `channel_groups(model)` returned, to trace only once for plan and surgery.

    Returns:
        The pruned detector, on the same device and in the same precision.

    Raises:
        ModelError: The plan was made for another detector, or the detector cannot be pruned.
    """
    by_root = {group.root: group for group in (groups or channel_groups(model, imgsz))}
    pruned = copy.deepcopy(model)
    lost_inputs: dict[str, set[int]] = {}
    for root, kept in plan.keep:
        group = by_root.get(root)
        if group is None or not kept or kept[-1] >= group.width:
            raise _misfit(root, "no group of layers with these channels")
        for name in (*group.layers, *group.norms):
            _keep_outputs(pruned.get_submodule(name), kept)
        staying = set(kept)
        for reader in group.readers:
            arrivals = zip(reader.positions, reader.channels, strict=True)
            lost = lost_inputs.setdefault(reader.layer, set())
            lost.update(position for position, channel in arrivals if channel not in staying)
    for name, lost in lost_inputs.items():
        _drop_inputs(pruned.get_submodule(name), lost)
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and ".dfl." not in name)
    result = channel_config(pruned)
    if result != plan.channels:
        name = min(dict(result.items() ^ plan.channels.items()), key=natural_order)
        raise _misfit(
            name,
            f"{result.get(name, 'no')} channels after surgery, {plan.channels.get(name, 'none')} planned",
        )
    return pruned


def _keep_outputs(layer: nn.Module, kept: Sequence[int]) -> None:
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features = len(kept)
        for name in ("running_mean", "running_var"):
            if getattr(layer, name) is not None:
                setattr(layer, name, _select(getattr(layer, name), 0, kept))
    elif isinstance(layer, _CONVOLUTIONS):
        layer.out_channels = len(kept)
    _select_parameter(layer, "weight", 1 if isinstance(layer, nn.ConvTranspose2d) else 0, kept)
    _select_parameter(layer, "bias", 0, kept)


def _drop_inputs(layer: nn.Module, lost: set[int]) -> None:
    assert isinstance(layer, _CONVOLUTIONS)  # readers are convolutions
    kept = [channel for channel in range(layer.in_channels) if channel not in lost]
    layer.in_channels = len(kept)
    _select_parameter(layer, "weight", 0 if isinstance(layer, nn.ConvTranspose2d) else 1, kept)


def _select_parameter(layer: nn.Module, name: str, dim: int, kept: Sequence[int]) -> None:
    parameter = getattr(layer, name)
    if parameter is not None:
        setattr(layer, name, nn.Parameter(_select(parameter.detach(), dim, kept)))


def _select(values: Tensor, dim: int, kept: Sequence[int]) -> Tensor:
    return values.index_select(dim, torch.tensor(kept, device=values.device))


def _shadow(model: nn.Module) -> nn.Module:
    """The same network with modules, modes and gradient flags of its own, in the same memory."""
    memory: dict[int, Any] = {id(weight): nn.Parameter(weight.detach()) for weight in model.parameters()}
    memory |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    shadow = copy.deepcopy(model, memory).eval()
    detect: Any = _blocks(shadow)[-1]

    def branches(features: list[Tensor]) -> list[Tensor]:
        # Decoding turns channels into boxes: tracing it would tie all outputs of Detect to each other.
        return [branch[level](x) for level, x in enumerate(features) for branch in (detect.cv2, detect.cv3)]

    detect.forward = branches
    return shadow


def _read_group(items: Iterable[Any], names: Mapping[nn.Module, str]) -> ChannelGroup:
    widths: dict[str, int] = {}
    norms: list[str] = []
    readers: list[Reader] = []
    for item in items:
        layer = item.dep.target.module
        if not isinstance(layer, (*_CONVOLUTIONS, nn.BatchNorm2d)):
            continue
        name = names[layer]
        if not isinstance(layer, nn.BatchNorm2d) and item.dep.handler.__name__ == "prune_in_channels":
            readers.append(Reader(name, tuple(item.idxs), tuple(item.root_idxs)))
            continue
        width = layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer.out_channels
        if sorted(zip(item.idxs, item.root_idxs, strict=True)) != [(index, index) for index in range(width)]:
            raise _not_followed(name, "its channels are tied to a part of another layer's")
        if isinstance(layer, nn.BatchNorm2d):
            norms.append(name)
        else:
            widths[name] = width
    layers = sorted(widths, key=natural_order)
    return ChannelGroup(
        width=widths[layers[0]],
        layers=tuple(layers),
        norms=tuple(sorted(norms, key=natural_order)),
        readers=tuple(sorted(readers, key=lambda reader: natural_order(reader.layer))),
    )


def _check_blocks(model: nn.Module) -> None:
    for index, block in enumerate(_blocks(model)):
        if type(block).__name__ not in PRUNABLE_BLOCKS:
            raise ModelError(f"model.{index}: a {type(block).__name__} block cannot be pruned yet; {_FAMILIES}")
    for name, layer in _convolutions(model):
        if layer.groups > 1:
            raise _not_followed(name, f"it is a grouped convolution ({layer.groups} groups)")
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        raise ModelError(
            "the detector has no BatchNorm, so its channels have no gamma to be judged by; if it was fused "
            "for inference, give the checkpoint from training"
        )


def _check_coverage(model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
    """Each channel must have one writer and be known to all its readers, or surgery would cut in the dark."""
    writers = [name for group in groups for name in (*group.layers, *group.norms)]
    read: dict[str, list[int]] = {}
    for reader in (reader for group in groups for reader in group.readers):
        read.setdefault(reader.layer, []).extend(reader.positions)
    for name, layer in model.named_modules():
        if not isinstance(layer, (*_CONVOLUTIONS, nn.BatchNorm2d)) or ".dfl." in name:
            continue
        if writers.count(name) != 1:
            raise _not_followed(name, f"its channels belong to {writers.count(name)} groups instead of 1")
        if isinstance(layer, nn.BatchNorm2d):
            continue
        reads_image = name not in read and layer.in_channels == _image_channels(model)
        if not reads_image and sorted(read.get(name, [])) != list(range(layer.in_channels)):
            raise _not_followed(name, "the origin of its input channels is unknown")


def _blocks(model: nn.Module) -> nn.Sequential:
    _description(model)
    blocks = model.model
    if not isinstance(blocks, nn.Sequential):
        raise _no_detector(model)
    return blocks


def _description(model: nn.Module) -> Mapping[str, Any]:
    description = getattr(model, "yaml", None)
    if not isinstance(description, Mapping) or "backbone" not in description or not hasattr(model, "model"):
        raise _no_detector(model)
    return description


def _convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _CONVOLUTIONS)]


def _image_channels(model: nn.Module) -> int:
    return int(_description(model).get("channels", 3))


def _no_detector(model: nn.Module) -> ModelError:
    return ModelError(f"{type(model).__name__} is no ultralytics DetectionModel; pass YOLO(...).model")


def _not_followed(name: str, reason: str) -> ModelError:
    return ModelError(f"{name}: this layer cannot be pruned consistently, {reason}; {_FAMILIES}")


def _misfit(name: str, reason: str) -> ModelError:
    return ModelError(f"{name}: the plan was made for another detector ({reason}); plan again from this one")
