"""The study: its description, its trials, its engine, the command line. Importing this room loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Event": "callbacks.events",
    "StudyCallback": "callbacks.callback",
    "StudySpec": "study.study_spec",
    "find_study": "study.open_study",
    "open_study": "study.open_study",
    "run_study": "runner",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"prunetune.search.{_HOME[name]}"), name)
