"""PyTorch itself, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from typing import TYPE_CHECKING

from prunetune.spaces.errors import TargetError
from prunetune.targets.backends.cuda import captured, find_gpu, timed
from prunetune.targets.measure import hardware
from prunetune.targets.network import Form, Network
from prunetune.targets.protocol import Pace, Runner
from prunetune.targets.spec import TorchSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchTarget:
    """Runs modules with PyTorch: on a CPU in eager mode, on a GPU as CUDA graphs, as deployed networks run there.

    Args:
        spec: Its description.
    """

    form: Form = "module"

    def __init__(self, spec: TorchSpec) -> None:
        self.spec = spec
        self.pace = Pace(warmup=spec.warmup)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of its description."""
        return self.spec.precisions

    def fingerprint(self) -> dict[str, str]:
        """CPU or GPU model, version of PyTorch and settings.

        Raises:
            TargetError: The GPU is absent.
        """
        if not self.spec.on_gpu:
            return self._fingerprint(hardware.cpu_model(), f"torch {version('torch')}")
        import torch

        model = torch.cuda.get_device_name(find_gpu(self.spec.name, self.spec.device))
        graph = ", CUDA graph" if self.spec.replays else ""
        return self._fingerprint(model, f"torch {version('torch')}, CUDA {torch.version.cuda}{graph}")

    def _fingerprint(self, model: str, runtime: str) -> dict[str, str]:
        layout = ", channels last" if self.spec.channels_last else ""
        return hardware.fingerprint(self.spec, model, f"{runtime}{layout}")

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Holds the number of threads, and the process to the quietest cores."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(self.spec.threads)
        try:
            with hardware.quiet_cores(self.spec.threads):
                yield
        finally:
            torch.set_num_threads(threads)

    def load(self, network: Network) -> Runner:
        """A copy of the module on the device, in eval mode and in its precision, run once.

        Raises:
            TargetError: There is no module, it does not run on `network.input_shape` or not in its precision, or the
                GPU is absent.
            torch.cuda.OutOfMemoryError: The GPU's memory is too small.
        """
        import torch

        if network.module is None:
            raise TargetError(f"network {network.name!r}: there is no module to run; set module=")
        device = find_gpu(self.spec.name, self.spec.device) if self.spec.on_gpu else torch.device("cpu")
        layout = torch.channels_last if self.spec.channels_last else torch.contiguous_format
        precision = network.precision_on(self.spec.name, self.precisions)
        dtype = torch.float16 if precision == "fp16" else torch.float32
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(network.input_shape, generator=generator).to(device, dtype, memory_format=layout)
        try:
            module = deepcopy(network.module).eval().to(device, dtype)
            module = module.to(memory_format=layout)  # type: ignore[call-overload]  # its stubs do not know the layout
            run = self._gpu_runner(module, image) if self.spec.on_gpu else _cpu_runner(module, image)
            run()
        except torch.cuda.OutOfMemoryError:
            raise  # says nothing against the network, and has its own name among a trial's failures
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shape = " x ".join(map(str, network.input_shape))
            raise TargetError(
                f"network {network.name!r}: its module does not run on an input of {shape} on "
                f"{self.spec.device} ({error}); set input_shape (imgsz) to a size that it takes"
            ) from error
        return run

    def _gpu_runner(self, module: nn.Module, image: torch.Tensor) -> Runner:
        def work() -> object:
            return module(image)

        return timed(captured(work, image.device) if self.spec.replays else work, image.device)


def _cpu_runner(module: nn.Module, image: torch.Tensor) -> Runner:
    import torch

    @torch.inference_mode()
    def run() -> float:
        start = time.perf_counter()
        module(image)
        return (time.perf_counter() - start) * 1e3

    return run
