"""A latency in a description's space, and the tables that it is predicted from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunetune.search.study.study_spec import StudySpec

Written = Callable[..., Path]
Problem = Callable[..., str]
PRESET = "{preset: yolov5-slimming}"
LATENCY = "{preset: yolov5-slimming, latency: {low: 0.6, high: 1.0}}"


def test_a_latency_in_the_space(written: Written, short: str) -> None:
    spec = StudySpec.read(written(short.replace(PRESET, LATENCY)))
    assert "latency" in dict(spec.space.parameters())
    again = StudySpec.parse(spec.model_dump(mode="json", exclude_none=True))
    assert again == spec, "a study is resumed with it"


def test_a_balance_of_1_changes_nothing(written: Written, short: str) -> None:
    def frozen(balance: str) -> dict[str, Any]:
        space = LATENCY.replace("}}", "}" + balance + "}")
        return StudySpec.read(written(short.replace(PRESET, space))).frozen_part()

    assert frozen(", balance: 1") == frozen("") != frozen(", balance: 2")


def test_the_latency_and_the_table_in_the_pages(written: Written, short: str) -> None:
    docs = Path(__file__).parents[2] / "docs"
    pages = "".join((docs / name).read_text(encoding="utf-8") for name in ("search.md", "pruning.md", "targets.md"))
    blocks = re.findall(r"```yaml\n(.*?)```", pages, re.DOTALL)
    (space,) = (block for block in blocks if "  balance:" in block)
    (where,) = (block for block in blocks if "  floor:" in block)
    pruned = StudySpec.read(written(short.replace("space: {preset: yolov5-slimming}\n", where)))
    assert {"importance", "floor"} < set(dict(pruned.space.parameters()))
    (targets,) = (block for block in blocks if "table:" in block)
    spec = StudySpec.read(written(short.replace("space: {preset: yolov5-slimming}\n", space) + targets))
    assert {"latency", "balance"} < set(dict(spec.space.parameters()))
    assert spec.targets[0].table == "yolov5n-160.json"


def test_a_latency_in_the_space_needs_a_budget(written: Written, short: str, problem: Problem) -> None:
    found = problem(written(short.replace(PRESET, LATENCY) + "budget: {}\n"))
    assert found.startswith("space.latency: is a share of the budget, and there is none; give budget:")
    assert problem(written(short.replace(PRESET, LATENCY).replace("0.6", "-0.6"))).startswith(
        "space.latency: -0.6 is no share"
    )


def test_a_table_is_looked_for_beside_the_study(written: Written, short: str, tmp_path: Path) -> None:
    written("{}", "table.json")
    written("{kind: onnxruntime, name: other, table: table.json}", "other.yaml")
    targets = "targets: [{kind: onnxruntime, table: table.json}, other.yaml]\nobjectives: [map50_95, latency@cpu]\n"
    spec = StudySpec.read(written(short + targets), ["targets.0.threads=2"])
    assert [target.table for target in spec.targets] == [str(tmp_path / "table.json")] * 2
    assert StudySpec.read(written(short + "targets: [{kind: onnxruntime, table: gone.json}]")).targets[0].table == (
        "gone.json"
    )


def test_a_table_for_what_runs_no_onnx_files_is_refused(written: Written, short: str, problem: Problem) -> None:
    found = problem(written(short + "targets: [{kind: torch, table: table.json}]\n"))
    assert "table: is made from ONNX files" in found
