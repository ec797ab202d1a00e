"""How long a study of 2,000 trials takes to read: `prunetune report`, `status` and `front`, as whole commands.

The study is made up, with all that a real one stores: channels of 60 layers, latencies, rungs, stages, seconds. Each
command runs in a process of its own, several times after one that does not count; medians are given. The last line is
JSON: `report_s`, `report_mb`, `status_s`, `front_s`, and the number of `trials`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import optuna
from common.figures import close
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.record import (
    Baseline,
    NetworkFigures,
    NetworkFiles,
    NetworkResult,
    RungDecision,
    StudiedTarget,
    StudyRecord,
    TrialRecord,
)
from prunetune.search.study.open_study import open_study
from prunetune.search.study.stored_study import set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Accuracy, Alignment, Cost, Deployment, Outcome, StageUse, Threshold
from prunetune.targets import NormalizedLatency

FIGURES = ("report_s", "report_mb", "status_s", "front_s", "trials")

LAYERS = {f"model.{block}.{name}.conv": 16 * 2 ** min(4, block // 2) for block in range(20) for name in ("a", "b", "c")}
REGIONS = {layer: "backbone" if index < 30 else "head" for index, layer in enumerate(LAYERS)}
START = datetime(2026, 1, 1)
TARGETS = {"report_s": 20.0, "report_mb": 12.0, "status_s": 1.0, "front_s": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 trials")
    parser.add_argument("--keep", type=Path, help="make the study below this folder, and leave it there")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = 100 if options.quick else 2000
    with tempfile.TemporaryDirectory(prefix="prunetune-scale-") as scratch:
        folder = make_study(options.keep or Path(scratch), trials)
        page = folder / "report.html"
        found: dict[str, float] = {
            "report_s": timed("report", folder, times=3),
            "report_mb": page.stat().st_size / 1e6,
            "status_s": timed("status", folder, times=7),
            "front_s": timed("front", folder, times=7),
        }
    for name, value in found.items():
        print(f"{name:<10}{value:>8.2f}   (target: under {TARGETS[name]:g})")
    close(FIGURES, {**{name: round(value, 3) for name, value in found.items()}, "trials": trials})


def timed(command: str, folder: Path, times: int) -> float:
    """Median seconds of a command, its process included."""
    line = [sys.executable, "-m", "prunetune.search.cli", command, str(folder)]
    took = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - begin)
    return median(took[1:])


def make_study(runs: Path, trials: int) -> Path:
    """Makes a study as a search leaves it; returns its folder."""
    space = {
        "sparsity": {"low": 0.1, "high": 1.0, "log": True},
        "sparse_epochs": {"choices": [50, 100]},
        "latency": {"low": 0.6, "high": 0.98},
        "recovery_epochs": {"choices": [50, 100]},
    }
    asked = {"name": "scale", "model": "yolov5n.yaml", "data": "data.yaml", "space": space, "trials": trials}
    spec, rng = StudySpec.parse({**asked, "runs": str(runs)}), random.Random(0)
    study = open_study(spec)
    template = optuna.create_study(directions=study.directions, sampler=optuna.samplers.RandomSampler(seed=0))
    write_gammas(spec.folder / "gammas" / "trial.json", rng)
    for number in range(trials):
        study.add_trial(made_trial(template, spec, number, rng))
    half = {layer: width // 2 for layer, width in LAYERS.items()}
    target = StudiedTarget(
        name="cpu",
        kind="onnxruntime",
        alignment=Alignment.parse(8),
        is_objective=True,
        budget_text="<= half-width",
        budget_ms=1.0,
        references={"dense": 2.0, "half-width": 1.0},
        fingerprint={"device": "x"},
    )
    StudyRecord.store(
        study,
        targets=[target],
        baselines={
            "dense": Baseline(network(0.72, 2.0, LAYERS, 0.0), epochs=150),
            "half-width": Baseline(network(0.60, 1.0, half, 0.73), epochs=150),
        },
        channels_dense=LAYERS,
        channels_half=half,
        regions=REGIONS,
        params_dense=2_500_000,
        finished=trials,
    )
    return spec.folder


def made_trial(template: optuna.Study, spec: StudySpec, number: int, rng: random.Random) -> FrozenTrial:
    """A trial: half of them recovered, a quarter over the budget, the rest stopped early or failed."""
    trial = template.ask()
    recipe = spec.space.suggest(trial)
    outcome = Outcome(rng.choices(["OK", "OVER_BUDGET", "STOPPED_EARLY", "DIVERGED"], [50, 25, 20, 5])[0])
    is_over = outcome is Outcome.OVER_BUDGET
    share = rng.uniform(0.3, 0.98)
    channels = {layer: max(8, 8 * round(width * share * rng.uniform(0.5, 1.2) / 8)) for layer, width in LAYERS.items()}
    latency = rng.uniform(1.01, 1.6) if is_over else share
    map50_95 = 0.72 * (1 - math.exp(-4 * share)) * rng.uniform(0.8, 1) * (0.3 if is_over else 1)
    stages = [f"{rng.getrandbits(80):020x}" for _ in range(3)]
    used = zip(("sparse", "pruning", "recovery"), stages, (50, 0, 50), (50, 0, 0), strict=True)
    seconds = {"train": 900.5, "validate": 80.2, "measure": 11.0, "surgery": 1.5, "export": 2.0, "other": 3.1}
    record = TrialRecord(
        recipe=recipe,
        outcome=outcome,
        reason="" if outcome is Outcome.OK else "a reason of some words, as trials have",
        cost=Cost(seconds, tuple(StageUse(*use) for use in used)),
        sparsity_lambda=0.001,
        sparsity_pull=recipe.sparsity,
        worker={"host": "node", "pid": 7, "started": 1.0, "device": "cpu"},
    )
    if outcome is not Outcome.DIVERGED:
        record = replace(
            record,
            networks=(network(map50_95, latency, channels, 1 - share, outcome is Outcome.OK, stages),),
            decisions=(
                RungDecision(1, 17, (0.8 * map50_95, latency), number // 9, number // 3 + 1, outcome is Outcome.OK),
            ),
            thresholds=(Threshold.everywhere(0.1),),
            gammas="gammas/trial.json",
        )
    set_attributes(trial, record.to_attrs())
    if outcome is Outcome.DIVERGED:
        template.tell(trial, state=TrialState.FAIL)
    else:
        trial.set_constraint("latency", latency - 1)
        template.tell(trial, [map50_95, latency])
    told = template.get_trials(deepcopy=False)[number]
    told.datetime_start = START + timedelta(minutes=20 * number)
    told.datetime_complete = told.datetime_start + timedelta(seconds=998)
    return told


def network(
    map50_95: float,
    latency: float,
    channels: dict[str, int],
    removed: float,
    recovered: bool = True,
    stages: Sequence[str] = ("", "", ""),
) -> NetworkResult:
    """What is known of a network."""
    return NetworkResult(
        deployment=Deployment(640),
        figures=NetworkFigures(
            channels=channels,
            params=round(2_500_000 * (1 - removed)),
            gflops=4.1 * (1 - removed),
            bytes=9_000_000,
            channels_removed=removed / 2,
            params_removed=removed,
            latencies={"cpu": NormalizedLatency(latency, latency / 2, 0.99 * latency, 0.01, 0.01)},
            violations={"cpu": latency - 1},
        ),
        accuracy=Accuracy(map50_95 + 0.2, map50_95, precision=0.8, recall=0.7, f1=0.75),
        recovered=recovered,
        surgery=stages[1],
        stage=stages[2] if recovered else stages[1],
        files=NetworkFiles("candidates/trial.pt"),
    )


def write_gammas(path: Path, rng: random.Random) -> None:
    """The histograms of a sparse phase of 100 epochs, which all trials point to."""
    edges = [index / 40 for index in range(61)]
    told = [
        {
            "round": 1,
            "epoch": epoch,
            "sl_loss": 0.1,
            "histogram": {
                "edges": edges,
                "counts": {region: [rng.randrange(40) for _ in edges[1:]] for region in ("backbone", "head")},
                "quantiles": {"50": 0.5},
            },
        }
        for epoch in range(1, 101)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
