"""What ultralytics does differently once prunetune has prepared it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from prunetune.pruning.compat import prepare_ultralytics

THREADS = """
import os
cores = {cores}
if cores:
    os.sched_setaffinity(0, cores)
from prunetune.pruning.compat import prepare_ultralytics
prepare_ultralytics()
from ultralytics.utils.torch_utils import select_device
select_device("cpu")
import torch
print(torch.get_num_threads())
"""


def _threads(cores: set[int] | None = None, **environment: str) -> int:
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
    command = [sys.executable, "-c", THREADS.format(cores=cores)]
    told: Any = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell a process's cores")
def test_a_training_on_a_cpu_has_every_core_of_its_process() -> None:
    allowed = os.sched_getaffinity(0)
    assert _threads() == min(len(allowed), 8)
    assert _threads({min(allowed)}) == 1


def test_what_the_user_says_of_threads_holds() -> None:
    assert _threads(OMP_NUM_THREADS="1") == 1


@pytest.mark.parametrize("images", [1, 3, 16])
def test_a_busy_machine_loses_no_detections(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ultralytics gives up on the rest of a batch when its clock says that suppression took too long."""
    prepare_ultralytics()
    from ultralytics.utils.nms import non_max_suppression

    clock = itertools.count(step=60)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    found = torch.tensor([[32.0, 32.0, 20.0, 20.0, 0.9]]).T.repeat(images, 1, 1)  # one box of one class
    assert [len(boxes) for boxes in non_max_suppression(found)] == [1] * images
