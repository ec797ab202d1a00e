"""Makes a latency table: times each layer over its widths, then whole networks, and fits what the layers leave."""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy

from prunetune.spaces.errors import TargetError
from prunetune.targets.latency_model.conv_graph import ConvGraph, ConvShape, Layer, layer_of, width_of
from prunetune.targets.latency_model.latency_table import FEATURES, Array, FeatureModel, Grid, LatencyTable
from prunetune.targets.latency_model.onnx_graph import read_conv_graph
from prunetune.targets.latency_model.synthesis import COPIES, IMAGE, write_layer, write_resized
from prunetune.targets.network import Network
from prunetune.targets.protocol import Target

if TYPE_CHECKING:
    from prunetune.targets.latency import Latency

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told what is measured, how many are done, and of how many."""

ANCHOR = "anchor"
BATCH = 16
"""Networks that are measured in one go, beside the anchor."""

BLOCKS = (1, 2, 3, 4, 6, 8, 10, 14, 20, 28, 40, 56, 80, 112)
"""The grid of widths, in blocks of the alignment. Dense at its start, where one block more is much more."""

PASSES = 3
"""How often each whole network is measured."""

_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Fit:
    """Coefficients of `FEATURES`, and how well they predict what they have not seen."""

    coefficients: dict[str, float]
    residuals: tuple[float, ...]
    """For each network, the relative error of its prediction by a fit without it."""


def profile(
    target: Target,
    file: Path,
    *,
    networks: int = 48,
    blocks: Sequence[int] = BLOCKS,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measures a latency table.

    All is measured as a ratio to one anchor, the family's network of half the widths, so that a clock that drifts
    moves nothing.

    Args:
        target: Measures ONNX files. A tolerance of some percent is enough: errors of single layers average out.
        file: The family's widest network as an ONNX file, exported for the size that is to be predicted.
        networks: Whole networks of random aligned widths to measure for the fit.
        blocks: The grid of widths, in blocks of the target's alignment.
        seed: Draws the networks.
        progress: Told how far it is.

    Raises:
        TargetError: The target runs no ONNX files, or the file is none that can be followed.
    """
    if target.form != "onnx":
        raise TargetError(
            f"target {target.name!r}: a latency table needs a target that runs ONNX files: onnxruntime or openvino"
        )
    graph = read_conv_graph(file)
    with tempfile.TemporaryDirectory(prefix="prunetune-profile-") as name:
        folder = Path(name)
        anchor = Network(ANCHOR, (1, IMAGE, *graph.size), onnx=folder / "anchor.onnx")
        write_resized(file, folder / "anchor.onnx", graph, anchor_widths(graph, target.alignment.default))
        measuring = _Measuring(target, anchor, folder, random.Random(seed), progress or _tell_nobody)
        grids = measuring.grids(graph, blocks)
        drawn = random_widths(graph, target.alignment.default, networks, seed)
        ratios = measuring.whole(file, graph, drawn)
    model = FeatureModel(graph, grids)
    widths = numpy.array([list(chosen.values()) for chosen in drawn])
    found = fit(model.features(widths), numpy.array(ratios))
    return LatencyTable(
        fingerprint=target.fingerprint(),
        graph=graph,
        grids=grids,
        coefficients=found.coefficients,
        anchor_ms=statistics.median(measuring.anchor_ms),
        error=2 * statistics.fmean(value**2 for value in found.residuals) ** 0.5,
        mape=statistics.fmean(abs(value) for value in found.residuals),
        networks=networks,
    )


def anchor_widths(graph: ConvGraph, alignment: int) -> dict[str, int]:
    """Half of each width that is free. Nearer to what is predicted than the widest, and slowed by the same load."""
    return _scaled(graph, alignment, lambda group: 0.5)


def random_widths(graph: ConvGraph, alignment: int, count: int, seed: int) -> list[dict[str, int]]:
    """Aligned networks from the narrowest to the widest, some even and some uneven from layer to layer."""
    chance = random.Random(seed)
    drawn = []
    for _ in range(count):
        share, spread = chance.uniform(0.1, 1), chance.uniform(0, 0.4)
        drawn.append(_scaled(graph, alignment, lambda group: share + chance.uniform(-spread, spread)))  # noqa: B023
    return drawn


def _scaled(graph: ConvGraph, alignment: int, share: Callable[[Sequence[str]], float]) -> dict[str, int]:
    widths = graph.widths
    for group in graph.groups:
        dense, multiple = width_of(group[0], graph.widths), graph.multiple(group)
        block = math.lcm(alignment, multiple)
        width = min(block * max(1, round(dense * share(group) / block)), dense)
        if dense % multiple:  # it is read in groups with others, whose seams are within these groups
            width = dense
        widths.update({layer_of(name): 2 * width if ":" in name else width for name in group})
    return widths


def fit(features: Array, ratios: Array) -> Fit:
    """Non-negative least squares on relative errors, drawn towards the plain sum of the layers' times (ridge).

    The strength of the ridge is the one that predicts left-out networks best.

    Args:
        features: Networks by `FEATURES`.
        ratios: The networks' measured ratios to the anchor.

    Raises:
        TargetError: There are fewer than six networks.
    """
    count = len(ratios)
    if count < 6:
        raise TargetError(f"networks: {count} are too few to fit a latency table and tell its error; measure 6 or more")
    rows = features / ratios[:, None]
    prior = numpy.array([float(name == "layers") for name in FEATURES])
    # A feature's coefficient is held loosely as long as the feature brings some tenths of the latency.
    reach = numpy.where(prior > 0, 0.3, 0.1 / numpy.maximum(rows.mean(axis=0), 1e-9))
    held = numpy.array([float(name != "fixed") for name in FEATURES]) / reach

    def solve(chosen: Array, ridge: float) -> Array:
        from scipy.optimize import nnls

        pull = numpy.diag(held * (ridge * len(chosen)) ** 0.5)
        matrix = numpy.vstack([rows[chosen], pull])
        solution: Array = nnls(matrix, numpy.concatenate([numpy.ones(len(chosen)), pull @ prior]))[0]
        return solution

    def residuals(ridge: float) -> list[float]:
        every = numpy.arange(count)
        return [float(rows[left] @ solve(numpy.delete(every, left), ridge)) - 1 for left in every]

    tried = {ridge: residuals(ridge) for ridge in _RIDGES}
    best = min(tried, key=lambda ridge: sum(value**2 for value in tried[ridge]))
    solution = solve(numpy.arange(count), best)
    return Fit(dict(zip(FEATURES, map(float, solution), strict=True)), tuple(tried[best]))


class _Measuring:
    """Measures batches of networks beside the anchor."""

    def __init__(
        self, target: Target, anchor: Network, folder: Path, chance: random.Random, progress: Progress
    ) -> None:
        self._target, self._anchor, self._folder = target, anchor, folder
        self._chance, self._progress = chance, progress
        self.anchor_ms: list[float] = []

    def grids(self, graph: ConvGraph, blocks: Sequence[int]) -> tuple[Grid, ...]:
        """The times of each kind of layer over its widths."""
        shapes = list(dict.fromkeys(layer.shape for layer in graph.layers))
        axes = {shape: _axes(graph, shape, blocks, self._target.alignment.default) for shape in shapes}
        points = [
            (shape, inputs, outputs)
            for shape, (reads, writes) in axes.items()
            for inputs in (writes if shape.depthwise else reads)
            # 0 stands for what a network costs without its layers
            for outputs in (0, *((inputs,) if shape.depthwise else writes))
        ]
        # Shuffled: minutes of load then fall on points here and there, not on one kind of layer.
        self._chance.shuffle(points)
        networks = {}
        for number, (shape, inputs, outputs) in enumerate(points):
            path = self._folder / f"layer-{number}.onnx"
            write_layer(path, shape, inputs, max(1, outputs), COPIES if outputs else 0)
            networks[shape, inputs, outputs] = Network(str(number), (1, IMAGE, *shape.size), onnx=path)
        measured = self._measure("layers", list(networks.values()))
        ratio = {point: measured[network.name].ratio for point, network in networks.items()}

        def time(shape: ConvShape, read: int, written: int) -> float:
            read = written if shape.depthwise else read
            return max(0.0, (ratio[shape, read, written] - ratio[shape, read, 0]) / COPIES)

        return tuple(
            Grid(shape, reads, writes, tuple(tuple(time(shape, a, b) for b in writes) for a in reads))
            for shape, (reads, writes) in axes.items()
        )

    def whole(self, file: Path, graph: ConvGraph, drawn: Sequence[Mapping[str, int]]) -> list[float]:
        """The ratios of whole networks, each the median of several measurements at different times."""
        networks = []
        for number, widths in enumerate(drawn):
            path = self._folder / f"network-{number}.onnx"
            write_resized(file, path, graph, widths)
            networks.append(Network(str(number), (1, IMAGE, *graph.size), onnx=path))
        passes = [self._measure("networks", self._shuffled(networks)) for _ in range(PASSES)]
        return [statistics.median(measured[network.name].ratio for measured in passes) for network in networks]

    def _shuffled(self, networks: Sequence[Network]) -> list[Network]:
        return self._chance.sample(networks, len(networks))

    def _measure(self, what: str, networks: Sequence[Network]) -> dict[str, Latency]:
        found: dict[str, Latency] = {}
        for start in range(0, len(networks), BATCH):
            self._progress(what, start, len(networks))
            batch = networks[start : start + BATCH]
            measured = self._target.measure([self._anchor, *batch], reference=ANCHOR)
            self.anchor_ms.append(measured.pop(ANCHOR).median_ms)
            found |= measured
        self._progress(what, len(networks), len(networks))
        return found


def _axes(
    graph: ConvGraph, shape: ConvShape, blocks: Sequence[int], alignment: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output channels at which a kind of layer is timed. A depthwise one reads what it writes."""
    free = graph.free
    dense = graph.widths
    layers: list[Layer] = [layer for layer in graph.layers if layer.shape == shape]
    reads = {layer.reads.width(dense): bool(free & set(map(layer_of, layer.reads.layers))) for layer in layers}
    writes = {layer.width: layer.name in free for layer in layers}

    step = math.lcm(alignment, shape.groups)

    def axis(ends: Mapping[int, bool]) -> tuple[int, ...]:
        widest = max((end for end, is_free in ends.items() if is_free), default=0)
        return tuple(sorted({*ends, *(step * block for block in blocks if step * block < widest)}))

    return (max(reads),) if shape.depthwise else axis(reads), axis(writes)


def _tell_nobody(what: str, done: int, total: int) -> None:
    pass
