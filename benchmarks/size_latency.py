"""How well a network's latency at a smaller input is predicted from what is known of it at the study's.

YOLOv5n in a study at 160 px: random networks are measured at 128, 96 and 64 px with ONNX Runtime, one thread, against
half-width at 160 px, and predicted by the straight line through what dense and half-width take there: over a latency
table of 160 px, and without one over multiply-adds. The last line is JSON: `table` and `multiply_adds`, mean and
largest error of each by size.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from common.figures import close
from latency_noise import IMGSZ, random_network

from prunetune.pruning.pipeline import Source
from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.commands.profile import PACE
from prunetune.search.latency.meter import LatencyMeter, measure_references
from prunetune.search.latency.network_files import NetworkExporter
from prunetune.search.latency.shares import predicted_ratios
from prunetune.search.latency.study_target import StudyTarget
from prunetune.spaces import Deployment
from prunetune.targets import create_target, parse_target_spec, profile

FIGURES = ("table", "multiply_adds")

SIZES = (128, 96, 64)
NAMES = ("dense", "half-width")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 networks at 96 px instead of 30 at each size")
    quick = parser.parse_args().quick
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    sizes, count = ((96,), 6) if quick else (SIZES, 30)
    found: dict[str, dict[str, list[float]]] = {"table": {}, "multiply_adds": {}}
    with tempfile.TemporaryDirectory(prefix="prunetune-sizes-") as name:
        meter, tabled = meters(Path(name))
        networks = [random_network(seed) for seed in range(1000, 1000 + count)]
        for size in sizes:
            for network in networks:
                channels, deployment = network.channels, Deployment(size)
                latency = meter.measure_channels(channels, network.copy, meter.targets, deployment)["cpu"]
                for kind, one in (("multiply_adds", meter), ("table", tabled)):
                    ratios = predicted_ratios(one, one.targets[0], [channels], deployment)
                    assert ratios is not None
                    found[kind].setdefault(str(size), []).append(abs(float(ratios[0]) / latency.ratio - 1))
            told = ", ".join(f"{kind} {statistics.fmean(errors[str(size)]):.2%}" for kind, errors in found.items())
            print(f"{size} px: mean error by {told}")
    rounded = {
        kind: {size: [round(statistics.fmean(errors), 4), round(max(errors), 4)] for size, errors in by_size.items()}
        for kind, by_size in found.items()
    }
    close(FIGURES, rounded)


def meters(folder: Path) -> tuple[LatencyMeter, LatencyMeter]:
    """A study's meter without a latency table, and one with it. They share what is measured."""
    source = Source("yolov5n.yaml", Detector.load("yolov5n.yaml").names, dense_epochs=1)
    references = {name: source.reference(name) for name in NAMES}
    exporter = NetworkExporter(folder, references, Deployment(IMGSZ), CostMeter())
    plain = StudyTarget.create(parse_target_spec({"kind": "onnxruntime"}), "<= half-width", NAMES, is_objective=True)
    plain = measure_references(plain, exporter)
    dense = exporter.reference("dense", plain).onnx
    assert dense is not None
    table = profile(create_target(parse_target_spec({**PACE, "kind": "onnxruntime"})), dense)
    return LatencyMeter((plain,), exporter), LatencyMeter((replace(plain, table=table),), exporter)


if __name__ == "__main__":
    main()
