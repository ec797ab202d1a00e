"""Latency of a network on a piece of hardware, and the budget it must keep.

Importing this room loads neither torch nor a runtime; the first use of a target does.
"""

from prunetune.targets.backends.command import CommandTarget
from prunetune.targets.backends.onnxruntime import OnnxRuntimeTarget
from prunetune.targets.backends.openvino import OpenVinoTarget
from prunetune.targets.backends.quantisation import Quantisation, quantise
from prunetune.targets.backends.table import TableTarget
from prunetune.targets.backends.tensorrt import TensorRtTarget
from prunetune.targets.backends.torch import TorchTarget
from prunetune.targets.budget import FIGURES, LATENCY, MEMORY, Budget
from prunetune.targets.create import create_predictor, create_target
from prunetune.targets.latency import Latency, NormalizedLatency
from prunetune.targets.latency_model.alignment_probe import AlignmentProbe, probe_alignment
from prunetune.targets.latency_model.conv_graph import ConvGraph
from prunetune.targets.latency_model.latency_table import LatencyTable, Prediction
from prunetune.targets.latency_model.onnx_graph import read_conv_graph
from prunetune.targets.latency_model.profiling import profile
from prunetune.targets.measure.device_lock import exclusive, shared
from prunetune.targets.measure.measurement import InterleavedTarget
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.protocol import Backend, MemoryRunner, Pace, Predictor, Reading, Runner, Target
from prunetune.targets.spec import (
    TARGET_KINDS,
    CommandSpec,
    OnnxRuntimeSpec,
    OpenVinoSpec,
    RuntimeSpec,
    TableSpec,
    TargetSpec,
    TensorRtSpec,
    TorchSpec,
    parse_target_spec,
)

__all__ = [
    "FIGURES",
    "LATENCY",
    "MEMORY",
    "TARGET_KINDS",
    "AlignmentProbe",
    "Backend",
    "Budget",
    "CommandSpec",
    "CommandTarget",
    "ConvGraph",
    "Form",
    "Images",
    "InterleavedTarget",
    "Latency",
    "LatencyTable",
    "MemoryRunner",
    "Network",
    "NormalizedLatency",
    "OnnxRuntimeSpec",
    "OnnxRuntimeTarget",
    "OpenVinoSpec",
    "OpenVinoTarget",
    "Pace",
    "Prediction",
    "Predictor",
    "Quantisation",
    "Reading",
    "Runner",
    "RuntimeSpec",
    "TableSpec",
    "TableTarget",
    "Target",
    "TargetSpec",
    "TensorRtSpec",
    "TensorRtTarget",
    "TorchSpec",
    "TorchTarget",
    "create_predictor",
    "create_target",
    "exclusive",
    "parse_target_spec",
    "probe_alignment",
    "profile",
    "quantise",
    "read_conv_graph",
    "shared",
]
