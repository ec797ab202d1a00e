"""Area attention as YOLOv12's authors publish it, in the form that ultralytics runs.

Their repository computes queries and keys by one convolution and values by another; ultralytics computes all three by
one, head after head. Their checkpoints name ultralytics' class, so they load, but cannot run.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from prunetune.spaces.errors import ModelError


def join_attention(model: nn.Module, source: str) -> None:
    """Puts one convolution in the place of two in all area attention that has two. The outputs stay the same.

    Args:
        model: A loaded detector.
        source: Its file, for messages.

    Raises:
        ModelError: Some area attention is of neither kind.
    """
    for name, block in model.named_modules():
        if type(block).__name__ != "AAttn" or hasattr(block, "qkv"):
            continue
        if not (hasattr(block, "qk") and hasattr(block, "v")):
            raise ModelError(
                f"{source}: {name} is neither ultralytics' area attention nor that of YOLOv12's authors, so it cannot "
                "run; train the network anew with ultralytics"
            )
        _join(block)


@torch.no_grad()
def _join(block: Any) -> None:
    width = block.num_heads * block.head_dim
    rows = torch.arange(3 * width).view(3, block.num_heads, block.head_dim).transpose(0, 1).flatten()
    joined, values = copy.deepcopy(block.qk), block.v.state_dict()
    for name, tensor in joined.state_dict(keep_vars=True).items():
        if not tensor.dim():  # BatchNorm counts its batches
            continue
        both = torch.cat([tensor, values[name]])[rows]
        owner, _, own = name.rpartition(".")
        setattr(joined.get_submodule(owner), own, nn.Parameter(both) if isinstance(tensor, nn.Parameter) else both)
    joined.conv.out_channels = 3 * width
    if hasattr(joined, "bn"):
        joined.bn.num_features = 3 * width
    block.qkv = joined
    del block.qk, block.v
