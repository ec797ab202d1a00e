"""Whether residual blocks should go beside channels: equal latency, equal epochs, with and without them.

    python benchmarks/depth.py DATA.yaml --imgsz 128 --counts 1 2 4 --seeds 0 --runs FOLDER
    python benchmarks/depth.py                     # only the surgery, on every family: no data set, half a minute

A YOLOv5n is trained, and trained sparse. Blocks go by a rule, the least important first; then channels, in multiples
of 8, to a share of half-width's latency (ONNX Runtime, one thread, interleaved); BatchNorm is recalibrated, and all
networks are recovered for as many epochs. Widths alone: the same without the first step. The rules: `gamma`, the mean
|gamma| of the branch's last BatchNorm; `taylor`, the sum of its Taylor scores; `loss`, that on training images of the
network without this block, recalibrated. With `--when before` blocks go before the sparse phase. FOLDER keeps what was
trained: the same command goes on with it.

The last line is JSON: `surgery_error`, the largest difference of outputs, in double precision, between a network whose
branches end in zeros and the same without them; `rows`, for each seed, share, rule and number of blocks: `blocks`,
`shortened` (map50_95 without them, before channels go), `cut` (before recovery), `map50_95`, `test`, `params`,
`latency` (in multiples of half-width's, of the fastest runs of one interleaved measurement), and `map50_95_gain` and
`test_gain`, what a network has more than widths alone have at its own latency, interpolated between those.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
import torch
from common.figures import close
from torch import nn

from prunetune.pruning import ChannelConfig, Detector, Pipeline, Source, StageRunner, StageStore, TrainingSetup
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.planning.importance import create_judge
from prunetune.pruning.planning.plan import branch_of
from prunetune.pruning.recipe_planning import Planning
from prunetune.pruning.stages.stage import Stage
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.structure.depth import residual_blocks, without_blocks
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.sparsity import sparse_phase
from prunetune.pruning.training.values import recovery_phase
from prunetune.spaces import Alignment, LatencyShare, Recipe
from prunetune.targets import Network, create_target, parse_target_spec, read_conv_graph
from prunetune.targets.latency_model.synthesis import write_resized

FIGURES = ("surgery_error", "rows")


def surgery_error(family: str) -> float:
    """The largest difference of outputs where nothing should be lost; fails if what is left cannot be traced."""
    torch.manual_seed(0)
    model = Detector.load(family).model.double().eval()
    for norm in filter(lambda module: isinstance(module, nn.BatchNorm2d), model.modules()):
        nn.init.uniform_(norm.weight, 2, 4)  # an untrained network says the same of every image
    blocks, image = residual_blocks(model), torch.rand(1, 3, 64, 64, dtype=torch.double)
    for norm in (model.get_submodule(f"{name}.cv2.bn") for name in blocks):
        nn.init.zeros_(norm.weight)  # its bias is zero, too
    with torch.no_grad():
        whole, found = model(image)[0], [without_blocks(model, chosen) for chosen in (blocks, blocks[:1], blocks[-1:])]
        errors = [float((whole - short(image)[0]).abs().max()) for short in found]
    channel_groups(found[0].float())
    print(f"{family}: {len(blocks)} residual blocks, outputs without them differ by {max(errors):.1e}", file=sys.stderr)
    return max(errors)


def quiet_ratios(half: Network, networks: Sequence[Network], rounds: int) -> dict[str, float]:
    """Latencies by name in multiples of half-width's: of the fastest runs, which a busy machine disturbs least."""
    spec = {"kind": "onnxruntime", "runs": rounds, "seconds": 90.0, "tolerance": 1e-6}
    found = create_target(parse_target_spec(spec)).measure([half, *networks], reference=half.name)
    fast = {name: float(numpy.percentile(latency.samples_ms, 2)) for name, latency in found.items()}
    return {name: latency / fast[half.name] for name, latency in fast.items()}


class AgainstHalf:
    """Latencies of one network and what is cut out of it, in multiples of half-width's. A `LatencyShares`."""

    def __init__(self, detector: Detector, half: Network, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.is_calibrated = False
        self._half, self._onnx, self._candidate = half, folder / "base.onnx", folder / "candidate.onnx"
        if not self._onnx.is_file():  # the same network is cut to several shares
            detector.export_onnx(self._onnx, half.input_shape[-1])
        self._graph = read_conv_graph(self._onnx)
        self._work = self._graph.multiply_adds(detector.channels)
        self._file = folder / "latencies.json"
        self._known: dict[str, float] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self.dense = self.measured(detector.channels)

    def predicted(self, channels: ChannelConfig) -> float:
        return self.dense * (0.15 + 0.85 * self._graph.multiply_adds(channels) / self._work)  # measurements correct it

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector] | None = None) -> float:
        if (key := channels.digest()) not in self._known:
            write_resized(self._onnx, self._candidate, self._graph, channels)
            candidate = Network("candidate", self._half.input_shape, onnx=self._candidate)
            self._known[key] = quiet_ratios(self._half, [candidate], 200)["candidate"]
            self._file.write_text(json.dumps(self._known))
        return self._known[key]


class Contest:
    """All networks of one seed: of data order, augmentation and first weights."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options, self.seed, self._folder = options, seed, Path(options.runs) / f"seed-{seed}"
        dense_epochs, sparse_epochs, self._epochs = options.epochs
        data = inspect_dataset(options.data)
        setup = TrainingSetup(str(options.data), data.fingerprint, options.imgsz, seed=seed)
        self._stages = StageRunner(setup, StageStore(Path(options.runs) / "store"))
        source = Source("yolov5n.yaml", data.names, dense_epochs)
        self._pipeline = Pipeline(source, self._stages, alignment=8, longest_sparse_epochs=sparse_epochs)
        self._recipe = Recipe(0.5, sparse_epochs, LatencyShare(1.0))
        self._sparse_phase = sparse_phase(sparse_epochs, self._pipeline.sparsity(self._recipe))
        self._half = self._network("half", Detector.build(source.description("half-width"), data.names))
        self._orders: dict[tuple[str, str], list[str]] = {}

    def rows(self) -> list[dict[str, Any]]:
        given = self.options
        made = [self._row(share, "none", "after", 0) for share in given.widths]
        made += [self._row(*each) for each in product(given.shares, given.rules, given.when, given.counts)]
        networks = {stage.digest: self._network(stage.digest, self._stages.load(stage)) for _, stage in made}
        ratios = quiet_ratios(self._half, list(networks.values()), 600)
        rows = [{**told, "latency": round(ratios[stage.digest], 3)} for told, stage in made]
        widths = sorted((row for row in rows if not row["count"]), key=itemgetter("latency"))
        for row, split in product(rows, ("map50_95", "test")):
            curve = [[other[key] for other in widths] for key in ("latency", split)]
            row[f"{split}_gain"] = row[split] - float(numpy.interp(row["latency"], *curve))
        return rows

    def _row(self, share: float, rule: str, when: str, count: int) -> tuple[dict[str, Any], StoredStage]:
        dense = self._pipeline.original()
        whole = dense if when == "before" else self._stages.train("sparse", dense, self._sparse_phase).stage
        blocks = sorted(self._order(whole, rule)[:count]) if count else []
        shortened = self._made(whole, {"without": blocks}, lambda: self._short(whole, blocks)) if blocks else whole
        sparse = self._stages.train("sparse", shortened, self._sparse_phase).stage if when == "before" else shortened
        cut = self._cut(sparse, share)
        recovered = self._stages.train("recovery", cut, recovery_phase(self._epochs, "map50_95")).stage
        told = {"seed": self.seed, "share": share, "rule": rule, "when": when, "count": count, "blocks": blocks}
        for name, stage in (("dense", dense), ("shortened", shortened), ("cut", cut), ("map50_95", recovered)):
            told[name] = stage.accuracy and stage.accuracy.map50_95
        told["test"] = self._stages.evaluate(self._stages.load(recovered), "test").map50_95
        told["params"] = recovered.record["params"]
        print(json.dumps(told), file=sys.stderr, flush=True)
        return told, recovered

    def _short(self, parent: StoredStage, blocks: Sequence[str]) -> Detector:
        short = Detector(without_blocks(self._stages.load(parent).model, blocks), "yolov5n.yaml")
        self._stages.recalibrate(short)
        return short

    def _cut(self, parent: StoredStage, share: float) -> StoredStage:
        detector = self._stages.load(parent)
        groups = channel_groups(detector.model)
        latencies = AgainstHalf(detector, self._half, self._folder / parent.digest)
        planning = Planning(self._stages, Alignment.everywhere(8), latencies)
        plan = planning.plan(detector, groups, self._recipe, LatencyShare(share), 1.0).plan

        def build() -> Detector:
            pruned = Detector(apply_plan(detector.model, plan, groups=groups), detector.source)
            self._stages.recalibrate(pruned)
            return pruned

        return self._made(parent, {"plan": plan.digest()}, build)

    def _made(self, parent: StoredStage, surgery: dict[str, Any], build: Callable[[], Detector]) -> StoredStage:
        stage = Stage("pruning", parent.digest, {**surgery, "setup": self._stages.setup.identity()})
        return self._stages.make(stage, build).stage

    def _order(self, parent: StoredStage, rule: Any) -> list[str]:
        if (parent.digest, rule) not in self._orders:
            detector = self._stages.load(parent)
            names, widths = residual_blocks(detector.model), detector.channels
            if rule == "loss":
                values = [self._loss(self._short(parent, [name])) for name in names]
            else:
                groups = [branch_of(name, widths) for name in names]
                scores = create_judge(rule, self._stages.losses).scores(detector.model, groups)
                values = [float(each.mean() if rule == "gamma" else each.sum()) for each in scores]
            found = dict(zip(names, values, strict=True))
            self._orders[parent.digest, rule] = sorted(found, key=found.__getitem__)
            print(f"seed {self.seed}, {parent.kind}, {rule}: {found}", file=sys.stderr, flush=True)
        return self._orders[parent.digest, rule]

    @torch.no_grad()
    def _loss(self, detector: Detector) -> float:
        return fmean(map(float, self._stages.losses(detector.model.eval())))

    def _network(self, name: str, detector: Detector) -> Network:
        (folder := self._folder / name).mkdir(parents=True, exist_ok=True)
        detector.export_onnx(file := folder / "network.onnx", self.options.imgsz)
        return Network(name, (1, 3, self.options.imgsz, self.options.imgsz), onnx=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the data set's yaml; without it only the surgery is tried")
    parser.add_argument("--quick", action="store_true", help="try the surgery alone, also with a data set")
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--epochs", type=int, nargs=3, default=(20, 4, 10), metavar=("DENSE", "SPARSE", "RECOVERY"))
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4], help="how many blocks go")
    parser.add_argument("--rules", nargs="+", choices=("gamma", "taylor", "loss"), default=["taylor", "loss"])
    parser.add_argument("--when", nargs="+", choices=("after", "before"), default=["after"], help="the sparse phase")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.6, 0.85, 1.0], help="of half-width's latency")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.5, 0.6, 0.72, 0.85, 1.0], help="without blocks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", default="runs/depth")
    options = parser.parse_args()
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rows = [
        row for seed in options.seeds if options.data and not options.quick for row in Contest(options, seed).rows()
    ]
    error = max(surgery_error(f"{family}.yaml") for family in ("yolov5n", "yolov8n", "yolo11n", "yolo12n", "yolo26n"))
    close(FIGURES, {"surgery_error": error, "rows": rows})


if __name__ == "__main__":
    main()
