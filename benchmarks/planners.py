"""Where to prune: each importance with a global threshold and with the knapsack, at half-width's latency.

    python benchmarks/planners.py DATA.yaml --imgsz 160

A YOLOv5n is trained, and trained sparse. From there each importance and planner cuts to the latency that a table, which
is measured here first, predicts for half-width; what is left is validated with recalibrated BatchNorm, and after a
short recovery. The last line is JSON: `dense` (map50_95), `dense_latency`, `table_error`, and `rows`, for each
importance and planner `cut` and `recovered` (map50_95), `latency` (in multiples of half-width's, predicted),
`channels_removed`, and `plan_s`, the time of plan and surgery.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from prunetune.pruning import ChannelConfig, Detector, Pipeline, Source, StageRunner, StageStore, TrainingSetup
from prunetune.pruning.dataset import inspect_dataset
from prunetune.pruning.stage_files import CHECKPOINT
from prunetune.search.profiling import PACE
from prunetune.spaces import LatencyShare, Recipe
from prunetune.spaces.recipe import Importance, Planner
from prunetune.targets import LatencyTable, create_target, parse_target_spec, profile


class Predicted:
    """Latencies as shares of half-width's, by a table; its word is taken for a measurement.

    Args:
        table: The table.
        dense: The dense network's channels.
        half: Those of half-width.
    """

    is_calibrated = True

    def __init__(self, table: LatencyTable, dense: ChannelConfig, half: ChannelConfig) -> None:
        self._table, self._half = table, table.predict(half).ratio
        self.dense = float(self.predicted_many([dense])[0, 0])

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> Any:
        return self._table.predict_many(self._table.as_array(networks))[:, None] / self._half

    def predicted(self, channels: ChannelConfig) -> float | None:
        return float(self.predicted_many([channels])[0, 0])

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        return float(self.predicted_many([channels])[0, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the data set's yaml; without it nothing is done")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--dense-epochs", type=int, default=20)
    parser.add_argument("--sparse-epochs", type=int, default=4)
    parser.add_argument("--pull", type=float, default=0.4)
    parser.add_argument("--recover", type=int, default=3, help="epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="keeps the stages here, for another run")
    parser.add_argument("--table", type=Path, help="the latency table: read where it is there, else written")
    options = parser.parse_args()
    if options.data is None:
        print("skipped: give the yaml of a data set")
        return
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="prunetune-planners-") as scratch:
        found = compare(options, options.store or Path(scratch) / "store", Path(scratch))
    print(json.dumps(found))


def compare(options: argparse.Namespace, store: Path, folder: Path) -> dict[str, Any]:
    """The figures of every importance and planner."""
    data = inspect_dataset(options.data)
    setup = TrainingSetup(str(options.data), data.fingerprint, options.imgsz, seed=options.seed)
    source = Source("yolov5n.yaml", data.names, options.dense_epochs)
    stages = StageRunner(setup, StageStore(store))

    def pipeline(latencies: Predicted | None = None) -> Pipeline:
        return Pipeline(
            source, stages, alignment=8, longest_sparse_epochs=options.sparse_epochs, latencies=latencies
        )  # fmt: skip

    original = pipeline().original()
    dense = Detector.load(original.file(CHECKPOINT))
    half = Detector.build(pipeline().narrow_description("half-width"), data.names)
    table = latency_table(dense, options, folder)
    latencies = Predicted(table, dense.channels, half.channels)
    recipe = Recipe(options.pull, options.sparse_epochs, LatencyShare(1.0), recovery_epochs=options.recover)
    print(
        f"dense {latencies.dense:.2f} x half-width, map50_95 {original.record['accuracy']['map50_95']:.3f}", flush=True
    )
    print(f"{'importance':<12}{'planner':<11}{'cut':>7}{'recovered':>11}{'latency':>9}{'removed':>9}{'plan':>8}")
    rows = [
        row(pipeline(latencies), recipe, importance, planner, latencies, dense.channels)
        for importance in get_args(Importance)
        for planner in get_args(Planner)
    ]
    return {
        "dense": round(original.record["accuracy"]["map50_95"], 4),
        "dense_latency": round(latencies.dense, 3),
        "table_error": round(table.error, 4),
        "rows": rows,
    }


def latency_table(dense: Detector, options: argparse.Namespace, folder: Path) -> LatencyTable:
    """The table that was given, or one that is measured."""
    if options.table is not None and options.table.is_file():
        return LatencyTable.load(options.table)
    dense.export_onnx(folder / "dense.onnx", options.imgsz)
    table = profile(create_target(parse_target_spec({**PACE, "kind": "onnxruntime"})), folder / "dense.onnx")
    if options.table is not None:
        table.save(options.table)
    return table


def row(
    pipeline: Pipeline,
    recipe: Recipe,
    importance: Importance,
    planner: Planner,
    latencies: Predicted,
    dense: ChannelConfig,
) -> dict[str, Any]:
    """Carries out one recipe; shows and returns its figures."""
    wanted = Recipe(**{**vars(recipe), "importance": importance, "planner": planner})
    clock = pipeline.stages.ledger.clock
    before, start = dict(clock.seconds), time.perf_counter()
    candidates = list(pipeline.run(wanted))
    cut, recovered = candidates[0], candidates[-1]
    told = {
        "importance": importance,
        "planner": planner,
        "cut": round(cut.accuracy.map50_95, 4),
        "recovered": round(recovered.accuracy.map50_95, 4),
        "latency": round(float(latencies.predicted_many([cut.plan.channels])[0, 0]), 3),
        "channels_removed": round(cut.plan.channels.removed(dense), 3),
        "plan_s": round(clock.seconds.get("surgery", 0.0) - before.get("surgery", 0.0), 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(
        f"{importance:<12}{planner:<11}{told['cut']:>7.3f}{told['recovered']:>11.3f}{told['latency']:>9.3f}"
        f"{told['channels_removed']:>9.1%}{told['plan_s']:>7.1f}s",
        flush=True,
    )
    return told


if __name__ == "__main__":
    main()
