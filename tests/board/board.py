"""The board of `server.py` as tests hold it: switch it on, let it fail, ask for the command that measures on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Board:
    """A second process that measures networks; off at first.

    Args:
        folder: An empty folder for its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.suffer()

    def boot(self, *_: Any) -> None:
        """Switches it on, and waits until it answers. Takes whatever is given, so that a pause can be spent on it."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, str(HERE / "server.py"), str(self.folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def switch_off(self) -> None:
        """As if its plug were pulled."""
        (self.folder / "port").unlink(missing_ok=True)
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def suffer(self, faults: Iterable[str] = ()) -> None:
        """Sets the faults to come, one for each request: the fault, and the one network that suffers it."""
        (self.folder / "faults").write_text("\n".join(faults))

    @property
    def faults_left(self) -> list[str]:
        """The faults that have not happened yet."""
        return (self.folder / "faults").read_text().splitlines()

    @property
    def command(self) -> list[str]:
        """The command line of a target that measures on it."""
        python = [sys.executable, "-I", "-S"]  # the client needs no packages, and starts at once
        return [*python, str(HERE / "client.py"), str(self.folder), "{onnx}", "{name}"]
