"""How repeatable a measured latency is, beside nothing and beside a process that keeps a core busy.

A pruned YOLOv5n at 160 px is measured against half-width 20 times, every second time with the other process, and 30
random networks are ranked by one measurement and by one ten times as long. The last line is JSON: `cv` and
`cv_loaded` (coefficients of variation of the ratio), `seconds` (longest measurement), `kendall_tau`.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from common.figures import close
from scipy.stats import kendalltau

from prunetune.pruning import Detector, plan_pruning
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.yolo.detector import read_description, scaled_width
from prunetune.spaces import Threshold
from prunetune.targets import Network, OnnxRuntimeSpec, create_target

FIGURES = ("cv", "cv_loaded", "seconds", "kendall_tau")

IMGSZ = 160
SPEC = OnnxRuntimeSpec(seconds=2.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 measurements, 10 networks")
    quick = parser.parse_args().quick
    logging.getLogger("prunetune").setLevel(logging.ERROR)  # the long measurements ask for more than there is
    with tempfile.TemporaryDirectory(prefix="prunetune-noise-") as name:
        folder = Path(name)
        reference = export(Detector.build(scaled_width(read_description("yolov5n.yaml"), 0.5)), "half-width", folder)
        networks = [export(random_network(seed), f"network-{seed}", folder) for seed in range(10 if quick else 30)]
        ratios, seconds = repeat(reference, networks[0], 10 if quick else 20)
        tau, rank_seconds = rank(reference, networks)
    cv = {loaded: statistics.stdev(values) / statistics.fmean(values) for loaded, values in ratios.items()}
    print(f"{'other process':<16}{'measurements':>14}{'mean ratio':>12}{'cv':>8}   target")
    for loaded, target in ((False, 0.01), (True, 0.03)):
        values = ratios[loaded]
        label = "one busy core" if loaded else "none"
        print(f"{label:<16}{len(values):>14}{statistics.fmean(values):>12.4f}{cv[loaded]:>8.2%}   at most {target:.0%}")
    print(f"longest measurement: {seconds:.2f} s (target: at most 3 s)")
    print(
        f"Kendall's tau over {len(networks)} networks, one measurement against one ten times as long: {tau:.3f} "
        f"(target: at least 0.97); {rank_seconds:.2f} s for each network"
    )
    found = {"cv": cv[False], "cv_loaded": cv[True], "seconds": seconds, "kendall_tau": tau}
    close(FIGURES, {key: round(value, 4) for key, value in found.items()})


def repeat(reference: Network, network: Network, count: int) -> tuple[dict[bool, list[float]], float]:
    """The ratio, measured `count` times, every second time beside a busy core; and the longest measurement in s."""
    ratios: dict[bool, list[float]] = {False: [], True: []}
    longest = 0.0
    for number in range(count):
        loaded = number % 2 == 1
        with busy_core() if loaded else quiet():
            start = time.perf_counter()
            measured = create_target(SPEC).measure([reference, network], reference=reference.name)
            longest = max(longest, time.perf_counter() - start)
        ratios[loaded].append(measured[network.name].ratio)
    return ratios, longest


def rank(reference: Network, networks: list[Network]) -> tuple[float, float]:
    """Kendall's tau between a study's measurements and ten times longer ones; seconds for one of a study's."""
    start = time.perf_counter()
    once = [ratio(SPEC, reference, network) for network in networks]
    each = (time.perf_counter() - start) / len(networks)
    long = SPEC.model_copy(update={"runs": 10**6, "seconds": 10 * each, "tolerance": 1e-9})
    exact = [ratio(long, reference, network) for network in networks]
    return float(kendalltau(once, exact).statistic), each


def ratio(spec: OnnxRuntimeSpec, reference: Network, network: Network) -> float:
    """One measurement."""
    return create_target(spec).measure([reference, network], reference=reference.name)[network.name].ratio


def random_network(seed: int) -> Detector:
    """YOLOv5n pruned by random gammas at a random threshold for each region, aligned to 8."""
    chance = random.Random(seed)
    detector = Detector.load("yolov5n.yaml")
    generator = torch.Generator().manual_seed(seed)
    for module in detector.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator)
    threshold = Threshold(chance.uniform(0.1, 0.8), chance.uniform(0.1, 0.8))
    return Detector(apply_plan(detector.model, plan_pruning(detector.model, threshold, 8)), detector.source)


def export(detector: Detector, name: str, folder: Path) -> Network:
    """The network as a target wants it."""
    file = folder / f"{name}.onnx"
    detector.export_onnx(file, IMGSZ)
    return Network(name, (1, 3, IMGSZ, IMGSZ), onnx=file)


@contextmanager
def busy_core() -> Iterator[None]:
    """Keeps one core busy with floating-point work on an array that fills a cache."""
    code = "import numpy\nvalues = numpy.random.rand(512, 512)\nprint(flush=True)\nwhile True: values @ values"
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@contextmanager
def quiet() -> Iterator[None]:
    """Does nothing."""
    yield


if __name__ == "__main__":
    main()
