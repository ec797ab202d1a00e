"""What pruning and recovery keep of a detector's accuracy, beside half-width, dense and Torch-Pruning's own pruners.

    python benchmarks/recovery.py DATA.yaml --imgsz 160 --epochs 30 24 --seeds 0 1 2 --runs FOLDER [--quick]

All networks are trained for as many epochs in all: the dense one for the first number, and then everything for the
second, sparse phases included. Every pruned network is cut to a share of half-width's measured latency (onnxruntime,
one thread, channels in multiples of 8). FOLDER keeps what was trained: the same command goes on with it, and seeds may
run beside each other. `--quick` is two epochs of each of the parts `main` and `rivals`, on one seed, at 96 px, and
draws barcodes where no data are given. The last line is JSON. Over the seeds, mean and the smallest and largest value
of:

- `gap_closed`: (ours - half-width) / (dense - half-width) of map50_95 at half-width's latency, at 0.85 and 0.6 of it:
  `widths` alone; with `size`, the best of the input sizes; with `depth`, four residual blocks less; with `int8` too.
  The best is chosen on the validation split, which flatters it; `test` has what the same network does there.
  `gain_over_half_width`, in map50_95; `share_of_dense`.
- `hypervolume_ratio`: the area under the front of ours and of what there is without pruning, over that of the latter,
  from latency 0 to half-width's and from map50_95 0 on.
- `curve`: the best that there is without pruning at these latencies: dense and half-width at every size as they are,
  and dense trained on there for as many epochs as a recovery has.
- `networks`: map50_95 and latency of each, on the validation and the test split: `chosen`, `chosen at 0.85`,
  `chosen at 128 px`; the rivals `global bn`, `group norm`, `uniform` and `global taylor` of Torch-Pruning, pruned once
  from the dense network; the ablation, one thing changed at a time at half-width's latency; and the starts of recovery
  at two latencies, where `scratch-b` trains from new weights for as many epochs as dense and pruned network together.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import optuna
import torch
import torch_pruning
from common.barcodes import draw
from common.figures import close, skipped, spread
from rich.console import Console

from prunetune.pruning.pipeline import Pipeline, Recovered, Source
from prunetune.pruning.stages.stage import Stage
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.training.values import recovery_phase
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.engine import prepare
from prunetune.search.latency.shares import BudgetShares
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Deployment, ImageSize, LatencyShare, Recipe, Threshold

FIGURES = ("gap_closed", "hypervolume_ratio", "gain_over_half_width", "share_of_dense", "curve", "test", "networks")

PARTS = ("main", "sizes", "depth", "rivals", "ablation", "starts")
QUICK = ("main", "rivals")
DEPTH = 4
"""Residual blocks that go where depth is tried."""
SHARES = {1.0: 1.0, 0.85: 0.5, 0.6: 0.5}
"""Of half-width's latency, with the thresholds of neck and head there in multiples of the backbone's."""
TIGHTEST = 0.7
"""Where starts of recovery are compared, beside half-width's latency."""


class Race:
    """All networks of one seed.

    Args:
        options: The command's.
        seed: Of data order, augmentation and first weights.
    """

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        first, self.epochs = options.epochs
        self._all_epochs = first + self.epochs
        self._sparse_epochs = max(1, self.epochs // 4)
        spec = StudySpec.parse(
            {
                "name": f"recovery-{seed}",
                "model": options.model,
                "data": options.data,
                "imgsz": options.imgsz,
                "batch": options.batch,
                "dense_epochs": first,
                "seed": seed,
                "space": {
                    "sparsity": options.pull,
                    "sparse_epochs": {"choices": sorted({1, self._sparse_epochs})},
                    "latency": {"low": 0.5, "high": 1.0},
                    "recovery_epochs": self.epochs,
                },
                "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8}],
                "budget": {"latency": "<= half-width"},
                "controls": ["dense", "half-width"],
                **({"deploy": {"imgsz": options.sizes}} if options.sizes else {}),
                "runs": options.runs,
            }
        )
        self.study, self.context = prepare(spec, Progress(Console(file=sys.stderr, width=160), 0))
        self._pull, self._distillation, self._lr = options.pull, options.distillation, options.recovery_lr

    def recipe(self, latency: float = 1.0, sparse_epochs: int = 1, balance: float = 1.0, **options: Any) -> Recipe:
        """The recipe that was chosen, or a change of it, that trains for as many epochs as all others."""
        chosen: dict[str, Any] = {
            "distillation": self._distillation,
            "importance": "taylor",
            "recovery_lr": self._lr,
        }
        rounds = options.pop("rounds", 1)
        return Recipe(
            sparsity=self._pull,
            sparse_epochs=sparse_epochs,
            threshold=LatencyShare(latency, balance),
            rounds=rounds,
            recovery_epochs=self.epochs // rounds - sparse_epochs,
            **{**chosen, **options},
        )

    def dense_at(self, imgsz: ImageSize) -> Recipe:
        """Removes nothing, and trains on at an input size for as many epochs as all others."""
        nothing = Threshold.everywhere(0.0)
        return Recipe(0.0, 0, nothing, recovery_epochs=self.epochs, imgsz=imgsz, recovery_lr=self._lr)

    def by_gammas(self, **options: Any) -> Recipe:
        """Network slimming: gammas are pulled for a quarter of the epochs, and are what channels are judged by."""
        return self.recipe(sparse_epochs=self._sparse_epochs, importance="gamma", **options)

    def networks(self, parts: list[str]) -> Iterator[tuple[str, Callable[[], StoredStage]]]:
        """What is to be compared, and how each is made."""
        pipeline = self.context.pipeline
        yield "dense", lambda: pipeline.control("dense", self.epochs)
        yield "half-width", lambda: pipeline.control("half-width", self.epochs)
        sizes = [size for size in self.context.sizes if size != self.context.spec.imgsz] if "sizes" in parts else []
        for (share, balance), size, depth in product(
            SHARES.items(), (None, *sizes), (None, DEPTH) if "depth" in parts else (None,)
        ):
            if size is not None and self.dense_share(size) <= share:
                continue  # there is nothing to prune
            recipe = self.recipe(share, balance=balance, imgsz=size, depth=depth)
            yield name_at(share, size, depth), lambda recipe=recipe: self.pruned(recipe)  # type: ignore[misc]
        for size in sizes:
            yield f"dense trained on at {size} px", lambda size=size: self.pruned(self.dense_at(size))  # type: ignore[misc]
        if "rivals" in parts:
            for name in RIVALS:
                yield name, lambda name=name: self.rival(name)  # type: ignore[misc]
        if "ablation" in parts:
            yield "without distillation", lambda: self.pruned(self.recipe(distillation=0.0))
            yield "with a second round", lambda: self.pruned(self.recipe(rounds=2))
            yield "without alignment", lambda: self.pruned(self.recipe(), self._unaligned())
            yield "by gammas", lambda: self.pruned(self.by_gammas())
            yield "by gammas, subgradient", lambda: self.pruned(self.by_gammas(shrinkage="subgradient"))
        if "starts" in parts:
            for latency in (1.0, TIGHTEST):
                for start in ("current", "rewind", "scratch"):
                    recipe = self.recipe(latency, start=start)
                    yield f"start {start} at {latency}", lambda recipe=recipe: self.pruned(recipe)  # type: ignore[misc]
                whole = replace(self.recipe(latency, start="scratch"), recovery_epochs=self._all_epochs - 1)
                yield f"scratch-b at {latency}", lambda recipe=whole: self.pruned(recipe)  # type: ignore[misc]

    def pruned(self, recipe: Recipe, pipeline: Pipeline | None = None) -> StoredStage:
        """A recipe's network."""
        *_, last = (pipeline or self.context.pipeline).run(recipe)
        assert isinstance(last, Recovered)
        return last.stage

    def _unaligned(self) -> Pipeline:
        spec, ours = self.context.spec, self.context.pipeline
        return Pipeline(
            Source(spec.model, ours.source.names, spec.dense_epochs),
            self.context.stages,
            alignment=1,
            longest_sparse_epochs=spec.space.longest_sparse_epochs,
            choose=spec.choose,
            latencies=BudgetShares(self.context.meter),
        )

    def rival(self, name: str) -> StoredStage:
        """One of Torch-Pruning's pruners, once, at half-width's latency, and then as many epochs."""
        stages, original = self.context.stages, self.context.pipeline.original()
        detector = stages.load(original)
        if name == "global taylor":
            self._take_gradients(detector)
        ratio, pruned = self._meets(detector, name)

        def build() -> Detector:
            stages.recalibrate(pruned)
            return pruned

        settings = {"rival": name, "ratio": ratio, "setup": stages.setup.identity()}
        cut = stages.make(Stage("pruning", original.digest, settings), build).stage
        return stages.train("recovery", cut, recovery_phase(self.epochs, self.context.spec.choose, self._lr)).stage

    def _take_gradients(self, detector: Detector) -> None:
        """Gives its weights the gradients of the loss on the images that Taylor scores of ours see, too."""
        probe = deepcopy(detector.model).eval()
        for parameter in probe.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        for loss in self.context.stages.losses(probe):
            loss.backward()  # type: ignore[no-untyped-call]
        for parameter, known in zip(detector.model.parameters(), probe.parameters(), strict=True):
            parameter.grad = known.grad

    def _meets(self, detector: Detector, name: str) -> tuple[float, Detector]:
        """The smallest ratio, by halving, whose network is within half-width's latency."""
        low, high = 0.0, 0.95
        found = self._cut(detector, name, high)
        for _ in range(7):
            middle = (low + high) / 2
            tried = self._cut(detector, name, middle)
            if self.share(tried.channels, tried) <= 1:
                high, found = middle, tried
            else:
                low = middle
        return high, found

    def _cut(self, detector: Detector, name: str, ratio: float) -> Detector:
        model = deepcopy(detector.model).eval()
        for own, known in zip(model.parameters(), detector.model.parameters(), strict=True):
            own.grad = known.grad
        image = torch.zeros(1, 3, self.context.spec.imgsz, self.context.spec.imgsz)
        importance, is_global = RIVALS[name]
        pruner = torch_pruning.pruner.BasePruner(
            model,
            image,
            importance=importance(),
            global_pruning=is_global,
            pruning_ratio=ratio,
            max_pruning_ratio=1.0 if not is_global else 0.95,
            round_to=8,
            ignored_layers=[model.model[-1]],
        )
        pruner.step()
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return Detector(model, detector.source)

    def share(self, channels: ChannelConfig, detector: Detector, deployment: Deployment | None = None) -> float:
        """A network's latency in multiples of half-width's at the study's own deployment."""
        targets = self.context.meter.targets
        measured = self.context.meter.measure_channels(channels, lambda: detector, targets, deployment)
        return next(iter(measured.values())).ratio

    def dense_share(self, imgsz: ImageSize) -> float:
        """The dense network's latency at an input size, in multiples of half-width's at the study's own."""
        meter, own = self.context.meter, self.context.shipping.deployment
        return meter.reference_ratios(meter.targets[0], replace(own, imgsz=imgsz))["dense"]

    def judge(self, stage: StoredStage, deployment: Deployment) -> dict[str, float]:
        """What is told of a network at a deployment."""
        detector, shipping = Detector.load(stage.file(CHECKPOINT)), self.context.shipping
        return {
            "map50_95": shipping.evaluate(detector, deployment).map50_95,
            "test": shipping.evaluate(detector, deployment, "test").map50_95,
            "latency": self.share(detector.channels, detector, deployment),
            "params": detector.params,
        }

    def judged(self, name: str, stage: StoredStage, parts: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
        """A network where it was trained and, where sizes are compared, in int8; the controls at all sizes."""
        own = self.context.shipping.deployment
        size = next((size for size in self.context.sizes if name.endswith(f" {size} px")), own.imgsz)
        yield name, self.judge(stage, replace(own, imgsz=size))
        if "sizes" not in parts or not name.startswith(("dense", "half-width", "chosen")):
            return
        yield f"{name}, int8", self.judge(stage, Deployment(size, "int8"))
        if name in ("dense", "half-width"):
            for size in self.context.sizes[1:]:
                yield f"{name} at {size} px", self.judge(stage, replace(own, imgsz=size))


def name_at(share: float, imgsz: ImageSize | None, depth: int | None) -> str:
    """What our network of a latency, for an input size, without so many residual blocks, is called."""
    short = f", {depth} blocks less" if depth else ""
    return "chosen" + (f" at {share:g}" if share != 1 else "") + short + ("" if imgsz is None else f" at {imgsz} px")


BASELINES = ("dense", "half-width")
"""How the names of networks begin that nobody pruned."""

NOISE = 0.01
"""A latency so little above a share of half-width's keeps it."""

RIVALS: dict[str, tuple[Callable[[], Any], bool]] = {
    "global bn": (torch_pruning.importance.BNScaleImportance, True),
    "group norm": (lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2), True),
    "global taylor": (torch_pruning.importance.GroupTaylorImportance, True),
    "uniform": (lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2), False),
}
"""Torch-Pruning's pruners by the names of its documentation: importance, and whether layers compete."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the data set's yaml; without it nothing is done")
    parser.add_argument("--model", default="yolov5n.yaml")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, nargs=2, default=(30, 24), metavar=("DENSE", "MORE"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pull", type=float, default=0.5)
    parser.add_argument("--distillation", type=float, default=1.0)
    parser.add_argument("--recovery-lr", type=float, default=2.0, help="in multiples of the other trainings' rate")
    parser.add_argument("--sizes", type=int, nargs="+", help="input sizes in px; by default those of a study")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="by default all")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--quick", action="store_true", help="hardly any training, two parts, one seed")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        skipped("give the yaml of a data set")
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="prunetune-recovery-") as scratch:
        if options.quick:
            options.runs, options.imgsz, options.epochs = scratch, 96, (2, 2)
            options.parts, options.seeds = options.parts or list(QUICK), options.seeds[:1]
            options.data = options.data or str(draw(Path(scratch) / "data", 96, train=64, val=32, test=32))
        close(FIGURES, summary(raced(options, options.parts or list(PARTS))))


def raced(options: argparse.Namespace, parts: list[str]) -> dict[str, list[dict[str, float]]]:
    """What is told of each network, by its name and over the seeds."""
    Path(options.runs).mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        race = Race(options, seed)
        for made, make in race.networks(parts):
            for name, told in race.judged(made, make(), parts):
                found.setdefault(name, []).append(told)
                print(f"seed {seed}  {name}: {json.dumps(told)}", file=sys.stderr, flush=True)
    return found


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The figures over all seeds."""
    seeds = range(len(found["dense"]))

    def best(share: float, seed: int, *, sized: bool, short: bool, int8: bool) -> dict[str, float]:
        """Of our networks that keep a share of half-width's latency, by the validation split."""
        known = [
            told[seed]
            for name, told in found.items()
            if name.startswith("chosen")
            and (sized or " px" not in name)
            and (short or "less" not in name)
            and (int8 or "int8" not in name)
            and told[seed]["latency"] <= share * (1 + NOISE)
        ]
        return max(known, key=lambda told: told["map50_95"], default=found["half-width"][seed])

    def closed(told: dict[str, float], seed: int, split: str) -> float:
        half, dense = found["half-width"][seed][split], found["dense"][seed][split]
        return over(told[split] - half, dense - half)

    def gap(split: str) -> dict[str, Any]:
        kinds = {
            "widths": (False, False, False),
            "size": (True, False, False),
            "depth": (True, True, False),
            "int8": (True, True, True),
        }
        return {
            f"{share:g}": {
                kind: spread(
                    [closed(best(share, seed, sized=sized, short=short, int8=int8), seed, split) for seed in seeds]
                )
                for kind, (sized, short, int8) in kinds.items()
            }
            for share in SHARES
        }

    def curve(share: float, seed: int) -> float:
        known = [told[seed] for name, told in found.items() if name.startswith(BASELINES)]
        return max((told["map50_95"] for told in known if told["latency"] <= share * (1 + NOISE)), default=0.0)

    def area(seed: int, *kinds: str) -> float:
        """Under the staircase of networks whose names begin so, up to half-width's latency."""
        points = sorted(
            (told[seed]["latency"], told[seed]["map50_95"])
            for name, told in found.items()
            if name.startswith(kinds) and told[seed]["latency"] <= 1 + NOISE
        )
        highest = list(accumulate((accuracy for _, accuracy in points), max))
        ends = [min(latency, 1.0) for latency, _ in points[1:]] + [1.0]
        return sum(
            best * (end - min(latency, 1.0)) for best, (latency, _), end in zip(highest, points, ends, strict=True)
        )

    ratios = [over(area(seed, *BASELINES, "chosen"), area(seed, *BASELINES)) for seed in seeds]
    pairs = list(zip(found["chosen"], found["half-width"], found["dense"], strict=True))
    return {
        "gap_closed": gap("map50_95"),
        "hypervolume_ratio": spread(ratios),
        "gain_over_half_width": spread([own["map50_95"] - half["map50_95"] for own, half, _ in pairs]),
        "share_of_dense": spread([over(own["map50_95"], dense["map50_95"]) for own, _, dense in pairs]),
        "curve": {f"{share:g}": spread([curve(share, seed) for seed in seeds]) for share in SHARES},
        "test": {"gap_closed": gap("test")},
        "networks": {
            name: {key: spread([item[key] for item in told]) for key in told[0]} for name, told in found.items()
        },
    }


def over(value: float, whole: float) -> float:
    """A share; 0 of nothing."""
    return value / whole if whole else 0.0


if __name__ == "__main__":
    main()
