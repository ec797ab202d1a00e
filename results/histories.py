"""Reads back what a trial's trainings recorded, from the study's folder: gamma histograms and recovery curves."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from prunetune.results.entries import integer, mapping, number, text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GammaHistogram:
    """The BatchNorm gammas after one epoch of sparse training."""

    round: int
    epoch: int
    edges: tuple[float, ...]
    """Bin edges, one more than bins."""
    counts: dict[str, tuple[float, ...]]
    """Channels per bin, by region."""


def read_gammas(trial: FrozenTrial, folder: Path) -> tuple[GammaHistogram, ...]:
    """The trial's histograms over all rounds and epochs, in the order they were written.

    A file that is missing or damaged gives none, with a warning in the log: the report does without.

    Args:
        trial: The trial, with the file's path in its attribute `gammas`.
        folder: The study's folder, which that path is relative to.
    """
    parsed = [_histogram(item) for item in _read(trial, folder, "gammas")]
    return tuple(item for item in parsed if item is not None)


def read_curves(trial: FrozenTrial, folder: Path) -> dict[int, tuple[float, ...]]:
    """map50_95 after each epoch of the trial's recoveries, by round; none where `read_gammas` would give none.

    Args:
        trial: The trial, with the file's path in its attribute `curves`.
        folder: The study's folder, which that path is relative to.
    """
    found: dict[int, tuple[float, ...]] = {}
    for item in map(mapping, _read(trial, folder, "curves")):
        round_number, values = integer(item.get("round")), _numbers(item.get("map50_95"))
        if round_number is not None and values:
            found[round_number] = values
    return found


def _read(trial: FrozenTrial, folder: Path, kind: str) -> list[Any]:
    name = text(trial.user_attrs.get(kind))
    if name is None:
        return []
    path = folder / name
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _log.warning("%s: %s of trial %d not read (%s)", path, kind, trial.number, error)
        return []
    return told if isinstance(told, list) else []


def _histogram(item: Any) -> GammaHistogram | None:
    told = mapping(item)
    histogram = mapping(told.get("histogram"))
    round_number, epoch = integer(told.get("round", 1)), integer(told.get("epoch"))
    edges = _numbers(histogram.get("edges"))
    counts = {str(region): _numbers(bins) for region, bins in mapping(histogram.get("counts")).items()}
    counts = {region: bins for region, bins in counts.items() if bins and len(bins) + 1 == len(edges)}
    if round_number is None or epoch is None or not counts:
        return None
    return GammaHistogram(round_number, epoch, edges, counts)


def _numbers(values: Any) -> tuple[float, ...]:
    """The values if all are finite numbers, else none."""
    found = [number(value) for value in values] if isinstance(values, list) else []
    known = [value for value in found if value is not None]
    return tuple(known) if len(known) == len(found) else ()
