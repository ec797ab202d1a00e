"""Plain Optuna and prunetune on the same data set with the same number of epochs, for real.

    python benchmarks/search_real.py DATA.yaml --epochs 120 --imgsz 256

Both start from the same dense YOLOv5n with the same grid of sparse trainings. Plain Optuna (TPE) asks for a threshold
and carries out every trial in full in a store of its own: sparse training from the start, recovery to the end, whatever
the latency. Prunetune is a study with its defaults that asks for a latency and ends at the same number of epochs.
`--quick` draws barcodes where no data are given, and hardly trains. The last line is JSON, for `plain` and `prunetune`
each: `hypervolume` (as `prunetune front` states it), `best` (map50_95 within half-width), `epochs`, `seconds`,
`trials`.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from common.barcodes import draw
from common.figures import close, skipped
from rich.console import Console

from prunetune.pruning import Pipeline, Pruned, Recovered, StageRunner, StageStore
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.pareto import hypervolume
from prunetune.search.engine.study_setup import check_study, prepare_study
from prunetune.search.runner import run_study
from prunetune.search.samplers.factory import create_sampler
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial import TrialContext

FIGURES = ("plain", "prunetune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the data set's yaml; without it nothing is done")
    parser.add_argument("--epochs", type=int, default=120, help="of sparse training and recovery, for each of the two")
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--dense-epochs", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="2 dense epochs, 12 more for each of the two, at 96 px")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        skipped("give the yaml of a data set")
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="prunetune-real-") as folder:
        if options.quick:
            options.epochs, options.imgsz, options.dense_epochs = 12, 96, 2
            options.data = options.data or str(draw(Path(folder) / "data", 96, train=64, val=32))
        by_threshold = description(options, folder, {"threshold": {"low": 0.05, "high": 1.0}})
        by_latency = description(options, folder, {"latency": {"low": 0.5, "high": 1.0}})
        found = {"plain": plain(by_threshold, options.epochs), "prunetune": prunetune(by_latency, options.epochs)}
    close(FIGURES, found)


def description(options: argparse.Namespace, folder: str, cut: dict[str, Any]) -> dict[str, Any]:
    """What is searched: the same for both but for how a recipe says where to cut."""
    return {
        "name": "real",
        "model": "yolov5n.yaml",
        "data": options.data,
        "imgsz": options.imgsz,
        "dense_epochs": options.dense_epochs,
        "train": {"optimizer": "AdamW", "lr0": 0.001},
        "space": {
            "sparsity": {"low": 0.3, "high": 1.6, "log": True, "grid": 4},
            "sparse_epochs": {"choices": [4, 8]},
            **cut,
            "recovery_epochs": 9,
        },
        "controls": [],
        "runs": folder,
    }


def plain(values: dict[str, Any], epochs: int) -> dict[str, float]:
    """An Optuna loop that shares nothing and stops nothing."""
    spec = StudySpec.parse({**values, "name": "plain"})
    context = prepare_study(open_study(spec), check_study(spec)).context
    original = context.pipeline.original().folder
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = create_sampler("tpe", 30, 0)
    references = context.meter.targets[0].references_ms
    points: list[tuple[float, float]] = []
    spent, start = 0, time.perf_counter()
    while spent < epochs:
        trial = study.ask()
        recipe = spec.space.suggest(trial)
        with tempfile.TemporaryDirectory(dir=spec.runs) as folder:
            alone, before = pipeline_of(context, StageStore(Path(folder))), context.cost_meter.reading()
            shutil.copytree(original, alone.stages.store.root / "stages" / original.name)
            pruned, recovered = alone.run(recipe)
            assert isinstance(pruned, Pruned)
            assert isinstance(recovered, Recovered)
            latency = context.meter.measure(pruned.load())[spec.targets[0].name].ratio
        spent += (context.cost_meter.reading() - before).epochs_trained
        trial.set_constraint("latency", latency - 1)
        study.tell(trial, [recovered.accuracy.map50_95, latency])
        points += [(recovered.accuracy.map50_95, latency)] if latency <= 1 else []
        print(f"plain {trial.number}: {recipe} map50_95 {points[-1] if latency <= 1 else 'over budget'}", flush=True)
    return {
        "hypervolume": round(hypervolume(points, [references["dense"] / references["half-width"]]), 4),
        "best": max((accuracy for accuracy, _ in points), default=0.0),
        "epochs": spent,
        "seconds": round(time.perf_counter() - start),
        "trials": len(study.trials),
    }


def pipeline_of(context: TrialContext, store: StageStore) -> Pipeline:
    """The study's pipeline on a store of its own."""
    spec, stages = context.spec, StageRunner(context.stages.setup, store, meter=context.cost_meter)
    longest = spec.space.longest_sparse_epochs
    alignment = spec.targets[0].alignment
    return Pipeline(
        context.pipeline.source, stages, alignment=alignment, longest_sparse_epochs=longest, choose=spec.choose
    )


def prunetune(values: dict[str, Any], epochs: int) -> dict[str, float]:
    """A study with its defaults, within the same epochs."""
    spec = StudySpec.parse({**values, "name": "prunetune", "epochs": epochs})
    start = time.perf_counter()
    study = run_study(spec, Console())
    findings = Findings.of(study)
    return {
        "hypervolume": round(findings.hypervolume or 0.0, 4),
        "best": findings.best.map50_95 if findings.best else 0.0,
        "epochs": sum(record.cost.epochs_trained for record in findings.records.values()),
        "seconds": round(time.perf_counter() - start),
        "trials": len(study.trials),
    }


if __name__ == "__main__":
    main()
