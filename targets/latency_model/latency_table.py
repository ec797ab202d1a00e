"""A latency table: what each layer takes at each width on one device, and from it any network's latency at once.

A table predicts; it does not measure. It serves where thousands of networks are to be compared before one of them is
built, and, as the target `table`, where the device is not at hand. Elsewhere what a study reports is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy

from prunetune.spaces.errors import TargetError
from prunetune.spaces.files import write_text
from prunetune.targets.latency import Latency
from prunetune.targets.latency_model.conv_graph import ConvGraph, ConvShape, layer_of, shape_from_dict

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

VERSION = 1
"""Of the file's format."""

BLOCK = 16
"""Channels of the widest layout that runtimes for CPUs use. A concatenation of parts that are no multiple of it costs
them a conversion; where it does not, the fit finds 0."""

FEATURES = ("fixed", "layers", "weights", "concat", "unaligned", "resize", "add", "pool")
"""What a latency is a sum of: 1; the layers' times in the grids; millions of weights, which a lone layer finds in the
cache; millions of features that are concatenated, those of them in parts that are no multiple of `BLOCK`, resized,
added, pooled."""


@dataclass(frozen=True)
class Grid:
    """The times of one kind of layer over its widths."""

    shape: ConvShape
    inputs: tuple[int, ...]
    """Input channels, rising. Of a depthwise layer only one number, which does not matter: it reads what it writes."""
    outputs: tuple[int, ...]
    """Output channels, rising."""
    times: tuple[tuple[float, ...], ...]
    """For each number of input channels and then of output channels, the time, as a multiple of the anchor's."""


@dataclass(frozen=True)
class Prediction:
    """A predicted latency. Never to be reported as a measured one."""

    ratio: float
    """To the table's anchor."""
    latency_ms: float
    """The ratio times the anchor's latency when the table was made, in ms."""
    error_ms: float
    """How far off it may be, in ms; 19 of 20 networks are expected within."""


@dataclass(frozen=True)
class LatencyTable:
    """Predicts the latency of all networks of one family, at one input size, on one device."""

    fingerprint: Mapping[str, str]
    """Of the target that it was measured on."""
    graph: ConvGraph
    grids: tuple[Grid, ...]
    coefficients: Mapping[str, float]
    """For each of `FEATURES`, how much of the ratio to the anchor it brings."""
    anchor_ms: float
    """Latency of the network of half the widths that all was measured against, in ms."""
    error: float
    """Relative error that 19 of 20 networks keep: twice the root mean square over the whole networks that were
    measured, each predicted by a fit without it."""
    mape: float
    """Mean absolute relative error over the same predictions."""
    networks: int = field(default=0)
    """Whole networks that were measured."""

    def predict(self, widths: Mapping[str, int]) -> Prediction:
        """The latency of one network.

        Args:
            widths: Layer name to output channels, such as a `ChannelConfig`. Layers that the graph does not have,
                because their time never changes, are ignored. Residual blocks may be missing.

        Raises:
            TargetError: Another layer is missing, or one is wider than in the network that the table was made for.
        """
        ratio = float(self.predict_many(self.as_array([widths]))[0])
        latency = ratio * self.anchor_ms
        return Prediction(ratio, latency, latency * self.error)

    def relative(self, found: Prediction, reference: Prediction) -> Latency:
        """A prediction as a latency against another network's, of no rounds. The ratio's interval is the error bar."""
        # Of two networks each is off by itself.
        error = 0.0 if found == reference else 2**0.5 * self.error
        ratio = found.ratio / reference.ratio
        return Latency(
            median_ms=found.latency_ms,
            spread_ms=0.0,
            runs=0,
            ratio=ratio,
            ratio_spread=0.0,
            ratio_low=ratio * (1 - error),
            ratio_high=ratio * (1 + error),
            outliers=0,
        )

    def predict_many(self, widths: Array) -> Array:
        """Ratios to the anchor of many networks at once.

        Args:
            widths: Networks by layers: output channels, in the order of `graph.layers`, 0 for layers of residual
                blocks that are missing; as `as_array` gives.

        Raises:
            TargetError: As of `predict`.
        """
        weights = numpy.array([self.coefficients[name] for name in FEATURES])
        rows: dict[tuple[bool, ...], list[int]] = {}
        for row, structure in enumerate(map(tuple, (widths > 0).tolist())):
            rows.setdefault(structure, []).append(row)
        ratios: Array = numpy.empty(len(widths))
        for structure, alike in rows.items():
            ratios[alike] = self._model_of(structure).features(widths[alike][:, structure]) @ weights
        return ratios

    def as_array(self, networks: Sequence[Mapping[str, int]]) -> Array:
        """Networks by layers, for `predict_many`.

        Raises:
            TargetError: A layer is missing, and not with a whole residual block.
        """
        for widths in networks:
            self._only(widths)
        return numpy.array([[widths.get(layer.name, 0) for layer in self.graph.layers] for widths in networks])

    def _only(self, names: Collection[str]) -> ConvGraph:
        """The graph without the residual blocks that a network lacks.

        Raises:
            TargetError: It lacks more.
        """
        try:
            return self.graph.only(names)
        except TargetError as error:
            raise TargetError(
                f"{error}: it is not of the family that the table was made for; run prunetune profile on the dense "
                "detector"
            ) from None

    def _model_of(self, there: tuple[bool, ...]) -> FeatureModel:
        """The model of a structure: of each layer, whether the networks have it."""
        if there not in self._models:
            names = [layer.name for layer, is_left in zip(self.graph.layers, there, strict=True) if is_left]
            self._models[there] = FeatureModel(self._only(names), self.grids)
        return self._models[there]

    @cached_property
    def _models(self) -> dict[tuple[bool, ...], FeatureModel]:
        return {}

    def has_layers_of(self, network: ConvGraph) -> bool:
        """Whether a network, at its input size, is of the family that the table was made for. Widths may differ, and
        residual blocks may be missing."""
        try:
            family = self.graph.only(network.widths)
        except TargetError:
            return False
        # Exporters may order the layers of a shorter network otherwise.
        there, here = ({layer.name: layer.shape for layer in item.layers} for item in (network, family))
        return there == here

    def require_device(self, fingerprint: Mapping[str, str]) -> None:
        """Refuses a table that was made elsewhere.

        Args:
            fingerprint: Of the target that the predictions are for.

        Raises:
            TargetError: It is not the one that the table was measured on.
        """
        lines = [
            f"\n  {key}: {self.fingerprint.get(key, 'not known')} -> {fingerprint.get(key, 'not known')}"
            for key in sorted({*self.fingerprint, *fingerprint})
            if self.fingerprint.get(key) != fingerprint.get(key)
        ]
        if lines:
            raise TargetError(
                f"the latency table is of another device (table -> here):{''.join(lines)}\nRun prunetune profile here"
            )

    def save(self, path: Path) -> None:
        """Writes the table as JSON, as one step.

        Raises:
            StoreError: The folder cannot be written.
        """
        values = {"version": VERSION, **asdict(self)}
        values["skeleton"] = values.pop("graph")  # its name in files of this version
        write_text(path, json.dumps(values, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Reads what `save` wrote.

        Raises:
            TargetError: The file is missing, is no latency table, or one of another version.
        """
        again = "run prunetune profile to make one"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values.pop("version")
            if version != VERSION:
                raise TargetError(f"{path}: a latency table of version {version}, not {VERSION}; {again}")
            graph = ConvGraph.from_dict(values.pop("skeleton"))
            grids = tuple(_grid_from_dict(item) for item in values.pop("grids"))
            table = cls(graph=graph, grids=grids, **values)
            table._model_of((True,) * len(graph.layers))
        except OSError as error:
            raise TargetError(f"{path}: cannot be read ({error.strerror}); {again}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TargetError(f"{path}: is no latency table ({type(error).__name__}: {error}); {again}") from error
        return table


def _grid_from_dict(values: Mapping[str, Any]) -> Grid:
    return Grid(
        shape_from_dict(values["shape"]),
        tuple(values["inputs"]),
        tuple(values["outputs"]),
        tuple(tuple(row) for row in values["times"]),
    )


class FeatureModel:
    """From widths to `FEATURES`, for many networks at once by a few operations on arrays.

    Args:
        graph: The family.
        grids: The times of each kind of layer that it has.
    """

    def __init__(self, graph: ConvGraph, grids: Sequence[Grid]) -> None:
        self._names = [layer.name for layer in graph.layers]
        self._dense = numpy.array([layer.width for layer in graph.layers])
        reads = [layer.reads for layer in graph.layers]
        parts = [part for transfer in graph.transfers for part in transfer.parts]
        self._origins = self._count([channels.layers for channels in (*reads, *parts)])
        self._constants = numpy.array([channels.constant for channels in (*reads, *parts)])
        self._kernels = numpy.array([math.prod(layer.shape.kernel) for layer in graph.layers]) / 1e6
        self._depthwise = numpy.array([layer.shape.depthwise for layer in graph.layers])
        self._groups = numpy.array([layer.shape.groups for layer in graph.layers])

        number_of = {grid.shape: number for number, grid in enumerate(grids)}
        self._grid = numpy.array([number_of[layer.shape] for layer in graph.layers])
        widest = int(self._read(self._dense[None, :])[:, : len(reads)].max())
        every = numpy.arange(max(widest, int(self._dense.max())) + 1)
        self._rows = numpy.array([_positions(every, grid.inputs) for grid in grids])
        self._columns = numpy.array([_positions(every, grid.outputs) for grid in grids])
        height = max(len(grid.inputs) for grid in grids) + 1
        self._stride = max(len(grid.outputs) for grid in grids) + 1
        padded = [
            numpy.pad(
                numpy.array(grid.times),
                ((0, height - len(grid.inputs)), (0, self._stride - len(grid.outputs))),
                mode="edge",
            )
            for grid in grids
        ]
        self._times = numpy.concatenate([table.ravel() for table in padded])
        self._offsets = self._grid * height * self._stride

        owner = [number for number, transfer in enumerate(graph.transfers) for _ in transfer.parts]
        self._owner = numpy.eye(len(graph.transfers))[owner].reshape(len(owner), len(graph.transfers))
        operations = [transfer.operation for transfer in graph.transfers]
        self._operation = {name: numpy.array([name == other for other in operations], float) for name in FEATURES[3:]}
        self._pixels = numpy.array([transfer.pixels for transfer in graph.transfers]) / 1e6

    def input_widths(self, widths: Array) -> Array:
        """Input channels of each layer, networks by layers."""
        found: Array = self._read(widths)[:, : len(self._names)]
        return found

    def features(self, widths: Array) -> Array:
        """`FEATURES` of each network, networks by features.

        Args:
            widths: Networks by layers: output channels.

        Raises:
            TargetError: A layer is wider than in the graph.
        """
        if (wider := widths > self._dense).any():
            row, column = numpy.argwhere(wider)[0]
            raise TargetError(
                f"layer {self._names[column]}: {widths[row, column]} channels, and the latency table ends at "
                f"{self._dense[column]}; make it for the widest network with prunetune profile"
            )
        read = self._read(widths)
        inputs, parts = read[:, : len(self._names)], read[:, len(self._names) :]
        moved = (parts @ self._owner) * self._pixels
        unaligned = moved * (((parts % BLOCK) != 0) @ self._owner > 0)
        columns = {
            "fixed": numpy.ones(len(widths)),
            "layers": self._interpolate(inputs, widths).sum(axis=1),
            "weights": (numpy.where(self._depthwise, 1, inputs / self._groups) * widths) @ self._kernels,
            "unaligned": unaligned @ self._operation["concat"],
            **{name: moved @ self._operation[name] for name in ("concat", "resize", "add", "pool")},
        }
        return numpy.stack([columns[name] for name in FEATURES], axis=1)

    def _read(self, widths: Array) -> Array:
        found: Array = widths @ self._origins // 2 + self._constants
        return found

    def _interpolate(self, inputs: Array, outputs: Array) -> Array:
        """Each layer's time, bilinear between the points of its grid, beyond its ends as at them."""
        row, column = self._rows[self._grid, inputs], self._columns[self._grid, outputs]
        above, left = row.astype(int), column.astype(int)
        down, right = row - above, column - left
        corner = self._offsets + above * self._stride + left
        upper = (1 - right) * self._times[corner] + right * self._times[corner + 1]
        lower = (1 - right) * self._times[corner + self._stride] + right * self._times[corner + self._stride + 1]
        found: Array = (1 - down) * upper + down * lower
        return found

    def _count(self, sources: Sequence[Sequence[str]]) -> Array:
        """How many halves of each layer's channels are in each source: layers by sources."""
        index = {name: number for number, name in enumerate(self._names)}
        counts = numpy.zeros((len(self._names), len(sources)), int)
        for number, source in enumerate(sources):
            for name in source:
                counts[index[layer_of(name)], number] += 1 if ":" in name else 2
        return counts


def _positions(widths: Array, axis: Sequence[int]) -> Array:
    """Where widths lie on an axis: 1.5 is in the middle between its second and third point."""
    return numpy.interp(widths, axis, numpy.arange(len(axis)))
