"""Cores that a measurement holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prunetune.targets import TorchSpec
from prunetune.targets.measure import hardware

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads")


@needs_affinity
def test_the_quietest_cores_are_held_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, held = [], []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: held.append(set(cores)))
    monkeypatch.setattr(psutil, "cpu_percent", lambda **options: asked.append(options) or [90.0, 0.0, 5.0, 50.0])
    with hardware.quiet_cores(1):
        assert held == [{2}]
    with hardware.quiet_cores(2):
        assert held[2:] == [{2, 3}]
    assert held == [{2}, {0, 2, 3}, {2, 3}, {0, 2, 3}]
    assert all(options["percpu"] for options in asked)


@needs_affinity
def test_all_cores_need_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: pytest.fail("nothing to choose"))
    with hardware.quiet_cores(len(os.sched_getaffinity(0))):
        pass


@needs_affinity
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a second core")
def test_a_core_that_another_process_keeps_busy_is_avoided() -> None:
    busy, *_ = sorted(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, [{busy}])\nprint('busy', flush=True)\nwhile True: pass"
    before = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with hardware.quiet_cores(1):
                chosen = os.sched_getaffinity(0)
        finally:
            process.kill()
    assert len(chosen) == 1
    assert os.sched_getaffinity(0) == before
    if len(before) == 2:
        assert chosen != {busy}


def test_a_gpu_is_known_by_its_name_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "$@" | grep -q name && echo "NVIDIA Orin" || echo 580.65\n')
    tool.chmod(0o755)
    spec = TorchSpec(device="cuda:1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert hardware.gpu_model(1) == "NVIDIA Orin"
    assert hardware.fingerprint(spec, "a GPU", "a runtime")["driver"] == "580.65"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert hardware.fingerprint(spec, "a GPU", "a runtime")["driver"] == "not told"
    assert "driver" not in hardware.fingerprint(TorchSpec(), "a CPU", "a runtime")
