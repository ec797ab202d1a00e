"""Where networks are trained: checked before anything is begun."""

from __future__ import annotations

import torch


def device_problem(device: str) -> str | None:
    """What is wrong with a device as `StudySpec.device` names it: `cpu`, `mps` or a GPU's number."""
    if device == "mps":
        return None if torch.backends.mps.is_available() else "mps is not there; write cpu"
    count = gpu_count()
    if "," in device:
        return f"{device}: a training runs on one GPU; `prunetune run` starts a worker for each of them"
    if device.isdigit() and int(device) >= count:
        build = "" if torch.version.cuda else " (a build for the CPU only)"
        known = f"sees {count} GPU{'' if count == 1 else 's'}, numbered from 0" if count else "sees no GPU"
        return f"GPU {device} is not there: torch {torch.__version__}{build} {known}; write cpu or another number"
    return None


def gpu_count() -> int:
    """How many GPUs torch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
