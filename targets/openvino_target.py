"""OpenVINO, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from typing import Any

from prunetune.spaces.errors import TargetError
from prunetune.targets import hardware, onnx_file
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.protocol import Pace, Predictor, Runner
from prunetune.targets.quantisation import Quantisation, QuantisedFiles
from prunetune.targets.spec import OpenVinoSpec

BATCHES_IN_FLIGHT = 4
"""Batches for each request of a throughput run. The fewer, the more the idle ends of a run count."""


class OpenVinoTarget:
    """Runs ONNX files with OpenVINO's CPU plugin.

    With `hint: latency` a run is one batch, all threads on it. With `hint: throughput` several requests are in flight
    at once, as many as OpenVINO finds best for the threads, and a run's time is that of all batches divided by their
    number: the time in ms after which the next result is there, not the time that one batch takes.

    Args:
        spec: Its description.
    """

    form: Form = "onnx"

    def __init__(self, spec: OpenVinoSpec) -> None:
        self.spec = spec
        self.pace = Pace(warmup=spec.warmup)
        self._quantised = QuantisedFiles(Quantisation.of(spec))

    def fingerprint(self) -> dict[str, str]:
        """CPU model, version of OpenVINO and settings.

        Raises:
            TargetError: OpenVINO is not installed, or the CPU does not compute in the target's precision.
        """
        _ = self._core
        found = hardware.fingerprint(self.spec, hardware.cpu_model(), f"openvino {version('openvino')}")
        return {**found, "hint": self.spec.hint}

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Holds the process to the quietest cores. Threads belong to each compiled network, and inherit them."""
        _ = self._core  # before: OpenVINO counts the cores once in a process, and only those that it may use then
        with hardware.quiet_cores(self.spec.threads):
            yield
        self._quantised.tidy()

    def load(self, network: Network) -> Runner:
        """The network, compiled and run once.

        Raises:
            TargetError: The file is missing or corrupt, its input is not one fp32 image batch of
                `network.input_shape`, it cannot be quantised, OpenVINO is not installed, or the CPU lacks the
                target's precision.
        """
        compiled = self._compile(network)
        run = (_throughput_runner if self.spec.hint == "throughput" else _latency_runner)(compiled, network)
        try:
            run()
        except RuntimeError as error:
            raise onnx_file.does_not_run(network, error) from error
        return run

    def predictor(self, network: Network) -> Predictor:
        """The network, for its outputs instead of its time.

        Raises:
            TargetError: As of `load`.
        """
        request = self._compile(network).create_infer_request()

        def predict(images: Images) -> Images:
            output: Images = request.infer([images])[0]
            return output

        return predict

    @cached_property
    def _core(self) -> Any:
        try:
            import openvino
        except ImportError as error:
            raise TargetError(
                f"target {self.spec.name!r}: kind: openvino needs a package that is not installed; run: "
                "pip install 'prunetune[openvino]'"
            ) from error
        core = openvino.Core()
        # Without the hardware for it OpenVINO would silently compute in fp32.
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.spec.precision.upper() not in able:
            known = [name for name in ("fp32", "fp16", "int8") if name.upper() in able]
            raise TargetError(
                f"target {self.spec.name!r}: precision: {self.spec.precision} is not what OpenVINO computes in on "
                f"this CPU ({hardware.cpu_model()}); write precision: {' or '.join(known)}"
            )
        return core

    def _compile(self, network: Network) -> Any:
        name = onnx_file.input_name(network)
        file = self._quantised.file(network) if self.spec.quantises else network.onnx
        try:
            model = self._core.read_model(str(file))
        except RuntimeError as error:
            raise onnx_file.cannot_be_loaded(network, error) from error
        settings = {
            "INFERENCE_NUM_THREADS": self.spec.threads,
            "PERFORMANCE_HINT": self.spec.hint.upper(),
            # Also for fp32: where the hardware has bf16 or fp16 OpenVINO would otherwise compute in that.
            "INFERENCE_PRECISION_HINT": "f16" if self.spec.precision == "fp16" else "f32",
            "ENABLE_CPU_PINNING": False,  # it would hold all networks to the same cores, and not the quietest
        }
        try:
            model.reshape({name: list(network.input_shape)})
            return self._core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise onnx_file.does_not_run(network, error) from error


def _latency_runner(compiled: Any, network: Network) -> Runner:
    import openvino

    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(onnx_file.image_batch(network), shared_memory=True))

    def run() -> float:
        start = time.perf_counter()
        request.infer(share_outputs=True)
        return (time.perf_counter() - start) * 1e3

    return run


def _throughput_runner(compiled: Any, network: Network) -> Runner:
    import openvino

    requests = openvino.AsyncInferQueue(compiled)  # as many as OpenVINO finds best
    images = openvino.Tensor(onnx_file.image_batch(network), shared_memory=True)
    for request in requests:
        request.set_input_tensor(images)
    batches = BATCHES_IN_FLIGHT * len(requests)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(batches):
            requests.start_async()
        requests.wait_all()
        return (time.perf_counter() - start) * 1e3 / batches

    return run
