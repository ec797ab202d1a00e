"""Real Optuna studies, filled as a search fills them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from prunetune.results.dashboard.dashboard import shown_on_dashboard
from prunetune.results.record import (
    Baseline,
    NetworkFigures,
    NetworkFiles,
    NetworkResult,
    StudiedTarget,
    StudyRecord,
    TrialRecord,
)
from prunetune.results.storage.place import sqlite_url
from prunetune.spaces import Accuracy, Alignment, Cost, Deployment, Outcome, Recipe, StageUse, Threshold
from prunetune.targets import NormalizedLatency

optuna.logging.set_verbosity(optuna.logging.WARNING)

LAYERS = [f"model.{index}.{name}" for index in range(12) for name in ("conv", "cv1.conv", "cv2.conv")]
DENSE = {layer: 16 * 2 ** min(4, index // 7) for index, layer in enumerate(LAYERS)}
REGIONS = {layer: "backbone" if index < 18 else "head" for index, layer in enumerate(LAYERS)}


class StudyBuilder:
    """Adds trials and baselines to a study, as `prunetune run` stores them.

    Args:
        folder: Where its data base and files are; without one it is in memory.
    """

    def __init__(self, name: str = "barcodes", latencies: int = 1, folder: Path | None = None) -> None:
        directions = ["maximize", *["minimize"] * latencies]
        storage = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            storage = sqlite_url(folder)
        self.folder = folder
        self.study = optuna.create_study(directions=directions, study_name=name, storage=storage)

    # Values

    @staticmethod
    def latencies(ms: Mapping[str, float | NormalizedLatency]) -> dict[str, NormalizedLatency]:
        """Latencies by target, from ms. The dense network takes 2 ms everywhere."""
        return {
            target: value
            if isinstance(value, NormalizedLatency)
            else NormalizedLatency(value, ratio_to_dense=value / 2, spread_ms=0.01)
            for target, value in ms.items()
        }

    @staticmethod
    def accuracy(map50_95: float, **changes: Any) -> Accuracy:
        """An accuracy whose map50 is its map50_95."""
        return Accuracy(
            **{"map50": map50_95, "map50_95": map50_95, "precision": 0.9, "recall": 0.8, "f1": 0.85} | changes
        )

    @classmethod
    def network(
        cls, accuracy: float | Accuracy, ms: float | Mapping[str, Any], files: str | None = None, **changes: Any
    ) -> NetworkResult:
        """A network by its accuracy and its latency on `cpu`, or on several targets; `files`: the folder of its files.

        Further values go by their names to its figures or to itself.
        """
        figures: dict[str, Any] = {
            "channels": {},
            "params": 1_720_000,
            "gflops": 3.6,
            "bytes": 7_000_000,
            "channels_removed": 0.5,
            "params_removed": 0.726,
            "latencies": cls.latencies(ms if isinstance(ms, Mapping) else {"cpu": ms}),
        }
        figures |= {name: changes.pop(name) for name in list(changes) if name in NetworkFigures.__dataclass_fields__}
        return NetworkResult(
            changes.pop("deployment", Deployment(160)),
            NetworkFigures(**figures),
            accuracy if isinstance(accuracy, Accuracy) else cls.accuracy(accuracy),
            files=NetworkFiles() if files is None else NetworkFiles(f"{files}/pruned.pt", f"{files}/pruned.onnx"),
            **changes,
        )

    @classmethod
    def baseline(
        cls, accuracy: float | Accuracy, ms: float | Mapping[str, Any] = 2.0, epochs: int | None = None, **changes: Any
    ) -> Baseline:
        """A baseline; see `network`."""
        return Baseline(cls.network(accuracy, ms, **changes), epochs)

    @staticmethod
    def target(
        name: str = "cpu", limit: tuple[str, float] | None = ("<= half-width", 1.0), **changes: Any
    ) -> StudiedTarget:
        """A target with a budget."""
        text, ms = limit or (None, None)
        usual = {"kind": "onnxruntime", "alignment": Alignment.everywhere(8), "is_objective": True}
        usual |= {"references": {"dense": 2.0, "half-width": 1.0}, "fingerprint": {"cpu": "x"}}
        return StudiedTarget(name, budget_text=text, budget_ms=ms, **usual | changes)

    # What is stored

    def trial(
        self,
        map50_95: float | Accuracy | None,
        latency_ms: float | NormalizedLatency | None,
        *,
        outcome: str = "OK",
        state: TrialState = TrialState.COMPLETE,
        violation: float | None = -0.1,
        channels: dict[str, int] | None = None,
        further: dict[str, float] | None = None,
        rounds: Sequence[NetworkResult] = (),
        deployed: Sequence[NetworkResult] = (),
        network: dict[str, Any] | None = None,
        seconds: dict[str, float] | None = None,
        epochs: tuple[int, int] = (10, 4),
        **fields: Any,
    ) -> int:
        """Adds a trial and returns its number.

        Args:
            map50_95: Of the network that it came to; without it, or without a latency, it came to none.
            latency_ms: On `cpu`; `further` are those on other targets.
            rounds: The networks that it had on its way.
            deployed: Its last network at further deployments.
            network: Further values of its network.
            seconds: By part.
            epochs: Trained and reused.
            fields: Of its record; None is not stored.
        """
        number = len(self.study.trials)
        networks = list(rounds)
        ms = {"cpu": latency_ms, **(further or {})}
        if map50_95 is not None and latency_ms is not None:
            told: dict[str, Any] = {
                "channels": {"model.0.conv": 8 + number} if channels is None else channels,
                "violations": {} if violation is None else {"cpu": violation},
                "recovered": outcome == "OK",
                "round": len(rounds) + 1,
                "files": f"trials/{number}",
            }
            networks.append(self.network(map50_95, ms, **told | (network or {})))
            networks += deployed
        usual: dict[str, Any] = {
            "recipe": Recipe(
                0.3,
                4,
                Threshold(0.1, 0.1 + number / 1000),
                rounds=max(1, len(networks) - len(deployed)),
                recovery_epochs=6,
            ),
            "outcome": Outcome(outcome) if outcome else None,
            "networks": tuple(networks),
            "cost": cost(SECONDS if seconds is None else seconds, *epochs),
            "worker": {"host": "localhost", "pid": 7},
        }
        record = TrialRecord(**{name: value for name, value in {**usual, **fields}.items() if value is not None})
        objectives = [getattr(map50_95, "map50_95", map50_95), *(getattr(value, "ms", value) for value in ms.values())]
        values = [0.0 if value is None else value for value in objectives][: len(self.study.directions)]
        self.study.add_trial(
            create_trial(
                state=state,
                values=values if state is TrialState.COMPLETE else None,
                params={"sparsity": min(1.0, 0.3 + number / 100), "rounds": 1 + number % 2},
                distributions={
                    "sparsity": optuna.distributions.FloatDistribution(0.1, 1.0),
                    "rounds": optuna.distributions.IntDistribution(1, 3),
                },
                user_attrs=record.to_attrs(),
                constraints={"latency": violation or 0.0},
            )
        )
        return number

    def carry_out(self, *told: Any, **values: Any) -> optuna.Trial:
        """Adds a trial as a worker does that asks for it and tells it; takes what `trial` takes."""
        assert self.folder is not None
        template = StudyBuilder(latencies=len(self.study.directions) - 1)
        template.trial(*told, **values)
        (done,) = template.study.trials
        self.study.enqueue_trial(done.params)
        trial = self.study.ask(done.distributions)
        with shown_on_dashboard(self.study, trial, TrialRecord.from_trial(done), self.folder):
            for name, value in done.user_attrs.items():
                trial.set_user_attr(name, value)
            for name, violation in done.constraints.items():
                trial.set_constraint(name, violation)
            self.study.tell(trial, done.values, state=done.state)
        return trial

    def context(self, **fields: Any) -> None:
        """Stores the study's record: baselines, targets and more; given fields replace the usual."""
        usual: dict[str, Any] = {
            "spec": {"model": "yolov5n.yaml", "data": "data/barcodes/data.yaml", "imgsz": 160},
            "version": "0.2.0",
            "targets": [self.target()],
            "baselines": {
                "dense": self.baseline(self.accuracy(0.940, map50=0.993), 2.0, gflops=17.5, params=14_300_000,
                                       channels_removed=0.0, params_removed=0.0),
                "half-width": self.baseline(self.accuracy(0.875, map50=0.986), 1.0, gflops=4.4, params=3_900_000,
                                            channels_removed=0.0, params_removed=0.73),
            },
            "channels_dense": DENSE,
            "channels_half": {layer: max(8, width // 2) for layer, width in DENSE.items()},
            "regions": REGIONS,
        }  # fmt: skip
        self.store(**{**usual, **fields})

    def store(self, **fields: Any) -> None:
        """Stores fields of the study's record."""
        StudyRecord.store(self.study, **fields)

    def confirm(self, ms: Mapping[str, float | NormalizedLatency]) -> None:
        """Stores a last measurement: the latency on `cpu`, by network."""
        self.store(confirmed={name: self.latencies({"cpu": value}) for name, value in ms.items()})


SECONDS = {"train": 90.5, "validate": 8.0, "measure": 3.0, "surgery": 0.5, "other": 1.0}


def cost(seconds: Mapping[str, float], trained: int, reused: int) -> Cost:
    """A cost with one stage, or none without epochs."""
    return Cost(seconds, (StageUse("recovery", "0a", trained, reused),) if trained or reused else ())


@pytest.fixture
def builder() -> StudyBuilder:
    return StudyBuilder()


@pytest.fixture(scope="session")
def make_builder() -> Callable[..., StudyBuilder]:
    return StudyBuilder


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., StudyBuilder]:
    """Makes a study in a folder below `tmp_path / "runs"`, in its own data base."""

    def write(name: str = "barcodes") -> StudyBuilder:
        return StudyBuilder(name, folder=tmp_path / "runs" / name)

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
    builder.trial(None, None, state=TrialState.RUNNING, outcome="", seconds={}, epochs=(0, 0))
    return builder
