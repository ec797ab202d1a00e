"""What the tests of this room share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning.stages.store import StageStore
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.values import TrainingSetup

StockUltralytics = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def stock_ultralytics(tmp_path_factory: pytest.TempPathFactory) -> StockUltralytics:
    """Runs `without_prunetune.py` with the given arguments in a process of its own; returns what it prints."""
    script = Path(__file__).with_name("without_prunetune.py")
    folder = tmp_path_factory.mktemp("stock")

    def run(*arguments: object) -> dict[str, Any]:
        command = [sys.executable, str(script), *(str(argument) for argument in arguments)]
        environment = {
            **os.environ,
            "YOLO_CONFIG_DIR": str(folder),
            "YOLO_OFFLINE": "True",
            "YOLO_AUTOINSTALL": "False",
        }
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


# A module of tests has its own loaders and store, and may have its own of each name


@pytest.fixture(scope="module")
def setup(shapes: Path) -> TrainingSetup:
    """What small trainings share."""
    return TrainingSetup(str(shapes), "shapes", imgsz=64, batch=8)


@pytest.fixture(scope="module")
def loaders(setup: TrainingSetup) -> DataLoaders:
    """Their images."""
    return DataLoaders(setup)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    """An empty one."""
    return StageStore(tmp_path_factory.mktemp("store"))
