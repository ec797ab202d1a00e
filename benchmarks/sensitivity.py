"""Whether the sensitivity of groups is an importance: Taylor scores weighted by it, against Taylor scores alone.

A YOLOv5n is trained on the demo's barcodes at 96 px. Sensitivity analysis finds what each group of layers loses in
map50_95 when three quarters of its channels go alone. Then each importance cuts the network by one global threshold,
channels in multiples of 8, to shares of the dense network's multiply-adds; BatchNorm is recalibrated, and nothing is
recovered. The importances: `taylor`; `product`, each group's Taylor scores times what it loses, over the mean of all
groups; `calibrated`, scaled so that the channels which went have as much Taylor in all as map50_95 was lost. A group
that loses less than a twentieth of the mean counts as if it lost that much: accuracies are not more exact.

The last line is JSON: `dense` (by seed, map50_95 as it is, and with recalibrated BatchNorm), `spread` (by seed, what
the most and the least sensitive tenth of the groups lose), `map50_95` (by importance and share, of each seed), and
`gain` (by importance, what it has more than `taylor` over all seeds and shares: mean, lowest, highest).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.barcodes import draw
from common.figures import close
from common.multiply_adds import MultiplyAdds
from torch import Tensor, nn

from prunetune.pruning import Detector, Pipeline, PlanLadder, Source, StageRunner, StageStore, TrainingSetup, apply_plan
from prunetune.pruning.accuracy.sensitivity import Sensitivity, read_sensitivity, write_sensitivity
from prunetune.pruning.accuracy.sensitivity_analysis import analyse
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.planning.importance import create_judge
from prunetune.pruning.planning.plan import PruningPlan, Scores
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.spaces.recipe import Importance

FIGURES = ("dense", "spread", "map50_95", "gain")
IMGSZ = 96
REMOVED = 0.75
"""Of a group's channels, which go alone."""
SHARES = (0.5, 0.37, 0.25, 0.18)
"""Of the dense network's multiply-adds; half-width has 0.37."""
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
        found = [compare(runs, data, seed, epochs) for seed in seeds]
    close(FIGURES, summary(found))


@dataclass(frozen=True)
class Compared:
    """The figures of one seed."""

    dense: tuple[float, float]
    spread: tuple[float, float]
    map50_95: Mapping[tuple[str, float], float]
    """By importance and share."""


def compare(runs: Path, data: Path, seed: int, epochs: int) -> Compared:
    """Trains a dense network, finds its sensitivity, and cuts it by each importance to each share."""
    dataset, folder = inspect_dataset(str(data)), runs / f"seed-{seed}"
    stages = StageRunner(TrainingSetup(str(data), dataset.fingerprint, IMGSZ, seed=seed), StageStore(runs / "store"))
    source = Source("yolov5n.yaml", dataset.names, epochs)
    dense = stages.load(Pipeline(source, stages, alignment=8, longest_sparse_epochs=1).original())
    found = read_sensitivity(folder)
    if found is None:
        found = analyse(dense, stages, 8, shares=(REMOVED,))
        write_sensitivity(found, folder)
    lost = sorted(losses(found).values())
    tenth = max(1, len(lost) // 10)
    spread = statistics.fmean(lost[-tenth:]), statistics.fmean(lost[:tenth])
    tell(
        f"seed {seed}: dense {found.given:.3f}, recalibrated {found.map50_95:.3f}, {len(lost)} groups, spread {spread}"
    )
    groups = channel_groups(dense.model)
    taylor = Scores.of(dense.model, 8, groups, create_judge("taylor", stages.losses))
    known = {item.group.root: item.scores for item in taylor.groups}
    work = MultiplyAdds(dense.model, groups)
    cuts: dict[tuple[str, float], float] = {}
    for name, weights in importances(found, known).items():
        ladder = PlanLadder(Scores.of(dense.model, 8, groups, Weighted(known, weights)))
        for share in SHARES:
            plan = within(ladder, work, share * float(work([dense.channels])[0, 0]))
            network = Detector(apply_plan(dense.model, plan, groups=groups), dense.source)
            stages.recalibrate(network)
            cuts[name, share] = stages.evaluate(network).map50_95
            tell(
                f"seed {seed}: {name} at {share:g}: {cuts[name, share]:.3f}, {network.params / dense.params:.2f} params"
            )
    return Compared((found.given, found.map50_95), spread, cuts)


def within(ladder: PlanLadder, work: MultiplyAdds, most: float) -> PruningPlan:
    """The first plan with no more multiply-adds as the threshold rises."""
    rungs = range(len(ladder))
    index = bisect_left(rungs, True, key=lambda rung: float(work([ladder.plan(rung).channels])[0, 0]) <= most)
    return ladder.plan(min(index, len(ladder) - 1))


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
        "calibrated": {root: weight / max(gone[root], 1e-9) for root, weight in product.items()},
    }


def summary(found: Sequence[Compared]) -> dict[str, Any]:
    """The figures over the seeds."""
    names = list(dict.fromkeys(name for name, _ in found[0].map50_95))
    gains = {
        name: [each.map50_95[name, share] - each.map50_95["taylor", share] for each in found for share in SHARES]
        for name in names[1:]
    }
    return {
        "dense": [[round(value, 4) for value in each.dense] for each in found],
        "spread": [[round(value, 4) for value in each.spread] for each in found],
        "map50_95": {
            name: {str(share): [round(each.map50_95[name, share], 4) for each in found] for share in SHARES}
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
