"""Everything done to a detector. Importing this room loads no torch; using a name does.

`Detector` is the adapter over ultralytics, `plan_pruning` and `apply_plan` are the surgery, `Pipeline` says
which stages a recipe needs, `StageRunner` runs them, `StageStore` keeps what is finished, and `CostMeter` counts what
they take.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "ChannelConfig": "structure.channels",
    "CostMeter": "stages.cost_meter",
    "Dataset": "data.dataset",
    "Detector": "yolo.detector",
    "LatencyShares": "planning.threshold_search",
    "Pipeline": "pipeline",
    "PlanLadder": "planning.threshold_search",
    "Pruned": "pipeline",
    "PruningPlan": "planning.plan",
    "Recovered": "pipeline",
    "Source": "pipeline",
    "StageBusyError": "stages.lease",
    "StageResult": "stages.stage_runner",
    "StageRunner": "stages.stage_runner",
    "StageStore": "stages.store",
    "Trained": "pipeline",
    "TrainingFailureError": "training.values",
    "TrainingSetup": "training.values",
    "apply_plan": "surgery.surgery",
    "evaluate": "training.evaluation",
    "find_plan": "planning.threshold_search",
    "inspect_dataset": "data.dataset",
    "plan_pruning": "planning.plan",
    "prepare_ultralytics": "yolo.compat",
    "recalibrate": "training.batchnorm",
    "round_channels": "structure.channels",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"prunetune.pruning.{_HOME[name]}"), name)
