"""From a description to the target."""

from __future__ import annotations

from collections.abc import Callable

from prunetune.targets.measurement import InterleavedTarget
from prunetune.targets.onnxruntime_target import OnnxRuntimeTarget
from prunetune.targets.protocol import Backend, Target
from prunetune.targets.spec import TargetSpec
from prunetune.targets.torch_target import TorchTarget

_BACKENDS: dict[str, Callable[[TargetSpec], Backend]] = {
    "onnxruntime": OnnxRuntimeTarget,
    "torch": TorchTarget,
}


def create_target(spec: TargetSpec) -> Target:
    """The target that a description names. Loads no runtime before the first use."""
    return InterleavedTarget(_BACKENDS[spec.kind](spec))
