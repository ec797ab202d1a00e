"""Says why ultralytics leaves out an image for its labels, with the line that is wrong and what to do.

A line is `class x y width height`, or an outline `class x1 y1 x2 y2 x3 y3 ...`; all coordinates are fractions
of the image's size. ultralytics leaves out the whole image when one line is wrong. Whether one is, ultralytics itself
decides; here it is only put into words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

_TOLERANCE = 0.01  # ultralytics accepts, and clips, boxes that leave the image by one percent
_BOX_COLUMNS = 5
_LEAST_OUTLINE_COLUMNS = 7


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set."""

    kind: str
    """Problems of one kind are alike; a report shows some of each."""
    text: str
    """File, what is wrong, what to do."""


def wrong_line(file: Path, classes: int, pose_columns: int | None = None) -> Problem | None:
    """The first line for which ultralytics leaves out the file's image.

    Args:
        file: The label file, which exists.
        classes: Number of classes.
        pose_columns: A line of so many columns is a box with keypoints behind it, which a detector ignores.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        return Problem("label", f"{file}: cannot be read ({error.strerror}); make it readable")
    except UnicodeDecodeError:
        return Problem("label", f"{file}: is no text; write the labels anew")
    lengths = set()
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) == pose_columns:
            columns = columns[:_BOX_COLUMNS]
        lengths.add(len(columns))
        try:
            _parse(columns, classes)
        except _WrongLineError as error:
            return Problem(error.kind, f"{file}:{number}: {error}")
    if _BOX_COLUMNS in lengths and len(lengths) > 1:
        remedy = "write all of its lines as boxes, or all as outlines"
        return Problem("columns", f"{file}: mixes boxes and outlines; {remedy}")
    return None


class _WrongLineError(ValueError):
    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


def _parse(columns: list[str], classes: int) -> None:
    count = len(columns)
    if count != _BOX_COLUMNS and (count < _LEAST_OUTLINE_COLUMNS or count % 2 == 0):
        raise _WrongLineError(
            "columns",
            f"has {count} columns; a box has 5 (class x y width height), an outline 7, 9, 11 or more",
        )
    values: list[float] = []
    for column in columns:
        try:
            value = float(column)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _WrongLineError("number", f"'{column}' is no number; correct or remove the line")
        values.append(value)

    index = values[0]
    if not index.is_integer():
        raise _WrongLineError("class", f"class index {columns[0]} is not whole; the first column is the class")
    if not 0 <= index < classes:
        allowed = f"names has {classes} classes (0 to {classes - 1})" if classes > 1 else "names has 1 class (0)"
        raise _WrongLineError(
            "class",
            f"class index {int(index)} out of range: {allowed}; correct the line, or add the class to names",
        )
    lowest = [-_TOLERANCE] * (count - 1)
    if count == _BOX_COLUMNS:
        lowest[2:] = [0.0, 0.0]  # width and height
    coordinates = zip(columns[1:], values[1:], lowest, strict=True)
    outside = [column for column, value, low in coordinates if not low <= value <= 1 + _TOLERANCE]
    if outside:
        raise _WrongLineError(
            "range", f"coordinate {outside[0]} out of [0, 1]; divide pixels by the image's width and height"
        )
