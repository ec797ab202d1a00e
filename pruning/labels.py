"""Reads the label files of a detection data set, with every rule by which ultralytics would drop one.

A line is `class x y width height`, or an outline `class x1 y1 x2 y2 x3 y3 ...`; all coordinates are fractions
of the image's size. ultralytics leaves out the whole image when one line is wrong.
"""

from __future__ import annotations

import hashlib
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


@dataclass(frozen=True)
class LabelFile:
    """What a label file holds. The default is that of an image without one."""

    lines: int = 0
    """Lines that are not blank."""
    boxes: int = 0
    """Different objects among them."""
    digest: str = ""
    """sha256 of the content."""
    problems: tuple[Problem, ...] = ()
    """One at most for each line."""


def read_labels(file: Path, classes: int | None) -> LabelFile:
    """Parses a label file and collects what is wrong with it.

    Args:
        file: The label file, which exists.
        classes: Number of classes; None when unknown, the class index is then not checked.
    """
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        return LabelFile(problems=(Problem("label", f"{file}: cannot be read ({error.strerror}); make it readable"),))
    except UnicodeDecodeError:
        return LabelFile(lines=1, problems=(Problem("label", f"{file}: is no text; write the labels anew"),))
    problems: list[Problem] = []
    objects: set[tuple[float, ...]] = set()
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for number, columns in lines:
        try:
            objects.add(_parse(columns, classes))
        except _WrongLineError as error:
            problems.append(Problem(error.kind, f"{file}:{number}: {error}"))
    lengths = {len(columns) for _, columns in lines}
    if not problems and _BOX_COLUMNS in lengths and len(lengths) > 1:
        remedy = "write all of its lines as boxes, or all as outlines"
        problems.append(Problem("columns", f"{file}: mixes boxes and outlines, which ultralytics refuses; {remedy}"))
    return LabelFile(len(lines), len(objects), hashlib.sha256(content).hexdigest(), tuple(problems))


class _WrongLineError(ValueError):
    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


def _parse(columns: list[str], classes: int | None) -> tuple[float, ...]:
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
    if classes is not None and not 0 <= index < classes:
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
    return tuple(values)
