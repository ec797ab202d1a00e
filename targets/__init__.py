"""Latency of a network on a piece of hardware, and the budget it must keep.

Importing this room loads neither torch nor a runtime; the first use of a target does.
"""

from prunetune.targets.alignment_probe import AlignmentProbe, probe_alignment
from prunetune.targets.budget import FIGURES, LATENCY, Budget
from prunetune.targets.command_target import CommandTarget
from prunetune.targets.conv_graph import ConvGraph
from prunetune.targets.create import create_predictor, create_target
from prunetune.targets.device_lock import exclusive, shared
from prunetune.targets.latency import Latency, NormalizedLatency
from prunetune.targets.measurement import InterleavedTarget
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.onnx_graph import read_conv_graph
from prunetune.targets.onnxruntime_target import OnnxRuntimeTarget
from prunetune.targets.openvino_target import OpenVinoTarget
from prunetune.targets.profiling import profile
from prunetune.targets.protocol import Backend, Pace, Predictor, Runner, Target
from prunetune.targets.quantisation import Quantisation, quantise
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
from prunetune.targets.table import LatencyTable, Prediction
from prunetune.targets.table_target import TableTarget
from prunetune.targets.tensorrt_target import TensorRtTarget
from prunetune.targets.torch_target import TorchTarget

__all__ = [
    "FIGURES",
    "LATENCY",
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
