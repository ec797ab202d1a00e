"""Reads back what a trial's trainings recorded, from the study's folder: gamma histograms and recovery curves."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunetune.results.record import TrialRecord
from prunetune.spaces.fields import integer, items, mapping, number

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GammaHistogram:
    """The BatchNorm gammas after one epoch of sparse training."""

    round: int
    epoch: int
    edges: tuple[float, ...]
    """Bin edges, one more than bins."""
    counts: Mapping[str, tuple[float, ...]] = field(hash=False)
    """Channels per bin, by region."""

    @classmethod
    def parse(cls, stored: Any) -> GammaHistogram | None:
        """The histogram of one epoch's record; None where there is none, or it is damaged."""
        told = mapping(stored)
        histogram = mapping(told.get("histogram"))
        round_number, epoch = integer(told.get("round", 1)), integer(told.get("epoch"))
        edges = _numbers(histogram.get("edges"))
        counts = {str(region): _numbers(bins) for region, bins in mapping(histogram.get("counts")).items()}
        counts = {region: bins for region, bins in counts.items() if bins and len(bins) + 1 == len(edges)}
        if round_number is None or epoch is None or not counts:
            return None
        return cls(round_number, epoch, edges, counts)


def read_gammas(record: TrialRecord, folder: Path) -> tuple[GammaHistogram, ...]:
    """A trial's histograms over all rounds and epochs, in the order they were written.

    A file that is missing or damaged gives none, with a warning in the log: the report does without.

    Args:
        record: What the trial found.
        folder: The study's folder.
    """
    parsed = map(GammaHistogram.parse, _read(record.gammas, folder))
    return tuple(histogram for histogram in parsed if histogram is not None)


def read_curves(record: TrialRecord, folder: Path) -> dict[int, tuple[float, ...]]:
    """map50_95 after each epoch of a trial's recoveries, by round; none where `read_gammas` would give none."""
    curves: dict[int, tuple[float, ...]] = {}
    for stored in map(mapping, _read(record.curves, folder)):
        round_number, values = integer(stored.get("round")), _numbers(stored.get("map50_95"))
        if round_number is not None and values:
            curves[round_number] = values
    return curves


def _read(name: str | None, folder: Path) -> list[Any]:
    if name is None:
        return []
    try:
        return items(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        _log.warning("%s: not read (%s)", folder / name, error)
        return []


def _numbers(values: Any) -> tuple[float, ...]:
    """The values if all are finite numbers, else none."""
    parsed = [number(value) for value in items(values)]
    known = [value for value in parsed if value is not None]
    return tuple(known) if len(known) == len(parsed) else ()
