"""PyTorch itself, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from typing import TYPE_CHECKING

from prunetune.spaces.errors import TargetError
from prunetune.targets import hardware
from prunetune.targets.network import Form, Network
from prunetune.targets.protocol import Pace, Runner
from prunetune.targets.spec import TorchSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchTarget:
    """Runs modules with PyTorch in eager mode.

    Args:
        spec: Its description.
    """

    form: Form = "module"

    def __init__(self, spec: TorchSpec) -> None:
        self.spec = spec
        self.pace = Pace(warmup=spec.warmup)

    def fingerprint(self) -> dict[str, str]:
        """CPU or GPU model, version of PyTorch and settings.

        Raises:
            TargetError: The GPU is absent.
        """
        if not self.spec.on_gpu:
            return hardware.fingerprint(self.spec, hardware.cpu_model(), f"torch {version('torch')}")
        import torch

        model = torch.cuda.get_device_name(self._device())
        return hardware.fingerprint(self.spec, model, f"torch {version('torch')}, CUDA {torch.version.cuda}")

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
        """A copy of the module on the device, in eval mode and in the target's precision, run once.

        Raises:
            TargetError: There is no module, it does not run on `network.input_shape`, or the GPU is absent.
            torch.cuda.OutOfMemoryError: The GPU's memory is too small.
        """
        import torch

        if network.module is None:
            raise TargetError(f"network {network.name!r}: there is no module to run; set module=")
        device = self._device()
        dtype = torch.float16 if self.spec.precision == "fp16" else torch.float32
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(network.input_shape, generator=generator).to(device, dtype)
        try:
            module = deepcopy(network.module).eval().to(device, dtype)
            run = (_cuda_runner if self.spec.on_gpu else _cpu_runner)(module, image)
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

    def _device(self) -> torch.device:
        import torch

        device = torch.device(self.spec.device)
        if device.type == "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if (device.index or 0) >= count:
                raise TargetError(
                    f"target {self.spec.name!r}: device: {self.spec.device} is not there, torch "
                    f"{version('torch')} sees {count} GPUs; install a CUDA build of torch and check that "
                    f"nvidia-smi lists the GPU, or write device: cpu"
                )
        return device


def _cpu_runner(module: nn.Module, image: torch.Tensor) -> Runner:
    import torch

    @torch.inference_mode()
    def run() -> float:
        start = time.perf_counter()
        module(image)
        return (time.perf_counter() - start) * 1e3

    return run


def _cuda_runner(module: nn.Module, image: torch.Tensor) -> Runner:
    """Times with events on the GPU's own clock: the CPU is long back when the GPU has done its work."""
    import torch

    @torch.inference_mode()
    def run() -> float:
        with torch.cuda.device(image.device):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            start.record()
            module(image)
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end))

    return run
