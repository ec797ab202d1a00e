"""Checks an installation: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

State = Literal["ok", "note", "broken"]
_NEEDED = (
    "torch",
    "ultralytics",
    "ultralytics-thop",
    "torch-pruning",
    "optuna",
    "onnx",
    "onnxruntime",
    "onnxslim",
)
_EXTRAS = {
    "ray": "ray",
    "psycopg": "postgres",
    "optuna-dashboard": "dashboard",
    "openvino": "openvino",
    "zxing-cpp": "examples",
}


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
    findings = [_package(name) for name in _NEEDED]
    if not any(finding.state == "broken" for finding in findings):
        findings += [_torchvision(), _flops(), _accelerator(), _runtime()]
    findings += [_thop(), _int8(), *(_extra(name, extra) for name, extra in _EXTRAS.items()), _settings(), _writable()]
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


def _package(name: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "broken", f"missing; run: pip install {name}")
    return Finding(name, "ok", version)


def _extra(name: str, extra: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "note", f"not installed; pip install 'prunetune[{extra}]' brings it")
    return Finding(name, "ok", version)


def _torchvision() -> Finding:
    from prunetune.pruning.compat import prepare_ultralytics, torchvision_works

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
    from prunetune.pruning.detector import Detector

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

    return Finding("ONNX Runtime providers", "ok", ", ".join(onnxruntime.get_available_providers()))


def _int8() -> Finding:
    from prunetune.targets import hardware

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
