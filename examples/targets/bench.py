"""Times a network on a board that has Python: `python3 bench.py FILE [THREADS] [SHAPE]`.

FILE is an ONNX file (needs onnxruntime), or a .param of ncnn with its .bin beside it (needs ncnn). SHAPE is the
input's, as in `1x3x640x640`; ncnn's files do not tell it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

WARM, TIMED = 10, 50

Run = Callable[[], Any]


def image(shape: list[int]) -> Any:
    """Random numbers: an image of zeros is faster on some hardware."""
    return numpy.random.default_rng(0).random(shape, dtype=numpy.float32)


def load_onnx(file: Path, threads: int, shape: list[int]) -> Run:
    """A network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    inputs = {entry.name: image(shape or entry.shape)}
    return lambda: session.run(None, inputs)


def load_ncnn(file: Path, threads: int, shape: list[int]) -> Run:
    """A network in ncnn, which knows no batches."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    if net.load_param(str(file)) or net.load_model(str(file.with_suffix(".bin"))):
        raise SystemExit(f"{file}: ncnn cannot load it")
    (entry,), outputs = net.input_names(), net.output_names()
    given = ncnn.Mat(image(shape[1:]))

    def run() -> None:
        extractor = net.create_extractor()
        extractor.input(entry, given)
        if any(extractor.extract(name)[0] for name in outputs):
            raise SystemExit(f"{file}: ncnn cannot run it")

    return run


LOADERS = {".onnx": load_onnx, ".param": load_ncnn}


def main() -> None:
    """Prints the median and all times as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("threads", type=int, nargs="?", default=1)
    parser.add_argument("shape", nargs="?", default="")
    given = parser.parse_args()
    run = LOADERS[given.file.suffix](given.file, given.threads, [int(side) for side in given.shape.split("x") if side])
    times = []
    for _ in range(WARM + TIMED):
        start = time.perf_counter()
        run()
        times.append(round((time.perf_counter() - start) * 1e3, 4))
    print(json.dumps({"latency_ms": sorted(times[WARM:])[TIMED // 2], "times": times[WARM:]}))


if __name__ == "__main__":
    main()
