"""The command line: what it imports, its help, and wrong usage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from prunetune.pruning.stages.store import StageStore
from prunetune.results.record import StudiedTarget, StudyRecord
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec

Prunetune = Callable[..., Any]


def test_what_only_reads_starts_without_torch(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec()
    study = open_study(spec)
    StudyRecord.store(study, targets=(StudiedTarget("cpu", budget_text="<= dense", budget_ms=1.0),))
    folder, runs = str(spec.folder), str(spec.folder.parent)
    StageStore(spec.folder.parent / ".store")
    commands = [
        ["--help"],
        ["run", "--help"],
        ["status", folder],
        ["status", folder, "--json"],
        ["front", folder],
        ["front", folder, "--json"],
        ["table", folder],
        ["table", folder, "--format", "latex"],
        ["table", folder, "--out", f"{folder}/front.csv"],
        ["report", folder],
        ["store", "ls", "--runs", runs],
        ["store", "gc", "--max-gb", "1", "--dry-run", "--runs", runs],
        ["store", "verify", "--runs", runs],
    ]
    code = f"""
import contextlib, io, json, sys
from prunetune.search.cli import main
loaded, codes = {{}}, []
for command in {commands!r}:
    sys.argv = ["prunetune", *command]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
    assert out.getvalue().strip(), command
    loaded[" ".join(command)] = [name for name in ("torch", "ultralytics", "ray") if name in sys.modules]
print(json.dumps(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(map(tuple, json.loads(done.stdout).values())) == {()}
    assert (spec.folder / "report.html").is_file()


def test_help_names_every_command(prunetune: Prunetune) -> None:
    answer = prunetune("--help")
    assert answer.code == 0
    commands = (
        "run", "init", "status", "front", "table", "confirm", "pictures", "report", "export", "verify",
        "recover", "splice", "prune", "measure", "align-probe", "profile", "sensitivity", "store",
    )  # fmt: skip
    for command in (*commands, "doctor"):
        assert f" {command} " in answer.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune", "yolov5n.yaml"],
        ["prune", "m.pt", "--threshold", "high"],
        ["prune", "yolov5n.yaml", "--threshold", "0.5", "--imgsz", "0"],
        ["prune", "yolov5n.yaml", "--threshold", "0.5", "--align", "0"],
        ["runn"],
        ["run"],
        ["init"],
    ],
)
def test_wrong_usage_shows_the_usage(prunetune: Prunetune, arguments: list[str]) -> None:
    answer = prunetune(*arguments)
    assert answer.code == 2
    assert "Usage: " in answer.err
    assert "Traceback" not in answer.err
