"""Where to prune: each importance with a global threshold and with the knapsack, at half-width's latency.

    python benchmarks/planners.py DATA.yaml --imgsz 160 --table table.json

A YOLOv5n is trained, and trained sparse. From there each importance and planner cuts to half-width's latency, measured
in ONNX Runtime with one thread, interleaved; what is left is validated with recalibrated BatchNorm, and after a short
recovery. Latencies are predicted by a table of `prunetune profile`, or by multiply-adds without one. The last line is
JSON: `dense` (map50_95), `dense_latency`, and `rows`, for each importance and planner `cut` and `recovered` (map50_95),
`latency` (in multiples of half-width's), `gflops`, `channels_removed`, `measured` (how many networks) and `seconds`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy
from common.barcodes import draw
from common.figures import close, skipped

from prunetune.pruning import (
    ChannelConfig,
    Detector,
    Pipeline,
    Pruned,
    Recovered,
    Source,
    StageRunner,
    StageStore,
    TrainingSetup,
)
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.spaces import ImageSize, LatencyShare, Recipe
from prunetune.spaces.recipe import Importance, Planner
from prunetune.targets import LatencyTable, Network, create_target, parse_target_spec, read_conv_graph
from prunetune.targets.latency_model.synthesis import write_resized

FIGURES = ("dense", "dense_latency", "rows")


class AgainstHalf:
    """Latencies in multiples of half-width's.

    Args:
        dense: The dense network.
        half: Half-width.
        imgsz: Input size in px.
        table: Predicts; without it multiply-adds do, on a line through both networks.
        folder: For ONNX files.
    """

    def __init__(
        self, dense: Detector, half: ChannelConfig, imgsz: int, table: LatencyTable | None, folder: Path
    ) -> None:
        self._shape, self._folder, self._table = (1, 3, imgsz, imgsz), folder, table
        self._target = create_target(parse_target_spec({"kind": "onnxruntime"}))
        self._onnx = folder / "dense.onnx"
        dense.export_onnx(self._onnx, imgsz)
        self._graph = read_conv_graph(self._onnx)
        self._half = half
        self.known: dict[ChannelConfig, float] = {half: 1.0}
        self.is_calibrated = table is not None
        self._anchor = self._network("half", half)
        self.dense = self.measured(dense.channels)
        self._slope = (self.dense - 1) / (self._work(dense.channels) - 1)

    def _work(self, widths: Mapping[str, int]) -> float:
        return self._graph.multiply_adds(widths) / self._graph.multiply_adds(self._half)

    def _network(self, name: str, channels: ChannelConfig) -> Network:
        file = self._folder / f"{name}.onnx"
        write_resized(self._onnx, file, self._graph, channels)
        return Network(name, self._shape, onnx=file)

    def at(self, imgsz: ImageSize | None) -> AgainstHalf:
        return self

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> Any:
        if self._table is None:
            return numpy.array([[1 + self._slope * (self._work(widths) - 1)] for widths in networks])
        ratios = self._table.predict_many(self._table.as_array([self._half, *networks]))
        return (ratios[1:] / ratios[0])[:, None]

    def predicted(self, channels: ChannelConfig) -> float | None:
        return float(self.predicted_many([channels])[0, 0])

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector] | None = None) -> float:
        if channels not in self.known:
            candidate = self._network("candidate", channels)
            found = self._target.measure([self._anchor, candidate], reference="half")
            self.known[channels] = found["candidate"].ratio
        return self.known[channels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the data set's yaml; without it nothing is done")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--dense-epochs", type=int, default=20)
    parser.add_argument("--sparse-epochs", type=int, default=4)
    parser.add_argument("--pull", type=float, default=0.4)
    parser.add_argument("--recover", type=int, default=3, help="epochs")
    parser.add_argument("--importances", nargs="+", choices=get_args(Importance), default=get_args(Importance))
    parser.add_argument("--planners", nargs="+", choices=get_args(Planner), default=get_args(Planner))
    parser.add_argument("--floors", nargs="+", type=float, default=[0.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="keeps the stages here, for another run")
    parser.add_argument("--table", type=Path, help="a latency table of this network and size")
    parser.add_argument("--quick", action="store_true", help="hardly any training, two importances; draws barcodes")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        skipped("give the yaml of a data set")
        return
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="prunetune-planners-") as scratch:
        if options.quick:
            options.imgsz, options.dense_epochs, options.sparse_epochs, options.recover = 96, 2, 1, 1
            options.importances = ["gamma", "taylor"]
            options.data = options.data or str(draw(Path(scratch) / "data", 96, train=64, val=32))
        found = compare(options, options.store or Path(scratch) / "store", Path(scratch))
    close(FIGURES, found)


def compare(options: argparse.Namespace, store: Path, folder: Path) -> dict[str, Any]:
    """The figures of every importance and planner."""
    data = inspect_dataset(options.data)
    setup = TrainingSetup(str(options.data), data.fingerprint, options.imgsz, seed=options.seed)
    source = Source("yolov5n.yaml", data.names, options.dense_epochs)
    stages = StageRunner(setup, StageStore(store))

    def pipeline(latencies: AgainstHalf | None = None) -> Pipeline:
        longest = options.sparse_epochs
        return Pipeline(source, stages, alignment=8, longest_sparse_epochs=longest, latencies=latencies)

    original = pipeline().original()
    dense = Detector.load(original.file(CHECKPOINT))
    half = Detector.build(pipeline().source.description("half-width"), data.names).channels
    table = None if options.table is None else LatencyTable.load(options.table)
    latencies = AgainstHalf(dense, half, options.imgsz, table, folder)
    assert original.accuracy is not None
    accuracy = original.accuracy.map50_95
    recipe = Recipe(options.pull, options.sparse_epochs, LatencyShare(1.0), recovery_epochs=options.recover)
    print(f"dense {latencies.dense:.2f} x half-width, map50_95 {accuracy:.3f}")
    print(
        f"{'importance':<12}{'planner':<11}{'floor':>5}{'cut':>7}{'recovered':>11}{'latency':>9}{'GFLOPs':>8}{'removed':>9}"
    )
    found = {"dense": round(accuracy, 4), "dense_latency": round(latencies.dense, 3)}
    choices = product(options.importances, options.planners, options.floors)
    recipes = [replace(recipe, importance=each, planner=planner, floor=floor) for each, planner, floor in choices]
    return {**found, "rows": [row(pipeline(latencies), recipe, latencies, dense.channels) for recipe in recipes]}


def row(pipeline: Pipeline, recipe: Recipe, latencies: AgainstHalf, dense: ChannelConfig) -> dict[str, Any]:
    """Carries out one recipe; shows and returns its figures."""
    before, start = len(latencies.known), time.perf_counter()
    cut, recovered = pipeline.run(recipe)
    assert isinstance(cut, Pruned)
    assert isinstance(recovered, Recovered)
    told = {
        "importance": recipe.importance,
        "planner": recipe.planner,
        "floor": recipe.floor,
        "cut": round(cut.accuracy.map50_95, 4),
        "recovered": round(recovered.accuracy.map50_95, 4),
        "latency": round(latencies.measured(cut.plan.channels), 3),
        "gflops": round(cut.stage.gflops, 4),
        "channels_removed": round(cut.plan.channels.removed(dense), 3),
        "measured": len(latencies.known) - before,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(
        f"{recipe.importance:<12}{recipe.planner:<11}{recipe.floor:>5.2f}{told['cut']:>7.3f}{told['recovered']:>11.3f}"
        f"{told['latency']:>9.3f}{told['gflops']:>8.3f}{told['channels_removed']:>9.1%}",
        flush=True,
    )
    return told


if __name__ == "__main__":
    main()
