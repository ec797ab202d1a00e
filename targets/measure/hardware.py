"""The hardware under a measurement: its name, and its quietest cores."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from prunetune.targets.spec import RuntimeSpec

logger = logging.getLogger(__name__)


def fingerprint(spec: RuntimeSpec, device: str, runtime: str) -> dict[str, str]:
    """What two measurements must share to be compared.

    Args:
        spec: The target's description.
        device: The model of the CPU or GPU.
        runtime: Name and version of the runtime.
    """
    found = {
        "kind": spec.kind,
        "device": device,
        "runtime": runtime,
        "precision": spec.precision,
        "threads": str(spec.threads),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if spec.on_gpu:
        found["driver"] = _nvidia_smi(int(spec.place.removeprefix("cuda:")), "driver_version") or "not told"
    return found


def cpu_model() -> str:
    """The CPU's name as it calls itself; on boards that do not say it, the board's; else the architecture."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    board = _read(Path("/proc/device-tree/model")).strip("\0\n ")
    return board or platform.processor() or platform.machine()


def gpu_model(number: int) -> str:
    """The name of an NVIDIA GPU as its driver calls it; on boards without nvidia-smi the board's.

    Args:
        number: As nvidia-smi counts.
    """
    return _nvidia_smi(number, "name") or cpu_model()


def _nvidia_smi(number: int, field: str) -> str:
    """What NVIDIA's tool says of a GPU; empty where there is no tool."""
    command = ["nvidia-smi", f"--id={number}", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def multiplies_int8() -> bool:
    """Whether the CPU adds up products of 8-bit numbers without overflow: x86 with VNNI, and every other family.

    Where the system does not tell, an x86 CPU is taken not to.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return not {"avx512_vnni", "avx_vnni"}.isdisjoint(value.split())
    return False


LOOK_SECONDS = 0.05
"""How long the load of the cores is watched before some are chosen."""


_pool: frozenset[int] = frozenset()


def allowed_cores() -> frozenset[int]:
    """The cores that this process may measure on; none where the system does not tell."""
    return _pool or (frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset())


def pin(cores: Iterable[int]) -> None:
    """Holds this process to some cores. A measurement still chooses among all that it could use before.

    Call it before threads are started. Where the system cannot pin, nothing is done.
    """
    global _pool
    _pool = allowed_cores()
    if _pool:
        os.sched_setaffinity(0, cores)


@contextmanager
def quiet_cores(count: int) -> Iterator[None]:
    """Holds the calling thread, and the threads that it starts, to the `count` cores that are least loaded now.

    A thread that wanders between cores finds their caches cold. Where the system cannot pin threads (macOS,
    Windows), and where all cores are wanted anyway, nothing is done.
    """
    allowed = allowed_cores()
    if allowed and count > len(allowed):
        logger.warning("%d threads on %d cores: they take turns, and latency says little", count, len(allowed))
    before = os.sched_getaffinity(0) if allowed else set()
    if count >= len(allowed) and before == allowed:
        yield
        return
    load = psutil.cpu_percent(interval=LOOK_SECONDS, percpu=True)
    busy = {core: load[core] if core < len(load) else 100.0 for core in allowed}
    # Of equally quiet ones the last: systems put their own work on the first.
    chosen = sorted(allowed, key=lambda core: (busy[core], -core))[:count]
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # these files exist on Linux only, the second on boards only
        return ""
