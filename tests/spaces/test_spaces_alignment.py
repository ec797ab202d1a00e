"""Alignment as a value: what it reads, what it writes, how it says no."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces import Alignment, ConfigError

CHANNELS = st.integers(1, 1024)


def test_a_number_holds_everywhere() -> None:
    assert Alignment.parse(16) == Alignment(16, 16, 16) == Alignment.everywhere(16)
    assert Alignment.parse(16).as_json() == 16


def test_kinds_that_are_not_given_follow_the_default() -> None:
    alignment = Alignment.parse({"default": 16, "first": 8})
    assert [alignment.of(kind) for kind in ("default", "first", "depthwise")] == [16, 8, 16]
    assert alignment.as_json() == {"default": 16, "first": 8}
    assert str(alignment) == "16 (first: 8)"
    assert Alignment.parse({"default": 4}).as_json() == 4


@given(CHANNELS, CHANNELS, CHANNELS)
def test_json_and_back(default: int, first: int, depthwise: int) -> None:
    alignment = Alignment(default, first, depthwise)
    again = Alignment.parse(json.loads(json.dumps(alignment.as_json())))
    assert again == alignment
    assert hash(again) == hash(alignment)
    assert Alignment.parse(alignment) is alignment


BLOCKS = st.sampled_from([1, 2, 4, 8, 16, 24, 32])


@given(st.lists(st.builds(Alignment, BLOCKS, BLOCKS, BLOCKS), min_size=1, max_size=3))
def test_a_common_alignment_keeps_to_each_and_is_the_smallest(alignments: list[Alignment]) -> None:
    common = Alignment.common(alignments)
    for kind in ("default", "first", "depthwise"):
        each = [alignment.of(kind) for alignment in alignments]
        shared = [value for value in range(1, common.of(kind) + 1) if all(value % block == 0 for block in each)]
        assert shared == [common.of(kind)]


def test_alignments_that_have_no_common_multiple_in_reach() -> None:
    with pytest.raises(ConfigError, match="default"):
        Alignment.common([Alignment.everywhere(1023), Alignment.everywhere(1024)])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "default is a whole number from 1"),
        (-8, "not -8"),
        (2048, "to 1024, not 2048"),
        (8.0, "not 8.0"),
        (True, "not True"),
        ("8", "not '8'"),
        (None, "not None"),
        ([8], r"not \[8\]"),
        ({"default": 8, "first": 0}, "first is a whole number"),
        ({"first": 8}, "default is missing"),
        ({}, "default is missing"),
        ({"default": 8, "frist": 8}, "unknown key 'frist'; did you mean first"),
        ({"default": 8, "detect": 8}, "there are default, first, depthwise"),
    ],
)
def test_what_is_no_alignment_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^alignment: .*{said}"):
        Alignment.parse(value)
