"""A command line as a list, with placeholders for what each network brings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from prunetune.spaces.errors import did_you_mean
from prunetune.targets.network import Network

PLACEHOLDERS = ("onnx", "name", "batch", "channels", "height", "width", "precision")
"""What may stand in braces: the file's absolute path, the network's name, the sizes of its input, and what it is to
be computed in."""


def parse_command(value: Any) -> tuple[str, ...]:
    """The parts of a command line as YAML gives them.

    Raises:
        ValueError: It is no list of text and numbers, has no program, or a brace that is no placeholder.
    """
    if isinstance(value, str):
        listed = ", ".join(f'"{part}"' for part in _split(value))
        raise ValueError(f"takes a list, because no shell splits it: [{listed}]")
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError('takes a list: the program and its arguments, such as [./measure.sh, "{onnx}"]')
    parts = tuple(map(_part, value))
    if not parts[0].strip():
        raise ValueError("begins with the program, which has no name here")
    for part in parts:
        for name in placeholders(part):
            if name not in PLACEHOLDERS:
                hint = did_you_mean(f"{{{name}}}", [f"{{{there}}}" for there in PLACEHOLDERS])
                raise ValueError(f"unknown placeholder {{{name}}} in {part!r}; {hint}; a plain brace is written twice")
    return parts


def placeholders(part: str) -> list[str]:
    """The names in braces, with whatever else stands there: `{onnx!r}` is none that is known.

    Raises:
        ValueError: A brace is open, or closed, alone.
    """
    try:
        fields = [field for field in Formatter().parse(part) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{part!r}: {error}; a plain brace is written twice, {{{{ or }}}}") from None
    return [
        f"{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
        for _, name, form, conversion in fields
    ]


def fill(command: Sequence[str], network: Network, onnx: Path, precision: str) -> list[str]:
    """The command line for one network.

    Its name is reduced to letters, digits, `.`, `_` and `-`: whatever passes it on, such as ssh, needs no quotes.
    """
    batch, channels, height, width = network.input_shape
    values = {
        "onnx": str(onnx.absolute()),
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", network.name).strip("-") or "network",
        "batch": batch,
        "channels": channels,
        "height": height,
        "width": width,
        "precision": precision,
    }
    return [part.format_map(values) for part in command]


def _part(value: Any) -> str:
    if isinstance(value, dict):
        inside = next(iter(value), "onnx")
        raise ValueError(f'YAML reads {{{inside}}} as a mapping; put it in quotes: "{{{inside}}}"')
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"takes text and numbers, not {value!r}; put it in quotes")
    if "\0" in str(value):
        raise ValueError("no argument of a program can hold a NUL character")
    return str(value)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
