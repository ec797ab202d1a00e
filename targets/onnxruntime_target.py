"""ONNX Runtime on the CPU: what most boards run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prunetune.targets import hardware, onnx_file
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.protocol import Pace, Predictor, Runner
from prunetune.targets.quantisation import Quantisation, QuantisedFiles
from prunetune.targets.spec import OnnxRuntimeSpec


class OnnxRuntimeTarget:
    """Runs ONNX files with ONNX Runtime's CPU provider.

    Args:
        spec: Its description.
    """

    form: Form = "onnx"

    def __init__(self, spec: OnnxRuntimeSpec) -> None:
        self.spec = spec
        self.pace = Pace(warmup=spec.warmup)
        self._quantised = QuantisedFiles(Quantisation.of(spec))

    def fingerprint(self) -> dict[str, str]:
        """CPU model, version of ONNX Runtime and settings."""
        import onnxruntime

        return hardware.fingerprint(self.spec, hardware.cpu_model(), f"onnxruntime {onnxruntime.__version__}")

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Holds the process to the quietest cores. Threads belong to each session, and inherit them."""
        with hardware.quiet_cores(self.spec.threads):
            yield
        self._quantised.tidy()

    def load(self, network: Network) -> Runner:
        """A session on the network's file, run once.

        Raises:
            TargetError: The file is missing or corrupt, or its input is not one fp32 image batch of
                `network.input_shape`, or it cannot be quantised.
        """
        name = onnx_file.input_name(network)
        session = self._open(network)
        outputs = [output.name for output in session.get_outputs()]
        inputs = {name: onnx_file.image_batch(network)}
        try:
            session.run(outputs, inputs)
        except _runtime_errors() as error:
            raise onnx_file.does_not_run(network, error) from error

        def run() -> float:
            start = time.perf_counter()
            session.run(outputs, inputs)
            return (time.perf_counter() - start) * 1e3

        return run

    def predictor(self, network: Network) -> Predictor:
        """A session on the network's file, for its outputs instead of its time.

        Raises:
            TargetError: As of `load`.
        """
        name = onnx_file.input_name(network)
        session = self._open(network)

        def predict(images: Images) -> Images:
            output: Images = session.run(None, {name: images})[0]
            return output

        return predict

    def _open(self, network: Network) -> Any:
        import onnxruntime

        file = self._quantised.file(network) if self.spec.quantises else network.onnx
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.spec.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Threads that spin between runs would take time from the other networks of a round.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # fatal ones only: errors are raised as well, and named there
        try:
            return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except _runtime_errors() as error:
            raise onnx_file.cannot_be_loaded(network, error) from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises about a network. Its classes share no base but `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    values = vars(state).values()
    return tuple(value for value in values if isinstance(value, type) and issubclass(value, Exception))
