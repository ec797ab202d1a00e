"""What a target measures: a network by name, as an ONNX file, as a module, or as both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from prunetune.spaces.errors import TargetError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from torch import nn

Images: TypeAlias = "NDArray[numpy.float32]"
"""A batch of images: (images, channels, height, width), from 0 to 1."""

Form: TypeAlias = Literal["onnx", "module"]
"""What a target wants of a network: the file or the module."""


@dataclass(frozen=True)
class Network:
    """A network to measure.

    Raises:
        TargetError: The name is empty, or the shape is not four positive numbers.
    """

    name: str
    """How the caller tells networks apart. Unique within one measurement."""
    input_shape: tuple[int, int, int, int]
    """Images, channels, height (px), width (px)."""
    onnx: Path | None = None
    """The network as an ONNX file with one fp32 input."""
    module: nn.Module | None = None
    """The network as a module. Targets copy it; the caller's stays as it is."""
    precision: str | None = None
    """What it is computed in, where that is not the target's own precision."""
    calibration: tuple[Images, ...] = field(default=(), compare=False, repr=False)
    """Images of `input_shape` for targets in int8, which take the ranges of the network's tensors from them. Without
    any they take noise: the latency is the same, the accuracy is not."""

    def __post_init__(self) -> None:
        if not self.name:
            raise TargetError("a network needs a name; give it one that tables can show")
        if len(self.input_shape) != 4 or any(size < 1 for size in self.input_shape):
            raise TargetError(
                f"network {self.name!r}: input_shape is four positive numbers "
                f"(images, channels, height, width), not {self.input_shape}"
            )

    def has(self, form: Form) -> bool:
        """Whether the network is there in this form."""
        return (self.onnx if form == "onnx" else self.module) is not None

    def precision_on(self, target: str, precisions: Sequence[str]) -> str:
        """What it is computed in on a target.

        Args:
            target: The target's name.
            precisions: What the target computes in, its own first.

        Raises:
            TargetError: The network's precision is none of them.
        """
        if self.precision is not None and self.precision not in precisions:
            raise TargetError(
                f"network {self.name!r}: precision: {self.precision} is not what target {target!r} computes in; take "
                f"{' or '.join(precisions)}"
            )
        return self.precision or precisions[0]
