"""Numbers and their units, as programs print them for people."""

from __future__ import annotations

import re
from bisect import bisect_right
from operator import itemgetter
from typing import Literal, TypeAlias

PrintedUnit: TypeAlias = Literal["ns", "us", "ms", "s", "no time"]
"""What may stand beside a number. `no time` is a rate or a share: frames a second, percent."""

_PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_SPACE = "\u00a0\u2009\u202f\ufffd"  # no-break, thin, and what is left of one in another encoding

_NUMBER = re.compile(
    rf"""
    0[xX][0-9a-fA-F]+
  | 0*[1-9]\d{{0,5}} (?: m(?=\d+(?:[.,]\d+)?s) | :(?=[0-5]\d(?!\d)) ) \d+(?:[.,]\d+)?       # 1m2.5s, 1:02.5
  | (?: (?<![\w.)\]])[+\-\u2212] )?
    (?: \d{{1,3}}(?P<by>[.,'\u2019_\u066c{_SPACE}])\d{{3}}(?:(?P=by)\d{{3}})*(?:[.,\u066b]\d+)? (?![.,]?\d)
      | \d++[,\u066b]\d++ (?![.,]?\d)                                                    # 12,34
      | \d+(?:\.\d+){{2,}}                                                             # 10.3.0
      | \d+(?: \.\d+ | \.(?=[eE][+-]?\d) )? | (?<!\.)\.\d+ )
    (?: [eE][+-]?\d+ )?
    """,
    re.VERBOSE,
)
"""A number in any country's form. A comma between two that cannot be one number (`12.5,13`) separates columns."""

_UNITS: tuple[tuple[PrintedUnit, str], ...] = (
    ("ns", r"ns|nsecs?|nanosec\w*"),
    ("us", r"[u\u00b5\u03bc]s|[u\u00b5\u03bc]secs?|microsec\w*"),
    ("ms", r"ms|msecs?|millisec\w*|milli-sec\w*"),
    ("s", r"s|secs?|seconds?"),
    ("no time", r"[fq]ps|hz|\w*/s(?:ec)?|per\ssec\w*|%\w*"),
)
_UNIT = "|".join(f"(?P<u{number}>{pattern})" for number, (_, pattern) in enumerate(_UNITS))
_AFTER = re.compile(rf"[ \t{_SPACE}]*(?:{_UNIT})(?!\w)", re.IGNORECASE)
_BEFORE = re.compile(rf"[(\[](?:{_UNIT})[)\]][ \t]*[:=]?[ \t]*\Z", re.IGNORECASE)

_NEAR = 100
"""Characters around a number that are shown, or looked at for its unit."""


def parse_number(text: str) -> float:
    """A number as C, JSON and Python write it, such as `12.5` or `1.25e1`; also `inf` and `nan`.

    Raises:
        ValueError: It is written otherwise: with a decimal comma, a thousands separator, in another script or base.
    """
    text = text.strip()
    if not text or (_NUMBER.search(text) and not _PLAIN.fullmatch(text)):
        raise ValueError(text)
    return float(text)


class PrintedNumbers:
    """The numbers in a text.

    Args:
        text: What a program printed.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._found = [match.span() for match in _NUMBER.finditer(text)]

    def value(self, start: int, end: int) -> float:
        """The number in a part of the text.

        Raises:
            ValueError: It is none, begins or ends inside another, or is not written as `parse_number` reads it.
        """
        said = self._text[start:end]
        start, end = start + len(said) - len(said.lstrip()), start + len(said.rstrip())
        for left, right in self._found[bisect_right(self._found, start, key=itemgetter(1)) :]:
            if left >= end:
                break
            if left < start or end < right:
                raise ValueError(
                    f"takes {said.strip()!r} out of the number {self._text[left:right]!r}, in {self._line(start)}"
                )
        try:
            return parse_number(said)
        except ValueError:
            raise ValueError(f"found {said!r}, which is no number such as 1234.5, in {self._line(start)}") from None

    def unit(self, start: int, end: int) -> PrintedUnit | None:
        """The unit right behind a number, or before it in brackets: `7 ms`, `Time(us): 7140`."""
        before = self._text[max(start - _NEAR, 0) : start]
        match = _AFTER.match(self._text, end) or _BEFORE.search(before)
        units = (unit for number, (unit, _) in enumerate(_UNITS) if match and match[f"u{number}"] is not None)
        return next(units, None)

    def _line(self, position: int) -> str:
        first = self._text.rfind("\n", 0, position) + 1
        line = " ".join(self._text[max(first, position - _NEAR) : position + _NEAR].split("\n", 1)[0].split())
        return f"the line {line!r}"
