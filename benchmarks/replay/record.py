"""Records the grid of real trials that searches are replayed on.

    python benchmarks/replay/record.py train DATA.yaml --part 0/2     # trains; parts can run side by side
    python benchmarks/replay/record.py measure DATA.yaml              # measures what was trained, writes table.json

Every sparsity x sparse phase x threshold x input size x depth of the grid is carried out: YOLOv5n, dense training,
sparse training at the largest size, surgery aligned to 8, recalibration, a full recovery with its accuracy after every
epoch, and what the network does at the smaller sizes. Networks are measured with ONNX Runtime against half-width at
the largest size, on an otherwise idle machine. The work is kept in `runs/replay` and its stage store: a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import statistics
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prunetune.pruning import Pruned, Recovered
from prunetune.pruning.stages.stage_files import CHECKPOINT, read_history
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.engine.study_setup import check_study, prepare_study
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial import TrialContext
from prunetune.spaces import Deployment, Recipe, Threshold
from prunetune.targets.measure.hardware import cpu_model

SPARSITIES = (0.4, 1.2)
SPARSE_EPOCHS = (4, 8)
THRESHOLDS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.95)
SIZES = (128, 96, 64)
DEPTHS = (0, 4)
RECOVERY_EPOCHS = 9
TABLE = Path(__file__).with_name("table.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "measure"))
    parser.add_argument("data", help="the data set's yaml")
    parser.add_argument("--part", default="0/1", help="which of how many parts of the grid to train, such as 0/2")
    options = parser.parse_args()
    context = prepared(options.data)
    if options.step == "train":
        part, parts = map(int, options.part.split("/"))
        train(context, SPARSITIES[part::parts])
    else:
        TABLE.write_text(json.dumps(measured_table(context), indent=None, separators=(",", ":")) + "\n")
        print(f"{TABLE}: {TABLE.stat().st_size} bytes")


def prepared(data: str) -> TrialContext:
    """The recording is a study whose recipes nobody proposes."""
    spec = StudySpec.parse(
        {
            "name": "replay",
            "model": "yolov5n.yaml",
            "data": data,
            "imgsz": SIZES[0],
            "deploy": {"imgsz": list(SIZES)},
            "batch": 16,
            "dense_epochs": 40,
            "train": {"optimizer": "AdamW", "lr0": 0.001},
            "targets": [{"kind": "onnxruntime", "seconds": 6.0}],
            "space": {
                "sparsity": {"choices": list(SPARSITIES)},
                "sparse_epochs": {"choices": list(SPARSE_EPOCHS)},
                "threshold": {"choices": list(THRESHOLDS)},
                "depth": {"choices": list(DEPTHS)},
                "recovery_epochs": RECOVERY_EPOCHS,
            },
        }
    )
    return prepare_study(open_study(spec), check_study(spec)).context


def train(context: TrialContext, sparsities: tuple[float, ...]) -> None:
    """Carries out all recipes of some sparsities; the longest sparse phase first, for it leaves the shorter ones."""
    for recipe in recipes(sparsities):
        *_, last = context.pipeline.run(recipe)
        print(recipe, f"map50_95 {last.accuracy.map50_95:.3f}", flush=True)


def recipes(sparsities: tuple[float, ...]) -> Iterator[Recipe]:
    """The grid."""
    grid = itertools.product(sparsities, SPARSE_EPOCHS[::-1], THRESHOLDS, SIZES, DEPTHS)
    for sparsity, epochs, threshold, imgsz, depth in grid:
        yield Recipe(
            sparsity, epochs, Threshold.everywhere(threshold), 1, RECOVERY_EPOCHS, depth=depth or None, imgsz=imgsz
        )


def measured_table(context: TrialContext) -> dict[str, Any]:
    """Everything a replay needs, read back from the store; latencies are measured now where they were not before."""
    rows, curves, networks = [], {}, {}
    precision = context.shipping.deployment.precision
    sparse_s: list[float] = []
    for recipe in recipes(SPARSITIES):
        pruned, recovered = context.pipeline.run(recipe)
        assert isinstance(pruned, Pruned)
        assert isinstance(recovered, Recovered)
        assert isinstance(recipe.imgsz, int)
        network = f"{pruned.plan.channels.digest()}@{recipe.imgsz}"
        if network not in networks:
            detector, deployment = pruned.load(), Deployment(recipe.imgsz, precision)
            networks[network] = {
                "latency": round(context.meter.measure(detector, deployment)[context.spec.targets[0].name].ratio, 5),
                "gflops": round(detector.gflops(recipe.imgsz), 5),
                "params": detector.params,
            }
        if recovered.stage.digest not in curves:
            history = read_history(recovered.stage)
            curves[recovered.stage.digest] = {
                "network": network,
                "recalibrated": round(pruned.accuracy.map50_95, 5),
                "recovery": [round(map50_95, 5) for map50_95 in recovered.curve],
                "further": further(context, recovered.load(), recipe.imgsz),
                "epoch_s": round(statistics.median(epoch.train_s + epoch.validate_s for epoch in history), 3),
            }
        sparse = context.store.find(pruned.stage.parent)
        assert sparse is not None
        sparse_s += [epoch.train_s for epoch in read_history(sparse)]
        assert isinstance(recipe.threshold, Threshold)
        key = (recipe.sparsity, recipe.sparse_epochs, recipe.threshold.backbone, recipe.imgsz, recipe.depth or 0)
        rows.append([*key, recovered.stage.digest])
    original = context.pipeline.original()
    assert original.accuracy is not None
    dense = Detector.load(original.file(CHECKPOINT))
    short = {name: index for index, name in enumerate(curves)}
    return {
        "command": "benchmarks/replay/record.py",
        "date": datetime.date.today().isoformat(),
        "machine": f"{cpu_model()}, {platform.platform()}",
        "versions": {name: version(name) for name in ("torch", "ultralytics", "onnxruntime")},
        "images": {"train": context.stages.loaders.steps_per_epoch * context.spec.batch},
        "spec": context.spec.model_dump(mode="json", exclude={"runs", "data", "targets"}),
        "dense": {
            "map50_95": original.accuracy.map50_95,
            "latency": round(context.meter.measure(dense)[context.spec.targets[0].name].ratio, 5),
        },
        "sparse_epoch_s": round(statistics.median(sparse_s), 3),
        "networks": networks,
        "candidates": list(curves.values()),
        "recipes": [[*key, short[digest]] for *key, digest in rows],
    }


def further(context: TrialContext, detector: Detector, imgsz: int) -> list[list[float]]:
    """map50_95 and latency of a recovered network at each smaller size."""
    found = []
    for size in SIZES[SIZES.index(imgsz) + 1 :]:
        deployment = Deployment(size, context.shipping.deployment.precision)
        accuracy = context.shipping.evaluate(detector, deployment).map50_95
        latency = context.meter.measure(detector, deployment)[context.spec.targets[0].name].ratio
        found.append([round(accuracy, 5), round(latency, 5)])
    return found


if __name__ == "__main__":
    main()
