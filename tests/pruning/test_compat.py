"""What ultralytics does differently once prunetune has prepared it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

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
