"""The one interface of benchmarks: `--help`, `--quick`, and a last line of JSON whose figures have fixed names."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
FILES = sorted(FOLDER.glob("*.py"))

FIGURES = {
    "alignment": ("speedup_min", "speedup_min_probe", "probe"),
    "deploy_bound": ("looked_at", "skipped", "lost", "most_lost", "deploy_share", "skipped_s"),
    "depth": ("surgery_error", "rows"),
    "finetune": ("given", "dense_kept", "dense", "recovered_share", "by_factor", "gflops"),
    "gpu": ("latency_ms", "speedup", "skipped"),
    "int8": ("map50_95", "latency_ms", "speedup", "vnni"),
    "latency_noise": ("cv", "cv_loaded", "seconds", "kendall_tau"),
    "latency_table": ("mape", "worst", "kendall_tau", "predictions_per_s"),
    "overhead": ("share", "seconds", "trials", "epochs", "ask_tell_s"),
    "plan_fill": ("predicted", "stepped", "measured", "again", "looks"),
    "recovery": (
        *("gap_closed", "hypervolume_ratio", "gain_over_half_width", "share_of_dense"),
        *("curve", "test", "networks"),
    ),
    "report_scale": ("report_s", "report_mb", "status_s", "front_s", "trials"),
    "scale": ("errors", "trials_per_s", "states", "workers", "speedup_2_workers", "trials_per_h"),
    "search_cost": ("epochs_ratio", "epochs_ratio_tpe", "without", "stopped_share"),
    "search_real": ("random", "tpe", "widths", "prunetune"),
    "sensitivity": ("dense", "spread", "map50_95", "gain"),
    "size_latency": ("table", "multiply_adds"),
}
"""What each benchmark's last line tells. Whoever reads them by name counts on it."""


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's own folder comes first on the path; what was imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    own = {path.stem for path in FILES} | {path.name for path in FOLDER.iterdir() if path.is_dir()}
    monkeypatch.setattr(sys, "argv", [])
    for name in [name for name in sys.modules if name.split(".")[0] in own]:
        monkeypatch.delitem(sys.modules, name)


def run(file: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs a benchmark in this process, where torch is loaded; returns its exit code."""
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    try:
        runpy.run_path(str(file), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_every_benchmark_is_listed() -> None:
    assert {file.stem for file in FILES} == set(FIGURES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_help_names_quick(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, monkeypatch, "--help") == 0
    assert "--quick" in capsys.readouterr().out


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_names_of_the_figures(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    values: list[Any] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["FIGURES"]
    ]
    assert values == [FIGURES[file.stem]]
    told = ast.get_docstring(tree) or ""
    assert [name for name in values[0] if f"`{name}`" not in told] == []
    # They are written by `close`, which refuses others, and nobody writes a last line by hand.
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    closing = [node for node in calls if ast.unparse(node.func) == "close"]
    assert closing
    assert {ast.unparse(node.args[0]) for node in closing} == {"FIGURES"}


@pytest.mark.parametrize("name", ["recovery", "search_real"])
def test_without_data_the_last_line_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(FOLDER / f"{name}.py", monkeypatch) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"skipped": "give the yaml of a data set"}


def test_other_figures_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from common.figures import close, skipped

    close(("one", "two"), {"two": 1.5, "one": None})
    skipped("nothing to measure")
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert lines == [{"two": 1.5, "one": None}, {"skipped": "nothing to measure"}]
    for found in ({"one": 1}, {"one": 1, "two": 2, "three": 3}, {"one": 1, "two": float("inf")}):
        with pytest.raises(ValueError, match=r"figures|JSON"):
            close(("one", "two"), found)
    assert capsys.readouterr().out == ""
