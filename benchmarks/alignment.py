"""Does alignment pay: one detector cut at three thresholds, with and without it, all interleaved in one measurement.

The gammas are drawn from a fixed random generator and nothing is trained: latency depends on the channels alone.
First `align-probe`'s own measurement says what this device prefers. Then every threshold gives three networks: as the
threshold leaves them (alignment 1), aligned to 8, and aligned as the probe says. The last line is JSON:
`speedup_min` (latency unaligned over aligned to 8, the smallest of the thresholds), `speedup_min_probe` (the same for
the probe's alignment) and `probe` (that alignment).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from itertools import product
from pathlib import Path

import torch
from common.figures import close

from prunetune.pruning import Detector, plan_pruning
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.yolo.detector import read_description, scaled_width
from prunetune.search.commands.align_probe import SECONDS, TOLERANCE
from prunetune.spaces import Alignment, Threshold
from prunetune.targets import Latency, Network, OnnxRuntimeSpec, create_target, probe_alignment

FIGURES = ("speedup_min", "speedup_min_probe", "probe")

THRESHOLDS = (0.3, 0.5, 0.7)
UNALIGNED, EIGHT = Alignment.everywhere(1), Alignment.everywhere(8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="YOLOv5n at 160 px instead of YOLOv5s at 320 px")
    model, imgsz = ("yolov5n.yaml", 160) if parser.parse_args().quick else ("yolov5s.yaml", 320)
    logging.getLogger("prunetune").setLevel(logging.ERROR)  # the table says how exactly each ratio is known
    probe = probe_alignment(create_target(OnnxRuntimeSpec(tolerance=TOLERANCE, seconds=SECONDS)), imgsz)
    alignments = list(dict.fromkeys((UNALIGNED, EIGHT, probe.alignment)))

    dense = with_random_gammas(model)
    detectors = {
        "half-width": Detector.build(scaled_width(read_description(model), 0.5)),
        "dense": dense,
        **{label(t, alignment): cut(dense, t, alignment) for t in THRESHOLDS for alignment in alignments},
    }
    with tempfile.TemporaryDirectory(prefix="prunetune-alignment-") as folder:
        networks = [export(detector, name, Path(folder), imgsz) for name, detector in detectors.items()]
        target = create_target(OnnxRuntimeSpec(seconds=120.0))
        measured = target.measure(networks, reference="half-width")

    print(f"{model} at {imgsz} px, {target.fingerprint()['device']}, {target.fingerprint()['runtime']}, one thread")
    print(f"{'network':<36}{'GFLOPs':>8}{'x half-width':>14}   unaligned over aligned, 95 % interval")
    speedups: dict[Alignment, list[float]] = {alignment: [] for alignment in alignments}
    for name, detector in detectors.items():
        line = f"{name:<36}{detector.gflops(imgsz):>8.3f}{measured[name].ratio:>14.3f}"
        for threshold, alignment in product(THRESHOLDS, alignments[1:]):
            if name == label(threshold, alignment):
                plain = measured[label(threshold, UNALIGNED)]
                faster = Latency.from_samples(plain.samples_ms, measured[name].samples_ms)
                speedups[alignment].append(faster.ratio)
                line += f"   {faster.ratio:.3f}, {faster.ratio_low:.3f} to {faster.ratio_high:.3f}"
        print(line)
    print(f"{measured['dense'].runs} rounds")
    for role, curve in probe.alignment_curves.items():
        costs = ", ".join(f"{cost.multiple}: {cost.cost:.2f}" for cost in curve.costs)
        print(f"cost of rounding {role} up to {costs}; preferred {curve.multiple}")
    found = {
        "speedup_min": round(min(speedups[EIGHT]), 4),
        "speedup_min_probe": round(min(speedups[probe.alignment], default=1.0), 4),
        "probe": probe.alignment.as_json(),
    }
    close(FIGURES, found)


def with_random_gammas(model: str) -> Detector:
    """The detector with gammas drawn evenly from 0 to 1, by a fixed seed."""
    detector = Detector.load(model)
    generator = torch.Generator().manual_seed(0)
    for module in detector.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator)
    return detector


def cut(dense: Detector, threshold: float, alignment: Alignment) -> Detector:
    """The detector after surgery."""
    groups = channel_groups(dense.model)
    plan = plan_pruning(dense.model, Threshold.everywhere(threshold), alignment, groups=groups)
    return Detector(apply_plan(dense.model, plan, groups=groups), dense.source)


def label(threshold: float, alignment: Alignment) -> str:
    """What tables call a network."""
    return f"threshold {threshold}, " + ("unaligned" if alignment == UNALIGNED else f"aligned to {alignment}")


def export(detector: Detector, name: str, folder: Path, imgsz: int) -> Network:
    """The network as a target wants it."""
    file = folder / f"{name.replace(' ', '-')}.onnx"
    detector.export_onnx(file, imgsz)
    return Network(name, (1, 3, imgsz, imgsz), onnx=file)


if __name__ == "__main__":
    main()
