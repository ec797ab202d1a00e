"""`prunetune profile`: a detector's latency table."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from prunetune.search.callbacks import views
from prunetune.search.commands.measure import network_of
from prunetune.search.options.target_option import with_pace
from prunetune.spaces import ConfigError, TargetError
from prunetune.targets import LatencyTable, TargetSpec, create_target, profile, read_conv_graph
from prunetune.targets.latency_model.profiling import BLOCKS

PACE: Mapping[str, Any] = {"tolerance": 0.02, "runs": 24, "seconds": 10.0, "warmup": 2}
"""How exactly one of the many networks is measured. What a single one is off averages out in the fit."""


@dataclass(frozen=True)
class ProfiledModel:
    """A latency table that was made."""

    table: LatencyTable
    out: Path
    """Its file."""
    imgsz: int
    seconds: float

    @property
    def points(self) -> int:
        """Points of all grids."""
        return sum(len(grid.inputs) * len(grid.outputs) for grid in self.table.grids)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON. `layers` counts kinds of layers, `mape` and `error` are relative."""
        return {
            "out": str(self.out),
            "target": dict(self.table.fingerprint),
            "imgsz": self.imgsz,
            "layers": len(self.table.grids),
            "points": self.points,
            "networks": self.table.networks,
            "mape": self.table.mape,
            "error": self.table.error,
            "seconds": round(self.seconds, 1),
        }


def profile_model(
    model: str,
    spec: TargetSpec,
    imgsz: int,
    networks: int,
    out: Path,
    console: Console,
) -> ProfiledModel:
    """Measures the table of a detector and writes it.

    Args:
        model: The dense detector: a .pt, a .onnx or a yaml.
        spec: The target.
        imgsz: Input size in px.
        networks: Whole networks to measure for the fit.
        out: Where the table goes.
        console: Where the progress is shown.

    Raises:
        ConfigError, ModelError, TargetError: An option, the model or the target is none that can be used.
        StoreError: The table cannot be written.
    """
    target = create_target(with_pace(spec, PACE))
    if target.form != "onnx":
        raise TargetError(f"--target {spec.kind}: runs no ONNX files, which a latency table is made of")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder, _Bar(console) as bar:
        network = network_of(model, target.form, imgsz, Path(folder) / "dense.onnx")
        assert network.onnx is not None
        height, width = read_conv_graph(network.onnx).size
        if (height, width) != (imgsz, imgsz):
            raise ConfigError(
                f"--imgsz {imgsz}: {model} was exported for {height} x {width} px; give that size, or the .pt"
            )
        table = profile(target, network.onnx, networks=networks, blocks=BLOCKS, progress=bar.show)
    table.save(out)
    return ProfiledModel(table, out, imgsz, time.monotonic() - start)


def write_profiled(profiled: ProfiledModel, console: Console) -> None:
    """Shows what `profile_model` made."""
    made, table = profiled.table, Table(show_header=False)
    for name, value in (
        ("kinds of layers", str(len(made.grids))),
        ("points of their widths", str(profiled.points)),
        ("whole networks", str(made.networks)),
        ("mean error on networks left out", f"{made.mape:.1%}"),
        ("19 of 20 within", f"{made.error:.1%}"),
        ("took", f"{profiled.seconds:.0f} s"),
    ):
        table.add_row(name, value)
    console.print(table)
    console.print(Text(str(profiled.out)), soft_wrap=True)


class _Bar:
    """A bar for each kind of network; a line now and then where there is no terminal. One measurement's noise is not
    told: the table's error holds it."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._console, self._said_at = console, time.monotonic()
        self._tasks: dict[str, Any] = {}
        self._logger = logging.getLogger("prunetune.targets.measure.measurement")

    def __enter__(self) -> _Bar:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._logger.setLevel(self._level)

    def show(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= views.PLAIN_SECONDS:
            self._said_at = time.monotonic()
            self._console.print(f"{what}: {done} of {total}", markup=False, highlight=False)
