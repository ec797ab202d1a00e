"""Times an ONNX file with ONNX Runtime, on a board that has Python: `python3 bench.py FILE.onnx [THREADS]`."""

from __future__ import annotations

import json
import sys
import time

import numpy
import onnxruntime

WARM, TIMED = 10, 50


def main() -> None:
    """Prints the median and all times as one line of JSON."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    inputs = {image.name: numpy.random.default_rng(0).random(image.shape, dtype=numpy.float32)}
    times = []
    for _ in range(WARM + TIMED):
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(round((time.perf_counter() - start) * 1e3, 4))
    print(json.dumps({"latency_ms": sorted(times[WARM:])[TIMED // 2], "times": times[WARM:]}))


if __name__ == "__main__":
    main()
