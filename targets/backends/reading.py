"""Finds the latency in what a program printed, as JSON or by a regular expression, and the memory in its JSON."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from prunetune.spaces.errors import MeasurementError, did_you_mean
from prunetune.spaces.fields import mapping, number
from prunetune.targets.budget import MEMORY
from prunetune.targets.programs.printed_number import MILLISECONDS, parse_number, read_time
from prunetune.targets.programs.program import Output
from prunetune.targets.spec import JSON_KEY, CommandSpec

_PICK: Mapping[str, Callable[[Sequence[float]], float]] = {
    "first": itemgetter(0),
    "last": itemgetter(-1),
    "median": statistics.median,
    "min": min,
}

_OBJECT = re.compile(r"^[ \t]*\{", re.MULTILINE)


def read_latency(spec: CommandSpec, output: Output) -> float:
    """The latency that a program printed, in ms.

    Raises:
        MeasurementError: There is none, it is no positive number, it has another unit than `unit`, or there are
            different ones without `pick`. The text has the program's last words.
    """
    plain = output.plain
    try:
        if spec.regex is not None:
            times = _by_regex(spec.regex, spec.unit, f"{plain.stdout}\n{plain.stderr}")
        else:
            times = [time * MILLISECONDS[spec.unit] for time in _by_key(spec.json_key or JSON_KEY, plain.stdout)]
        wrong = next((time for time in times if not (math.isfinite(time) and time > 0)), None)
        if wrong is not None:
            raise ValueError(f"a latency is a positive number, not {wrong:g}")
        if spec.pick is None and len(different := list(dict.fromkeys(times))) > 1:
            shown = ", ".join(f"{time:g}" for time in different[:5]) + ", ..." * (len(different) > 5)
            raise ValueError(f"printed different numbers ({shown} ms); say which counts: pick: {', '.join(_PICK)}")
    except ValueError as error:
        raise MeasurementError(f"{spec.command[0]}: {error}; {output.last_words}") from error
    return _PICK[spec.pick or "first"](times)


def read_memory(output: Output) -> float | None:
    """The `memory_mb` of the last JSON object that a program printed; None where there is none above 0."""
    memory_mb = number(mapping(_last_object(output.plain.stdout)).get(MEMORY))
    return memory_mb if memory_mb is not None and memory_mb > 0 else None


def _by_regex(regex: str, unit: str, text: str) -> list[float]:
    places = [match.span(1) for match in re.finditer(regex, text, re.MULTILINE)]
    if not places:
        raise ValueError(f"nothing it printed matches regex: {regex}")
    if (-1, -1) in places:
        raise ValueError(f"regex: {regex} matches without its group, which is to be the number")
    try:
        return [read_time(text, start, end, unit) for start, end in places]
    except ValueError as error:
        raise ValueError(f"regex: {regex} {error}") from None


def _by_key(path: str, text: str) -> list[float]:
    document = _last_object(text)
    if document is None:
        raise ValueError(f'printed no JSON; it is to print a line such as {{"{path}": 1.5}}, or give regex:')
    place: Any = document
    for depth, key in enumerate(keys := path.split(".")):
        if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, dict) and key in place:
            place = place[key]
        else:
            raise ValueError(f"its JSON has no {'.'.join(keys[: depth + 1])!r} (json_key); {_there_is(place, key)}")
    values = place if isinstance(place, list) and place else [place]
    return [_number(value, path) for value in values]


def _there_is(place: Any, key: str) -> str:
    if isinstance(place, dict) and place:
        return did_you_mean(repr(key), map(repr, place))
    return f"there is {place!r}" if not isinstance(place, Sequence) else f"there are {len(place)} values"


def _last_object(text: str) -> Any:
    """The last JSON object that begins a line; other lines may stand around it."""
    decoder, found, position = json.JSONDecoder(), None, 0
    while (match := _OBJECT.search(text, position)) is not None:
        try:
            found, position = decoder.raw_decode(text, match.end() - 1)
        except (ValueError, RecursionError):
            position = match.end()
    return found


def _number(value: Any, path: str) -> float:
    try:
        if isinstance(value, str):
            return parse_number(value)
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    shown = repr(value)
    raise ValueError(f"{path!r} in its JSON is no number: {shown if len(shown) < 80 else f'{shown[:80]}...'}")
