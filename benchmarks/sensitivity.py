"""Whether the sensitivity of groups is an importance: Taylor scores weighted by it, against Taylor scores alone.

A YOLOv5n is trained on the demo's barcodes at 96 px. Sensitivity analysis finds what each group of layers loses in
map50_95 when half of its channels go alone. Then each importance cuts the network by one global threshold, channels in
multiples of 8, to shares of the dense network's parameters and of its multiply-adds; BatchNorm is recalibrated, and
nothing is recovered. The importances: `taylor`; `product`, each group's Taylor scores times what it loses, over the
mean of all groups; `root`, times the root of that; `calibrated`, scaled so that the channels which went have as much
Taylor in all as map50_95 was lost. A group that loses less than a twentieth of the mean counts as if it lost that much:
accuracies are not more exact.

The last line is JSON: `dense` (map50_95 by seed), `spread` (by seed, what the most and the least sensitive tenth of
the groups lose), `map50_95` (by importance and budget, the mean over the seeds), and `gain` (by importance, what it has
more than `taylor` over all seeds and budgets: mean, lowest, highest).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.barcodes import draw
from common.figures import close
from torch import Tensor, nn

from prunetune.pruning import Detector, Pipeline, PlanLadder, Source, StageRunner, StageStore, TrainingSetup, apply_plan
from prunetune.pruning.accuracy.sensitivity import Sensitivity
from prunetune.pruning.accuracy.sensitivity_analysis import analyse
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.planning.importance import create_judge
from prunetune.pruning.planning.plan import Scores
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.spaces.recipe import Importance

FIGURES = ("dense", "spread", "map50_95", "gain")
IMGSZ = 96
HALF = 0.5
"""Of a group's channels, which go alone."""
BUDGETS = {"params": (0.7, 0.5, 0.35), "multiply_adds": (0.85, 0.7)}
"""Shares of the dense network's."""
LEAST = 0.05
"""Of the mean loss: what a group counts with at least."""


@dataclass(frozen=True)
class Weighted:
    """Scores of groups, each times a weight: a `Judge`."""

    known: Mapping[str, Tensor]
    weights: Mapping[str, float]
    importance: Importance = "taylor"

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
        """The scores that are known, weighted by the group's root."""
        return [self.known[group.root] * self.weights[group.root] for group in groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly any training, one seed: shows that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=16, help="of the dense training")
    parser.add_argument("--runs", type=Path, help="keeps what was trained here, for another run")
    options = parser.parse_args()
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    seeds, epochs, images, val = (
        (options.seeds[:1], 2, 64, 32) if options.quick else (options.seeds, options.epochs, 256, 64)
    )
    with tempfile.TemporaryDirectory(prefix="prunetune-sensitivity-") as scratch:
        runs = options.runs or Path(scratch)
        data = draw(runs / f"data-{images}", IMGSZ, images, val)
        found = [compare(runs / "store", data, seed, epochs) for seed in seeds]
    close(FIGURES, summary(found))


@dataclass(frozen=True)
class Compared:
    """The figures of one seed."""

    dense: float
    spread: tuple[float, float]
    map50_95: Mapping[tuple[str, str], float]
    """By importance and budget."""


def compare(store: Path, data: Path, seed: int, epochs: int) -> Compared:
    """Trains a dense network, finds its sensitivity, and cuts it by each importance to each budget."""
    dataset = inspect_dataset(str(data))
    stages = StageRunner(TrainingSetup(str(data), dataset.fingerprint, IMGSZ, seed=seed), StageStore(store))
    source = Source("yolov5n.yaml", dataset.names, epochs)
    begin = time.perf_counter()
    original = Pipeline(source, stages, alignment=8, longest_sparse_epochs=1).original()
    dense = stages.load(original)
    tell(f"seed {seed}: dense {original.require_accuracy().map50_95:.3f}, {time.perf_counter() - begin:.0f} s")
    begin = time.perf_counter()
    sensitivity = analyse(dense, stages, 8, shares=(HALF,))
    lost = sorted(losses(sensitivity).values())
    tenth = max(1, len(lost) // 10)
    spread = statistics.fmean(lost[-tenth:]), statistics.fmean(lost[:tenth])
    tell(f"seed {seed}: sensitivity of {len(lost)} groups, {time.perf_counter() - begin:.0f} s; {spread}")
    groups = channel_groups(dense.model)
    taylor = Scores.of(dense.model, 8, groups, create_judge("taylor", stages.losses))
    known = {item.group.root: item.scores for item in taylor.groups}
    cuts = {
        (name, budget): stages.evaluate(cut).map50_95
        for name, weights in importances(sensitivity, known).items()
        for budget, cut in networks(stages, dense, groups, Weighted(known, weights))
    }
    tell(f"seed {seed}: {cuts}")
    return Compared(original.require_accuracy().map50_95, spread, cuts)


def losses(found: Sensitivity) -> dict[str, float]:
    """What each group loses, by its root."""
    return {group.name: found.lost(removal) for group in found.groups for removal in group.removals}


def importances(found: Sensitivity, known: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """The weights of groups, by importance and root. None of YOLOv5n's are tied to each other."""
    lost, kept = losses(found), {group.name: removal.kept for group in found.groups for removal in group.removals}
    mean = max(statistics.fmean(lost.values()), 1e-6)
    product = {root: max(LEAST, lost.get(root, mean) / mean) for root in known}
    gone = {
        root: float(scores.sort().values[: len(scores) - kept.get(root, 0)].sum()) for root, scores in known.items()
    }
    return {
        "taylor": dict.fromkeys(known, 1.0),
        "product": product,
        "root": {root: weight**0.5 for root, weight in product.items()},
        "calibrated": {root: weight / max(gone[root], 1e-9) for root, weight in product.items()},
    }


def networks(
    stages: StageRunner, dense: Detector, groups: Sequence[ChannelGroup], judge: Weighted
) -> Iterator[tuple[str, Detector]]:
    """For each budget the first network within it as the threshold rises, recalibrated."""
    ladder = PlanLadder(Scores.of(dense.model, 8, groups, judge))

    @cache
    def built(index: int) -> Detector:
        return Detector(apply_plan(dense.model, ladder.plan(index), groups=groups), dense.source)

    def share(index: int, kind: str) -> float:
        network = built(index)
        if kind == "params":
            return network.params / dense.params
        return network.gflops(IMGSZ) / dense.gflops(IMGSZ)

    for kind, shares in BUDGETS.items():
        for most in shares:
            index = bisect_left(range(len(ladder)), True, key=lambda rung: share(rung, kind) <= most)
            network = built(min(index, len(ladder) - 1)).copy()
            stages.recalibrate(network)
            yield f"{kind} {most:g}", network


def summary(found: Sequence[Compared]) -> dict[str, Any]:
    """The figures over the seeds."""
    names = list(dict.fromkeys(name for name, _ in found[0].map50_95))
    budgets = list(dict.fromkeys(budget for _, budget in found[0].map50_95))
    gains = {
        name: [each.map50_95[name, budget] - each.map50_95["taylor", budget] for each in found for budget in budgets]
        for name in names[1:]
    }
    return {
        "dense": [round(each.dense, 4) for each in found],
        "spread": [[round(value, 4) for value in each.spread] for each in found],
        "map50_95": {
            name: {
                budget: round(statistics.fmean(each.map50_95[name, budget] for each in found), 4) for budget in budgets
            }
            for name in names
        },
        "gain": {
            name: [round(value, 4) for value in (statistics.fmean(values), min(values), max(values))]
            for name, values in gains.items()
        },
    }


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
