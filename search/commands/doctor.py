"""Checks an installation: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

State = Literal["ok", "note", "broken"]
PURPOSES = {
    "ray": "the Ray Tune engine: `run --engine ray`",
    "postgres": "a study on a PostgreSQL server: `storage: postgresql+psycopg://...`",
    "dashboard": "notes and pictures for optuna-dashboard, and `prunetune dashboard`",
    "mlflow": "`run --callback mlflow`",
    "wandb": "`run --callback wandb`",
    "openvino": "targets of kind openvino, and `export --openvino`",
    "tensorrt": "targets of kind tensorrt, and `export --tensorrt`; needs an NVIDIA GPU",
    "examples": "examples/barcodes",
    "notebook": "examples/results.ipynb",
    "parquet": "`table --format parquet`",
    "docs": "`make docs`",
    "dev": "`make lint` and `make test`",
}
"""What each extra is for. Which there are, the package itself says."""

_OTHER_BUILDS = {"onnxruntime": "onnxruntime-gpu"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        subject: What was looked at.
        state: `ok`; `note` where something works in a way worth knowing or is optional; `broken`.
        detail: Version, or what to do.
    """

    subject: str
    state: State
    detail: str

    def as_dict(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Looks at everything a study needs."""
    needed, extras = _requirements()
    findings = [_package(requirement) for requirement in needed]
    if not any(finding.state == "broken" for finding in findings):
        findings += [_torchvision(), _flops(), _accelerator(), _runtime()]
    findings += [_thop(), _int8(), *(_extra(*extra) for extra in extras.items()), _settings(), _writable()]
    return findings


def write_findings(findings: list[Finding], console: Console) -> None:
    """Shows the findings as a table."""
    table = Table("", "state", "detail")
    colours = {"ok": "green", "note": "yellow", "broken": "red"}
    for finding in findings:
        table.add_row(finding.subject, Text(finding.state, colours[finding.state]), Text(finding.detail))
    console.print(table)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the installed package needs on this machine, and what each of its extras adds."""
    extras: dict[str, list[Requirement]] = {
        name: [] for name in importlib.metadata.metadata("prunetune").get_all("Provides-Extra") or ()
    }
    needed = []
    for text in importlib.metadata.requires("prunetune") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.append(requirement)
            continue
        for name, added in extras.items():
            if requirement.marker.evaluate({"extra": name}):
                added.append(requirement)
    return needed, extras


def _unsuitable(requirement: Requirement) -> str | None:
    """Why an installed version does not do; None if it does."""
    version = _version(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is installed, and {requirement.specifier} is needed"
    return None


def _package(requirement: Requirement) -> Finding:
    other = _OTHER_BUILDS.get(requirement.name)
    if other is not None and _version(requirement.name) is None and _version(other) is not None:
        requirement = Requirement(f"{other}{requirement.specifier}")
    name = requirement.name
    if problem := _unsuitable(requirement):
        return Finding(name, "broken", f"{problem}; run: pip install '{name}{requirement.specifier}'")
    return Finding(name, "ok", _version(name) or "")


def _extra(name: str, requirements: list[Requirement]) -> Finding:
    subject, purpose = f"extra {name}", PURPOSES.get(name, "")
    problems = [problem for problem in map(_unsuitable, requirements) if problem]
    if problems:
        for_what = f" for {purpose}" if purpose else ""
        return Finding(subject, "note", f"{', '.join(problems)}; pip install 'prunetune[{name}]' brings it{for_what}")
    return Finding(subject, "ok", ", ".join(f"{item.name} {_version(item.name)}" for item in requirements))


def _torchvision() -> Finding:
    from prunetune.pruning.yolo.compat import prepare_ultralytics, torchvision_works

    prepare_ultralytics()
    if torchvision_works():
        return Finding("torchvision", "ok", _version("torchvision") or "")
    return Finding(
        "torchvision", "note", "cannot load beside this torch; a stand-in gives ultralytics its own equal NMS"
    )


def _thop() -> Finding:
    if _version("thop") is not None:
        return Finding(
            "thop",
            "broken",
            "overwrites ultralytics-thop, and GFLOPs become 0; run: pip uninstall -y thop, then "
            "pip install --force-reinstall --no-deps ultralytics-thop",
        )
    return Finding("thop", "ok", "not beside ultralytics-thop")


def _flops() -> Finding:
    from prunetune.pruning.yolo.detector import Detector

    gflops = Detector.load("yolov5n.yaml").gflops(64)
    if gflops <= 0:
        return Finding("GFLOPs", "broken", "counted as 0; reinstall ultralytics-thop")
    return Finding("GFLOPs", "ok", "counted")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", "ok", torch.cuda.get_device_name(0))
    return Finding("GPU", "note", f"none; training runs on {os.cpu_count()} CPU cores")


def _runtime() -> Finding:
    import onnxruntime

    import prunetune.targets  # noqa: F401  # switches ONNX Runtime's telemetry off

    return Finding("ONNX Runtime providers", "ok", ", ".join(onnxruntime.get_available_providers()))


def _int8() -> Finding:
    from prunetune.targets.measure import hardware

    if hardware.multiplies_int8():
        return Finding("int8", "ok", "the CPU multiplies it without overflow")
    return Finding("int8", "note", "the CPU has no VNNI: weights get 7 bits, and int8 gains less than elsewhere")


def _settings() -> Finding:
    folder = os.environ.get("YOLO_CONFIG_DIR")
    return Finding("ultralytics' settings", "ok", folder or "in a folder of prunetune's own")


def _writable() -> Finding:
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            return Finding("this folder", "ok", "writable")
    except OSError as error:
        return Finding("this folder", "broken", f"not writable ({error.strerror}); run prunetune elsewhere")
