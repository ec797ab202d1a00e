"""Which families of detectors `make test` proves; `make test-faults` proves the others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

FIRST = ("yolov5n", "yolo11n")


def in_tiers(names: Iterable[str]) -> list[Any]:
    """Parameters of tests, marked `faults` but for the first families.

    Args:
        names: Descriptions of detectors, with or without their ending and folder.
    """
    stems = {name: Path(name).stem for name in names}
    return [
        pytest.param(name, id=stem, marks=() if stem in FIRST else pytest.mark.faults) for name, stem in stems.items()
    ]
