"""OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prunetune.spaces.errors import TargetError
from prunetune.spaces.fields import number
from prunetune.targets.backends import openvino_process
from prunetune.targets.backends.quantisation import Quantisation, QuantisedFiles
from prunetune.targets.measure import hardware, onnx_file
from prunetune.targets.measure.isolation import Answer, isolated
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.protocol import MemoryRunner, Pace, Predictor, Reading, Runner
from prunetune.targets.spec import OpenVinoSpec

_SCRIPT = Path(openvino_process.__file__)
_HINTS = {"fp16": "f16", "bf16": "bf16"}


class OpenVinoTarget:
    """Runs ONNX files with OpenVINO's CPU plugin, each network in a process of its own.

    In one process networks disturb each other on some CPUs: on a Xeon with AMX one took 1.8 ms alone and 6.6 ms beside
    two others that were merely loaded, and other times from run to run.

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
        self._processes = ExitStack()

    @property
    def precisions(self) -> tuple[str, ...]:
        """What OpenVINO computes in on this CPU.

        Raises:
            TargetError: OpenVINO is not installed, or the CPU does not compute in the target's precision.
        """
        return tuple(precision for precision in self.spec.precisions if precision.upper() in _able(self._core))

    def fingerprint(self) -> dict[str, str]:
        """CPU model, version of OpenVINO and settings.

        Raises:
            TargetError: OpenVINO is not installed, or the CPU does not compute in the target's precision.
        """
        _ = self._core
        found = hardware.fingerprint(self.spec, hardware.cpu_model(), f"openvino {version('openvino')}")
        # Without the last, what was measured in one process would pass for the same.
        return {**found, "hint": self.spec.hint, "networks": "a process each"}

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Holds the process to the quietest cores, which the networks' processes inherit, and ends those."""
        _ = self._core  # before: OpenVINO counts the cores once in a process, and only those that it may use then
        with hardware.quiet_cores(self.spec.threads), self._processes:
            yield
        self._quantised.tidy()

    def load(self, network: Network) -> Runner:
        """The network, compiled and run once in a process of its own, which ends with the block of `pinned`.

        Raises:
            TargetError: The file is missing or corrupt, its input is not one fp32 image batch of
                `network.input_shape`, it cannot be quantised, OpenVINO is not installed, or the CPU lacks the
                network's precision or the target's.
            MeasurementError: The process died.
        """
        _ = self._core
        request = asdict(self._request(network))
        ask = self._processes.enter_context(isolated(_SCRIPT, request, f"network {network.name!r}"))
        run = MemoryRunner(partial(_reading, network, ask))
        run()
        return run

    def predictor(self, network: Network) -> Predictor:
        """The network, for its outputs instead of its time.

        Raises:
            TargetError: As of `load`.
        """
        try:
            compiled = openvino_process.compile_network(self._core, self._request(network))
            request = compiled.create_infer_request()
        except openvino_process.UnreadableError as error:
            raise onnx_file.cannot_be_loaded(network, error) from error
        except RuntimeError as error:
            raise onnx_file.does_not_run(network, error) from error

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
        able = _able(core)
        if self.spec.precision.upper() not in able:
            known = [name for name in ("fp32", "fp16", "bf16", "int8") if name.upper() in able]
            raise TargetError(
                f"target {self.spec.name!r}: precision: {self.spec.precision} is not what OpenVINO computes in on "
                f"this CPU ({hardware.cpu_model()}); write precision: {' or '.join(known)}"
            )
        return core

    def _request(self, network: Network) -> openvino_process.Request:
        name = onnx_file.input_name(network)
        precision = network.precision_on(self.spec.name, self.precisions)
        file = self._quantised.file(network) if precision == "int8" else network.onnx
        settings = {
            "INFERENCE_NUM_THREADS": self.spec.threads,
            "PERFORMANCE_HINT": self.spec.hint.upper(),
            # Also for fp32: where the hardware has bf16 or fp16 OpenVINO would otherwise compute in that.
            "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
            "ENABLE_CPU_PINNING": False,  # it would hold all networks to the same cores, and not the quietest
        }
        return openvino_process.Request(str(file), name, network.input_shape, settings)


def _able(core: Any) -> Sequence[str]:
    """What the CPU computes in, by OpenVINO's names."""
    found: Sequence[str] = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def _reading(network: Network, ask: Callable[[], Answer]) -> Reading:
    match ask():
        case {"unreadable": reason}:
            raise onnx_file.cannot_be_loaded(network, reason)
        case {"failed": reason}:
            raise onnx_file.does_not_run(network, reason)
        case answer:
            return Reading(float(answer["ms"]), number(answer.get("memory_mb")))
