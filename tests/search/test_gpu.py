"""A study on an NVIDIA GPU: it trains there in mixed precision, measures there, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from prunetune.results import load_study
from prunetune.spaces import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

TARGETS: list[dict[str, Any]] = [
    {"kind": "torch", "name": "graph", "device": "cuda", "precision": "fp16", "runs": 10},
    {"kind": "torch", "name": "eager", "device": "cuda", "cuda_graph": False, "runs": 10},
]
if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
    TARGETS.append({"kind": "onnxruntime", "name": "ort", "device": "cuda", "runs": 10})


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "amp"])
def test_a_study_trains_and_measures_on_a_gpu(
    tmp_path: Path, shapes: Path, write_study: Callable[..., Path], prunetune: Callable[..., Any], amp: bool
) -> None:
    budgets = {f"latency@{target['name']}": "<= 100 x dense" for target in TARGETS}
    file = write_study(
        data=str(shapes),
        device=0,
        batch=4,  # so that processes read the images: a single batch would be read without
        train={"amp": amp},
        space={
            "sparsity": 0.3,
            "sparse_epochs": 1,
            "threshold": {"low": 0.3, "high": 1.1},
            "recovery_epochs": 1,
            "distillation": 6.0,
            "sparse_distillation": 2.0,
        },
        targets=TARGETS,
        objectives=["map50_95", "latency@graph"],
        budget=budgets,
        early_stopping=False,
        controls=["half-width"],
        trials=2,
    )
    for trials in (2, 3):  # the second command goes on where the first ended
        done = prunetune("run", file, f"trials={trials}")
        assert done.code == 0, done.err
        found = load_study(tmp_path / "runs" / "tiny").findings
        assert [record.outcome for record in found.records.values()] == [Outcome.OK] * trials, done.out
    names = {target["name"] for target in TARGETS}
    assert all(set(network.latencies) == names for network in found.networks.values())
    for name in ("best.pt", "best.onnx", "front.json", "report.html"):
        assert (tmp_path / "runs" / "tiny" / name).stat().st_size > 0
    assert "graph" in prunetune("front", tmp_path / "runs" / "tiny").out
