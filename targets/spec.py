"""The description of a target: one entry of `targets:` in a study's file."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MINIMUM_ROUNDS = 5
"""Rounds that every measurement does, also after its time is up: fewer give no quartiles worth the name."""


class TargetSpec(BaseModel):
    """A piece of hardware, the runtime on it, and how long to measure. Frozen: made once, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["onnxruntime", "torch"]
    """The runtime: `onnxruntime` runs an ONNX file on the CPU, `torch` an `nn.Module` on the CPU or a GPU."""
    name: str = "cpu"
    """What tables and files call this target."""
    threads: int = Field(default=1, ge=1)
    """CPU threads that one network may use."""
    alignment: int = Field(default=8, ge=1)
    """Channels that the hardware computes together. Widths are rounded up to a multiple of it."""
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`. Only `torch` runs on a GPU."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Number format. `fp16` is for `torch` on a GPU."""
    warmup: int = Field(default=5, ge=0)
    """Rounds that are run before the first one that counts."""
    runs: int = Field(default=40, ge=MINIMUM_ROUNDS)
    """Rounds that count. Each gives every network one turn, which gives one sample."""
    seconds: float = Field(default=20.0, gt=0)
    """Time limit for one measurement, in s. At least `MINIMUM_ROUNDS` rounds are done in any case."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.strip() or "/" in name or "\\" in name:
            raise ValueError(f"a target's name is not empty and has no slashes, unlike {name!r}")
        return name

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
            raise ValueError(f"device is 'cpu', 'cuda' or 'cuda:N' (N numbers the GPU), not {device!r}")
        return device

    @model_validator(mode="after")
    def _check_combination(self) -> TargetSpec:
        if self.kind == "onnxruntime" and self.on_gpu:
            raise ValueError(f"kind: onnxruntime measures on the CPU; with device: {self.device} write kind: torch")
        if self.precision == "fp16" and not self.on_gpu:
            raise ValueError("precision: fp16 needs kind: torch and device: cuda; on a CPU write precision: fp32")
        return self

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"
