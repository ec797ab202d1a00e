"""Several workers on one machine: who gets what, what they say, and how they stop."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.results.record import TrialRecord
from prunetune.search.local_workers import Lines, Place, places
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome

WriteStudy = Callable[..., Path]


# Who gets what


@given(count=st.integers(1, 40), cores=st.sets(st.integers(0, 200), min_size=1, max_size=64))
def test_cores_are_shared_evenly(count: int, cores: set[int]) -> None:
    shares = [place.cores for place in places(["cpu"], count, 0, sorted(cores))]
    assert len(shares) == count
    assert set().union(*shares) <= cores
    sizes = [len(share) for share in shares]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    if count <= len(cores):
        assert sorted(core for share in shares for core in share) == sorted(cores), "each core once"


@pytest.mark.parametrize(
    ("devices", "count", "gpus", "given_out"),
    [
        (["0", "1"], 2, 2, ["0", "1"]),
        (["2", "3"], 3, 4, ["2", "3", "2"]),
        (["0", "0"], 2, 1, ["0", "0"]),
        (["0"], 3, 4, ["0", "1", "2"]),
        (["2"], 3, 4, ["2", "3", "0"]),
        (["0"], 2, 1, ["0", "0"]),
        (["0"], 2, 0, ["0", "0"]),  # none is there: the worker says so
        (["mps"], 2, 0, ["mps", "mps"]),
    ],
)
def test_gpus_are_given_in_turn(devices: list[str], count: int, gpus: int, given_out: list[str]) -> None:
    assert places(devices, count, gpus, [0, 1]) == [Place(device) for device in given_out]


def test_where_cores_cannot_be_chosen_none_are() -> None:
    assert places(["cpu"], 2, 0, []) == [Place("cpu")] * 2


def test_lines_are_whole_and_say_whose_they_are() -> None:
    out = io.StringIO()
    lines = Lines(out, "worker 1: ")
    lines.write("a")
    assert out.getvalue() == ""
    lines.write("b\ncd\ne")
    assert out.getvalue() == "worker 1: ab\nworker 1: cd\n"
    assert not lines.isatty()


# Real processes


STUDY: dict[str, Any] = {
    "name": "local",
    "batch": 4,
    "train": {"mosaic": 0.0},
    "space": {"sparsity": 0.3, "sparse_epochs": 1, "threshold": {"low": 0.5, "high": 0.9}, "recovery_epochs": 24},
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},
    "sampler": "random",
    "early_stopping": False,
    "trials": 4,
}


@contextmanager
def started(*arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """`prunetune run` in a process; with its workers it is gone after the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prunetune.search.cli", "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                for item in (process, *children):
                    item.kill()


def pids(said: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"^worker \d: process (\d+), device cpu", said, re.MULTILINE)]


def until_all_train(process: subprocess.Popen[str], runs: Path) -> str:
    """Reads what is said until both workers have a trial that has come to its recovery."""
    assert process.stdout is not None
    said, pause = "", threading.Event()
    while len(pids(said)) < 2:
        line = process.stdout.readline()
        assert line, said
        said += line
    while len(list((runs / ".store" / "progress").glob("recovery-*.pt"))) < 2:
        assert process.poll() is None, said + process.stdout.read()
        pause.wait(0.05)
    return said


@pytest.mark.slow
def test_workers_share_a_study_and_stop_together(write_study: WriteStudy, shapes: Path, tmp_path: Path) -> None:
    file, runs = write_study(**STUDY, data=str(shapes)), tmp_path / "runs"
    with started(file, "--workers", 2, "--stopped-code", 75) as process:
        said = until_all_train(process, runs)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        said += process.stdout.read()
        assert process.wait() == 75, said
    assert said.rstrip().endswith("stopped; the same command goes on from here")
    assert "Traceback" not in said
    trials = find_study(str(runs / "local"))[0].get_trials()
    assert {trial.state.name for trial in trials} == {"FAIL"}
    records = [TrialRecord.from_trial(trial) for trial in trials]
    assert {record.outcome for record in records} == {Outcome.INTERRUPTED}
    assert {(record.worker or {})["pid"] for record in records} == set(pids(said))
    assert {(record.worker or {})["device"] for record in records} == {"cpu"}
    kept = list((runs / ".store" / "progress").glob("recovery-*.pt"))
    assert len(kept) == 2, "their epochs are kept"

    with started(file, "--workers", 3, f"trials={len(trials)}") as process:  # as many workers and trials as one likes
        said = process.communicate()[0]
        assert process.returncode == 0, said
    assert len(re.findall(r"^worker \d: trial \d+ \[\d/\d\] OK .* epochs? reused$", said, re.MULTILINE)) == len(trials)
    again = [TrialRecord.from_trial(trial).retry_of for trial in find_study(str(runs / "local"))[0].get_trials()]
    assert sorted(number for number in again if number is not None) == [trial.number for trial in trials], "each, once"
    assert (runs / "local" / "report.html").is_file()
    assert "half-width" not in said
    assert "hypervolume" in said, "the end is shown once, by the parent"


@pytest.mark.slow
def test_workers_stop_when_their_parent_is_killed(write_study: WriteStudy, shapes: Path, tmp_path: Path) -> None:
    file, runs = write_study(**STUDY, data=str(shapes)), tmp_path / "runs"
    with started(file, "--workers", 2) as process:
        said = until_all_train(process, runs)
        workers = [psutil.Process(pid) for pid in pids(said)]
        process.kill()
        psutil.wait_procs(workers)
    trials = find_study(str(runs / "local"))[0].get_trials()
    assert {trial.state.name for trial in trials} == {"FAIL"}


def test_what_no_worker_can_go_on_for_is_told_once(
    write_study: WriteStudy, prunetune: Callable[..., Any], tmp_path: Path
) -> None:
    answer = prunetune("run", write_study(model="nowhere.pt", data=str(tmp_path / "none.yaml")), "--workers", "2")
    assert answer.code == 2
    assert answer.err.count("nowhere.pt") == 1
