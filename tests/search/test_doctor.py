"""`prunetune doctor`: is everything there that a study needs?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from prunetune.search.commands import doctor
from prunetune.search.commands.doctor import PURPOSES

Prunetune = Callable[..., Any]


def test_doctor_finds_this_installation_sound(
    prunetune: Prunetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = prunetune("doctor", "--json")
    assert answer.code == 0, answer.out
    findings = {finding["subject"]: finding for finding in json.loads(answer.out)}
    for subject in ("torch", "ultralytics", "optuna", "onnxruntime", "GFLOPs", "this folder", "extra dev"):
        assert findings[subject]["state"] == "ok", findings[subject]
    assert {finding["state"] for finding in findings.values()} <= {"ok", "note"}
    table = prunetune("doctor")
    assert table.code == 0
    assert "torchvision" in table.out
    assert list(tmp_path.iterdir()) == []


def test_doctor_knows_every_extra(pyproject: dict[str, Any]) -> None:
    needed, extras = doctor._requirements()
    described = pyproject["project"]["optional-dependencies"]
    assert {name: [item.name for item in items] for name, items in extras.items()} == {
        name: [Requirement(item).name for item in items] for name, items in described.items()
    }
    assert set(PURPOSES) == set(described)
    assert {"torch", "ultralytics", "filelock", "jinja2"} < {item.name for item in needed}


@pytest.mark.parametrize("extra", ["ray", "notebook", "parquet"])
def test_a_missing_or_old_extra_says_what_brings_it(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = doctor._requirements()[1][extra]
    for installed, said in (
        ({}, "is not installed"),
        (dict.fromkeys([r.name for r in requirements], "0.0.1"), "0.0.1"),
    ):
        monkeypatch.setattr(doctor, "_version", installed.get)
        found = doctor._extra(extra, requirements)
        assert (found.subject, found.state) == (f"extra {extra}", "note")
        assert said in found.detail
        assert f"pip install 'prunetune[{extra}]' brings it for {PURPOSES[extra]}" in found.detail
        broken = doctor._package(requirements[0])
        assert (broken.state, broken.subject) == ("broken", requirements[0].name)
        assert f"pip install '{requirements[0].name}>=" in broken.detail


def test_another_build_of_a_package_does_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", {"onnxruntime-gpu": "1.32.0"}.get)
    assert doctor._package(Requirement("onnxruntime>=1.20")) == doctor.Finding("onnxruntime-gpu", "ok", "1.32.0")
    assert doctor._package(Requirement("onnxruntime>=1.99")).state == "broken"


def test_the_version_is_that_of_the_package(prunetune: Prunetune, pyproject: dict[str, Any]) -> None:
    assert prunetune("--version").out == f"prunetune {pyproject['project']['version']}\n"
