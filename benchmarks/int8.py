"""What int8 costs in accuracy and gives in latency, for a dense, a half-width and a pruned network.

Freshly drawn barcodes at 160 px: all three networks are trained for as many epochs in all, and quantised with the same
training images for each runtime. A runtime's six files are measured in one go, and validated by the runtime itself.
The last line is JSON: `map50_95` and `latency_ms` by runtime and network, `speedup` (latency of fp32 over that of int8
in one measurement) and `vnni` (whether the CPU multiplies int8 without overflow, as fast int8 needs).
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.figures import close

from prunetune.pruning import Detector, Pipeline, Recovered, Source, StageStore, TrainingSetup
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.stages.stage_runner import StageRunner
from prunetune.search.latency.shipping import INT8_IMAGES
from prunetune.spaces import Recipe, Threshold
from prunetune.targets import (
    Latency,
    Network,
    Quantisation,
    create_predictor,
    create_target,
    parse_target_spec,
    quantise,
)
from prunetune.targets.measure import hardware

FIGURES = ("map50_95", "latency_ms", "speedup", "vnni")

ROOT = Path(__file__).resolve().parent.parent
IMGSZ, ALIGNMENT = 160, 16
RUNTIMES = [kind for kind in ("onnxruntime", "openvino") if find_spec(kind)]
PRECISIONS = ("fp32", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly any training, short measurements")
    quick = parser.parse_args().quick
    logging.getLogger("prunetune").setLevel(logging.ERROR)  # the table says how exactly each ratio is known
    with tempfile.TemporaryDirectory(prefix="prunetune-int8-") as name:
        folder = Path(name)
        dense, sparse, recovery, drawn, seconds = (4, 2, 2, 128, 15.0) if quick else (20, 4, 10, 320, 60.0)
        pipeline = open_pipeline(folder, dense, sparse, drawn)
        detectors = dict(train(pipeline, sparse, recovery))
        images = [image[None].numpy() for batch in pipeline.stages.loaders.calibration() for image in batch]
        images = images[:: max(1, len(images) // INT8_IMAGES)]
        vnni = hardware.multiplies_int8()
        print(f"{hardware.cpu_model()}, VNNI or the like: {'yes' if vnni else 'no'}; {len(images)} calibration images")
        heads = f"{'mmAP fp32':>12}{'int8':>8}{'ms fp32':>11}{'int8':>8}"
        print(f"{'runtime':<13}{'network':<12}{'GFLOPs':>8}{heads}   speedup, 95 % interval")
        found: dict[str, Any] = {"map50_95": {}, "latency_ms": {}, "speedup": {}, "vnni": vnni}
        for kind in RUNTIMES:
            spec = parse_target_spec({"kind": kind, "seconds": seconds})  # runs a quantised file as it is
            networks = list(export(detectors, images, kind, folder))
            accuracy = {
                network.name: pipeline.stages.evaluate_predictor(
                    create_predictor(spec, network), pipeline.source.names
                ).map50_95
                for network in networks
            }
            latency = create_target(spec).measure(networks, reference="dense fp32")
            speedups = {}
            for name, detector in detectors.items():
                fp32, int8 = (f"{name} {precision}" for precision in PRECISIONS)
                faster = Latency.from_samples(latency[fp32].samples_ms, latency[int8].samples_ms)
                speedups[name] = round(faster.ratio, 3)
                figures = f"{accuracy[fp32]:>12.3f}{accuracy[int8]:>8.3f}"
                figures += f"{latency[fp32].median_ms:>11.3f}{latency[int8].median_ms:>8.3f}"
                interval = f"{faster.ratio_low:.3f} to {faster.ratio_high:.3f}"
                print(
                    f"{kind:<13}{name:<12}{detector.gflops(IMGSZ):>8.3f}{figures}   {faster.ratio:.3f}, {interval}",
                    flush=True,
                )
            found["map50_95"][kind] = {name: round(value, 4) for name, value in accuracy.items()}
            found["latency_ms"][kind] = {name: round(value.median_ms, 3) for name, value in latency.items()}
            found["speedup"][kind] = speedups
    close(FIGURES, found)


def open_pipeline(folder: Path, dense_epochs: int, sparse_epochs: int, images: int) -> Pipeline:
    """Draws the barcodes, and makes the pipeline that trains on them."""
    generate = [sys.executable, str(ROOT / "examples/barcodes/generate.py"), "--out", str(folder / "data")]
    sizes = ["--train", str(images), "--val", "96", "--test", "0", "--imgsz", str(IMGSZ)]
    subprocess.run([*generate, *sizes], check=True, stdout=subprocess.DEVNULL)
    dataset = inspect_dataset(folder / "data/data.yaml")
    setup = TrainingSetup(str(dataset.file), dataset.fingerprint, imgsz=IMGSZ)
    source = Source("yolov5n.yaml", dataset.names, dense_epochs)
    stages = StageRunner(setup, StageStore(folder / "stages"))
    return Pipeline(source, stages, alignment=ALIGNMENT, longest_sparse_epochs=sparse_epochs)


def train(pipeline: Pipeline, sparse: int, recovery: int) -> Iterator[tuple[str, Detector]]:
    """The dense, the half-width and a pruned network by name, each after the same number of epochs."""
    for name in ("dense", "half-width"):
        yield name, Detector.load(pipeline.control(name, sparse + recovery).file(CHECKPOINT))
    recipe = Recipe(0.566, sparse, Threshold.everywhere(0.52), recovery_epochs=recovery)
    *_, candidate = pipeline.run(recipe)
    assert isinstance(candidate, Recovered)
    yield "pruned", candidate.load()


def export(detectors: dict[str, Detector], images: list[Any], kind: str, folder: Path) -> Iterator[Network]:
    """Each network in fp32, and in int8 as suits the runtime."""
    how = Quantisation.of(parse_target_spec({"kind": kind}))
    for name, detector in detectors.items():
        files = {precision: folder / f"{name}-{kind}-{precision}.onnx" for precision in PRECISIONS}
        detector.export_onnx(files["fp32"], IMGSZ)
        quantise(files["fp32"], files["int8"], images, how)
        for precision, file in files.items():
            yield Network(f"{name} {precision}", (1, 3, IMGSZ, IMGSZ), onnx=file)


if __name__ == "__main__":
    main()
