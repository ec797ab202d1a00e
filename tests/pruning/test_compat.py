"""What ultralytics does differently once prunetune has prepared it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.pruning.yolo.compat import prepare_ultralytics

THREADS = """
import os
cores = {cores}
if cores:
    os.sched_setaffinity(0, cores)
from prunetune.pruning.yolo.compat import prepare_ultralytics
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


NO_HOME = """
import pwd, runpy, sys
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
sys.argv = ["prunetune", *sys.argv[1:]]
runpy.run_module("prunetune.search.cli", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "homes",
    [{}, {"YOLO_CONFIG_DIR": "settings"}, {"YOLO_CONFIG_DIR": "/dev/null/settings"}, {"HOME": "/dev/null"}],
    ids=str,
)
def test_a_user_may_have_no_home(homes: dict[str, str], tmp_path: Path) -> None:
    """As in a container whose user has no entry in its passwd, or a home that is not there or read-only."""
    away = ("HOME", "YOLO_CONFIG_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environ = {name: value for name, value in os.environ.items() if name not in away} | homes
    surgery = ["prune", "yolov5n.yaml", "--threshold", "0.5", "--imgsz", "64"]
    for arguments in (["doctor"],) if homes else (["doctor"], ["--help"], surgery):
        command = [sys.executable, "-c", NO_HOME, *arguments]
        told = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        assert "Traceback" not in told.stderr
        assert "telemetry" not in told.stderr, "ONNX Runtime says so when it cannot keep an identifier in the home"
    assert {path.name for path in tmp_path.iterdir()} <= {"settings"}


@pytest.mark.parametrize("images", [1, 3, 16])
def test_a_busy_machine_loses_no_detections(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ultralytics gives up on the rest of a batch when its clock says that suppression took too long."""
    prepare_ultralytics()
    from ultralytics.utils.nms import non_max_suppression

    clock = itertools.count(step=60)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    found = torch.tensor([[32.0, 32.0, 20.0, 20.0, 0.9]]).T.repeat(images, 1, 1)  # one box of one class
    assert [len(boxes) for boxes in non_max_suppression(found)] == [1] * images
