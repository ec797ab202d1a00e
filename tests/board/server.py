"""A board for tests: takes an ONNX file over TCP, runs it with ONNX Runtime, and answers with its real latency.
The memory that it tells is the size of the file.

`python server.py FOLDER` writes its port into `FOLDER/port` and says so. `FOLDER/faults` holds a fault a line, the
first of which is the next to happen: its name and, if only one network suffers it, that network's name.
"""

from __future__ import annotations

import json
import os
import socketserver
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy
import onnxruntime

WARM, TIMED = 3, 7

faults_lock = threading.Lock()


def next_fault(folder: Path, network: str) -> str:
    """Takes the fault that is due for a network; the empty string for none."""
    file = folder / "faults"
    with faults_lock:
        due, *later = [*file.read_text().splitlines(), ""]
        fault, _, whose = due.partition(" ")
        if fault and whose in ("", network):
            draft = file.with_name("faults.draft")
            draft.write_text("\n".join(later))
            os.replace(draft, file)
            return fault
    return ""


def latency_ms(model: bytes) -> list[float]:
    """The times of some runs, in ms."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    inputs = {image.name: numpy.zeros(image.shape, numpy.float32)}
    times = []
    for _ in range(WARM + TIMED):
        start = time.perf_counter()
        session.run(None, inputs)
        times.append((time.perf_counter() - start) * 1e3)
    return times[WARM:]


class Request(socketserver.StreamRequestHandler):
    """One line with the network's name, then its file. The answer is what the client does, and what it prints."""

    folder: Path

    def handle(self) -> None:
        """Answers, or suffers the fault that is due."""
        network = self.rfile.readline().decode().strip()
        model = self.rfile.read()
        fault = next_fault(self.folder, network)
        if fault == "hang":
            self.rfile.read()
            threading.Event().wait()
        elif fault == "drop":
            return
        elif fault == "off":
            (self.folder / "port").unlink()
            os._exit(0)
        elif fault == "garbage":
            self.wfile.write(b"print\nbooting ...\xff\xfe\x00 {latency_ms: }\n")
        else:
            times = latency_ms(model)
            told = {"latency_ms": statistics.median(times), "times": times, "memory_mb": len(model) / 1e6}
            printed = f"converted {network}\n{json.dumps(told)}\n"
            self.wfile.write(f"{fault or 'print'}\n{printed}".encode())


class Board(socketserver.ThreadingTCPServer):
    """Keeps answering while one request hangs."""

    daemon_threads = True


def main() -> None:
    """Serves until it is killed."""
    folder = Path(sys.argv[1])
    Request.folder = folder
    with Board(("127.0.0.1", 0), Request) as server:
        draft = folder / "port.draft"
        draft.write_text(str(server.server_address[1]))
        os.replace(draft, folder / "port")
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
