"""What a GPU makes of pruned networks: YOLOv5s at 640 px by every runtime that is installed for it.

Dense, half-width and quarter-width, and one detector cut at three thresholds, aligned to 8 and not. The gammas are
drawn from a fixed random generator and nothing is trained: latency depends on the channels alone. All networks of a
runtime are measured in one go. Without a GPU it says so and ends. The last line is JSON: `latency_ms` by runtime and
network, `speedup` (unaligned over aligned) by runtime and threshold, and `skipped` with a reason for each runtime.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from alignment import EIGHT, THRESHOLDS, UNALIGNED, cut, export, label, with_random_gammas
from common.figures import close

from prunetune.pruning import Detector
from prunetune.pruning.yolo.detector import read_description, scaled_width
from prunetune.spaces import PrunetuneError
from prunetune.targets import Latency, create_target, parse_target_spec

FIGURES = ("latency_ms", "speedup", "skipped")

RUNTIMES: list[dict[str, Any]] = [
    {"kind": "torch", "precision": "fp32"},
    {"kind": "torch", "precision": "fp16", "channels_last": True},
    {"kind": "torch", "precision": "fp16", "cuda_graph": False},
    {"kind": "onnxruntime", "provider": "cuda"},
    {"kind": "onnxruntime", "provider": "tensorrt", "precision": "fp16"},
    {"kind": "tensorrt", "precision": "fp16"},
    {"kind": "tensorrt", "precision": "int8"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="YOLOv5n at 320 px")
    model, imgsz = ("yolov5n.yaml", 320) if parser.parse_args().quick else ("yolov5s.yaml", 640)
    logging.getLogger("prunetune").setLevel(logging.ERROR)  # the table says how exactly each ratio is known
    found: dict[str, Any] = {"latency_ms": {}, "speedup": {}, "skipped": {}}
    if not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} sees none, and nothing is measured")
        found["skipped"] = dict.fromkeys(map(title, RUNTIMES), "no GPU")
        close(FIGURES, found)
        return
    dense = with_random_gammas(model)
    detectors = {
        "half-width": Detector.build(scaled_width(read_description(model), 0.5)),
        "quarter-width": Detector.build(scaled_width(read_description(model), 0.25)),
        "dense": dense,
        **{label(t, alignment): cut(dense, t, alignment) for t in THRESHOLDS for alignment in (UNALIGNED, EIGHT)},
    }
    print(f"{model} at {imgsz} px, {torch.cuda.get_device_name()}")
    with tempfile.TemporaryDirectory(prefix="prunetune-gpu-") as folder:
        networks = [
            replace(export(detector, name, Path(folder), imgsz), module=detector.model)
            for name, detector in detectors.items()
        ]
        for runtime in RUNTIMES:
            name = title(runtime)
            try:
                target = create_target(parse_target_spec({"device": "cuda", "seconds": 60.0, **runtime}))
                measured = target.measure(networks, reference="half-width")
            except PrunetuneError as error:
                found["skipped"][name] = str(error)
                print(f"{name}: not measured: {error}")
                continue
            found["latency_ms"][name] = {key: round(latency.median_ms, 4) for key, latency in measured.items()}
            found["speedup"][name] = show(name, detectors, measured, imgsz)
    close(FIGURES, found)


def show(name: str, detectors: dict[str, Detector], measured: dict[str, Latency], imgsz: int) -> dict[str, float]:
    """Prints a runtime's table; returns how much faster alignment is by threshold."""
    print(f"{name:<36}{'GFLOPs':>8}{'ms':>9}{'x half-width':>14}   unaligned over aligned, 95 % interval")
    speedups = {}
    for network, detector in detectors.items():
        latency = measured[network]
        line = f"{network:<36}{detector.gflops(imgsz):>8.3f}{latency.median_ms:>9.3f}{latency.ratio:>14.3f}"
        for threshold in THRESHOLDS:
            if network == label(threshold, EIGHT):
                plain = measured[label(threshold, UNALIGNED)]
                faster = Latency.from_samples(plain.samples_ms, latency.samples_ms)
                speedups[str(threshold)] = round(faster.ratio, 4)
                line += f"   {faster.ratio:.3f}, {faster.ratio_low:.3f} to {faster.ratio_high:.3f}"
        print(line)
    return speedups


def title(runtime: dict[str, Any]) -> str:
    """What the table calls a runtime."""
    return ", ".join(f"{key} {value}" if key != "kind" else value for key, value in runtime.items())


if __name__ == "__main__":
    main()
