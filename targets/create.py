"""From a description to the target."""

from __future__ import annotations

from prunetune.spaces.errors import TargetError
from prunetune.targets.backends.command import CommandTarget
from prunetune.targets.backends.onnxruntime import OnnxRuntimeTarget
from prunetune.targets.backends.openvino import OpenVinoTarget
from prunetune.targets.backends.table import TableTarget
from prunetune.targets.backends.tensorrt import TensorRtTarget
from prunetune.targets.backends.torch import TorchTarget
from prunetune.targets.measure.measurement import InterleavedTarget
from prunetune.targets.network import Network
from prunetune.targets.protocol import Backend, Predictor, Target
from prunetune.targets.spec import (
    CommandSpec,
    OnnxRuntimeSpec,
    OpenVinoSpec,
    TableSpec,
    TargetSpec,
    TensorRtSpec,
    TorchSpec,
)


def create_target(spec: TargetSpec) -> Target:
    """The target that a description names. Loads no runtime before the first use."""
    return TableTarget(spec) if isinstance(spec, TableSpec) else InterleavedTarget(_backend(spec))


def create_predictor(spec: TargetSpec, network: Network) -> Predictor:
    """What a target's runtime computes for images, in the network's precision.

    Raises:
        TargetError: The network cannot be run on the target, or the target runs no ONNX files.
    """
    backend = None if isinstance(spec, TableSpec) else _backend(spec)
    if not isinstance(backend, OnnxRuntimeTarget | OpenVinoTarget | TensorRtTarget):
        raise TargetError(
            f"target {spec.name!r}: kind: {spec.kind} runs no ONNX files; take onnxruntime, openvino or tensorrt"
        )
    return backend.predictor(network)


def _backend(spec: OnnxRuntimeSpec | OpenVinoSpec | TorchSpec | TensorRtSpec | CommandSpec) -> Backend:
    match spec:
        case OnnxRuntimeSpec():
            return OnnxRuntimeTarget(spec)
        case OpenVinoSpec():
            return OpenVinoTarget(spec)
        case TorchSpec():
            return TorchTarget(spec)
        case TensorRtSpec():
            return TensorRtTarget(spec)
        case CommandSpec():
            return CommandTarget(spec)
