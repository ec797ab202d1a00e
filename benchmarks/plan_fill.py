"""How much of the latency that a recipe asks for its plan takes.

    python benchmarks/plan_fill.py [--quick]

50 plans of YOLOv5n at 160 px ask for 0.5 to 1.0 of half-width's latency. Channels have random scores: gammas, whose
layers are much alike, as after a short sparse phase, every second time with 80 % of the channels at exactly 0; or
Taylor scores, whose layers lie far apart. Half of the detectors have lost two residual blocks before. Latencies are
predicted as in a study without a table, by multiply-adds. Each plan is searched against three truths: the prediction
itself, so that only what plans leave open counts; `stepped`, made up, which computes half of the multiply-adds in
blocks of 16 channels, so that predictions are wrong; and measurements (ONNX Runtime, one thread), whose
network is then measured once more: `again` has the noise of two measurements. The last line is JSON: `predicted`,
`stepped`, `measured` and `again`, each with `within_1` and `within_2` (shares of the plans that are off by no more
percent of what was asked for), `mean` and `worst` (signed, as a part of it), over the `plans` that could meet it at
all, or null where none was measured; and `looks` (networks that a search looked at, for `stepped` and `measured`).
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common.figures import close

from prunetune.pruning import ChannelConfig, Detector, PlanLadder, PruningPlan, apply_plan, find_plan
from prunetune.pruning.planning.plan import Scores
from prunetune.pruning.planning.threshold_search import LatencyShares
from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.structure.depth import residual_blocks, without_blocks
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.yolo.detector import read_description, scaled_width
from prunetune.search.latency.meter import LatencyMeter, measure_references
from prunetune.search.latency.network_files import NetworkExporter
from prunetune.search.latency.shares import BudgetShares
from prunetune.search.latency.study_target import StudyTarget
from prunetune.spaces import Deployment
from prunetune.spaces.recipe import Importance
from prunetune.targets import OnnxRuntimeSpec

FIGURES = ("predicted", "stepped", "measured", "again", "looks")
PLANS = 50
NAMES = ("square", "disc")


@dataclass(frozen=True)
class Drawn:
    """A judge that draws its scores: log-normal within a layer, and from layer to layer."""

    importance: Importance
    seed: int
    zeros: float = 0.0
    """The share of the channels that have exactly 0."""

    def scores(self, model: torch.nn.Module, groups: Sequence[ChannelGroup]) -> list[torch.Tensor]:
        """For each group, a score for each channel."""
        drawn = torch.Generator().manual_seed(self.seed)
        between, within = (0.15, 0.4) if self.importance == "gamma" else (1.0, 1.0)

        def normal(count: int) -> torch.Tensor:
            return torch.randn(count, generator=drawn, dtype=torch.float64)

        found = [torch.exp(between * normal(1) + within * normal(group.width)) for group in groups]
        return [score * (torch.rand(len(score), generator=drawn) >= self.zeros) for score in found]


class AsPredicted(BudgetShares):
    """Latencies that are what is predicted."""

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        """As predicted."""
        share = self.predicted(channels)
        assert share is not None  # multiply-adds can be counted
        return share


class Stepped(BudgetShares):
    """Latencies of a runtime that computes half of its work in blocks of 16 channels, made up from multiply-adds."""

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        """As predicted, on average of the channels and of their blocks."""
        blocks = {name: width if width < 8 else -(-width // 16) * 16 for name, width in channels.items()}
        shares = self.predicted_many([channels, blocks])
        assert shares is not None  # multiply-adds can be counted
        return float(shares.mean())


class Counted:
    """Latencies that are counted when they are looked at.

    Args:
        shares: Gives them.
    """

    def __init__(self, shares: BudgetShares) -> None:
        self._shares, self.looks = shares, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shares, name)

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        """As they are."""
        self.looks += 1
        return self._shares.measured(channels, build)


@dataclass(frozen=True)
class Case:
    """A plan that is asked for."""

    goal: float
    judge: Drawn
    depth: int

    @classmethod
    def numbered(cls, number: int) -> Case:
        """One of the plans, from 0."""
        importance: Importance = "gamma" if number % 2 else "taylor"
        judge = Drawn(importance, number, zeros=0.8 if number % 4 == 1 else 0.0)
        return cls(random.Random(number).uniform(0.5, 1.0), judge, depth=2 * (number // 4 % 2))

    def plan(
        self, dense: Detector, latencies: LatencyShares
    ) -> tuple[PruningPlan, Callable[[], Detector], PruningPlan]:
        """The plan that is found, what makes its network, and the plan that removes most."""
        blocks = residual_blocks(dense.model)
        gone = random.Random(self.judge.seed).sample(blocks, self.depth)
        model = without_blocks(dense.model, gone)
        groups = channel_groups(model)
        left = residual_blocks(model) if self.depth else ()
        ladder = PlanLadder(Scores.of(model, 8, groups, self.judge, blocks=left))

        def build(plan: PruningPlan) -> Detector:
            return Detector(apply_plan(model, plan, groups=groups), dense.source)

        plan = find_plan(ladder, latencies, build, self.goal)
        return plan, lambda: build(plan), ladder.plan(len(ladder) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure 5 of the plans, shortly")
    parser.add_argument("--measured", type=int, default=PLANS, help="how many of the plans are measured")
    options = parser.parse_args()
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="prunetune-plan-fill-") as folder:
        spec = OnnxRuntimeSpec(seconds=2.5) if options.quick else OnnxRuntimeSpec()
        found = compare(Path(folder), spec, 5 if options.quick else options.measured)
        close(FIGURES, {**dict.fromkeys(FIGURES), **found})


def compare(folder: Path, spec: OnnxRuntimeSpec, measured: int) -> dict[str, Any]:
    """The figures; so many plans are measured as well."""
    dense = Detector.load("yolov5n.yaml", names=NAMES)
    half = Detector.build(scaled_width(read_description("yolov5n.yaml"), 0.5), NAMES)
    networks = NetworkExporter(folder, {"dense": dense, "half-width": half}, Deployment(160), CostMeter())
    target = StudyTarget.create(spec, "<= half-width", ["half-width"], is_objective=True)
    made_up = LatencyMeter((replace(target, references_ms=REFERENCES_MS),), networks)
    target = replace(target, references_ms=measure_references(target, networks) if measured else REFERENCES_MS)
    meter = LatencyMeter((target,), networks)
    truths = {"predicted": AsPredicted(made_up), "stepped": Stepped(made_up), "measured": BudgetShares(meter)}
    errors: dict[str, list[float]] = {}
    looks: dict[str, list[int]] = {}
    print(f"{'asked':>7}{'predicted':>11}{'stepped':>9}{'measured':>10}{'again':>8}   scores")
    for number in range(PLANS):
        case = Case.numbered(number)
        found = {}
        for name in list(truths)[: 3 if number < measured else 2]:
            counted = Counted(truths[name])
            plan, build, strongest = case.plan(dense, counted)
            if plan == strongest:
                continue
            looks.setdefault(name, []).append(counted.looks)
            found[name] = truths[name].measured(plan.channels, build)
            if name == "measured":
                candidate = networks.resized(plan.channels, build, networks.deployment, target)
                found["again"] = target.share(target.measure(candidate, networks.reference("half-width", target)).ratio)
        for name, share in found.items():
            errors.setdefault(name, []).append(share / case.goal - 1)
        shown = [f"{found[name]:>{width}.3f}" if name in found else " " * width for name, width in WIDTHS.items()]
        zeros = ", 80 % of them 0" if case.judge.zeros else ""
        print(f"{case.goal:>7.3f}{''.join(shown)}   {case.judge.importance}{zeros}, depth {case.depth}", flush=True)
    means = {name: round(statistics.fmean(counts), 2) for name, counts in looks.items() if name != "predicted"}
    return {**{name: summary(values) for name, values in errors.items()}, "looks": means}


WIDTHS = {"predicted": 11, "stepped": 9, "measured": 10, "again": 8}
REFERENCES_MS = {"dense": 2.02, "half-width": 1.0}
"""Of the truths that are made up."""


def summary(errors: Sequence[float]) -> dict[str, float]:
    """The figures of some plans' errors, as parts of what was asked for."""
    found = {f"within_{percent}": statistics.fmean(abs(each) <= percent / 100 for each in errors) for percent in (1, 2)}
    found |= {"mean": statistics.fmean(errors), "worst": max(errors, key=abs)}
    return {"plans": len(errors), **{name: round(value, 4) for name, value in found.items()}}


if __name__ == "__main__":
    main()
