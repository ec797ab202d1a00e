"""The command `measure`: files measured beside each other, without a study."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunetune.pruning.yolo.detector import Detector
from prunetune.results.figures.distribution import write_distribution
from prunetune.results.tables.rows import memory_text
from prunetune.spaces import ConfigError, ModelError, TargetError
from prunetune.targets import Latency, Network, TargetSpec, create_target
from prunetune.targets.measure.onnx_file import image_channels
from prunetune.targets.spec import MINIMUM_ROUNDS


@dataclass(frozen=True)
class MeasuredModels:
    """Files that were measured beside each other."""

    reference: str
    """The path of the one that ratios are taken to."""
    target: Mapping[str, str]
    """The target's fingerprint."""
    imgsz: int
    models: Mapping[str, Latency]
    """By path."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "models": {name: latency.as_dict() for name, latency in self.models.items()}}


def measure_models(
    models: Sequence[str], spec: TargetSpec, against: str | None, imgsz: int, plot: Path | None = None
) -> MeasuredModels:
    """Measures files interleaved with a reference.

    Args:
        models: A .pt, .onnx or yaml each.
        spec: The target.
        against: The reference; the first model if None.
        imgsz: Side of the input in px.
        plot: Where to draw the distribution of the rounds, as HTML.

    Raises:
        ConfigError, ModelError, TargetError: A description, model or target cannot be used.
    """
    target = create_target(spec)
    fingerprint = target.fingerprint()  # first: what is not there is told before anything is exported
    names = list(dict.fromkeys([*([against] if against else []), *models]))
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        networks = [
            network_of(name, target.form, imgsz, Path(folder) / f"{index}.onnx") for index, name in enumerate(names)
        ]
        measured = target.measure(networks, reference=names[0])
    if plot is not None:
        write_distribution({name: latency.samples_ms for name, latency in measured.items()}, names[0], plot)
    return MeasuredModels(names[0], fingerprint, imgsz, measured)


def write_measured(measured: MeasuredModels, console: Console) -> None:
    """Shows what `measure_models` found."""
    knows_memory = any(latency.memory_mb is not None for latency in measured.models.values())
    table = Table("model", "median ms", "spread ms", "x reference", "95 % interval", "rounds", "outliers")
    if knows_memory:
        table.add_column("memory")
    for name, latency in measured.models.items():
        table.add_row(
            Text(name),
            f"{latency.median_ms:.3f}",
            f"{latency.spread_ms:.3f}",
            f"{latency.ratio:.3f}",
            "" if name == measured.reference else _interval(latency),
            str(latency.runs),
            str(latency.outliers),
            *([memory_text(latency.memory_mb)] if knows_memory else []),
        )
    console.print(table)
    told = [measured.target.get(key, "") for key in ("kind", "device", "runtime", "precision", "hint")]
    threads = f"threads {measured.target.get('threads', '')}"
    console.print(Text(f"at {measured.imgsz} px, reference {measured.reference}"), soft_wrap=True)
    console.print(Text(", ".join([*filter(None, told), threads])), soft_wrap=True)


def _interval(latency: Latency) -> str:
    if 0 < latency.runs < MINIMUM_ROUNDS:
        return f"needs {MINIMUM_ROUNDS} rounds"
    return f"{latency.ratio_low:.3f} to {latency.ratio_high:.3f}"


def network_of(name: str, form: str, imgsz: int, scratch: Path) -> Network:
    """A network of a file, in the form that a target wants.

    Args:
        name: A .pt, a .onnx or a yaml.
        form: `onnx` or `module`.
        imgsz: Input size in px.
        scratch: Where an ONNX file is written that has to be made first.

    Raises:
        ConfigError: The size does not fit the detector's stride.
        ModelError, TargetError: The file is missing, or not what the target can run.
    """
    if Path(name).suffix.lower() == ".onnx":
        if form != "onnx":
            raise TargetError(f"{name}: the target torch runs modules; give the .pt, or use --target onnxruntime")
        return Network(name, (1, image_channels(Path(name)), imgsz, imgsz), onnx=Path(name))
    if Path(name).suffix.lower() not in (".pt", ".yaml", ".yml"):
        raise ModelError(f"{name}: takes a .pt, a .onnx or a .yaml")
    detector = Detector.load(name)
    if problem := detector.imgsz_problem(imgsz):
        raise ConfigError(f"--imgsz: {problem}")
    if form == "module":
        return Network(name, detector.input_shape(imgsz), module=detector.deployed)
    detector.export_onnx(scratch, imgsz)
    return Network(name, detector.input_shape(imgsz), onnx=scratch)
