"""Plain Optuna and prunetune on the same data set with the same number of epochs, for real.

    python benchmarks/search_real.py DATA.yaml --epochs 120 --imgsz 256 --seeds 0 1 2

Four strategies start from the same dense YOLOv5n of a seed, with the same grid of sparse trainings:

- `random` and `tpe`: plain Optuna over widths, input sizes and depth. It asks for a threshold and carries out every
  trial in full in a store of its own: sparse training from the start, recovery to the end, whatever the latency.
- `widths`: a study of prunetune that knows one input size and keeps all residual blocks, as all did before 0.2.
- `prunetune`: a study with its defaults.

No trial begins after that many epochs; baselines are not counted. `--quick` draws barcodes where no data are given, and
hardly trains. The last line is JSON: for each strategy, mean and smallest and largest value over the seeds of
`hypervolume` (map50_95 by latency, within half-width's latency), `best` (map50_95 within half-width's latency),
`epochs`, `seconds` and `trials`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from common.barcodes import draw
from common.figures import close, skipped, spread
from rich.console import Console

from prunetune.pruning import Pipeline, Recovered, StageRunner, StageStore
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.pareto import hypervolume
from prunetune.search.engine.study_setup import check_study, prepare_study
from prunetune.search.runner import run_study
from prunetune.search.samplers.factory import create_sampler
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial import TrialContext
from prunetune.spaces import Deployment

FIGURES = ("random", "tpe", "widths", "prunetune")

THRESHOLD = {"threshold": {"low": 0.05, "high": 1.0}}
LATENCY = {"latency": {"low": 0.5, "high": 1.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the data set's yaml; without it nothing is done")
    parser.add_argument("--epochs", type=int, default=120, help="of sparse training and recovery, for each strategy")
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--dense-epochs", type=int, default=40)
    parser.add_argument("--recovery-epochs", type=int, default=9)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="2 dense epochs, 6 more for each strategy, at 64 px")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        skipped("give the yaml of a data set")
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in FIGURES}
    with tempfile.TemporaryDirectory(prefix="prunetune-real-") as folder:
        if options.quick:
            options.epochs, options.imgsz, options.dense_epochs, options.seeds = 6, 64, 2, [0]
            options.recovery_epochs = 2
            options.data = options.data or str(draw(Path(folder) / "data", 64, train=32, val=16))
        for seed in options.seeds:
            describe = partial(description, options, folder, seed)
            strategies = {
                "random": partial(plain, describe("random", THRESHOLD), options.epochs, "random"),
                "tpe": partial(plain, describe("tpe", THRESHOLD), options.epochs, "tpe"),
                "widths": partial(prunetune, describe("widths", LATENCY, sizes=[options.imgsz]), options.epochs),
                "prunetune": partial(prunetune, describe("prunetune", LATENCY), options.epochs),
            }
            for name, search in strategies.items():
                found[name].append(search())
                print(f"seed {seed}  {name}: {json.dumps(found[name][-1])}", file=sys.stderr, flush=True)
    close(
        FIGURES,
        {name: {key: spread([one[key] for one in runs]) for key in runs[0]} for name, runs in found.items()},
    )


def description(
    options: argparse.Namespace, folder: str, seed: int, name: str, cut: dict[str, Any], sizes: list[int] | None = None
) -> StudySpec:
    """What is searched: the same for all but for how a recipe says where to cut; with `sizes`, widths alone there."""
    return StudySpec.parse(
        {
            "name": f"{name}-{seed}",
            "model": "yolov5n.yaml",
            "data": options.data,
            "imgsz": options.imgsz,
            "dense_epochs": options.dense_epochs,
            "seed": seed,
            "train": {"optimizer": "AdamW", "lr0": 0.001},
            "space": {
                "sparsity": {"low": 0.3, "high": 1.6, "log": True, "grid": 4},
                "sparse_epochs": {"choices": sorted({options.recovery_epochs // 2, options.recovery_epochs - 1})},
                **cut,
                "recovery_epochs": options.recovery_epochs,
                "depth": {"low": 0, "high": 4} if sizes is None else False,
            },
            "controls": [],
            "runs": folder,
            **({"deploy": {"imgsz": sizes}} if sizes else {}),
        }
    )


def plain(spec: StudySpec, epochs: int, sampler: Literal["random", "tpe"]) -> dict[str, float]:
    """An Optuna loop that shares nothing and stops nothing."""
    context = prepare_study(open_study(spec), check_study(spec)).context
    original, space = context.pipeline.original().folder, spec.space.over_sizes(context.sizes)
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = create_sampler(sampler, 30, spec.seed)
    points: list[tuple[float, float]] = []
    spent, start = 0, time.perf_counter()
    while spent < epochs:
        trial = study.ask()
        recipe = space.suggest(trial)
        deployment = Deployment(recipe.imgsz or spec.imgsz, context.shipping.deployment.precision)
        with tempfile.TemporaryDirectory(dir=spec.runs) as folder:
            alone, before = pipeline_of(context, StageStore(Path(folder))), context.cost_meter.reading()
            shutil.copytree(original, alone.stages.store.root / "stages" / original.name)
            *_, recovered = alone.run(recipe)
            assert isinstance(recovered, Recovered)
            latency = context.meter.measure(recovered.load(), deployment)[spec.targets[0].name].ratio
        spent += (context.cost_meter.reading() - before).epochs_trained
        trial.set_constraint("latency", latency - 1)
        study.tell(trial, [recovered.accuracy.map50_95, latency])
        points += [(recovered.accuracy.map50_95, latency)] if latency <= 1 else []
    return figures(points, spent, time.perf_counter() - start, len(study.trials))


def pipeline_of(context: TrialContext, store: StageStore) -> Pipeline:
    """The study's pipeline on a store of its own."""
    spec, stages = context.spec, StageRunner(context.stages.setup, store, meter=context.cost_meter)
    longest = spec.space.longest_sparse_epochs
    alignment = spec.targets[0].alignment
    return Pipeline(
        context.pipeline.source, stages, alignment=alignment, longest_sparse_epochs=longest, choose=spec.choose
    )


def prunetune(spec: StudySpec, epochs: int) -> dict[str, float]:
    """A study with its defaults, within the same epochs."""
    start = time.perf_counter()
    study = run_study(spec.model_copy(update={"epochs": epochs}), Console(file=sys.stderr, width=160))
    took = time.perf_counter() - start
    findings = Findings.of(study)
    (target,) = findings.study.targets
    points = [
        (network.map50_95, network.latencies[target.name].ms / target.references["half-width"])
        for network in findings.front
    ]
    spent = sum(record.cost.epochs_trained for record in findings.records.values())
    return figures(points, spent, took, len(findings.records))


def figures(points: list[tuple[float, float]], epochs: int, seconds: float, trials: int) -> dict[str, float]:
    """What is told of a search, by its networks' map50_95 and latency in multiples of half-width's."""
    return {
        "hypervolume": hypervolume(points, [1.0]),
        "best": max((accuracy for accuracy, _ in points), default=0.0),
        "epochs": epochs,
        "seconds": round(seconds),
        "trials": trials,
    }


if __name__ == "__main__":
    main()
