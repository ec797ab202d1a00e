"""Networks on the edge of a budget: a device whose answers are told beforehand, so that its noise is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from prunetune.results import load_study
from prunetune.search.latency.study_target import StudyTarget, violations
from prunetune.spaces import Outcome
from prunetune.targets import Latency, OnnxRuntimeSpec

Prunetune = Callable[..., Any]

STUDY: dict[str, Any] = {
    "name": "edge",
    "model": "yolov5n.yaml",
    "imgsz": 32,
    "batch": 8,
    "dense_epochs": 1,
    "space": {"sparsity": 0.5, "sparse_epochs": 1, "threshold": 0.5, "recovery_epochs": 1},
    "budget": {"latency": "<= 1 ms"},
    "controls": [],
    "trials": 1,
}

DEVICE = """
import sys
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2].replace(" ", "-")
asked = folder / name
count = len(asked.read_text()) if asked.exists() else 0
asked.write_text("x" * (count + 1))
times = dict(line.split(": ") for line in (folder / "times").read_text().splitlines())
told = times.get(name, "2.0").split()
print('{"latency_ms": %s}' % told[count % len(told)])
"""
"""Takes its answers in turn from a line of `times` for each network's name; 2 ms for others, as for the dense one."""

RUNS = 8
"""Of so many rounds the 95 % interval reaches from the lowest to the highest."""

WITHIN, EDGE, OVER = "0.98 0.99 0.99 1.00", "0.99 1.00 1.01 1.02", "1.01 1.02 1.02 1.03"
WILD = "0.30 1.20 1.20 1.20"


@pytest.fixture
def measure(shapes: Path, tmp_path: Path, prunetune: Prunetune) -> Callable[[str, str], Any]:
    """Runs a study whose trial takes some times when it is measured, and others when the front is."""

    def run(first: str, again: str) -> Any:
        (tmp_path / "device.py").write_text(DEVICE)
        (tmp_path / "times").write_text(f"candidate: {first}\n0: {again}\n")
        command = [sys.executable, "-I", "-S", str(tmp_path / "device.py"), str(tmp_path), "{name}", "{onnx}"]
        target = {"kind": "command", "name": "board", "command": command, "runs": RUNS, "tolerance": 1e-6}
        described = {**STUDY, "data": str(shapes), "runs": str(tmp_path / "runs"), "targets": [target]}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(described))
        return prunetune("run", tmp_path / "study.yaml")

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "again", "edges"),
    [(WITHIN, WITHIN, []), (WITHIN, EDGE, ["board"]), (EDGE, WITHIN, []), (EDGE, EDGE, ["board"])],
)
def test_noise_puts_nothing_over_the_budget(
    measure: Callable[[str, str], Any], prunetune: Prunetune, tmp_path: Path, first: str, again: str, edges: list[str]
) -> None:
    answer = measure(first, again)
    assert answer.code == 0, answer.err
    folder = tmp_path / "runs" / "edge"
    found = load_study(folder).findings
    assert found.records[0].outcome is Outcome.OK
    assert found.networks["0"].figures.feasible
    assert found.trials[0].constraints["latency"] <= 0
    (member,) = json.loads(prunetune("front", folder, "--json").out)["front"]
    assert member["on_edge"] == edges
    for shown in (answer.out, prunetune("front", folder).out, (folder / "report.html").read_text(encoding="utf-8")):
        assert ("on the edge of the budget" in " ".join(shown.split())) == bool(edges)
    assert ("on the edge" in prunetune("status", folder).out) == bool(edges)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "again", "outcome"),
    [(WITHIN, OVER, Outcome.OK), (OVER, WITHIN, Outcome.OVER_BUDGET), (WILD, WITHIN, Outcome.OVER_BUDGET)],
)
def test_what_is_surely_over_is_over(
    measure: Callable[[str, str], Any], tmp_path: Path, first: str, again: str, outcome: Outcome
) -> None:
    answer = measure(first, again)
    assert answer.code == 2
    assert "no recipe met the budget <= 1 ms" in answer.err
    found = load_study(tmp_path / "runs" / "edge").findings
    assert found.records[0].outcome is outcome
    assert (found.trials[0].constraints["latency"] > 0) == (outcome is Outcome.OVER_BUDGET)


@pytest.mark.parametrize(
    ("times", "share", "found"),
    [
        ([0.99, 1.0, 1.01, 1.01, 1.01, 1.02], 1.0, 0.0),
        ([1.001, 1.0, 1.01, 1.01, 1.01, 1.02], 1.0, 0.0),
        ([1.001, 1.002, 1.01, 1.01, 1.01, 1.02], 1.0, 0.01),
        ([0.99, 1.01, 1.01, 1.01, 1.02], 1.0, 0.01),  # too few for an interval
        ([0.3, 0.4, 1.1, 1.1, 1.1, 1.1], 1.0, 0.1),
        ([0.49, 0.5, 0.505, 0.505, 0.51, 0.52], 0.5, 0.0),
        ([0.51, 0.52, 0.55, 0.55, 0.56, 0.56], 0.5, 0.1),
        ([0.9] * 6, 1.0, -0.1),
    ],
)
def test_a_measurement_against_a_share_of_each_limit(times: list[float], share: float, found: float) -> None:
    latencies, targets = {}, []
    for name, budget in (("cpu", "<= dense"), ("board", "<= 2 x dense"), ("free", None)):
        target = StudyTarget.create(OnnxRuntimeSpec(name=name), budget, [], is_objective=True)
        targets.append(replace(target, references_ms={"dense": 4.0}))
        latencies[name] = targets[-1].normalized(Latency.from_samples(times, [1.0] * len(times)))
    over = violations(targets, latencies, share)
    assert set(over) == {"cpu", "board"}
    assert over["cpu"] == pytest.approx(found)
    assert over["board"] < 0
