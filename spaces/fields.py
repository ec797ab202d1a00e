"""Reads plain values that somebody stored: perhaps another version, perhaps cut off halfway.

What is missing, NaN or of the wrong kind is None or empty; nothing here raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """The value's items if it is a list or a tuple, else none."""
    return list(value) if isinstance(value, list | tuple) else []


def number(value: Any) -> float | None:
    """The value as a finite float, else None."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def integer(value: Any) -> int | None:
    """The value as an int, else None."""
    found = number(value)
    return None if found is None else round(found)


def text(value: Any) -> str | None:
    """The value if it is a string with content, else None."""
    return value if isinstance(value, str) and value else None


def numbers(value: Any) -> dict[str, float]:
    """A mapping's numbers by name, without what is none."""
    found = {str(name): number(item) for name, item in mapping(value).items()}
    return {name: item for name, item in found.items() if item is not None}


def widths(value: Any) -> dict[str, int]:
    """A mapping from layer to channels, without what is no number."""
    return {layer: round(width) for layer, width in numbers(value).items()}


def jsonable(value: Any) -> Any:
    """The value as strict JSON knows it: NaN and infinities are None, unknown kinds become their text."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, Real):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    return str(value)
