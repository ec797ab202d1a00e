"""NVIDIA GPUs by way of PyTorch: is the device there, and time on the GPU's own clock."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from prunetune.spaces.errors import TargetError
from prunetune.targets.protocol import Runner

if TYPE_CHECKING:
    import torch


def find_gpu(target: str, device: str) -> torch.device:
    """The device that a target is to run on.

    Args:
        target: The target's name, for the error.
        device: `cuda` or `cuda:N`.

    Raises:
        TargetError: PyTorch does not see it.
    """
    import torch

    found = torch.device(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (found.index or 0) >= count:
        raise TargetError(
            f"target {target!r}: device: {device} is not there, torch {version('torch')} sees {count} GPUs; install a "
            "CUDA build of torch and check that nvidia-smi lists the GPU, or write device: cpu"
        )
    return found


def timed(work: Callable[[], object], device: torch.device) -> Runner:
    """Times work on the current stream with events: the CPU is long back when the GPU has done it.

    Args:
        work: Enqueues the work and returns.
        device: Where.
    """
    import torch

    @torch.inference_mode()
    def run() -> float:
        with torch.cuda.device(device):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end))

    return run


def captured(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The work as a CUDA graph, which the GPU replays without waiting for the CPU to launch each kernel.

    Args:
        work: The same kernels on the same memory each time.
        device: Where.

    Raises:
        RuntimeError: The work cannot be captured, for example because it waits for the GPU.
    """
    import torch

    with torch.cuda.device(device), torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels and memory before the capture
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()

    def replay(held: Callable[[], object] = work) -> None:  # the graph reads the weights, but does not hold them
        graph.replay()

    return replay
