"""Numbers and their units, as programs print them for people."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_SPACE = "\u00a0\u2009\u202f\ufffd"  # no-break, thin, and what is left of one in another encoding

_NUMBER = re.compile(
    rf"""
    0[xX][0-9a-fA-F]+
  | 0*[1-9]\d{{0,5}} (?: h(?=\d+m) | m(?=\d+(?:[.,]\d+)?s) | :(?=[0-5]\d(?!\d)) ) \d+(?:[.,]\d+)?  # 1m2.5s, 1:02.5
  | (?<![\w.,])(?<!\d:) [1-9]\d{{0,2}} (?:[ ]\d{{3}})+ (?: [.,]\d+ (?![.,]?\d) | (?=[ ]?(?:[num\u00b5\u03bc]?s|sec)\b) )
  | (?: (?<![\w.)\]])[+\-\u2212] )?
    (?: \d{{1,3}}(?P<by>[.,'\u2019_\u066c{_SPACE}])\d{{3}}(?:(?P=by)\d{{3}})*(?:[.,\u066b]\d+)? (?![.,]?\d)
      | \d++[,\u066b]\d++ (?![.,]?\d)                                                    # 12,34
      | \d+(?:\.\d+){{2,}}                                                             # 10.3.0
      | \d+(?: \.\d+(?:_\d+)* | \.(?=[eE][+-]?\d) )? | (?<!\.)\.\d+ )
    (?: [eE][+-]?\d+ )?
    """,
    re.VERBOSE,
)
"""A number in any country's form. A comma between two that cannot be one number (`12.5,13`) separates columns."""

_TIME = r"""
    (?P<ns> ns | nsecs? | nanosec\w* )
  | (?P<us> [u\u00b5\u03bc]s | [u\u00b5\u03bc]secs? | microsec\w* )
  | (?P<ms> ms | msecs? | millisec\w* | milli-sec\w* )
  | (?P<s> s | secs? | seconds? )"""
_RATE = r"[fq]ps | [kmg]?hz | \w*/s(?:ec)? | (?:\w+[ ])?per[ ]s(?:ec\w*)? | %\w*"
_LONG = r"m | minutes? | mins?(?![ \t]*[:=]?[ \t]*[\d.]) | h | hrs? | hours?"  # not `5.1 min 4.9 max 7`
_SIZE = r"(?<!,[ ]) (?<!in[ ]) (?<!time_) (?<!latency_) (?<!mean_) (?<!median_) (?<!avg_) s (?![^\W_]|[)\]]|\Z)"
_BESIDE, _FURTHER, _NAMED = (
    re.compile(pattern, re.IGNORECASE | re.VERBOSE)
    for pattern in (
        rf"[ \t{_SPACE}]* (?: {_TIME} | (?P<other> {_RATE} | {_LONG}) ) (?!\w)",
        rf"(?:(?!\n)[\W\d_])* (?: {_TIME} ) (?! \w | [ \t]*[:=] )",  # `5.1 +/- 0.3 us`, `5.1 (us)`
        rf"(?<![^\W_]) (?<!') (?!{_SIZE}) (?: {_TIME} | (?P<other> {_RATE}) ) (?![^\W_])",  # not `yolox_s: 5.1`
    )
)

MILLISECONDS: Mapping[str, float] = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}
"""How long a unit is."""

_NEAR = 100
"""Characters around a number that are shown, or looked at."""


def parse_number(text: str) -> float:
    """A number as C, JSON and Python write it, such as `12.5` or `1.25e1`; also `inf` and `nan`.

    Raises:
        ValueError: It is written otherwise: with a decimal comma, a thousands separator, in another script or base.
    """
    text = text.strip()
    if not text or (_NUMBER.search(text) and not _PLAIN.fullmatch(text)):
        raise ValueError(text)
    return float(text)


def named_unit(label: str) -> re.Match[str] | None:
    """The last unit in a number's name, as in `latency_us.median`; its `lastgroup` is in `MILLISECONDS` or `other`."""
    return next(reversed(list(_NAMED.finditer(label))), None)


def read_time(text: str, start: int, end: int, unit: str) -> float:
    """The time in a part of what a program printed, in ms.

    Args:
        text: All of it.
        start: Where the part begins.
        end: Where it ends.
        unit: What it is in there: `us`, `ms`, `s`, or `printed` for the unit that stands beside it.

    Raises:
        ValueError: It is none, begins or ends inside another, is not written as `parse_number` reads it, or has another
            unit, or with `printed` none: right behind it (`7 ms`), else in its label (`Time(us): 7140`), which begins
            behind the number before, else before the next other word (`7 +/- 1 ms`).
    """
    said = text[start:end]
    start, end = start + len(said) - len(said.lstrip()), start + len(said.rstrip())
    begin = max(text.rfind("\n", 0, start) + 1, start - _NEAR)
    around = text[begin : end + _NEAR].partition("\n")[0]
    line = f"in the line {' '.join(around.split())!r}"
    label = begin
    for found in _NUMBER.finditer(text, begin, end + _NEAR):
        if found.start() < start < found.end() or found.start() < end < found.end():
            raise ValueError(f"takes {said.strip()!r} out of the number {found[0]!r}, {line}")
        if found.end() <= start:
            label = found.end()
    try:
        number = parse_number(said)
    except ValueError:
        raise ValueError(f"found {said!r}, which is no number such as 1234.5, {line}") from None
    if label > begin and (its := _BESIDE.match(text, label)):
        label = its.end()
    beside = _BESIDE.match(text, end) or named_unit(text[label:start]) or _FURTHER.match(text, end, end + _NEAR)
    printed = (beside and beside.lastgroup) or unit
    if printed not in MILLISECONDS or unit not in (printed, "printed"):
        shown = beside[printed] if beside else "no unit"
        raise ValueError(f"found {said.strip()} in {shown}, and unit: is {unit}, {line}")
    return number * MILLISECONDS[printed]
