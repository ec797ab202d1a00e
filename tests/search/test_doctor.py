"""`prunetune doctor`: is everything there that a study needs?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Prunetune = Callable[..., Any]


def test_doctor_finds_this_installation_sound(
    prunetune: Prunetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = prunetune("doctor", "--json")
    assert answer.code == 0, answer.out
    findings = {finding["subject"]: finding for finding in json.loads(answer.out)}
    for subject in ("torch", "ultralytics", "optuna", "onnxruntime", "GFLOPs", "this folder"):
        assert findings[subject]["state"] == "ok", findings[subject]
    assert {finding["state"] for finding in findings.values()} <= {"ok", "note"}
    table = prunetune("doctor")
    assert table.code == 0
    assert "torchvision" in table.out
    assert list(tmp_path.iterdir()) == []
