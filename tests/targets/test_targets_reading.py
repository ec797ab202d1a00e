"""The latency in what a program printed, and the command line with a network's file in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunetune.spaces.errors import MeasurementError
from prunetune.targets import CommandSpec, Network
from prunetune.targets.program import Output
from prunetune.targets.reading import read_latency
from prunetune.targets.template import PLACEHOLDERS, fill, parse_command


def read(stdout: str, stderr: str = "", **keys: Any) -> float:
    return read_latency(CommandSpec(command=("bench", "{onnx}"), **keys), Output(stdout, stderr))


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ('{"latency_ms": 1.5}', None, 1.5),
        ('{"latency_ms": "1.5"}', None, 1.5),
        ('{"latency_ms": [3, 1, 2]}', None, 2),
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
    ids=str,
)
def test_json(text: str, key: str | None, found: float) -> None:
    assert read(text, json_key=key) == found


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("", "ms", 'printed no JSON; it is to print a line such as {"ms": 1.5}, or give regex:; it said nothing'),
        ("1.5", "ms", "printed no JSON"),
        ("[1.5]", "ms", "printed no JSON"),
        ('{"ms": 1.5', "ms", 'printed no JSON; it is to print a line such as {"ms": 1.5}, or give regex:; stdout: {"'),
        ('{"latency_s": 1}', "latency_ms", "its JSON has no 'latency_ms' (json_key); did you mean 'latency_s'?"),
        ('{"a": 1, "b": 2}', "ms", "its JSON has no 'ms' (json_key); there is 'a', 'b'"),
        ('{"a": {"b": 1}}', "a.ms.x", "its JSON has no 'a.ms' (json_key); there is 'b'"),
        ('{"a": 5}', "a.ms", "its JSON has no 'a.ms' (json_key); there is 5"),
        ('{"a": [1, 2]}', "a.2", "its JSON has no 'a.2' (json_key); there are 2 values"),
        ('{"ms": null}', "ms", "'ms' in its JSON is no number: None"),
        ('{"ms": true}', "ms", "'ms' in its JSON is no number: True"),
        ('{"ms": "fast"}', "ms", "'ms' in its JSON is no number: 'fast'"),
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
        ("run: 3\nrun: 1\nrun: 2\n", "", r"^run: (\d+)$", 2),
        ("", "Inference time: 1.25e1", r"time:\s+(\S+)", 12.5),
        ("1 ms", "2 ms\n3 ms", r"(\d) ms", 2),
        ("gpu 4", "", r"(?:cpu|gpu) (?P<ms>\d)", 4),
    ],
)
def test_regex(stdout: str, stderr: str, regex: str, found: float) -> None:
    assert read(stdout, stderr, regex=regex) == found


@pytest.mark.parametrize(
    ("text", "regex", "said"),
    [
        ("median: none", r"median (\d+)", r"nothing it printed matches regex: median (\d+); stdout: median: none"),
        ("1,5 ms", r"(\S+) ms", r"what regex: (\S+) ms found is no number: '1,5'"),
        ("ms", r"(\d)?ms", r"what regex: (\d)?ms found is no number: None"),
        ("0.000 ms", r"([0-9.]+) ms", "a latency is a positive number, not 0"),
    ],
)
def test_output_that_the_regex_finds_no_latency_in(text: str, regex: str, said: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(text, regex=regex)
    assert said in str(caught.value)


@pytest.mark.parametrize(("unit", "found"), [("us", 0.0025), ("ms", 2.5), ("s", 2500)])
def test_units(unit: str, found: float) -> None:
    assert read('{"latency_ms": 2.5}', unit=unit) == pytest.approx(found)


# The command line


def test_every_placeholder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = Network("runs/best net.pt; rm -rf /", (2, 3, 480, 640))
    command = parse_command(
        ["bench", *(f"--{name}={{{name}}}" for name in PLACEHOLDERS), "{height}x{width}", "{{0}}", 5]
    )
    assert fill(command, network, Path("a b.onnx")) == [
        "bench",
        f"--onnx={tmp_path / 'a b.onnx'}",
        "--name=runs-best-net.pt-rm--rf",
        "--batch=2",
        "--channels=3",
        "--height=480",
        "--width=640",
        "480x640",
        "{0}",
        "5",
    ]


def test_a_name_without_letters_is_still_an_argument(tmp_path: Path) -> None:
    assert fill(["{name}"], Network("ü/ß", (1, 3, 8, 8)), tmp_path) == ["network"]
