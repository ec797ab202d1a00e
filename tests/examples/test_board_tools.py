"""The example targets for vendors' tools: what each tool prints is read, and what can run here does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prunetune.search.options.target_option import read_target
from prunetune.targets import CommandSpec, CommandTarget
from prunetune.targets.backends.reading import read_latency
from prunetune.targets.latency_model.convolution import Convolution
from prunetune.targets.programs.program import Output

ROOT = Path(__file__).parents[2]
TARGETS = ROOT / "examples" / "targets"
CONVERTED = str(TARGETS / "converted.sh")

TRTEXEC = """\
[08/11/2022-06:55:33] [I] === Performance summary ===
[08/11/2022-06:55:33] [I] Throughput: 233.689 qps
[08/11/2022-06:55:33] [I] Latency: min = 4.51123 ms, max = 5.53139 ms, mean = 4.54566 ms, median = 4.52756 ms, \
percentile(99%) = 5.51622 ms
[08/11/2022-06:55:33] [I] Enqueue Time: min = 3.5542 ms, max = 4.63188 ms, mean = 4.1058 ms, median = 4.16818 ms, \
percentile(99%) = 4.52371 ms
[08/11/2022-06:55:33] [I] GPU Compute Time: min = 4.23773 ms, max = 5.25439 ms, mean = 4.26986 ms, \
median = 4.25195 ms, percentile(99%) = 5.24138 ms
[08/11/2022-06:55:33] [I] Total Host Walltime: 3.01255 s
[08/11/2022-06:55:33] [I] Total GPU Compute Time: 3.00598 s
[08/11/2022-06:55:33] [W] * GPU compute time is unstable, with coefficient of variance = 7.58229%.
"""

BENCHMARK_APP = """\
[ INFO ] First inference took 173.32 ms
[Step 11/11] Dumping statistics report
[ INFO ] Execution Devices:['CPU']
[ INFO ] Count:            200 iterations
[ INFO ] Duration:         21643.80 ms
[ INFO ] Latency:
[ INFO ]    Median:        107.86 ms
[ INFO ]    Average:       107.92 ms
[ INFO ]    Min:           18.72 ms
[ INFO ]    Max:           175.48 ms
[ INFO ] Throughput:   9.24 FPS
"""

BENCHMARK_MODEL = """\
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=35 first=19105 curr=13909 min=13585 max=19105 avg=14452.5 std=1240

INFO: Inference timings in us: Init: 52687, First inference: 19105, Warmup (avg): 14452.5, Inference (avg): {}
INFO: Memory footprint delta from the start of the tool (MB): init=21.9492 overall=34.5234
"""

MSAME = """\
[INFO] model execute success
Inference time: 105.383ms
[INFO] output data success
Inference average time: 105.417100 ms
Inference average time without first time: 105.422889 ms
[INFO] unload model success, model Id is 1
"""

RKNN = """\
rknn_api/rknnrt version: 2.3.2 (429f97ae6b@2025-04-09T09:09:27), driver version: 0.9.7
Warmup ...
   0: Elapse Time = 9.41ms, FPS = 106.27
Begin perf ...
   0: Elapse Time = 6.90ms, FPS = 144.93
   1: Elapse Time = 6.76ms, FPS = 147.93

Avg Time 6.83ms, Avg FPS = 146.413
"""

NCNN = '{"latency_ms": 5.1234, "times": [5.0, 5.1234, 5.3]}\n'


@pytest.mark.parametrize(
    ("file", "printed", "ms"),
    [
        ("board", NCNN, 5.1234),
        ("trtexec", TRTEXEC, 4.25195),
        ("openvino", BENCHMARK_APP, 107.86),
        (
            "openvino",
            "[ INFO ] Latency:\n[ INFO ]    Median:        195.03 us\n[ INFO ]    Average:       1.25 ms\n",
            0.19503,
        ),
        ("ncnn", NCNN, 5.1234),
        ("mnn", "[ - ] network.mnn                 max =   12.501 ms  min =   11.020 ms  avg =   11.730 ms\n", 11.73),
        ("mnn", "[ - ] network.mnn                 max =   12.501ms  min =   11.020ms  avg =   11.730ms\n", 11.73),
        ("tflite", BENCHMARK_MODEL.format("14290.9"), 14.2909),
        ("tflite", BENCHMARK_MODEL.format("1.23457e+06"), 1234.57),
        ("rknn", RKNN, 6.83),
        ("hisilicon", MSAME, 105.422889),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_a_tool_prints_is_read(file: str, printed: str, ms: float, line_end: str) -> None:
    assert read_latency(spec(file), Output(printed.replace("\n", line_end), "")) == pytest.approx(ms)


def test_every_target_is_described() -> None:
    table = (TARGETS / "README.md").read_text(encoding="utf-8")
    names = sorted(file.stem for file in TARGETS.glob("*.yaml"))
    assert [name for name in names if f"({name}.yaml)" not in table] == []
    programs = {spec(name).command[0] for name in names} - {"benchmark_app"}
    assert [program for program in programs if not os.access(ROOT / program, os.X_OK)] == []


def test_benchncnn_is_read_as_the_example_says() -> None:
    ncnn = spec("ncnn").model_copy(update={"json_key": None, "regex": "avg = +([0-9.]+)"})
    said = "loop_count = 50\nnum_threads = 1\n  network.ncnn.param  min =    5.01  max =    5.90  avg =    5.12\n"
    assert read_latency(ncnn, Output("", said)) == 5.12


# Run for real


def test_benchmark_app_measures(tmp_path: Path) -> None:
    if not shutil.which("benchmark_app"):
        pytest.skip("benchmark_app comes with openvino")
    openvino = spec("openvino")
    command = tuple("5" if part == "200" else part for part in openvino.command)
    assert command != openvino.command
    network = Convolution(8, 8, 3, 32).network("net", "onnx", tmp_path)
    assert 0 < CommandTarget(openvino.model_copy(update={"command": command, "retries": 0})).load(network)() < 10_000


def test_ncnn_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ncnn")
    if not shutil.which("pnnx"):
        pytest.skip("pnnx is not installed")
    (tmp_path / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = Convolution(8, 8, 3, 32).network("net", "onnx", tmp_path)
    assert 0 < CommandTarget(here(spec("ncnn"))).load(network)() < 10_000


# to_rknn.py, with a toolkit that fails where it is told to

TOOLKIT = """
import os
class RKNN:
    def __getattr__(self, name):
        def step(*arguments, **settings):
            print(name, arguments, sorted(settings.items()))
            return -1 if name == os.environ.get("FAILS") else 0
        return step
"""


@pytest.mark.parametrize("fails", ["", "config", "load_onnx", "build", "export_rknn"])
@pytest.mark.parametrize("images", [[], ["images.txt"]])
def test_a_failed_step_of_rknn_ends_it(tmp_path: Path, fails: str, images: list[str]) -> None:
    (tmp_path / "rknn").mkdir()
    (tmp_path / "rknn" / "api.py").write_text(TOOLKIT)
    command = [sys.executable, str(TARGETS / "to_rknn.py"), "net.onnx", "net.rknn", "rk3588", *images]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "FAILS": fails}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == ((1, f"net.onnx: {fails} failed\n") if fails else (0, ""))
    if not fails:
        assert f"('do_quantization', {bool(images)})" in done.stdout
        assert "export_rknn ('net.rknn',) []" in done.stdout


# converted.sh, with a converter that counts how often it is run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "board"))
    (tmp_path / "board").mkdir()
    return tmp_path / "cache" / "prunetune" / "converted"


CONVERT = 'echo converting, 7 ms; echo >>"$COUNT"; cp "$ONNX" "a file"; ls "$HERE/bench.py"'


@pytest.mark.parametrize(
    "name", ["net.onnx", "two  blanks.onnx", "it's.onnx", '"a"; $HOME `b` *.onnx', "ü\n.onnx", "-n"]
)
def test_a_file_is_converted_once_whatever_its_name(cache: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("one")
    for _ in range(3):
        assert convert(file, CONVERT, 'cat "a file"') == (0, "one", "")
    assert convert(Path(name), CONVERT, 'cat "a file"', cwd=tmp_path) == (0, "one", "")
    assert runs(tmp_path) == 1
    assert list((tmp_path / "board").iterdir()) == []


def test_another_network_or_converter_is_another_conversion(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    for text, converter in (("one", CONVERT), ("two", CONVERT), ("two", f"{CONVERT}; :"), ("one", CONVERT)):
        file.write_text(text)
        assert convert(file, converter, 'cat "a file"') == (0, text, "")
    assert runs(tmp_path) == 3
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    "failing", ["exit 3", "false && true", "no-such-converter", "false; true", 'cat "$ONNX.missing"']
)
def test_a_converter_that_fails_is_heard_and_tried_again(cache: Path, tmp_path: Path, failing: str) -> None:
    file = tmp_path / "net.onnx"
    file.write_text("one")
    for _ in range(2):
        code, stdout, stderr = convert(file, f"echo >>$COUNT; echo no such layer: Slice; {failing}", "echo 5 ms")
        assert (code, stdout) == (1, "")
        assert "no such layer: Slice" in stderr
    assert runs(tmp_path) == 2
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("command", "code"), [("false", 1), ("sh -c 'exit 7'", 7), ("no-such-benchmark", 127)])
def test_a_benchmark_that_fails_is_heard(cache: Path, tmp_path: Path, command: str, code: int) -> None:
    file = tmp_path / "net.onnx"
    file.write_text("one")
    assert convert(file, CONVERT, command)[:2] == (code, "")
    assert list((tmp_path / "board").iterdir()) == []


def test_a_benchmark_that_hangs_is_ended_on_the_board(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("one")
    assert convert(tmp_path / "net.onnx", CONVERT, "sleep 1000", "0.1")[0] == 124


def test_old_conversions_are_forgotten(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    for text in ("one", "two"):
        file.write_text(text)
        convert(file, CONVERT, 'cat "a file"')
    for old in cache.iterdir():
        os.utime(old, (0, 0))
    assert convert(file, CONVERT, 'cat "a file"') == (0, "two", "")
    assert (runs(tmp_path), len(list(cache.iterdir()))) == (3, 1)


def spec(file: str) -> CommandSpec:
    found = read_target(str(TARGETS / f"{file}.yaml"), {})
    assert isinstance(found, CommandSpec)
    return found


def here(target: CommandSpec) -> CommandSpec:
    """The same target on this machine in place of a board."""
    _, _, *rest = target.command
    return target.model_copy(update={"command": (CONVERTED, "-", *rest), "fingerprint": (), "retries": 0})


def convert(file: Path, *arguments: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    done = subprocess.run([CONVERTED, "-", str(file), *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    return done.returncode, done.stdout, done.stderr


def runs(folder: Path) -> int:
    return len((folder / "count").read_text().splitlines())
