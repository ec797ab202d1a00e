"""The last line of a benchmark: its figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def close(names: Sequence[str], found: Mapping[str, Any]) -> None:
    """Writes the figures as one line of JSON.

    Args:
        names: What the module says they are called (`FIGURES`).
        found: The figures: plain values, None for what cannot be told.

    Raises:
        ValueError: They are called otherwise, or one of them is no finite number.
    """
    if set(found) != set(names):
        raise ValueError(f"the figures are {', '.join(found)}, and should be {', '.join(names)}")
    print(json.dumps(dict(found), allow_nan=False))


def skipped(why: str) -> None:
    """Writes that nothing was measured."""
    print(json.dumps({"skipped": why}))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, smallest and largest."""
    return {"mean": round(fmean(values), 4), "low": round(min(values), 4), "high": round(max(values), 4)}
