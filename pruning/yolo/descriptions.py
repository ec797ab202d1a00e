"""What rows of an ultralytics model description say of widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

BLOCK = 8
"""ultralytics rounds scaled widths up to a multiple of this."""

_ATTENTION = 64
"""A2C2f is built in multiples of this only."""

_GROUPS = {"Conv": (4, 1), "nn.ConvTranspose2d": (5, 1), "C3": (2, 2), "C2f": (2, 2), "C3k2": (4, 8)}
"""Blocks that take groups: where in their arguments, and how many times as wide as their grouped convolutions they may
be."""

_PASSES_ON = ("Concat", "nn.Upsample")


def width_multiples(rows: Sequence[Sequence[Any]]) -> list[int]:
    """What the width of each block must be a multiple of.

    Args:
        rows: Of backbone and head: where it reads, repeats, block, arguments.
    """
    found = [_ATTENTION if block == "A2C2f" else BLOCK for *_, block, _ in rows]
    for index, (*_, block, arguments) in enumerate(rows):
        place, times = _GROUPS.get(block, (0, 1))
        if not place or len(arguments) <= place:
            continue
        groups = int(arguments[place])
        # What stands within a block reads that block's own channels.
        for row in (index, *(_sources(rows, index) if times == 1 else ())):
            found[row] = math.lcm(found[row], times * groups)
    return found


def round_widths(rows: Sequence[Sequence[Any]], factor: float, most: float) -> float:
    """Rounds the widths of blocks up to their multiples, in place, where ultralytics would not do it by itself.

    Args:
        rows: As in `width_multiples`.
        factor: What ultralytics multiplies widths by.
        most: The largest width before that; ultralytics takes it for all that are larger.

    Returns:
        The largest width that is left: more than `most` where that is no multiple.
    """
    rounded: dict[int, int] = {}
    for index, multiple in enumerate(width_multiples(rows)):
        if multiple > BLOCK:
            blocks = math.ceil(min(rows[index][-1][0], most) * factor / multiple)
            # Rounded down, since ultralytics rounds up.
            rounded[index] = math.floor(blocks * multiple / factor + 1e-9)
    limit = max(most, *rounded.values()) if rounded else most
    for index, (*_, arguments) in enumerate(rows):
        if index in rounded:
            arguments[0] = rounded[index]
        elif limit > most and isinstance(arguments[0], int):
            arguments[0] = min(arguments[0], most)
    return limit


def _sources(rows: Sequence[Sequence[Any]], index: int) -> list[int]:
    """The rows whose widths a row reads."""
    places = rows[index][0]
    found: list[int] = []
    for place in places if isinstance(places, list) else [places]:
        row = place if place >= 0 else index + place
        if row >= 0:  # before the first is the image
            found += _sources(rows, row) if rows[row][2] in _PASSES_ON else [row]
    return found
