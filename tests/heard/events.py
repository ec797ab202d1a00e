"""What a study might tell: one event of each kind."""

from __future__ import annotations

from dataclasses import replace

from prunetune.pruning.training.values import EpochRecord
from prunetune.results.record import NetworkFigures, NetworkFiles, NetworkResult, TrialRecord
from prunetune.search.callbacks.events import (
    EpochEnded,
    Event,
    FrontMember,
    Message,
    NetworkReady,
    StageBegun,
    StudyEnded,
    StudyProgress,
    StudyStarted,
    TaskEnded,
    TaskStarted,
    TrialBegun,
    TrialEnded,
)
from prunetune.search.study.limits import Forecast
from prunetune.spaces import Accuracy, Cost, Deployment, Outcome, Recipe, StageUse, Threshold
from prunetune.targets import NormalizedLatency

RECIPE = Recipe(0.3, 4, Threshold.everywhere(0.5), rounds=2, recovery_epochs=10)
NETWORK = NetworkResult(
    deployment=Deployment(160),
    figures=NetworkFigures(
        channels={"model.0.conv": 16},
        params=400_000,
        gflops=0.105,
        bytes=800_000,
        channels_removed=0.5,
        params_removed=0.8,
        latencies={"cpu": NormalizedLatency(1.01, 0.46)},
        violations={"cpu": -0.1},
    ),
    accuracy=Accuracy(0.6, 0.411, 0.5, 0.5, 0.5),
    round=2,
    files=NetworkFiles("candidates/trial-3.pt"),
)
EARLIER = replace(NETWORK, round=1, accuracy=Accuracy(0.7, 0.5, 0.5, 0.5, 0.5))
RECORD = TrialRecord(
    recipe=RECIPE,
    outcome=Outcome.OK,
    networks=(EARLIER, NETWORK),
    cost=Cost({"train": 30.0, "measure": 1.4}, (StageUse("recovery", "recovery-0", 10, 4),)),
    thresholds=(Threshold.everywhere(0.4), Threshold.everywhere(0.5)),
    warnings=("nothing separates",),
)


def epoch(number: int, map50_95: float | None = None) -> EpochEnded:
    accuracy = None if map50_95 is None else Accuracy(0.6, map50_95, 0.5, 0.5, 0.5)
    record = EpochRecord(number, {"box_loss": 1.4, "sl_loss": 0.01}, 1.5, 0.5, accuracy, {"edges": [0, 1]})
    return EpochEnded("trial 3", 3, "recovery", 10, record)


def member(trial: int, map50_95: float, latency_ms: float) -> FrontMember:
    return FrontMember(str(trial), f"trial {trial}", map50_95, latency_ms)


STARTED = StudyStarted("barcodes", "runs/barcodes", 10, None, None, ("map50_95", "latency"), "local")
PROGRESS = StudyProgress(
    4, 10, 60, 40, (member(2, 0.3, 0.9), member(1, 0.411, 1.01)), Forecast(6, 60, 0.2, "trials"), False
)
ENDED = TrialEnded(3, RECORD, 4, 10)
EVENTS: list[Event] = [
    STARTED,
    TaskStarted("measuring the reference networks"),
    TaskEnded(),
    NetworkReady("dense network", 0.7, {"cpu": 2.2}, 0.449, 2_500_000, True),
    TaskStarted("trial 3"),
    TrialBegun(3, RECIPE),
    StageBegun("trial 3", 3, "recovery", 10, 2),
    epoch(3, 0.4),
    ENDED,
    PROGRESS,
    Message("going on"),
    StudyEnded("failed", "the disk is full"),
]
