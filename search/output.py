"""Where commands write to."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console


def console() -> Console:
    """The terminal; where there is none, lines wide enough for a table."""
    return Console() if sys.stdout.isatty() else Console(width=180)


def write_json(value: Any) -> None:
    """Writes plain values as JSON."""
    print(json.dumps(value, indent=1, allow_nan=False))
