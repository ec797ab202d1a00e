"""A log of a running study for programs: one JSON object a line. docs/events.md describes them."""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prunetune.search.callbacks.events import Event, StudyStarted
from prunetune.spaces import ConfigError
from prunetune.spaces.fields import jsonable
from prunetune.spaces.files import storage_error

STDOUT = "-"
"""The name of the standard output."""


class JsonLines:
    """Writes every event as one line.

    Lines are appended: a study that goes on continues its log, and several processes may write to one file, each line
    whole.

    Args:
        name: The file, or `-` for the standard output.
        worker: The process's index, of several that work for one command.

    Raises:
        ConfigError: The file holds something else.
        StoreError: The file cannot be written.
    """

    def __init__(self, name: str, worker: int | None = None) -> None:
        self._origin: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "worker": worker}
        self._study = ""
        if name == STDOUT:
            sys.stdout.flush()
            self._file = os.dup(sys.stdout.fileno())
            return
        path = Path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and not _is_log(path):
                raise ConfigError(f"--log-json: {path}: is no log of events; give another file")
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise storage_error(path, error) from error

    def hear(self, event: Event) -> None:
        """Writes an event's line."""
        if isinstance(event, StudyStarted):
            self._study = event.study
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {"time": time, "event": event.name, "study": self._study, **self._origin, **event.as_dict()}
        line = memoryview((json.dumps(jsonable(told), allow_nan=False) + "\n").encode())
        while line:  # as a rule all at once: the end of a file moves with each write
            line = line[os.write(self._file, line) :]


def _is_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) in (b"", b"{")
