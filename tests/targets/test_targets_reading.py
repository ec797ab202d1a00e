"""The latency in what a program printed, and the command line with a network's file in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunetune.spaces.errors import MeasurementError
from prunetune.targets import CommandSpec, Network
from prunetune.targets.backends.reading import read_latency, read_memory
from prunetune.targets.programs.program import Output
from prunetune.targets.programs.template import PLACEHOLDERS, fill, parse_command


def read(stdout: str, stderr: str = "", **keys: Any) -> float:
    return read_latency(CommandSpec(command=("bench", "{onnx}"), **keys), Output(stdout, stderr))


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ('{"latency_ms": 1.5}', None, 1.5),
        ('{"latency_ms": "1.5"}', None, 1.5),
        ('{"latency_ms": [2, 2.0]}', None, 2),
        ('{"latency_ms": " 1.25e1\\n"}', None, 12.5),
        ('\x1b[?25l 50%\r100%\r\x1b[0m{"latency_ms": 7}\x1b[K\r\n', None, 7),
        ('{"latency": {"median": 2e-1, "mean": 9}}', "latency.median", 0.2),
        ('{"runs": [{"ms": 4}, {"ms": 5}]}', "runs.1.ms", 5),
        ('{"0": {"ms": 4}}', "0.ms", 4),
        ('loading {model}\n{"latency_ms": 7}\nbye {\n', None, 7),
        ('{"progress": 1}\r\n{"latency_ms": 7}\r\n', None, 7),
        ('log\n{\n  "shape": {\n    "n": 1\n  },\n  "latency_ms": 7\n}\n', None, 7),
        ('{{{{ [[[ {"latency_ms": 1}\n  {"latency_ms": 7} ms\n', None, 7),
        ("{" * 100_000 + '\n{"latency_ms": 7}', None, 7),
        ('{"a":' * 100_000 + '\n{"latency_ms": 7}', None, 7),
    ],
    ids=lambda value: str(value)[:40],
)
def test_json(text: str, key: str | None, found: float) -> None:
    assert read(text, json_key=key) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"memory_mb": 12.5}', 12.5),
        ('{"memory_mb": 9}\ntook 3 ms\n{"latency_ms": 3, "memory_mb": 12}\n', 12),
        ('{"latency_ms": 3}', None),
        ('{"memory_mb": "12 MB"}', None),
        ('{"memory_mb": 0}', None),
        ('{"memory_mb": NaN}', None),
        ("12 MB", None),
    ],
)
def test_memory(text: str, found: float | None) -> None:
    assert read_memory(Output(text, "")) == found


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("", "ms", 'printed no JSON; it is to print a line such as {"ms": 1.5}, or give regex:; it said nothing'),
        ("1.5", "ms", "printed no JSON"),
        ("[1.5]", "ms", "printed no JSON"),
        ('{"ms": 1.5', "ms", 'printed no JSON; it is to print a line such as {"ms": 1.5}, or give regex:; stdout: {"'),
        ('{"latency_s": 1}', "latency_ms", "its JSON has no 'latency_ms' (json_key); did you mean 'latency_s'?"),
        ('{"a": 1, "b": 2}', "ms", "its JSON has no 'ms' (json_key); there are 'a', 'b'"),
        ('{"a": {"b": 1}}', "a.ms.x", "its JSON has no 'a.ms' (json_key); there are 'b'"),
        ('{"a": 5}', "a.ms", "its JSON has no 'a.ms' (json_key); there is 5"),
        ('{"a": [1, 2]}', "a.2", "its JSON has no 'a.2' (json_key); there are 2 values"),
        ('{"ms": null}', "ms", "'ms' in its JSON is no number: None"),
        ('{"ms": true}', "ms", "'ms' in its JSON is no number: True"),
        ('{"ms": "fast"}', "ms", "'ms' in its JSON is no number: 'fast'"),
        ('{"ms": "12,34"}', "ms", "'ms' in its JSON is no number: '12,34'"),
        ('{"ms": "1_5"}', "ms", "'ms' in its JSON is no number: '1_5'"),
        ('{"ms": "1.5 ms"}', "ms", "'ms' in its JSON is no number: '1.5 ms'"),
        ('{"ms": [3, 1, 2, 1]}', "ms", "printed different numbers (3, 1, 2 ms); say which counts: pick: first, last"),
        ('{"ms": []}', "ms", "'ms' in its JSON is no number: []"),
        ('{"ms": {"mean": 1}}', "ms", "'ms' in its JSON is no number: {'mean': 1}"),
        ('{"ms": -1}', "ms", "a latency is a positive number, not -1"),
        ('{"ms": NaN}', "ms", "a latency is a positive number, not nan"),
        ('{"ms": 1e999}', "ms", "a latency is a positive number, not inf"),
        ('{"ms": [1, 2, 0]}', "ms", "a latency is a positive number, not 0"),
        ('{"ms": 1' + "0" * 400 + "}", "ms", "'ms' in its JSON is no number: 1000"),
        ('{"ms": 1' + "0" * 5000 + "}", "ms", "printed no JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_json_that_tells_no_latency(text: str, key: str, said: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(text, json_key=key)
    assert str(caught.value).startswith("bench: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("stdout", "stderr", "regex", "found"),
    [
        ("mean 9 ms, median 1.5 ms", "", r"median ([0-9.]+) ms", 1.5),
        ("run: 3\r\nrun: 3.0\r\n", "", r"^run: ([0-9.]+)$", 3),
        ("", "Inference time: 1.25e1", r"time:\s+(\S+)", 12.5),
        ("1 ms", "1 ms\n1 ms", r"(\d) ms", 1),
        ("gpu 4", "", r"(?:cpu|gpu) (?P<ms>\d)", 4),
        ("\x1b[1mmedian\x1b[0m \x1b[32m5\x1b[1m.2\x1b[0m ms\x1b]0;done\x07", "", r"median ([0-9.]+) ms", 5.2),
        (" 10 % \r 50 %\rmedian 5.2\r", "", r"^median ([0-9.]+)$", 5.2),
        ("resnet18,12.5,13.1,3", "", r"resnet18,([0-9.]+)", 12.5),
        ("net,3,12.5", "", r"net,\d,([0-9.]+)", 12.5),
        ("took 12.5.", "", r"took ([0-9]+\.[0-9]+)", 12.5),
        ("took 12.", "", r"took ([0-9]+)", 12),
        ("took 12.", "", r"took ([0-9.]+)", 12),
        ("took 1.e+01 ms", "", r"took (\S+)", 10),
        ("took .....5ms", "", r"took \.+([0-9]+)ms", 5),
        ("median=+.5e+1ms", "", r"median=(.+)ms", 5),
        ("yolov5n 640x640 run 3 12.5 ms", "", r"run 3 ([0-9.]+) ms", 12.5),
        ("[10/03/2024-10:47:59] [I] median = 5.2 ms", "", r"median = ([0-9.]+) ms", 5.2),
        ("time->6.83ms", "", r"time->([0-9.]+)ms", 6.83),
        ("640 480 12.5", "", r"480 ([0-9.]+)", 12.5),
        ("run 0 125.5 ms", "", r"run 0 ([0-9.]+)", 125.5),
        ("10:47:59 125.5 ms", "", r" ([0-9.]+) ms", 125.5),
    ],
)
def test_regex(stdout: str, stderr: str, regex: str, found: float) -> None:
    assert read(stdout, stderr, regex=regex) == found


def test_seconds_behind_no_minutes() -> None:
    assert read("", "real\t0m1.234s\nuser\t0m0.900s", regex=r"real\s+0m([0-9.]+)s", unit="s") == 1234
    assert read("", "0.01user 0:02.50elapsed 60%CPU", regex=r"([0-9.]+)elapsed", unit="s") == 2500


@pytest.mark.parametrize(
    ("text", "regex", "taken", "number"),
    [
        ("latency: 12,34 ms", r"([0-9.]+) ?ms", "34", "12,34"),
        ("latency: 1,234.5 ms", r"([0-9.]+) ?ms", "234.5", "1,234.5"),
        ("latency: 1.234,5 ms", r"([0-9]+) ?ms", "5", "1.234,5"),
        ("latency: 1,234,567.8 us", r"latency: (\d+)", "1", "1,234,567.8"),
        ("latency: 1\u00a0234,5 ms", r"([0-9,]+) ms", "234,5", "1\u00a0234,5"),
        ("latency: 1\u202f234 ms", r"([0-9,]+) ms", "234", "1\u202f234"),
        ("latency: 1'234.5 ms", r"([0-9.]+) ms", "234.5", "1'234.5"),
        ("latency: 1\u2019234 ms", r"([0-9.]+) ms", "234", "1\u2019234"),
        ("latency: 1_234 ms", r"_([0-9.]+) ms", "234", "1_234"),
        ("latency: 12.34 ms", r"([0-9]+) ms", "34", "12.34"),
        ("latency: 12.34 ms", r"(?<=\.)([0-9]+) ms", "34", "12.34"),
        ("latency: 12,34 ms", r"([0-9]+),", "12", "12,34"),
        ("latency: .5 ms", r"([0-9]+) ms", "5", ".5"),
        ("latency: 1.2e-3 s", r"([0-9.]+) s", "3", "1.2e-3"),
        ("latency: 1.2e-3 s", r": ([0-9.]+)", "1.2", "1.2e-3"),
        ("latency: 1.e-3 s", r": ([0-9.]+)", "1.", "1.e-3"),
        ("latency: 12E3 us", r": ([0-9.]+)", "12", "12E3"),
        ("latency: -5 ms", r"([0-9.]+) ms", "5", "-5"),
        ("latency: \u22125 ms", r"([0-9.]+) ms", "5", "\u22125"),
        ("latency: 0x10", r"x([0-9.]+)", "10", "0x10"),
        ("latency: 0x1F ms", r": ([0-9.]+)", "0", "0x1F"),
        ("latency: \u0661\u0662\u066b\u0663 ms", r"(\d+) ms", "\u0663", "\u0661\u0662\u066b\u0663"),
        ("TensorRT 10.3.0", r"TensorRT (\d+\.\d+)", "10.3", "10.3.0"),
        ("real\t1m2.345s", r"m([0-9.]+)s", "2.345", "1m2.345"),
        ("0.01user 1:02.50elapsed", r"([0-9.]+)elapsed", "02.50", "1:02.50"),
        ("latency: 123 ms", r"([0-9]{2}) ms", "23", "123"),
        ("latency: 1 234.5 ms", r"latency: ([0-9.]+)", "1", "1 234.5"),
        ("latency: 1 234.5 ms", r"([0-9.]+) ms", "234.5", "1 234.5"),
        ("latency: 12 345 us", r"([0-9.]+) us", "345", "12 345"),
        ("latency: 1 234 567,8", r"latency: ([0-9.]+)", "1", "1 234 567,8"),
        ("latency: 12.5_000", r": ([0-9.]+)", "12.5", "12.5_000"),
        ("latency: 1h02m", r": ([0-9.]+)", "1", "1h02"),
    ],
)
def test_a_match_that_begins_or_ends_inside_a_number_is_refused(text: str, regex: str, taken: str, number: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(f"before 1\n{text}\nafter 2", regex=regex)
    assert f"takes {taken!r} out of the number {number!r}, in the line {' '.join(text.split())!r}" in str(caught.value)


@pytest.mark.parametrize(
    "number",
    [
        "12,34",
        "1,234.5",
        "1.234,5",
        "1,234",
        "1\u00a0234",
        "1'234.5",
        "1_5",
        "0x10",
        "\u0661\u0662",
        "1.2.3",
        "fast",
        "5 6",
    ],
)
def test_a_number_in_another_form_is_refused(number: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(f"median = {number} ms", regex=r"= (.*) ms")
    assert f"found {number!r}, which is no number such as 1234.5, in the line" in str(caught.value)


@pytest.mark.parametrize(("pick", "found"), [("first", 5.1), ("last", 3.0), ("median", 3.2), ("min", 3.0)])
def test_of_different_numbers_one_is_picked(pick: str, found: float) -> None:
    assert read("latency: 5.1 ms (min 3.2 ms)\nlatency 3.0 ms", regex=r"([0-9.]+) ms", pick=pick) == found
    assert read('{"latency_ms": [5.1, "3.2", 3]}', pick=pick) == found


def test_different_numbers_are_refused_where_nothing_says_which_counts() -> None:
    with pytest.raises(MeasurementError) as caught:
        read("latency: 5.1 ms (min 3.2 ms)", regex=r"([0-9.]+) ms")
    assert "different numbers (5.1, 3.2 ms); say which counts: pick: first, last, median, min" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "regex", "said"),
    [
        ("median: none", r"median (\d+)", r"nothing it printed matches regex: median (\d+); stdout: median: none"),
        ("ms", r"(\d)?ms", r"regex: (\d)?ms matches without its group"),
        ("0.000 ms", r"([0-9.]+) ms", "a latency is a positive number, not 0"),
        ("-1 ms", r"(\S+) ms", "a latency is a positive number, not -1"),
        ("inf ms", r"(\S+) ms", "a latency is a positive number, not inf"),
        ("nan ms", r"(\S+) ms", "a latency is a positive number, not nan"),
        (" ms", r"(.*)ms", "found ' ', which is no number"),
    ],
)
def test_output_that_the_regex_finds_no_latency_in(text: str, regex: str, said: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(text, regex=regex)
    assert said in str(caught.value)


# Units


@pytest.mark.parametrize(("unit", "found"), [("us", 0.0025), ("ms", 2.5), ("s", 2500)])
def test_units(unit: str, found: float) -> None:
    assert read('{"latency": 2.5}', json_key="latency", unit=unit) == pytest.approx(found)
    assert read(f"took 2.5{unit}", regex="took ([0-9.]+)", unit=unit) == pytest.approx(found)


@pytest.mark.parametrize(
    ("text", "unit", "printed"),
    [
        ("5.1 us", "ms", "us"),
        ("5.1 \u00b5s", "ms", "\u00b5s"),
        ("5.1\u00a0\u03bcs", "ms", "\u03bcs"),
        ("5.1 usec", "ms", "usec"),
        ("5.1s", "ms", "s"),
        ("5.1 seconds", "ms", "seconds"),
        ("5.1 Milliseconds", "us", "Milliseconds"),
        ("5.1 ms/frame", "s", "ms"),
        ("5.1 ns", "us", "ns"),
        ("Time(us): 5.1", "ms", "us"),
        ("Time [ms] = 5.1", "s", "ms"),
        ("5.1 FPS", "ms", "FPS"),
        ("5.1 images/s", "ms", "images/s"),
        ("5.1%", "ms", "%"),
        ("5.1 \u00b1 0.3 us", "ms", "us"),
        ("5.1 +/- 0.3 us", "ms", "us"),
        ("5.1/13.5 \u00b5s", "ms", "\u00b5s"),
        ("5.1, 13.5 us", "ms", "us"),
        ("5.1 - 13.5 (s)", "ms", "s"),
        ("5.1 (us)", "ms", "us"),
        ("5.1 [ms]", "us", "ms"),
        ("5.1|us", "ms", "us"),
        ("5.1, s", "ms", "s"),
        ("5.1 min", "ms", "min"),
        ("5.1 minutes", "ms", "minutes"),
        ("5.1 h", "ms", "h"),
        ("5.1 hours", "ms", "hours"),
        ("5.1m 3s", "ms", "m"),
        ("5.1 kHz", "ms", "kHz"),
        ("5.1 frames per second", "ms", "frames per second"),
        ("latency_us: 5.1", "ms", "us"),
        ('"latency_s": 5.1', "ms", "s"),
        ("avg_us = 5.1", "ms", "us"),
        ("Latency, us: 5.1", "ms", "us"),
        ("in seconds: 5.1", "ms", "seconds"),
        ("p50_us: 5.1", "ms", "us"),
        ("Latency (us): mean 5.1", "ms", "us"),
        ("Time(us), then 5.1", "ms", "us"),
        ("FPS: 5.1", "ms", "FPS"),
        ("4.9 ms, FPS 5.1", "ms", "FPS"),
    ],
)
def test_a_unit_that_is_not_the_descriptions_is_refused(text: str, unit: str, printed: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(f"it took {text}", regex=r"(5\.1)", unit=unit)
    assert f"found 5.1 in {printed}, and unit: is {unit}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5.1 ns", 5.1e-6),
        ("5.1 us", 5.1e-3),
        ("5.1ms", 5.1),
        ("5.1 sec", 5100),
        ("Time(us): 5.1", 5.1e-3),
        ("avg_us 5.1", 5.1e-3),
    ],
)
def test_the_unit_that_is_printed_is_read(text: str, found: float) -> None:
    assert read(f"it took {text}", regex=r"(5\.1)", unit="printed") == pytest.approx(found)


@pytest.mark.parametrize(("text", "shown"), [("5.1", "no unit"), ("5.1 FPS", "FPS"), ("5.1 slices", "no unit")])
def test_without_a_printed_unit_of_time_there_is_no_latency(text: str, shown: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(f"it took {text}", regex=r"(5\.1)", unit="printed")
    assert f"found 5.1 in {shown}, and unit: is printed" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "5.1",
        "5.1 ms",
        "5.1 ms in 3 s",
        "5.1 in 3 s",
        "5.1 slices",
        "5.1 milk",
        "5.1\ns",
        "ns\n5.1",
        "5.1, fps: 196",
        "5.1, FPS 196",
        "5.1 (196 FPS)",
        "5.1 (+3.2%)",
        "5.1 min 4.9 max 7",
        "5.1 min: 4.9",
        "5.1, min 4.9, max 7",
        "ms=5.1, us=5100",
        "after 3 s: 5.1",
        "min 4900 us, then 5.1",
        "percentile(99%) = 5.1",
        "the model's time: 5.1",
        "yolox_s: 5.1",
        "YOLOX-S 5.1",
        "h: 5.1",
    ],
)
def test_a_unit_of_something_else_is_not_the_numbers(text: str) -> None:
    assert read(f"{text} end", regex=r"(5\.1)") == 5.1


# The command line


def test_every_placeholder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = Network("runs/best net.pt; rm -rf /", (2, 3, 480, 640))
    command = parse_command(
        ["bench", *(f"--{name}={{{name}}}" for name in PLACEHOLDERS), "{height}x{width}", "{{0}}", 5]
    )
    assert fill(command, network, Path("a b.onnx"), "int8") == [
        "bench",
        f"--onnx={tmp_path / 'a b.onnx'}",
        "--name=runs-best-net.pt-rm--rf",
        "--batch=2",
        "--channels=3",
        "--height=480",
        "--width=640",
        "--precision=int8",
        "480x640",
        "{0}",
        "5",
    ]


def test_a_name_without_letters_is_still_an_argument(tmp_path: Path) -> None:
    assert fill(["{name}"], Network("ü/ß", (1, 3, 8, 8)), tmp_path, "fp32") == ["network"]
