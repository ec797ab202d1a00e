"""What a user's script for a board does: sends the file there, prints what comes back. Needs only Python itself.

`python client.py FOLDER FILE.onnx NAME`. For a test it also goes wrong as the board tells it to.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def ask(folder: Path, onnx: Path, network: str) -> bytes:
    """What the board answers to a network."""
    try:
        port = int((folder / "port").read_text())
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{network}\n".encode() + onnx.read_bytes())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                return answer.read()
    except OSError as error:
        sys.exit(f"board: does not answer ({error})")


def main() -> None:
    """Asks and prints, or goes wrong."""
    folder, onnx, network = sys.argv[1:]
    act, _, printed = ask(Path(folder), Path(onnx), network).partition(b"\n")
    if act == b"":
        sys.exit("board: hung up")
    if act == b"crash":
        print("layer Conv_17: unsupported", file=sys.stderr)
        sys.exit(3)
    if act == b"signal":
        os.kill(os.getpid(), signal.SIGKILL)
    while act == b"endless":
        sys.stdout.buffer.write(b"warning: clock not locked\n" * 1000)
    if act == b"orphan":  # it holds the pipes, as adb's and ssh's helpers do
        subprocess.Popen(["sleep", "1000"])
    sys.stdout.buffer.write(printed)


if __name__ == "__main__":
    main()
