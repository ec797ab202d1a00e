"""The files of a stored stage: its checkpoint, and what training leaves beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.training.trainer import TrainingState
from prunetune.pruning.training.values import EpochRecord
from prunetune.pruning.yolo.detector import as_os_error

_log = logging.getLogger(__name__)

CHECKPOINT, STATE, HISTORY = "checkpoint.pt", "state.pt", "history.json"


def read_history(stage: StoredStage) -> tuple[EpochRecord, ...]:
    """The epochs of a training stage; empty for any other stage."""
    file = stage.file(HISTORY)
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return tuple(record for record in map(EpochRecord.parse, stored) if record is not None)


def write_history(history: Sequence[EpochRecord], path: Path) -> None:
    """Writes the epochs of a training for `read_history`."""
    path.write_text(json.dumps([record.as_dict() for record in history]), encoding="utf-8")


def save_state(state: TrainingState, path: Path) -> None:
    """Writes everything that a training needs to go on.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    try:
        torch.save(state.as_dict(), path)
    except RuntimeError as error:
        raise as_os_error(path, error) from error


def read_state(file: Path) -> TrainingState | None:
    """The state that `save_state` wrote; None where there is none, or where it is damaged."""
    if not file.is_file():
        return None
    try:
        return TrainingState.from_dict(torch.load(file, map_location="cpu", weights_only=True))
    # Damaged progress is no reason to fail: the training starts over, which is what progress saves.
    except Exception as error:
        _log.warning("%s: cannot be read (%s); training starts over", file, error)
        return None
