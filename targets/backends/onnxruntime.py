"""ONNX Runtime, on the CPU, which most boards run, or on an NVIDIA GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prunetune.spaces.errors import TargetError
from prunetune.targets.backends.quantisation import Quantisation, QuantisedFiles
from prunetune.targets.measure import hardware, onnx_file
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.protocol import Pace, Predictor, Runner
from prunetune.targets.spec import OnnxRuntimeSpec

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it reports sessions, and keeps an identifier in the user's home


class OnnxRuntimeTarget:
    """Runs ONNX files with ONNX Runtime's CPU, CUDA or TensorRT provider.

    On a GPU the images lie there and the outputs stay there: copies are not timed.

    Args:
        spec: Its description.
    """

    form: Form = "onnx"

    def __init__(self, spec: OnnxRuntimeSpec) -> None:
        self.spec = spec
        self.pace = Pace(warmup=spec.warmup)
        self._quantised = QuantisedFiles(Quantisation.of(spec))

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of its description."""
        return self.spec.precisions

    def fingerprint(self) -> dict[str, str]:
        """CPU or GPU model, version of ONNX Runtime and settings.

        Raises:
            TargetError: The installed ONNX Runtime has no provider for the GPU.
        """
        import onnxruntime

        runtime = f"onnxruntime {onnxruntime.__version__}"
        if not self.spec.on_gpu:
            return hardware.fingerprint(self.spec, hardware.cpu_model(), runtime)
        provider, _ = self._gpu_provider(self.spec.precision)
        return hardware.fingerprint(self.spec, hardware.gpu_model(self._gpu), f"{runtime}, {provider}")

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
                `network.input_shape`, it cannot be quantised, or there is no provider for the GPU.
        """
        name = onnx_file.input_name(network)
        session = self._open(network)
        run = (self._gpu_runner if self.spec.on_gpu else _cpu_runner)(session, name, network)
        try:
            run()
        except _runtime_errors() as error:
            raise onnx_file.does_not_run(network, error) from error
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

        precision = network.precision_on(self.spec.name, self.precisions)
        file = self._quantised.file(network) if precision == "int8" else network.onnx
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.spec.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Threads that spin between runs would take time from the other networks of a round.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # fatal ones only: errors are raised as well, and named there
        providers = [self._gpu_provider(precision)] if self.spec.on_gpu else ["CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=providers, enable_fallback=0)
        except _runtime_errors() as error:
            raise onnx_file.cannot_be_loaded(network, error) from error
        except RuntimeError as error:  # a provider without its libraries, before the file is read
            raise self._does_not_start(str(providers[0][0]), str(error)) from error
        if self.spec.on_gpu and session.get_providers()[0] != providers[0][0]:
            raise self._does_not_start(str(providers[0][0]), "ONNX Runtime would run on the CPU instead")
        return session

    def _does_not_start(self, provider: str, reason: str) -> TargetError:
        return TargetError(
            f"target {self.spec.name!r}: {provider} does not start ({reason}); check that nvidia-smi lists "
            f"{self.spec.device}, and that CUDA, cuDNN and for TensorRT its libraries are those that this "
            "onnxruntime-gpu was built for"
        )

    @property
    def _gpu(self) -> int:
        return int(self.spec.place.removeprefix("cuda:"))

    def _gpu_provider(self, precision: str) -> tuple[str, dict[str, str]]:
        """ONNX Runtime's name of the provider, and its options. Loads the libraries that pip has put elsewhere."""
        import onnxruntime
        import torch  # noqa: F401  # brings CUDA and cuDNN

        tensorrt = self.spec.provider == "tensorrt"
        if tensorrt:
            with suppress(ImportError):  # TensorRT may also lie in the system's folders
                import tensorrt as _  # noqa: F401
        name = "TensorrtExecutionProvider" if tensorrt else "CUDAExecutionProvider"
        available = onnxruntime.get_available_providers()
        if name not in available:
            raise TargetError(
                f"target {self.spec.name!r}: the installed onnxruntime {onnxruntime.__version__} has no {name}, only "
                f"{', '.join(available)}; run: pip uninstall -y onnxruntime && pip install onnxruntime-gpu, or write "
                "device: cpu"
            )
        options = {"device_id": str(self._gpu)}
        if tensorrt:
            options["trt_fp16_enable"] = str(precision == "fp16")
            options["trt_int8_enable"] = str(precision == "int8")
        return name, options

    def _gpu_runner(self, session: Any, name: str, network: Network) -> Runner:
        import onnxruntime

        images = onnxruntime.OrtValue.ortvalue_from_numpy(onnx_file.image_batch(network), "cuda", self._gpu)
        binding = session.io_binding()
        binding.bind_ortvalue_input(name, images)
        for output in session.get_outputs():
            binding.bind_output(output.name, "cuda", self._gpu)

        def run() -> float:
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return (time.perf_counter() - start) * 1e3

        return run


def _cpu_runner(session: Any, name: str, network: Network) -> Runner:
    outputs = [output.name for output in session.get_outputs()]
    inputs = {name: onnx_file.image_batch(network)}

    def run() -> float:
        start = time.perf_counter()
        session.run(outputs, inputs)
        return (time.perf_counter() - start) * 1e3

    return run


def _runtime_errors() -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises about a network. Its classes share no base but `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    values = vars(state).values()
    return tuple(value for value in values if isinstance(value, type) and issubclass(value, Exception))
