"""The example of a board behind ssh, with an `ssh` that stays on this machine."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from prunetune.search.options.target_option import read_target
from prunetune.spaces import MeasurementError
from prunetune.targets import CommandSpec, CommandTarget, InterleavedTarget, Network
from prunetune.targets.backends.reading import read_latency
from prunetune.targets.latency_model.convolution import Convolution
from prunetune.targets.programs.program import Output

ROOT = Path(__file__).parents[2]
EXAMPLE = "examples/targets/board.yaml"

SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case $1 in -o) shift 2;; *) shift;; esac; done
[ "$1" = board ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
shift
cd "$HOME" && exec sh -c "$*"
"""
"""What ssh does, but for the network: it drops options and host, and joins the rest for the other side's shell."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The board's home folder, with the benchmark in it."""
    home, programs = tmp_path / "home", tmp_path / "programs"
    home.mkdir()
    programs.mkdir()
    (home / "bench.py").write_text((ROOT / "examples/targets/bench.py").read_text())
    for name, script in (("ssh", SSH), ("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(home))
    monkeypatch.chdir(ROOT)
    return home


def example(**changes: object) -> InterleavedTarget:
    spec = read_target(EXAMPLE, {})
    assert isinstance(spec, CommandSpec)
    return InterleavedTarget(CommandTarget(spec.model_copy(update=changes), lambda seconds: None))


def network(folder: Path) -> Network:
    return Convolution(8, 8, 3, 32).network("dense net", "onnx", folder)


def test_the_example_measures(home: Path, tmp_path: Path) -> None:
    target = example(runs=6)
    assert target.measure([network(tmp_path)], reference="dense net")["dense net"].runs == 6
    assert target.fingerprint()["reported"] == f"{os.uname().release} {os.uname().machine}"
    assert [path.name for path in home.glob("[!.]*")] == ["bench.py"], "nothing is left on the board"


def test_the_example_tells_what_went_wrong_on_the_board(home: Path, tmp_path: Path) -> None:
    (home / "bench.py").write_text("raise SystemExit('no NPU')")
    with pytest.raises(MeasurementError, match=r"ended with exit code 1; stderr: no NPU"):
        example(retries=0).measure([network(tmp_path)], reference="dense net")
    assert [path.name for path in home.glob("[!.]*")] == ["bench.py"]


def test_the_target_in_the_pages(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/targets.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "kind: command" in block)
    (tmp_path / "jetson.yaml").write_text(block)
    spec = read_target(str(tmp_path / "jetson.yaml"), {})
    assert isinstance(spec, CommandSpec)
    said = "[I] GPU Compute Time: min = 2.0 ms, max = 2.2 ms, mean = 2.1 ms, median = 2.05 ms, percentile(99%) = 2.2 ms"
    assert read_latency(spec, Output(said, "")) == 2.05
