"""The probe: over a target with made-up times, and over the real backends."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import TargetError
from prunetune.targets import Latency, Network, OnnxRuntimeSpec, TorchSpec, create_target, probe_alignment
from prunetune.targets.latency_model.alignment_curve import WIDTHS
from prunetune.targets.latency_model.alignment_probe import ROLES
from prunetune.targets.latency_model.convolution import Convolution
from prunetune.targets.network import Form


class Blocks:
    """A target whose times follow from the files: it computes read, written and depthwise channels in blocks."""

    name = "blocks"
    alignment = Alignment.everywhere(8)
    form: Form = "onnx"

    def __init__(self, inputs: int, outputs: int, depthwise: int = 1, fixed: float = 0.0) -> None:
        self.blocks, self.fixed = (inputs, outputs, depthwise), fixed

    def fingerprint(self) -> dict[str, str]:
        return {"device": "made up", "runtime": "none 1.0"}

    def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
        assert reference in [network.name for network in networks]
        return {network.name: Latency.from_samples([self._time(network)] * 6, [1.0] * 6) for network in networks}

    def _time(self, network: Network) -> float:
        outputs, inputs, height, width = onnx.load(network.onnx).graph.initializer[0].dims
        inputs_block, outputs_block, depthwise_block = self.blocks
        if inputs == 1:
            channels = math.ceil(outputs / depthwise_block) * depthwise_block
        else:
            channels = math.ceil(inputs / inputs_block) * inputs_block * math.ceil(outputs / outputs_block)
        return self.fixed + channels * height * width


def test_each_kind_of_layer_gets_its_own_multiple() -> None:
    probe = probe_alignment(Blocks(inputs=4, outputs=16, depthwise=8), imgsz=64)
    assert {role: curve.multiple for role, curve in probe.alignment_curves.items()} == {
        "outputs": 16,
        "inputs": 4,
        "first": 16,
        "depthwise": 8,
    }
    assert probe.alignment == Alignment(default=16, first=16, depthwise=8)
    assert probe.uncertain == ()


def test_the_default_suits_who_writes_and_who_reads() -> None:
    assert probe_alignment(Blocks(inputs=32, outputs=8), imgsz=64).alignment.default == 32


def test_a_probe_as_json() -> None:
    probe = probe_alignment(Blocks(inputs=8, outputs=8, depthwise=8), imgsz=64)
    values = json.loads(json.dumps(probe.as_dict(), allow_nan=False))
    assert values["alignment"] == 8
    assert list(values["roles"]) == list(ROLES)
    assert [len(values["roles"][role]["curves"]) for role in ROLES] == [3, 3, 1, 1]
    for role in ROLES:
        for curve in values["roles"][role]["curves"]:
            assert [int(width) for width in curve["median_ms"]] == list(WIDTHS)


def test_a_latency_without_channels_in_it() -> None:
    with pytest.raises(TargetError, match=r"'blocks'.*imgsz 64.*does not follow.*larger imgsz"):
        probe_alignment(Blocks(1, 1, fixed=1e9), imgsz=64)


def test_a_kind_that_tells_nothing_follows_the_default() -> None:
    probe = probe_alignment(Blocks(inputs=8, outputs=16, fixed=2e4), imgsz=64)
    assert probe.alignment_curves["depthwise"].multiple is None
    assert probe.alignment == Alignment.everywhere(16)


def test_each_shape_is_measured_for_itself_and_may_take_other_rounds() -> None:
    """All 264 networks at once would be as many processes where each has its own."""
    taken = []

    class Growing(Blocks):
        def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
            taken.append(len(networks))
            rounds = 5 + len(taken)
            return {item.name: Latency.from_samples([self._time(item)] * rounds, [1.0] * rounds) for item in networks}

    assert probe_alignment(Growing(inputs=4, outputs=16, depthwise=8), imgsz=64).alignment.default == 16
    assert taken == [len(WIDTHS)] * 8


def test_a_target_without_times_of_rounds() -> None:
    class Bare(Blocks):
        def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
            measured = super().measure(networks, reference)
            return {name: Latency.from_dict(latency.as_dict()) for name, latency in measured.items()}

    with pytest.raises(TargetError, match=r"'blocks'.*single rounds"):
        probe_alignment(Bare(8, 8), imgsz=64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [OnnxRuntimeSpec(runs=6, warmup=1), TorchSpec(runs=6, warmup=1)], ids=["onnx", "torch"]
)
def test_real_backends_run_all_convolutions(spec: Any) -> None:
    probe = probe_alignment(create_target(spec), imgsz=160)
    assert probe.alignment.default in (1, 2, 4, 8, 16, 32, 64)
    for curves in probe.curves.values():
        assert all(min(times) > 0 for curve in curves for times in curve.times_ms.values())


@pytest.mark.parametrize(
    "convolution",
    [
        Convolution(5, 7, 3, 8),
        Convolution(5, 7, 1, 8),
        Convolution(3, 9, 6, 16, stride=2),
        Convolution(6, 6, 3, 8, depthwise=True),
    ],
)
def test_the_file_and_the_module_are_one_convolution(convolution: Convolution, tmp_path: Path) -> None:
    network = convolution.network("convolution", "onnx", tmp_path)
    assert network.onnx is not None
    module = convolution.module()
    tensors = [torch.tensor(onnx.numpy_helper.to_array(item)) for item in onnx.load(network.onnx).graph.initializer]
    module[0].weight.data, module[0].bias.data = tensors  # type: ignore[index]
    image = numpy.random.default_rng(0).random(network.input_shape, dtype=numpy.float32)
    session = onnxruntime.InferenceSession(str(network.onnx), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image})
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(found), module(torch.tensor(image)), atol=1e-4, rtol=1e-4)
    assert convolution.network("convolution", "module", tmp_path).module is not None
