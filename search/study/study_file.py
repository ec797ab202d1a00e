"""Writes a description that was chosen as a study.yaml, each key with its reason, and tells it in a few lines."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from prunetune.search.study.auto import AutoStudy, is_given, study_document
from prunetune.search.study.limits import duration

COLUMN = 68
"""Where comments begin, if the values leave room."""

_UNWRITTEN = ("storage",)
"""An address may hold a password, and a file is passed on."""


def study_text(study: AutoStudy, given: Sequence[str], file: str) -> str:
    """The text of a study.yaml: at most 30 lines, unless more keys are given.

    Args:
        study: What was chosen.
        given: The overrides that it was chosen with.
        file: Where it will lie, for the first line.
    """
    reasons = {item.key: item.reason for item in study.chosen}
    document = {key: value for key, value in study_document(study.chosen, given).items() if key not in _UNWRITTEN}
    root = CommentedMap()
    for key, value in document.items():
        inner = isinstance(value, dict) and key == "space"
        root[key] = CommentedMap() if inner else _flow(value)
        for parameter, range_ in value.items() if inner else ():
            root[key][parameter] = _flow(range_)
            _comment(root[key], parameter, f"{key}.{parameter}", reasons, given)
        if not inner:
            _comment(root, key, key, reasons, given)
    out = io.StringIO()
    writer = YAML()
    writer.width = 4096
    writer.dump(root, out)
    took = "" if study.forecast is None else f"About {duration(study.forecast.hours)} where it was chosen. "
    head = f"# Run it, and resume it, with: prunetune run {file}", f"# {took}docs/study-keys.md has all keys."
    return "\n".join([*head, out.getvalue()])


def _flow(value: Any) -> Any:
    """A value that stands in one line."""
    if isinstance(value, dict):
        made: Any = CommentedMap({key: _flow(item) for key, item in value.items()})
    elif isinstance(value, list | tuple):
        made = CommentedSeq(map(_flow, value))
    else:
        return value
    made.fa.set_flow_style()
    return made


def _comment(place: Any, key: str, path: str, reasons: Mapping[str, str], given: Sequence[str]) -> None:
    if text := _reason(path, reasons, given):
        place.yaml_add_eol_comment(text, key, column=COLUMN)


def _reason(path: str, reasons: Mapping[str, str], given: Sequence[str]) -> str | None:
    return "given" if path not in ("model", "data") and is_given(path, given) else reasons.get(path)


SUMMARY = (
    ("imgsz", "batch", "device"),
    ("dense_epochs", "space.sparse_epochs", "space.recovery_epochs"),
    ("space.importance", "space.depth", "budget"),
    ("trials", "hours"),
)
"""The keys that a summary tells, by line."""


def summary(study: AutoStudy, given: Sequence[str]) -> list[str]:
    """What was chosen and why, in a few lines.

    Args:
        study: What was chosen.
        given: The overrides that it was chosen with.
    """
    reasons = {item.key: item.reason for item in study.chosen}
    document = study_document(study.chosen, given)
    told = [f"chosen for {study.spec.model} and {study.spec.data}: {reasons['data']}"]
    for keys in SUMMARY:
        words = []
        for key in keys:
            parent, _, name = key.rpartition(".")
            value = (document.get(parent) or {} if parent else document).get(name)
            words.append(f"{name} {_words(value)} ({_reason(key, reasons, given)})")
        told.append(f"  {', '.join(words)}")
    if study.forecast is not None:
        told.append(study.forecast.text())
    if not study.fits:
        assert study.forecast is not None  # what takes no known time fits
        hours = math.ceil(10 * study.forecast.hours) / 10
        told.append(
            f"that is the smallest sensible study, and more than hours: {study.hours:g}; give hours={hours:g}, a "
            "smaller imgsz, or a faster device"
        )
    return told


def _words(value: Any) -> str:
    """A value or range in words."""
    if isinstance(value, dict) and "choices" in value:
        return " or ".join(map(str, value["choices"]))
    if isinstance(value, dict) and "low" in value:
        return f"{value['low']} to {value['high']}"
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
