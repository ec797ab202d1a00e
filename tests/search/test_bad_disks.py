"""Folders that cannot be written and disks that are full: one message, nothing half-written, and the way on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands.disk import mounted

from prunetune.search.study.study_spec import StudySpec

Prunetune = Callable[..., Any]
WriteStudy = Callable[..., Path]


def test_a_file_in_the_folders_place(prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    message = prunetune("run", write_study(data=str(data))).complaint
    assert str(tmp_path / "runs") in message
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o555)
    message = prunetune("run", write_study(data=str(data))).complaint
    assert "not writable" in message
    assert "runs=FOLDER" in message


def test_a_read_only_disk(prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "runs", "ro"):
        message = prunetune("run", write_study(data=str(data))).complaint
        assert str(tmp_path / "runs") in message
        assert "not writable" in message
        assert "runs=FOLDER" in message


def test_a_study_whose_disk_became_read_only(
    prunetune: Prunetune, write_study: WriteStudy, make_spec: Callable[..., StudySpec], data: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "runs", "rw") as remount:
        # In a process of its own, for this one would keep the database open.
        code = (
            "import sys; from prunetune.search.study.open_study import *;open_study(StudySpec.parse(eval(sys.argv[1])))"
        )
        spec = make_spec(data=str(data)).model_dump(mode="json", exclude_none=True)
        subprocess.run([sys.executable, "-c", code, repr(spec)], check=True, capture_output=True)
        remount("ro")
        message = prunetune("run", write_study(data=str(data))).complaint
        assert str(tmp_path / "runs" / "tiny") in message
        assert "not writable" in message


def test_a_full_disk_for_the_database(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "runs", "size=100k"):
        message = prunetune("run", write_study(data=str(data))).complaint
        assert str(tmp_path / "runs") in message
        assert "disk is full" in message


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [14_000, 24_000])
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    prunetune: Prunetune,
    prunetune_process: Prunetune,
    write_study: WriteStudy,
    data: Path,
    tmp_path: Path,
    quick_space: dict[str, Any],
    kilobytes: int,
) -> None:
    """The sizes end the study while the dense network and a candidate are written."""
    runs = tmp_path / "runs"
    file = write_study(data=str(data), space=quick_space, budget={"latency": "<= 100 x dense"}, trials=1)
    with mounted(runs, f"size={kilobytes}k") as remount:
        # In a process of its own: where the disk has no room for the trial's end, the process's end says it.
        message = prunetune_process("run", file).complaint
        assert str(runs) in message
        assert "disk is full" in message
        assert "same command" in message
        assert all((stage / "stage.json").is_file() for stage in (runs / ".store" / "stages").iterdir())
        remount("size=500m")
        answer = prunetune("run", file)
        assert answer.code == 0, answer.err
        assert (runs / "tiny" / "best.pt").stat().st_size > 1_000_000
        status = json.loads(prunetune("status", runs / "tiny", "--json").out)
        assert status["finished"] == 1
        assert set(status["outcomes"]) <= {"OK", "INTERRUPTED", "WORKER_DIED"}
        assert list((runs / ".store" / "drafts").iterdir()) == []


def test_a_full_disk_for_a_pruned_model(prunetune: Prunetune, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=1m"):
        out = tmp_path / "small" / "pruned.pt"
        message = prunetune("prune", "yolov5n.yaml", "--threshold", 0.5, "--out", out, "--imgsz", 64).complaint
        assert str(out.parent) in message
        assert "disk is full" in message
        assert list(out.parent.iterdir()) == []
