"""From a description to the target."""

from __future__ import annotations

from prunetune.targets.measurement import InterleavedTarget
from prunetune.targets.onnxruntime_target import OnnxRuntimeTarget
from prunetune.targets.openvino_target import OpenVinoTarget
from prunetune.targets.protocol import Backend, Target
from prunetune.targets.spec import OnnxRuntimeSpec, OpenVinoSpec, TargetSpec, TorchSpec
from prunetune.targets.torch_target import TorchTarget


def create_target(spec: TargetSpec) -> Target:
    """The target that a description names. Loads no runtime before the first use."""
    return InterleavedTarget(_backend(spec))


def _backend(spec: TargetSpec) -> Backend:
    match spec:
        case OnnxRuntimeSpec():
            return OnnxRuntimeTarget(spec)
        case OpenVinoSpec():
            return OpenVinoTarget(spec)
        case TorchSpec():
            return TorchTarget(spec)
