"""Real Optuna studies, filled as a search fills them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from prunetune.results.place import sqlite_url
from prunetune.spaces import Recipe, Threshold

optuna.logging.set_verbosity(optuna.logging.WARNING)

LAYERS = [f"model.{index}.{name}" for index in range(12) for name in ("conv", "cv1.conv", "cv2.conv")]
DENSE = {layer: 16 * 2 ** min(4, index // 7) for index, layer in enumerate(LAYERS)}
REGIONS = {layer: "backbone" if index < 18 else "head" for index, layer in enumerate(LAYERS)}


def measured(latencies: dict[str, float]) -> dict[str, dict[str, float]]:
    """Latencies in ms by target, as the search stores them. The dense network takes 2 ms everywhere."""
    return {
        target: {"latency_ms": value, "latency_ratio": value / 2, "latency_spread_ms": 0.01}
        for target, value in latencies.items()
    }


def target(name: str = "cpu", limit: tuple[str, float] | None = ("<= half-width", 1.0), **told: Any) -> dict[str, Any]:
    """A target as the search stores it."""
    budget = None if limit is None else {"text": limit[0], "limit_ms": limit[1]}
    usual = {"kind": "onnxruntime", "alignment": 8, "is_objective": True, "fingerprint": {"cpu": "x"}}
    return {"name": name, **usual, "references": {"dense": 2.0, "half-width": 1.0}, "budget": budget, **told}


class StudyBuilder:
    """Adds trials and controls to a study in memory, as `prunetune run` stores them."""

    def __init__(self, name: str = "barcodes", latencies: int = 1, storage: str | None = None) -> None:
        directions = ["maximize", *["minimize"] * latencies]
        self.study = optuna.create_study(directions=directions, study_name=name, storage=storage)

    def trial(
        self,
        map50_95: float | None,
        latency_ms: float | None,
        *,
        outcome: str = "OK",
        state: TrialState = TrialState.COMPLETE,
        violation: float = -0.1,
        channels: dict[str, Any] | None = None,
        further: dict[str, float] | None = None,
        omit: tuple[str, ...] = (),
        **attributes: Any,
    ) -> int:
        """Adds a trial and returns its number. What is None or named in `omit` is not stored."""
        number = len(self.study.trials)
        recipe = Recipe(0.3, 4, Threshold(0.1, 0.1 + number / 1000), rounds=1, recovery_epochs=6)
        stored: dict[str, Any] = {
            "recipe": recipe.as_dict(),
            "outcome": outcome,
            "reason": "",
            "rung": 0 if outcome == "OVER_BUDGET" else 1,
            "accuracy": {
                "map50": map50_95, "map50_95": map50_95, "precision": 0.9, "recall": 0.8, "f1": 0.85,
            },
            "latencies": measured({} if latency_ms is None else {"cpu": latency_ms, **(further or {})}),
            "gflops": 3.6,
            "params": 1_720_000,
            "bytes": 7_000_000,
            "channels": channels if channels is not None else {"model.0.conv": 8 + number},
            "channels_removed": 0.5,
            "params_removed": 0.726,
            "checkpoint": f"trials/{number}/pruned.pt",
            "onnx": f"trials/{number}/pruned.onnx",
            "feasible": violation <= 0,
            "violation": violation,
            "seconds": {"train": 90.5, "validate": 8.0, "measure": 3.0, "surgery": 0.5, "other": 1.0},
            "epochs": {"trained": 10, "reused": 4},
            "worker": {"host": "localhost", "pid": 7},
        }  # fmt: skip
        stored.update(attributes)
        stored = {key: value for key, value in stored.items() if value is not None and key not in omit}
        values = [map50_95, latency_ms, *(further or {}).values()][: len(self.study.directions)]
        self.study.add_trial(
            create_trial(
                state=state,
                values=values if state is TrialState.COMPLETE else None,
                params={"sparsity": min(1.0, 0.3 + number / 100), "rounds": 1 + number % 2},
                distributions={
                    "sparsity": optuna.distributions.FloatDistribution(0.1, 1.0),
                    "rounds": optuna.distributions.IntDistribution(1, 3),
                },
                user_attrs=stored,
                constraints={"latency": violation},
            )
        )
        return number

    def context(self, **attributes: Any) -> None:
        """Sets the study's attributes: controls, budget, target and more; given ones replace the usual."""
        control = {"precision": 0.9, "recall": 0.8, "f1": 0.85, "bytes": 1, "channels_removed": 0.0}
        usual: dict[str, Any] = {
            "spec": {"model": "yolov5n.yaml", "data": "data/barcodes/data.yaml", "imgsz": 160},
            "version": "0.1.0",
            "targets": [target()],
            "controls": {
                "dense": {**control, "map50": 0.993, "map50_95": 0.940, "latencies": measured({"cpu": 2.0}),
                          "gflops": 17.5, "params": 14_300_000, "params_removed": 0.0},
                "half-width": {**control, "map50": 0.986, "map50_95": 0.875, "latencies": measured({"cpu": 1.0}),
                               "gflops": 4.4, "params": 3_900_000, "params_removed": 0.73},
            },
            "channels_dense": DENSE,
            "channels_half": {layer: max(8, width // 2) for layer, width in DENSE.items()},
            "regions": REGIONS,
        }  # fmt: skip
        for name, value in {**usual, **attributes}.items():
            self.study.set_user_attr(name, value)


@pytest.fixture
def builder() -> StudyBuilder:
    return StudyBuilder()


@pytest.fixture(scope="session")
def make_builder() -> Callable[..., StudyBuilder]:
    return StudyBuilder


@pytest.fixture(scope="session")
def make_target() -> Callable[..., dict[str, Any]]:
    return target


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., StudyBuilder]:
    """Makes a study in a folder below `tmp_path / "runs"`, in its own data base."""

    def write(name: str = "barcodes") -> StudyBuilder:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        return StudyBuilder(name, storage=sqlite_url(folder))

    return write


def write_gammas(path: Path, rounds: int = 2, epochs: int = 8) -> None:
    """Histograms that wander towards zero, in the form that sparse training logs."""
    generator = random.Random(0)
    edges = [index * 1.5 / 60 for index in range(61)]
    told = []
    for round_number in range(1, rounds + 1):
        for epoch in range(1, epochs + 1):
            counts = {}
            for region, pull in (("backbone", 0.3), ("head", 0.6)):
                bins = [0] * 60
                for index in range(900):
                    important = index % 3 == 0
                    centre = 1.0 - (0.15 if important else pull * 1.6) * epoch / epochs
                    value = generator.gauss(centre, 0.05 + 0.1 * epoch / epochs)
                    bins[min(59, max(0, math.floor(value / 1.5 * 60)))] += 1
                counts[region] = bins
            histogram = {"edges": edges, "counts": counts, "quantiles": {"50": 0.5}}
            told.append({"round": round_number, "epoch": epoch, "sl_loss": 0.1, "histogram": histogram})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture
def filled(tmp_path: Path) -> StudyBuilder:
    """A study with everything in it: front, dominated, over budget, failed, running; gammas of trial 0."""
    return fill(StudyBuilder(), tmp_path)


def fill(builder: StudyBuilder, folder: Path) -> StudyBuilder:
    """Fills a study as a finished search does; its gamma files go to `folder`."""
    builder.context()
    pruned = {layer: max(8, width // (2 if REGIONS[layer] == "backbone" else 4)) for layer, width in DENSE.items()}
    write_gammas(folder / "stages" / "gammas-0.json")
    builder.trial(0.905, 0.8, channels=pruned, gammas="stages/gammas-0.json")
    builder.trial(0.873, 0.7)
    builder.trial(0.86, 0.9)
    builder.trial(0.3, 1.3, outcome="OVER_BUDGET", violation=0.3, reason="1.30 ms, the limit is 1.00 ms")
    builder.trial(0.1, 1.1, outcome="OVER_BUDGET", violation=0.1, reason="1.10 ms, the limit is 1.00 ms")
    builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, reason="loss is NaN in epoch 3")
    builder.trial(None, None, state=TrialState.RUNNING, outcome="", seconds=None)
    return builder
