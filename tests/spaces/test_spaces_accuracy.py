"""What a detector scores."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces.accuracy import Accuracy

shares = st.floats(min_value=0.0, max_value=1.0)
accuracies = st.builds(Accuracy, *[shares] * 5)
FIVE = {"map50": 0.9, "map50_95": 0.64, "precision": 0.8, "recall": 0.7, "f1": 0.36}


@given(accuracies)
def test_a_choice_by_both_lies_between_the_two(accuracy: Accuracy) -> None:
    both = accuracy.score("both")
    assert min(accuracy.f1, accuracy.map50_95) <= both * (1 + 1e-9) + 1e-150
    assert both <= max(accuracy.f1, accuracy.map50_95) * (1 + 1e-9) + 1e-150


def test_which_figure_a_checkpoint_is_chosen_by() -> None:
    accuracy = Accuracy.from_dict(FIVE)
    assert [accuracy.score(choice) for choice in ("map50_95", "last", "f1", "both")] == [0.64, 0.64, 0.36, 0.48]


def test_confidence_and_classes_are_stored_where_they_are_known() -> None:
    assert Accuracy.from_dict(FIVE).as_dict() == FIVE
    more = FIVE | {"confidence": 0.4, "classes": {"ean": {"map50": 0.9, "map50_95": 0.6}}}
    assert Accuracy.from_dict(json.loads(json.dumps(more))).as_dict() == more


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("value", [None, "0.9", math.nan, True])
def test_without_one_of_its_figures_it_is_none(name: str, value: object) -> None:
    damaged = FIVE | {name: value}
    assert Accuracy.parse(damaged) is None
    with pytest.raises(ValueError, match="no accuracy"):
        Accuracy.from_dict(damaged)
