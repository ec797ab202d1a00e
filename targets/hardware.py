"""The name of the hardware under a measurement."""

from __future__ import annotations

import platform
from pathlib import Path

from prunetune.targets.spec import TargetSpec


def fingerprint(spec: TargetSpec, device: str, runtime: str) -> dict[str, str]:
    """What two measurements must share to be compared.

    Args:
        spec: The target's description.
        device: The model of the CPU or GPU.
        runtime: Name and version of the runtime.
    """
    return {
        "kind": spec.kind,
        "device": device,
        "runtime": runtime,
        "precision": spec.precision,
        "threads": str(spec.threads),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def cpu_model() -> str:
    """The CPU's name as it calls itself; on boards that do not say it, the board's; else the architecture."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    board = _read(Path("/proc/device-tree/model")).strip("\0\n ")
    return board or platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # these files exist on Linux only, the second on boards only
        return ""
