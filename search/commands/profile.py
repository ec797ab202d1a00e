"""What the layers of a detector cost and are worth: `prunetune profile`, its latency table; `prunetune sensitivity`."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from prunetune.pruning.accuracy.sensitivity import Sensitivity, write_sensitivity
from prunetune.pruning.accuracy.sensitivity_analysis import SHARES, analyse
from prunetune.pruning.pipeline import Pipeline
from prunetune.pruning.stages.stage_runner import StageRunner
from prunetune.pruning.stages.store import StageStore
from prunetune.pruning.training.device import device_problem
from prunetune.pruning.yolo.detector import Detector
from prunetune.results.record import StudyRecord
from prunetune.results.tables.escapes import printable
from prunetune.search.callbacks import views
from prunetune.search.callbacks.progress import Progress as StudyProgress
from prunetune.search.commands.measure import network_of
from prunetune.search.commands.prune import setup_on
from prunetune.search.engine.engine import check
from prunetune.search.engine.finish import write_results
from prunetune.search.engine.study_setup import require_same_data
from prunetune.search.options.target_option import with_pace
from prunetune.search.study.open_study import spec_here
from prunetune.spaces import Alignment, ConfigError, ModelError, TargetError
from prunetune.spaces.recipe import Importance
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


def sensitivity_of(
    model: str,
    data: str,
    *,
    importance: Importance,
    alignment: int,
    imgsz: int,
    batch: int,
    device: str,
    console: Console,
) -> Sensitivity:
    """What removing channels of each group of layers alone does to a detector. Nothing is trained.

    Args:
        model: The trained detector, a .pt.
        data: The data set's yaml.
        importance: What channels are judged by.
        alignment: Channels are kept in multiples of this, where that leaves some to go.
        imgsz: Side of the input in px.
        batch: Images in a batch.
        device: ultralytics' `device`.
        console: Where the progress is shown.

    Raises:
        ConfigError: The device is none, the data have other classes or channels, or the size does not fit.
        ModelError: The detector cannot be loaded or pruned.
    """
    if problem := device_problem(device):
        raise ConfigError(f"--device: {problem}")
    detector = Detector.load(model)
    detector.require_boxes()
    if problem := detector.imgsz_problem(imgsz):
        raise ConfigError(f"--imgsz: {problem}")
    with tempfile.TemporaryDirectory(prefix="prunetune-") as name, _Bar(console) as bar:
        folder = Path(name)
        setup = setup_on(data, detector, model, imgsz, folder, batch, device)
        stages = StageRunner(setup, StageStore(folder / "store"))
        try:
            return analyse(detector, stages, alignment, importance, model, progress=partial(bar.show, "networks"))
        except ModelError as error:
            raise ModelError(f"{model}: {error}") from error


def sensitivity_of_study(
    study: optuna.Study, folder: Path, importance: Importance, console: Console
) -> tuple[Sensitivity, Path]:
    """The same for a study's dense network, as it is before any recipe. It is written into the study's folder.

    The report is written anew where the study has ended. A dense network that is no longer in the store is trained
    again, as `prunetune run` would.

    Args:
        study: The study.
        folder: Its folder.
        importance: What channels are judged by.
        console: Where the progress is shown.

    Returns:
        What was found, and its file.

    Raises:
        PrunetuneError: Something the user must mend, such as data that changed.
    """
    spec = spec_here(study, folder)
    progress = StudyProgress(console, spec.trials)
    try:
        setup = check(spec, progress)
        require_same_data(study, setup)
        alignment = Alignment.common(target.alignment for target in spec.targets)
        longest, rewinds = spec.space.longest_sparse_epochs, spec.space.may("start", "rewind")
        pipeline = Pipeline(
            setup.source,
            setup.stages,
            alignment=alignment,
            longest_sparse_epochs=longest,
            choose=spec.choose,
            rewinds=rewinds,
        )
        progress.begin("dense network")
        detector = setup.stages.load(pipeline.original())
    finally:
        progress.end()
    with _Bar(console) as bar:
        found = analyse(detector, setup.stages, alignment, importance, "dense", progress=partial(bar.show, "networks"))
    file = write_sensitivity(found, folder)
    if StudyRecord.of(study).finished is not None:
        write_results(study, folder)
    return found, file


def write_analysed(found: Sensitivity, console: Console) -> None:
    """Shows a sensitivity: for each group what its removals cost in map50_95, with the channels that are left."""
    table = Table("group", "region")
    for title in ("channels", *(f"{share:.0%} removed" for share in SHARES)):
        table.add_column(title, justify="right")
    for group in found.groups:
        told = {item.share: f"{-found.lost(item):+.3f} ({item.kept})" for item in group.removals}
        more = f" and {len(group.layers) - 1} more" if len(group.layers) > 1 else ""
        row = (group.name + more, group.region, str(group.channels), *(told.get(share, "") for share in SHARES))
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    console.print(
        Text(
            f"map50_95 of {found.model} is {found.given:.3f}, with recalibrated BatchNorm {found.map50_95:.3f}; in "
            f"brackets the channels that are left, by {found.importance}, in multiples of {found.alignment} where that "
            "removes any"
        ),
        soft_wrap=True,
    )


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
