"""The command target over a real second process, and every way in which that process lets it down."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from board.board import Board

from prunetune.spaces.errors import MeasurementError, TargetError
from prunetune.targets import CommandSpec, CommandTarget, InterleavedTarget, Latency, Network, Target, parse_target_spec
from prunetune.targets.latency_model.convolution import Convolution
from prunetune.targets.testing import NARROW, WIDE, TargetTestCase

SIDE = 32


def no_pause(seconds: float) -> None:
    """Waits for nothing: a board of tests needs no time to recover."""


def convolution(folder: Path, name: str, width: int, shrink: int = 1) -> Network:
    return Convolution(width, width, 3, SIDE // shrink).network(name, "onnx", folder)


def target_of(command: list[str], pause: Any = no_pause, **keys: Any) -> Target:
    spec = parse_target_spec({"kind": "command", "command": command, **keys})
    assert isinstance(spec, CommandSpec)
    return InterleavedTarget(CommandTarget(spec, pause))


def printing(text: str, *, code: int = 0, error: str = "") -> list[str]:
    """A program that prints what it is told."""
    program = f"import sys; print({text!r}); print({error!r}, file=sys.stderr); sys.exit({code})"
    return [sys.executable, "-I", "-S", "-c", program.replace("{", "{{").replace("}", "}}"), "{onnx}"]


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return convolution(tmp_path, "dense", NARROW)


def measure(target: Target, network: Network) -> Latency:
    return target.measure([network], reference=network.name)[network.name]


class TestCommand(TargetTestCase):
    @pytest.fixture(autouse=True)
    def _board(self, board: Board) -> None:
        board.boot()
        board.suffer()
        self.board = board

    def target(self) -> Target:
        return target_of(self.board.command, runs=7)

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        return convolution(self.folder, name, width, shrink)


# What a board does wrong, and how the measurement survives it


@pytest.mark.parametrize("fault", ["drop", "garbage", "crash", "signal", "endless", "hang"])
def test_a_fault_is_survived(board: Board, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    board.boot()
    board.suffer([f"{fault} wide", "fine wide", f"{fault} narrow", f"{fault} wide"])
    networks = [convolution(tmp_path, "narrow", NARROW), convolution(tmp_path, "wide", WIDE)]
    # The time is long enough for an answer on the busiest machine, where only a hanging board spends it.
    target = target_of(board.command, runs=6, timeout=3.0 if fault == "hang" else 60.0, retries=5)
    measured = target.measure(networks, reference="narrow")
    assert board.faults_left == []
    assert measured["wide"].ratio > 1
    assert {latency.runs for latency in measured.values()} == {6}
    assert caplog.text.count("trying again") >= 3
    assert "'board': network 'wide': attempt 1 of 6" in caplog.text


def test_a_board_that_starts_slowly_is_waited_for(board: Board, network: Network) -> None:
    board.switch_off()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            board.boot()

    assert measure(target_of(board.command, pause, runs=6), network).runs == 6
    assert pauses == [1.0, 2.0, 4.0]


def test_pauses_grow_to_a_minute_and_no_further(network: Network) -> None:
    pauses: list[float] = []
    with pytest.raises(MeasurementError, match="after 9 attempts"):
        measure(target_of(printing("no"), pauses.append, retries=8), network)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_helper_that_outlives_the_program_holds_nobody_up(board: Board, network: Network) -> None:
    board.boot()
    board.suffer(["orphan"])
    assert measure(target_of(board.command, retries=0, runs=6), network).runs == 6
    assert board.faults_left == []


def test_a_fault_that_outlasts_the_retries_is_told_with_the_programs_words(
    board: Board, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    board.boot()
    board.suffer(["crash"] * 3)
    with pytest.raises(MeasurementError) as caught:
        measure(target_of(board.command, name="hi3516", retries=2), network)
    told = str(caught.value)
    assert told.startswith("target 'hi3516': network 'dense': no answer after 3 attempts (retries: 2); the last: ")
    assert "ended with exit code 3; stderr: layer Conv_17: unsupported. Try it by hand: " in told
    assert shlex.split(told.partition("by hand: ")[2])[-2:] == [str(network.onnx), "dense"]
    assert caplog.text.count("trying again") == 2


@pytest.mark.parametrize(
    ("command", "keys", "words"),
    [
        (printing("hello"), {}, ["printed no JSON", '{"latency_ms": 1.5}', "stdout: hello"]),
        (printing("{}"), {}, ["no 'latency_ms' (json_key)"]),
        (printing('{"latency_ms": 0}'), {}, ["a positive number, not 0", 'stdout: {"latency_ms": 0}']),
        (printing("took 3"), {"regex": r"([0-9.]+) ms"}, ["nothing it printed matches regex: ([0-9.]+) ms", "took 3"]),
        (printing("out", code=7, error="no NPU"), {}, ["exit code 7; stderr: no NPU; stdout: out"]),
        (["false", "{onnx}"], {}, ["false ended with exit code 1; it said nothing"]),
    ],
)
def test_what_the_program_got_wrong_is_told(
    network: Network, command: list[str], keys: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(MeasurementError) as caught:
        measure(target_of(command, retries=0, **keys), network)
    assert "'dense': no answer after 1 attempt (retries: 0)" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_program_that_is_not_there_is_not_tried_again(network: Network) -> None:
    with pytest.raises(TargetError, match="no program 'nosuch'") as caught:
        measure(target_of(["nosuch", "{onnx}"], pytest.fail), network)
    assert not isinstance(caught.value, MeasurementError)


def test_a_file_that_cannot_be_measured_is_refused_before_the_board_is_asked(tmp_path: Path) -> None:
    target = target_of(["nosuch", "{onnx}"])
    with pytest.raises(TargetError, match=r"'dense'.*gone\.onnx.*export"):
        measure(target, Network("dense", (1, 3, SIDE, SIDE), onnx=tmp_path / "gone.onnx"))
    (tmp_path / "corrupt.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(TargetError, match=r"'dense'.*corrupt\.onnx.*no ONNX file"):
        measure(target, Network("dense", (1, 3, SIDE, SIDE), onnx=tmp_path / "corrupt.onnx"))


# What each network brings


def echoing(*arguments: str) -> list[str]:
    """A program whose latency is the product of the numbers that it is told, `fp32` and `int8` among them."""
    program = (
        "import math, sys; told = [int(text.lstrip('fpintb')) for text in sys.argv[2:]]; "
        "print('took', math.prod(told), 'ms')"
    )
    return [sys.executable, "-I", "-S", "-c", program, "{onnx}", *arguments]


def test_each_network_is_measured_at_its_own_size_and_in_its_own_precision(tmp_path: Path) -> None:
    target = target_of(echoing("{height}", "{width}", "{precision}"), regex="took ([0-9]+) ms", runs=1)
    large, small = convolution(tmp_path, "large", NARROW), convolution(tmp_path, "small", NARROW, 2)
    wide = replace(any_size(large), name="wide", input_shape=(1, NARROW, SIDE // 4, SIDE))
    measured = target.measure([large, small, wide, replace(small, name="int8", precision="int8")], reference="large")
    ms = {name: latency.median_ms for name, latency in measured.items()}
    assert ms == {"large": 32 * 32 * 32, "small": 16 * 16 * 32, "wide": 8 * 32 * 32, "int8": 16 * 16 * 8}
    assert measured["int8"].ratio == 1 / 16


def any_size(network: Network) -> Network:
    """The same network with open sides."""
    assert network.onnx is not None
    model = onnx.load(network.onnx)
    for item in (*model.graph.input, *model.graph.output):
        for axis in (2, 3):
            item.type.tensor_type.shape.dim[axis].dim_param = "any"
    file = network.onnx.with_name("any-size.onnx")
    onnx.save(model, file)
    return replace(network, onnx=file)


def test_a_program_that_is_not_told_the_precision_has_one(network: Network) -> None:
    target = target_of(echoing("5"), regex="took ([0-9]+) ms", runs=1, name="desk", precision="int8")
    assert target.precisions == ("int8",)
    own = replace(network, precision="int8")
    assert measure(target, own).median_ms == 5
    with pytest.raises(TargetError, match=r"'dense': precision: fp32 .*'desk'.*take int8$"):
        measure(target, replace(network, precision="fp32"))


# How often it asks


class Counting:
    """A program that writes a line for each of its runs, and prints as many ms as there are lines."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "runs"
        program = (
            "import sys; file = open(sys.argv[1], 'a+'); file.write('run\\n'); file.seek(0); "
            "print('took', len(file.readlines()), 'ms')"
        )
        self.command = [sys.executable, "-I", "-S", "-c", program, str(self.file), "{onnx}"]

    @property
    def runs(self) -> int:
        return len(self.file.read_text().splitlines())


@pytest.mark.parametrize("runs", [1, 2, 8])
def test_each_round_runs_the_program_once(tmp_path: Path, network: Network, runs: int) -> None:
    """The first run, which shows that the network can be measured, is the first round as well."""
    counting = Counting(tmp_path)
    target = target_of(counting.command, regex="took ([0-9]+) ms", runs=runs, tolerance=1e-9)
    networks = [network, convolution(tmp_path, "other", NARROW)]
    measured = target.measure(networks, reference="dense")
    assert counting.runs == 2 * len(measured["other"].samples_ms) == 2 * runs
    assert sorted(ms for latency in measured.values() for ms in latency.samples_ms) == list(range(1, 2 * runs + 1))


def test_the_most_memory_of_all_runs_counts(tmp_path: Path, network: Network) -> None:
    """Runs tell 1, 2, 3, 2 and 1 MB."""
    program = (
        "import json, sys; file = open(sys.argv[1], 'a+'); file.write('run\\n'); file.seek(0); "
        "runs = len(file.readlines()); print(json.dumps(dict(latency_ms=runs, memory_mb=3 - abs(3 - runs))))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "runs"), "{onnx}"]
    latency = measure(target_of(command, runs=5, tolerance=1e-9), network)
    assert (latency.samples_ms, latency.memory_mb) == ((1, 2, 3, 4, 5), 3)
    assert measure(target_of(echoing("5"), regex="took ([0-9]+) ms", runs=1), network).memory_mb is None


def test_few_rounds_have_no_interval_and_no_complaint(
    tmp_path: Path, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    latency = measure(target_of(Counting(tmp_path).command, regex="([0-9]+) ms", runs=3), network)
    assert latency.runs == 3
    assert latency.uncertainty == float("inf")
    assert caplog.text == ""


# What two measurements must share


def test_the_fingerprint_holds_labels_and_what_the_board_reports(board: Board) -> None:
    labels = {"device": "Hi3516DV500", "runtime": "SVP_NNN 2.0", "precision": "int8", "threads": 2}
    target = target_of(board.command, **labels, fingerprint=["echo", "firmware", "", "3.1 {{stable}}"])
    assert target.fingerprint() == {
        "kind": "command",
        "device": "Hi3516DV500",
        "runtime": "SVP_NNN 2.0",
        "precision": "int8",
        "threads": "2",
        "platform": "behind a command",
        "reported": "firmware 3.1 {stable}",
    }


def test_a_board_that_does_not_report_is_told(board: Board) -> None:
    with pytest.raises(MeasurementError, match=r"'board': the fingerprint: .* after 2 attempts .*printed nothing"):
        target_of(board.command, fingerprint=["true"], retries=1).fingerprint()


def test_commands_do_not_share_a_place_unless_they_say_so() -> None:
    def place(**keys: Any) -> str:
        return parse_target_spec({"kind": "command", "command": ["run", "{onnx}"], **keys}).place

    assert place() == place(name="twin", timeout=5)
    assert place() != place(command=["ssh", "other", "{onnx}"])
    assert place(occupies="cpu") == "cpu"
    assert place(occupies="desk") == place(occupies="desk", command=["convert", "{onnx}"])


# Over ssh


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[list[str]]:
    """A server of our own on the loopback; gives the command line that reaches it."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd and ssh: apt install openssh-server")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd as root needs the folder /run/sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path / 'host'}\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path / 'user.pub'}\nUsePAM no\nPermitRootLogin yes\n"
    )
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    address = f"{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1"
    key = ["-F", "none", "-p", str(port), "-i", str(tmp_path / "user"), *(f"-o{option}" for option in options)]
    server = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = ""
        while "listening on" not in said:
            line = server.stderr.readline()
            assert line, said
            said += line
        yield ["ssh", *key, address]
    finally:
        server.kill()
        server.communicate()


def test_over_ssh(board: Board, ssh: list[str], network: Network) -> None:
    board.boot()
    board.suffer(["crash", "fine", "garbage"])
    target = target_of([*ssh, *board.command], runs=6, fingerprint=[*ssh, "uname", "-m"])
    assert measure(target, network).runs == 6
    assert board.faults_left == []
    assert target.fingerprint()["reported"] == os.uname().machine


def test_a_host_that_nobody_answers_at(ssh: list[str], network: Network) -> None:
    refused = [*ssh[:4], "1", *ssh[5:]]
    with pytest.raises(MeasurementError, match=r"ssh ended with exit code 255; stderr: .*Connection refused"):
        measure(target_of([*refused, "run", "{onnx}"], retries=0), network)
