"""TensorRT on an NVIDIA GPU: engines built from ONNX files, and kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetune.spaces.errors import MissingExtraError, TargetError
from prunetune.spaces.files import publish
from prunetune.targets.backends import cuda
from prunetune.targets.backends.half_precision import halve
from prunetune.targets.backends.quantisation import Quantisation, QuantisedFiles
from prunetune.targets.measure import hardware, onnx_file
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.protocol import Pace, Predictor, Runner
from prunetune.targets.spec import TensorRtSpec

if TYPE_CHECKING:
    import torch


class TensorRtTarget:
    """Builds an engine of each ONNX file and runs it.

    Building takes a minute and more, and the choice of kernels differs from build to build. So an engine is kept, by
    the digest of all that it depends on, and a network is measured by the same engine again.

    Args:
        spec: Its description.
        engines: Where engines are kept; by default in the user's cache.
    """

    form: Form = "onnx"

    def __init__(self, spec: TensorRtSpec, engines: Path | None = None) -> None:
        self.spec = spec
        self.pace = Pace(warmup=spec.warmup)
        self._engines = engines
        self._quantised = QuantisedFiles(Quantisation.of(spec))

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of its description."""
        return self.spec.precisions

    def fingerprint(self) -> dict[str, str]:
        """GPU, version of TensorRT and settings.

        Raises:
            MissingExtraError: TensorRT is not installed.
            TargetError: The GPU is absent.
        """
        runtime = f"tensorrt {self._tensorrt.__version__}"
        return hardware.fingerprint(self.spec, self._gpu_name, runtime)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """The GPU is the measurement's alone; the process may stay where it is."""
        yield
        self._quantised.tidy()

    def load(self, network: Network) -> Runner:
        """An engine of the network's file, run once.

        Raises:
            MissingExtraError: TensorRT is not installed.
            TargetError: The file is missing or corrupt, does not fit `network.input_shape` or cannot be built, or the
                GPU is absent.
        """
        work, _ = self._prepared(network)
        run = cuda.timed(work, self._device)
        try:
            run()
        except RuntimeError as error:
            raise onnx_file.does_not_run(network, error) from error
        return run

    def predictor(self, network: Network) -> Predictor:
        """An engine of the network's file, for its outputs instead of its time.

        Raises:
            MissingExtraError, TargetError: As of `load`.
        """
        import torch

        work, tensors = self._prepared(network)
        images, *outputs = tensors

        def predict(batch: Images) -> Images:
            images.copy_(torch.from_numpy(batch))
            work()
            found: Images = outputs[0].cpu().numpy()
            return found

        return predict

    def serialised(self, network: Network) -> bytes:
        """An engine of the network's file, for who ships it.

        Raises:
            MissingExtraError, TargetError: As of `load`.
        """
        return bytes(self._engine(network, onnx_file.input_name(network)).serialize())

    def _prepared(self, network: Network) -> tuple[Callable[[], object], list[torch.Tensor]]:
        """The work of one batch, and its input and outputs on the GPU."""
        name = onnx_file.input_name(network)
        return self._work(self._engine(network, name), network, name)

    @cached_property
    def _tensorrt(self) -> Any:
        try:
            import tensorrt
        except ImportError as error:
            raise MissingExtraError("tensorrt", "tensorrt") from error
        return tensorrt

    @cached_property
    def _logger(self) -> Any:
        return self._tensorrt.Logger(self._tensorrt.Logger.ERROR)

    @cached_property
    def _device(self) -> torch.device:
        return cuda.find_gpu(self.spec.name, self.spec.device)

    @cached_property
    def _gpu_name(self) -> str:
        import torch

        return torch.cuda.get_device_name(self._device)

    def _engine(self, network: Network, name: str) -> Any:
        """The engine, built or read back."""
        file = self._file(network)
        kept = self._folder / f"{self._digest(file, network)}.engine"
        runtime = self._tensorrt.Runtime(self._logger)
        if kept.is_file():
            engine = runtime.deserialize_cuda_engine(kept.read_bytes())
            if engine is not None:  # else it is damaged: it is built anew
                return engine
        built = self._build(file, network, name)
        with publish(kept) as draft:
            draft.write_bytes(built)
        return runtime.deserialize_cuda_engine(built)

    def _file(self, network: Network) -> Path:
        """The network in its precision: an engine computes in what the graph says."""
        assert network.onnx is not None  # it has an input
        precision = self._precision(network)
        if precision == "int8":
            return self._quantised.file(network)
        if precision == "fp32":
            return network.onnx
        file = Path(self._halved.name) / f"{hashlib.sha256(network.onnx.read_bytes()).hexdigest()[:16]}.onnx"
        if not file.is_file():
            halve(network.onnx, file)
        return file

    def _precision(self, network: Network) -> str:
        return network.precision_on(self.spec.name, self.precisions)

    @cached_property
    def _halved(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="prunetune-fp16-")  # goes with the target

    @property
    def _folder(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return self._engines or cache / "prunetune" / "engines"

    def _digest(self, file: Path, network: Network) -> str:
        told = (self._tensorrt.__version__, self._gpu_name, network.input_shape, self._precision(network))
        return hashlib.sha256(file.read_bytes() + repr(told).encode()).hexdigest()[:24]

    def _build(self, file: Path, network: Network, name: str) -> bytes:
        import torch

        trt = self._tensorrt
        builder = trt.Builder(self._logger)
        # From version 11 on every network is strongly typed, and the flag is gone.
        is_typed = int(trt.__version__.split(".")[0]) >= 11
        flags = 0 if is_typed else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        definition = builder.create_network(flags)
        parser = trt.OnnxParser(definition, self._logger)
        if not parser.parse(file.read_bytes()):
            reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise onnx_file.cannot_be_loaded(network, RuntimeError(reasons or "TensorRT gives no reason"))
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()  # sizes that the file leaves open
        profile.set_shape(name, network.input_shape, network.input_shape, network.input_shape)
        config.add_optimization_profile(profile)
        with torch.cuda.device(self._device):
            built = builder.build_serialized_network(definition, config)
        if built is None:
            raise TargetError(
                f"{onnx_file.where(network)}: TensorRT {trt.__version__} builds no engine of it for "
                f"{onnx_file.shape_text(network.input_shape)}; what it printed above says why"
            )
        return bytes(built)

    def _work(self, engine: Any, network: Network, name: str) -> tuple[Callable[[], object], list[torch.Tensor]]:
        import torch

        trt = self._tensorrt
        context = engine.create_execution_context()
        context.set_input_shape(name, network.input_shape)
        types = {
            trt.float32: torch.float32, trt.float16: torch.float16, trt.int32: torch.int32, trt.int64: torch.int64,
            trt.int8: torch.int8, trt.bool: torch.bool,
        }  # fmt: skip
        tensors = {}
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            shape = tuple(context.get_tensor_shape(tensor))
            tensors[tensor] = torch.empty(shape, dtype=types[engine.get_tensor_dtype(tensor)], device=self._device)
            context.set_tensor_address(tensor, tensors[tensor].data_ptr())
        tensors[name].copy_(torch.from_numpy(onnx_file.image_batch(network)))

        held = [tensors.pop(name), *tensors.values()]

        def work() -> object:
            assert held  # the engine knows addresses only: the memory lives as long as the work
            return context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream)

        return work, held
