"""A process for each network: it answers, and it never outlives who asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from prunetune.spaces.errors import MeasurementError, TargetError
from prunetune.targets import Network, OpenVinoSpec, OpenVinoTarget, create_target
from prunetune.targets.backends import openvino_process
from prunetune.targets.measure import isolation
from prunetune.targets.measure.isolation import isolated

SECONDS = 300.0
"""Longer than any test may take: who waits for it fails."""

ECHO = """
import json, os, sys
described = json.loads(sys.stdin.readline())
count = 0
while True:
    count += 1
    print(json.dumps({**described, "count": count, "pid": os.getpid()}), flush=True)
    if not sys.stdin.readline():
        break
"""

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino, an extra")
posix = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system with process groups and cores")


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return write(tmp_path, ECHO)


def write(folder: Path, code: str) -> Path:
    file = folder / "script.py"
    file.write_text(code, encoding="utf-8")
    return file


def is_gone(pid: int) -> bool:
    try:
        return not psutil.wait_procs([psutil.Process(pid)], timeout=SECONDS)[1]
    except psutil.NoSuchProcess:
        return True


def test_it_is_told_the_network_and_asked_again_and_again(echo: Path) -> None:
    with isolated(echo, {"file": "a b.onnx", "shape": [1, 3]}, "network 'a'") as ask:
        answers = [ask() for _ in range(3)]
    assert [answer["count"] for answer in answers] == [1, 2, 3]
    assert {(answer["file"], tuple(answer["shape"])) for answer in answers} == {("a b.onnx", (1, 3))}
    assert len({answer["pid"] for answer in answers} - {os.getpid()}) == 1


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_it_ends_with_the_block_whatever_ends_that(echo: Path, end: type[BaseException] | None) -> None:
    with suppress(*([end] if end else [])), isolated(echo, {}, "network 'a'") as ask:
        pid = ask()["pid"]
        if end:
            raise end
    assert is_gone(pid)


@posix
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_parent(echo: Path, number: signal.Signals) -> None:
    code = (
        "import signal, sys, time; from pathlib import Path; from prunetune.targets.measure.isolation import isolated\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what a shell starts behind it ignores the signal
        "with isolated(Path(sys.argv[1]), {}, 'a') as one, isolated(Path(sys.argv[1]), {}, 'b') as two:\n"
        f"    print(one()['pid'], two()['pid'], flush=True); time.sleep({SECONDS})"
    )
    command = [sys.executable, "-c", code, str(echo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.send_signal(number)
    assert len(pids) == 2
    assert all(map(is_gone, pids))


@posix
def test_it_has_the_callers_cores_and_a_process_group_of_its_own(tmp_path: Path) -> None:
    code = "import json, os; print(json.dumps({'cores': sorted(os.sched_getaffinity(0)), 'group': os.getpgrp()}))"
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        with isolated(write(tmp_path, code), {}, "network 'a'") as ask:
            found = ask()
    finally:
        os.sched_setaffinity(0, before)
    assert found["cores"] == [core]
    assert found["group"] != os.getpgrp()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; print('no memory left', file=sys.stderr); sys.exit(3)", "exit code 3; stderr: no memory left"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL; it said nothing"),
        ("raise ImportError('no module')", "exit code 1; stderr: .*ImportError: no module"),
        ("", "ran it ended; it said nothing"),
    ],
)
def test_one_that_dies_has_its_last_words_in_the_error(tmp_path: Path, code: str, told: str) -> None:
    with (
        pytest.raises(MeasurementError, match=rf"network 'a': the process that .*{told}"),
        isolated(write(tmp_path, code), {}, "network 'a'") as ask,
    ):
        ask()


def test_one_that_dies_later_is_told_as_well(echo: Path) -> None:
    with isolated(echo, {}, "network 'a'") as ask:
        psutil.Process(ask()["pid"]).kill()
        for _ in range(2):
            with pytest.raises(MeasurementError, match="network 'a'"):
                ask()


def test_python_that_is_not_there(echo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(TargetError, match=r"network 'a': .*No such file"), isolated(echo, {}, "network 'a'"):
        pass


def test_the_neighbours_of_a_script_are_no_modules(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(7)", encoding="utf-8")
    with isolated(write(tmp_path, ECHO), {}, "network 'a'") as ask:
        assert ask()["count"] == 1


def convolution(folder: Path, name: str) -> Network:
    weight = numpy_helper.from_array(numpy.ones((8, 8, 3, 3), numpy.float32), "weight")
    image, features = (
        helper.make_tensor_value_info(item, TensorProto.FLOAT, [1, 8, size, size])
        for item, size in (("image", 32), ("features", 30))
    )
    node = helper.make_node("Conv", ["image", "weight"], ["features"])
    graph = helper.make_graph([node], "convolution", [image], [features], [weight])
    file = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return Network(name, (1, 8, 32, 32), onnx=file)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@needs_openvino
class TestOpenVino:
    target = OpenVinoTarget(OpenVinoSpec(warmup=1, runs=7))

    def test_each_network_has_a_process_until_the_measurement_ends(self, tmp_path: Path) -> None:
        before = children()
        with self.target.pinned():
            runs = [self.target.load(convolution(tmp_path, name)) for name in ("a", "b", "c")]
            assert len(children() - before) == 3
            assert all(run() > 0 for run in runs)
        assert children() == before

    def test_nothing_is_left_after_a_network_that_does_not_load(self, tmp_path: Path) -> None:
        before = children()
        corrupt = tmp_path / "corrupt.onnx"
        corrupt.write_bytes(b"no protobuf")
        networks = [convolution(tmp_path, "a"), Network("corrupt", (1, 8, 32, 32), onnx=corrupt)]
        with pytest.raises(TargetError, match="'corrupt'"):
            create_target(self.target.spec).measure(networks, reference="a")
        assert children() == before

    @posix
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_stop_that_everybody_hears_leaves_the_measurement(self, tmp_path: Path, number: signal.Signals) -> None:
        before = children()
        with self.target.pinned():
            run = self.target.load(convolution(tmp_path, "a"))
            for pid in children() - before:
                os.kill(pid, number)
            assert run() > 0

    def test_a_process_that_is_killed_is_a_failed_measurement(self, tmp_path: Path) -> None:
        before = children()
        with self.target.pinned():
            run = self.target.load(convolution(tmp_path, "a"))
            for pid in children() - before:
                psutil.Process(pid).kill()
            with pytest.raises(MeasurementError, match="network 'a'"):
                run()

    def test_the_process_imports_openvino_and_numpy_only(self) -> None:
        code = f"""
import runpy, sys
runpy.run_path({openvino_process.__file__!r})
import openvino
print(sorted({{"prunetune", "torch", "onnx", "onnxruntime", "pydantic"}} & set(sys.modules)))
"""
        found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]"
