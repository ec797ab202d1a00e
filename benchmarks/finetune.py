"""What training costs a detector that has converged, and how much of it a pruned one gets back.

A YOLOv5n is trained on drawn shapes, 24 classes of shape and colour, until it has converged. Then a study is made of
its checkpoint as people do: a few of the images, few epochs, a budget of half of dense's latency, a factor on the
recoveries' learning rate that is searched. The same study with `lr0: 0.001` stands beside it. With `--model` and
`--data` a checkpoint of yours is taken.

The last line is JSON: `given` (map50_95 of the checkpoint), and for the rate by rule and for 0.001 `dense_kept`
(map50_95 after the first epoch of training on, over the checkpoint's), `dense` (the best epoch, over the checkpoint's),
`recovered_share` (the pruned network over dense, at a factor of 1), `by_factor` (the same for each factor) and `gflops`
(the pruned network over dense: on a busy machine another one may have half of dense's latency).
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from common.figures import close
from PIL import Image, ImageDraw

from prunetune.pruning import Pipeline, Source, StageRunner, StageStore, TrainingSetup
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.results.findings.findings import Findings
from prunetune.search import StudyCallback
from prunetune.search.callbacks.events import EpochEnded
from prunetune.search.runner import run_study
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Recipe

FIGURES = ("given", "dense_kept", "dense", "recovered_share", "by_factor", "gflops")

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 80, 230),
    "yellow": (230, 220, 50),
    "pink": (220, 60, 220),
    "cyan": (60, 220, 220),
}
CORNERS = {"triangle": 3, "square": 4, "hexagon": 6, "disc": 40}
CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in CORNERS]
FACTORS = (0.3, 1.0, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly any training: shows that it runs, and no more")
    parser.add_argument("--model", help="a checkpoint, with --data; without it one is trained")
    parser.add_argument("--data", help="its data set's yaml")
    parser.add_argument("--imgsz", type=int, default=96)
    parser.add_argument("--images", type=int, default=160, help="that the study trains on, where they are drawn")
    parser.add_argument("--epochs", type=int, default=50, help="that the checkpoint is trained for")
    parser.add_argument("--sparse-epochs", type=int, default=2)
    parser.add_argument("--recover", type=int, default=6, help="epochs")
    options = parser.parse_args()
    if bool(options.model) != bool(options.data):
        parser.error("--model and --data belong together")
    if options.quick:
        options.images, options.epochs, options.recover = 48, 12, 2
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="prunetune-finetune-") as name:
        folder = Path(name)
        if not options.model:
            many = draw(folder / "many", 240 if options.quick else 800, options.imgsz, seed=0)
            options.model = train(many, options, folder)
            options.data = draw(folder / "few", options.images, options.imgsz, seed=1)
        found = {rate: study(options, folder, rate) for rate in ("rule", "0.001")}
    given = found["rule"].pop("given")
    found["0.001"].pop("given")
    print(f"the checkpoint as given: map50_95 {given:.3f}")
    for rate, figures in found.items():
        factors = ", ".join(f"x {factor:g}: {share:.3f}" for factor, share in figures["by_factor"].items())
        print(
            f"lr0 {rate:<6} after one epoch {figures['dense_kept']:.3f} of it, at best {figures['dense']:.3f}; "
            f"pruned and recovered, over dense: {factors}"
        )
    rows = {name: {rate: figures[name] for rate, figures in found.items()} for name in found["rule"]}
    close(FIGURES, {"given": given, **rows})


def draw(folder: Path, images: int, imgsz: int, seed: int) -> str:
    """Draws polygons on noise, as an ultralytics data set; returns its yaml. Validation images are always the same."""
    for split, count, start in (("train", images, seed), ("val", 160, 1000)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        rng = random.Random(start)
        for number in range(count):
            picture, rows = scene(rng, imgsz)
            picture.save(folder / "images" / split / f"{number:04d}.png")
            (folder / "labels" / split / f"{number:04d}.txt").write_text("\n".join(rows))
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
    return str(folder / "data.yaml")


def scene(rng: random.Random, imgsz: int) -> tuple[Image.Image, list[str]]:
    """A picture, and its labels."""
    noise = np.random.default_rng(rng.getrandbits(32))
    coarse = np.clip(rng.randint(40, 130) + 30 * noise.standard_normal((imgsz // 8, imgsz // 8, 3)), 0, 255)
    picture = Image.fromarray(coarse.astype(np.uint8)).resize((imgsz, imgsz), Image.Resampling.BILINEAR)
    drawer, rows = ImageDraw.Draw(picture), []
    for _ in range(rng.randint(2, 5)):
        kind = rng.randrange(len(CLASSES))
        colour, shape = CLASSES[kind].split()
        corners = CORNERS[shape]
        radius, turn = rng.uniform(0.09, 0.19) * imgsz, rng.uniform(0, 2 * math.pi)
        x, y = (rng.uniform(radius, imgsz - radius) for _ in "xy")
        angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
        outline = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
        drawer.polygon(outline, fill=tuple(shade + rng.randint(-25, 25) for shade in COLOURS[colour]))
        spans = [(min(values), max(values)) for values in zip(*outline, strict=True)]
        centre, size = ([rate * (low + sign * high) for low, high in spans] for sign, rate in ((1, 0.5), (-1, -1)))
        rows.append(f"{kind} " + " ".join(f"{value / imgsz:.6f}" for value in (*centre, *size)))
    pixels = np.asarray(picture) + 12 * noise.standard_normal((imgsz, imgsz, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), rows


def train(data: str, options: argparse.Namespace, folder: Path) -> str:
    """Trains a YOLOv5n until it has converged; returns its checkpoint."""
    dataset = inspect_dataset(data)
    hyperparameters = {"lr0": 0.003, "mosaic": 0.5}
    setup = TrainingSetup(data, dataset.fingerprint, options.imgsz, batch=32, hyperparameters=hyperparameters)
    source = Source("yolov5n.yaml", dataset.names, options.epochs)
    stages = StageRunner(setup, StageStore(folder / "store"))
    original = Pipeline(source, stages, alignment=8, longest_sparse_epochs=1).original()
    return str(original.file(CHECKPOINT))


def study(options: argparse.Namespace, folder: Path, rate: str) -> dict[str, Any]:
    """The figures of a study that trains at a rate."""
    spec = StudySpec.parse(
        {
            "name": rate,
            "runs": str(folder / rate),
            "model": options.model,
            "trust": True,
            "data": options.data,
            "imgsz": options.imgsz,
            "dense_epochs": options.epochs,
            "train": {} if rate == "rule" else {"lr0": float(rate)},
            "space": {
                "sparsity": 0.4,
                "sparse_epochs": options.sparse_epochs,
                "latency": 0.97,
                "recovery_epochs": options.recover,
                "recovery_lr": {"choices": list(FACTORS)},
            },
            "budget": {"latency": "<= 0.5 x dense"},
            "sampler": "random",
            "early_stopping": False,
            "controls": ["dense"],
            "trials": len(FACTORS),
        }
    )
    asked = open_study(spec)
    for factor in FACTORS:
        asked.enqueue_trial({"recovery_lr": factor})
    heard = FirstEpoch()
    done = run_study(spec, callbacks=[heard])
    findings = Findings.of(done)
    dense = findings.study.baselines["dense"]
    given, now = dense.map50_95_given or 0.0, dense.map50_95_trained_on or 0.0
    recovered = [network for network in findings.networks.values() if network.result.recovered]
    shares = {
        network.recipe.recovery_lr: over(network.map50_95, now)
        for network in recovered
        if isinstance(network.recipe, Recipe)
    }
    gflops = min((network.figures.gflops for network in recovered), default=0.0)
    return {
        "given": given,
        "dense_kept": over(heard.map50_95, given),
        "dense": over(now, given),
        "recovered_share": shares.get(1.0),
        "by_factor": dict(sorted(shares.items())),
        "gflops": over(gflops, dense.network.figures.gflops),
    }


def over(value: float, whole: float) -> float:
    """A share; 0 of nothing."""
    return round(value / whole, 4) if whole else 0.0


class FirstEpoch(StudyCallback):
    """Hears how accurate the dense detector is after one epoch of training on."""

    map50_95 = 0.0

    def epoch_ended(self, event: EpochEnded) -> None:
        if event.stage == "control" and event.record.epoch == 1 and event.record.accuracy is not None:
            self.map50_95 = event.record.accuracy.map50_95


if __name__ == "__main__":
    main()
