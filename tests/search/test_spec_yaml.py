"""The file of a description: the words of YAML 1.2, and what is no study."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError
from prunetune.spaces.yaml_file import parse_yaml

Written = Callable[..., Path]
Problem = Callable[..., str]


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("0x10", 16), ("0o10", 8), ("-7", -7), ("1:30", "1:30"), ("on", "on"),
     ("6e-4", 6e-4), (".5", 0.5), ("1.", 1.0), ("+1.5", 1.5), (".inf", math.inf), ("True", True),
     ("~", None), (".", "."), ("-", [None]), ("1.2.3", "1.2.3"), ("e5", "e5")],
)  # fmt: skip
def test_plain_words_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text, "here")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["!!int abc", "9" * 5000, "a: [", "!!float x", "2024-13-45", "[" * 999])
def test_what_is_no_yaml_is_told_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml(text, "here")


def test_a_key_that_stands_twice_is_refused(written: Written, short: str, problem: Problem) -> None:
    found = problem(written(short + "trials: 5\nimgsz: 64\ntrials: 50\n"))
    assert "trials" in found
    assert "duplicate key" in found


def test_a_key_that_stands_twice_inside_is_refused(written: Written, short: str, problem: Problem) -> None:
    assert "duplicate key" in problem(written(short + "budget: {latency: '<= dense', latency: '<= 1 ms'}\n"))


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tname: x", "a: 'open"])
def test_text_that_is_no_yaml_names_the_line(written: Written, problem: Problem, text: str) -> None:
    found = problem(written("# comment\n" + text + "\n"))
    assert found.startswith("line ")
    assert "not valid YAML" in found


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "5"])
def test_yaml_that_is_no_mapping_is_no_study(written: Written, problem: Problem, text: str) -> None:
    assert "holds no study" in problem(written(text))


def test_a_binary_file_is_no_study(problem: Problem, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(b"\x80\x81\xff\x00")
    assert "cannot be read" in problem(file)


def test_a_folder_is_no_study(problem: Problem, tmp_path: Path) -> None:
    assert "is a folder" in problem(tmp_path)


def test_a_missing_file_names_the_nearest(written: Written, short: str, problem: Problem, tmp_path: Path) -> None:
    written(short)
    assert problem(tmp_path / "stduy.yaml") == "no such file; did you mean study.yaml?"
    assert problem(tmp_path / "nowhere" / "study.yaml") == "no such file; there are none"


@pytest.mark.parametrize(
    "change",
    [lambda text: b"\xef\xbb\xbf" + text.encode(), lambda text: text.replace("\n", "\r\n").encode()],
    ids=["byte order mark", "carriage returns"],
)
def test_files_of_windows_are_read(change: Callable[[str], bytes], short: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(change(short))
    assert StudySpec.read(tmp_path / "study.yaml").name == "short"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_told(encoding: str, short: str, problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(short.replace("short", "größe").encode(encoding))
    assert "cannot be read ('utf-8' codec" in problem(tmp_path / "study.yaml")


def test_a_name_of_a_thousand_letters_is_told(problem: Problem, tmp_path: Path) -> None:
    assert "cannot be read" in problem(tmp_path / ("x" * 1000 + ".yaml"))
