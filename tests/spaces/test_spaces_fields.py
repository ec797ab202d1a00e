"""Plain values that somebody stored: nothing raises, and nothing wrong comes through."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces.fields import integer, items, jsonable, mapping, number, numbers, text, widths

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(plain)
def test_each_reader_gives_its_own_kind_or_nothing(value: object) -> None:
    assert mapping(value) == (value if isinstance(value, dict) else {})
    assert items(value) == (value if isinstance(value, list) else [])
    assert text(value) == (value if isinstance(value, str) and value else None)
    assert (found := number(value)) is None or math.isfinite(found)
    assert all(math.isfinite(item) for item in numbers(value).values())
    assert set(widths(value)) == set(numbers(value))


@given(plain)
def test_what_is_jsonable_is_strict_json(value: object) -> None:
    found = jsonable(value)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("value", [True, None, "1", [], math.nan, math.inf, 10**400])
def test_what_is_no_number(value: object) -> None:
    assert (number(value), integer(value)) == (None, None)


def test_numbers() -> None:
    assert (number(3), integer(2.6)) == (3.0, 3)
    assert numbers({"a": 1, 2: 0.5, "b": None, "c": True}) == {"a": 1.0, "2": 0.5}
    assert widths({"stem": 16.0, "neck": "wide"}) == {"stem": 16}


def test_kinds_that_json_does_not_know_become_their_text() -> None:
    assert jsonable({1: (1, {2}), "path": object}) == {"1": [1, [2]], "path": str(object)}
