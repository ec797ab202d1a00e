"""Latency of a network on a piece of hardware, and the budget it must keep.

Importing this room loads neither torch nor a runtime; the first use of a target does.
"""

from prunetune.targets.budget import Budget
from prunetune.targets.create import create_target
from prunetune.targets.latency import Latency
from prunetune.targets.measurement import InterleavedTarget, exclusive
from prunetune.targets.network import Form, Network
from prunetune.targets.onnxruntime_target import OnnxRuntimeTarget
from prunetune.targets.protocol import Backend, Runner, Target
from prunetune.targets.spec import TargetSpec
from prunetune.targets.torch_target import TorchTarget

__all__ = [
    "Backend",
    "Budget",
    "Form",
    "InterleavedTarget",
    "Latency",
    "Network",
    "OnnxRuntimeTarget",
    "Runner",
    "Target",
    "TargetSpec",
    "TorchTarget",
    "create_target",
    "exclusive",
]
