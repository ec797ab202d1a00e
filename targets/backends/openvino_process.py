"""One network in OpenVINO: compiled, and run for its time; as a script, in a process of its own.

The script imports OpenVINO and numpy only, for it starts once for each network of each measurement. What it is asked
and answers is told in `prunetune.targets.measure.isolation`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

BATCHES_IN_FLIGHT = 4
"""Batches for each request of a throughput run. The fewer, the more the idle ends of a run count."""


class UnreadableError(RuntimeError):
    """OpenVINO refuses the file itself."""


@dataclass(frozen=True)
class Request:
    """A network to compile."""

    file: str
    """The ONNX file."""
    input_name: str
    """The name of its input."""
    shape: Sequence[int]
    """Images, channels, height (px), width (px)."""
    settings: Mapping[str, Any]
    """OpenVINO's properties."""


def compile_network(core: Any, request: Request) -> Any:
    """An ONNX file as a compiled model of OpenVINO's CPU plugin.

    Args:
        core: An `openvino.Core`.
        request: What to compile, and how.

    Raises:
        UnreadableError: OpenVINO cannot read the file.
        RuntimeError: It cannot compile the network for this shape.
    """
    try:
        model = core.read_model(request.file)
    except RuntimeError as error:
        raise UnreadableError(error) from error
    model.reshape({request.input_name: list(request.shape)})
    return core.compile_model(model, "CPU", dict(request.settings))


def _load(core: Any, request: Request) -> Callable[[], float]:
    """The network, to be run on random images for its time in ms.

    With the hint for throughput as many requests are in flight as OpenVINO finds best, and the time is that from one
    batch to the next.
    """
    import openvino

    compiled = compile_network(core, request)
    batch = numpy.random.default_rng(0).random(request.shape, dtype=numpy.float32)
    images = openvino.Tensor(batch, shared_memory=True)
    if request.settings["PERFORMANCE_HINT"] == "THROUGHPUT":
        return _throughput(openvino.AsyncInferQueue(compiled), images)
    inference = compiled.create_infer_request()
    inference.set_input_tensor(images)

    def run() -> float:
        start = time.perf_counter()
        inference.infer(share_outputs=True)
        return (time.perf_counter() - start) * 1e3

    return run


def _throughput(requests: Any, images: Any) -> Callable[[], float]:
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


def _core() -> Any:
    import openvino

    return openvino.Core()


def _resident_mb(name: str) -> float | None:
    """The memory that this process has (`VmRSS`) or had at most (`VmHWM`), in MB; None where the system is no Linux.

    Not by `getrusage`: that also counts what the parent had when it started this process.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            found = next(line for line in status if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return None
    return int(found.split()[1]) * 1024 / 1e6


def main() -> None:
    """Reads one network from the first line, then runs it for each line, and ends with its parent."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides: it may want this measurement to its end
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        request, core = Request(**json.loads(sys.stdin.readline())), _core()
        before = _resident_mb("VmRSS")  # Python, numpy and the library's import are none of a runtime's
        run = _load(core, request)
        while True:
            answer, peak = {"ms": run()}, _resident_mb("VmHWM")
            if before is not None and peak is not None:
                answer["memory_mb"] = peak - before
            print(json.dumps(answer), file=answers)
            if not sys.stdin.readline():
                return
    except RuntimeError as error:
        key = "unreadable" if isinstance(error, UnreadableError) else "failed"
        print(json.dumps({key: str(error)}), file=answers)


if __name__ == "__main__":
    main()
