"""What a study might tell: one event of each kind."""

from __future__ import annotations

from typing import Any

from prunetune.pruning.training import Accuracy, EpochRecord
from prunetune.search.events import (
    EpochEnded,
    Event,
    NetworkReady,
    RoundEnded,
    Said,
    StageBegun,
    Standing,
    StudyEnded,
    StudyStarted,
    TrialBegun,
    TrialEnded,
    WorkBegun,
    WorkEnded,
)
from prunetune.search.limits import Forecast
from prunetune.search.outcome import Outcome, TrialResult
from prunetune.spaces import Recipe

RECIPE = Recipe.from_dict(
    {
        "sparsity": 0.3,
        "sparsity_unit": "pull",
        "sparse_epochs": 4,
        "threshold": 0.5,
        "rounds": 1,
        "recovery_epochs": 10,
    }
)
FIGURES = {
    "accuracy": {"map50": 0.6, "map50_95": 0.411, "precision": 0.5, "recall": 0.5, "f1": 0.5},
    "latencies": {"cpu": {"latency_ms": 1.01, "latency_ratio": 0.46}},
    "gflops": 0.105,
    "params": 400_000,
    "bytes": 800_000,
    "channels_removed": 0.5,
    "params_removed": 0.8,
    "feasible": True,
    "violation": -0.1,
    "checkpoint": "candidates/trial-3.pt",
    "threshold_found": [0.5],
    "unseparated": ["nothing separates"],
    "rounds_asked": 2,
    "epochs": {"trained": 10, "reused": 4},
    "channels": {"model.0.conv": 16},
}


def epoch(number: int, map50_95: float | None = None) -> EpochEnded:
    accuracy = None if map50_95 is None else Accuracy(0.6, map50_95, 0.5, 0.5, 0.5)
    record = EpochRecord(number, {"box_loss": 1.4, "sl_loss": 0.01}, 1.5, 0.5, accuracy, {"edges": [0, 1]})
    return EpochEnded("trial 3", 3, "recovery", 10, record)


def member(trial: int, map50_95: float, latency_ms: float) -> dict[str, Any]:
    return {"trial": trial, "map50_95": map50_95, "latency_ms": latency_ms}


STARTED = StudyStarted("barcodes", "runs/barcodes", 10, None, None, ("map50_95", "latency"), "local")
STANDING = Standing(4, 10, 60, 40, [member(2, 0.3, 0.9), member(1, 0.411, 1.01)], Forecast(6, 60, 0.2, "trials"), False)
ENDED = TrialEnded(TrialResult(3, RECIPE, Outcome.OK, "", FIGURES, 31.4), 4, 10)
ROUND = RoundEnded(TrialResult(4, RECIPE, Outcome.OK, "", {**FIGURES, "round_of": 3}, 0.0), 3)
EVENTS: list[Event] = [
    STARTED,
    WorkBegun("measuring the reference networks"),
    WorkEnded(),
    NetworkReady("dense network", 0.7, {"cpu": 2.2}, 0.449, 2_500_000, True),
    WorkBegun("trial 3"),
    TrialBegun(3, RECIPE),
    StageBegun("trial 3", 3, "recovery", 10, 2),
    epoch(3, 0.4),
    ENDED,
    ROUND,
    STANDING,
    Said("going on"),
    StudyEnded("failed", "the disk is full"),
]
