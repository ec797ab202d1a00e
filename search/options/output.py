"""Where commands write to."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

from rich.console import Console


def console() -> Console:
    """The terminal; where there is none, lines wide enough for a table."""
    return Console() if sys.stdout.isatty() else Console(width=180)


def write_json(value: Any) -> None:
    """Writes plain values as JSON."""
    print(json.dumps(value, indent=1, allow_nan=False))


class ErrorsNow(logging.StreamHandler[TextIO]):
    """Logs to what is the standard error at that moment: a live view takes its place, and puts lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where the next line goes."""
        return sys.stderr
