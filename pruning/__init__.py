"""Everything done to a detector. Importing this room loads no torch; using a name does.

`Detector` is the adapter over ultralytics, `plan_pruning` and `apply_plan` are the surgery, `Pipeline` says
which stages a recipe needs, `StageRunner` runs them, `StageStore` keeps what is finished, and `CostMeter` counts what
they take.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "ChannelConfig": "channels",
    "CostMeter": "cost_meter",
    "Dataset": "dataset",
    "Detector": "detector",
    "LatencyShares": "threshold_search",
    "Pipeline": "pipeline",
    "PlanLadder": "threshold_search",
    "Pruned": "pipeline",
    "PruningPlan": "plan",
    "Recovered": "pipeline",
    "Source": "pipeline",
    "StageBusyError": "lease",
    "StageResult": "stage_runner",
    "StageRunner": "stage_runner",
    "StageStore": "store",
    "Trained": "pipeline",
    "TrainingFailureError": "training",
    "TrainingSetup": "training",
    "apply_plan": "surgery",
    "evaluate": "evaluation",
    "find_plan": "threshold_search",
    "inspect_dataset": "dataset",
    "plan_pruning": "plan",
    "prepare_ultralytics": "compat",
    "recalibrate": "batchnorm",
    "round_channels": "channels",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"prunetune.pruning.{_HOME[name]}"), name)
