"""Recipes and thresholds as values."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces import LatencyShare, Recipe, Threshold

STRENGTH = st.floats(0, 10, allow_nan=False)
THRESHOLDS = st.builds(Threshold, STRENGTH, STRENGTH, st.none() | STRENGTH) | STRENGTH.map(Threshold.everywhere)
RECIPES = st.builds(
    Recipe,
    sparsity=STRENGTH,
    sparse_epochs=st.integers(0, 800),
    threshold=THRESHOLDS | st.builds(LatencyShare, st.floats(0.1, 1), st.floats(0.1, 10)),
    later_thresholds=st.lists(THRESHOLDS, max_size=2).map(tuple),
    rounds=st.integers(1, 3),
    recovery_epochs=st.integers(0, 800),
    sparsity_unit=st.sampled_from(["lambda", "pull"]),
    shrinkage=st.sampled_from(["proximal", "subgradient"]),
    importance=st.sampled_from(["gamma", "l1", "l2", "taylor", "lamp"]),
    floor=st.floats(0, 0.9),
    start=st.sampled_from(["current", "rewind", "scratch"]),
    recovery_lr=st.floats(1e-3, 1e3),
    distillation=STRENGTH,
    sparse_distillation=STRENGTH,
)


@given(RECIPES)
def test_json_and_back(recipe: Recipe) -> None:
    back = Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())))
    assert back == recipe
    assert hash(back) == hash(recipe)


def test_the_fields_in_plain_values() -> None:
    recipe = Recipe(6e-4, 171, Threshold(0.01, 0.2), rounds=2, recovery_epochs=50, sparsity_unit="lambda")
    assert recipe.as_dict() == {
        "sparsity": 6e-4,
        "sparsity_unit": "lambda",
        "sparse_epochs": 171,
        "threshold": {"backbone": 0.01, "head": 0.2},
        "rounds": 2,
        "recovery_epochs": 50,
    }


def test_a_latency_in_plain_values() -> None:
    recipe = Recipe(0.5, 4, LatencyShare(0.8, 1.5), recovery_epochs=6)
    assert recipe.as_dict() == {
        "sparsity": 0.5,
        "sparsity_unit": "pull",
        "sparse_epochs": 4,
        "latency": 0.8,
        "balance": 1.5,
        "rounds": 1,
        "recovery_epochs": 6,
    }


def test_what_was_stored_before_there_were_latencies_can_be_read() -> None:
    stored = '{"sparsity": 0.5, "sparsity_unit": "pull", "sparse_epochs": 4, "threshold": 0.1, "rounds": 1, '
    recipe = Recipe.from_dict(json.loads(stored + '"recovery_epochs": 6}'))
    assert recipe == Recipe(0.5, 4, Threshold.everywhere(0.1), recovery_epochs=6)


def test_epochs_count_every_round() -> None:
    assert Recipe(0.1, 4, Threshold.everywhere(0.1), rounds=3, recovery_epochs=6).epochs == 30


def test_one_line_for_people() -> None:
    recipe = Recipe(0.5, 4, Threshold.everywhere(0.05), recovery_epochs=6)
    assert str(recipe) == "(pull 0.5 for 4 epochs, threshold 0.05, recover 6)"
    twice = replace(recipe, rounds=2, threshold=Threshold(0.01, 0.2), sparsity_unit="lambda")
    assert str(twice) == "2 x (lambda 0.5 for 4 epochs, threshold 0.01 / 0.2, recover 6)"
    assert str(replace(recipe, sparse_epochs=1)) == "(pull 0.5 for 1 epoch, threshold 0.05, recover 6)"


def test_one_line_says_which_latency_is_wanted() -> None:
    recipe = Recipe(0.5, 4, LatencyShare(0.8), recovery_epochs=6)
    assert str(recipe) == "(pull 0.5 for 4 epochs, latency 0.8 x budget, recover 6)"
    balanced = replace(recipe, threshold=LatencyShare(0.8, 1.25))
    assert str(balanced) == "(pull 0.5 for 4 epochs, latency 0.8 x budget, balance 1.25, recover 6)"


def test_a_threshold_from_a_number_or_from_regions() -> None:
    assert Threshold.parse(0.1) == Threshold(backbone=0.1, head=0.1)
    assert Threshold.parse({"backbone": 0.1, "head": 0.2}) == Threshold(backbone=0.1, head=0.2)
    assert Threshold(0.1, 0.2).for_region("backbone") == 0.1
    assert Threshold(0.1, 0.2).for_region("head") == 0.2


def test_a_threshold_in_plain_values() -> None:
    assert Threshold.everywhere(0.1).as_json() == 0.1
    assert Threshold(0.1, 0.2).as_json() == {"backbone": 0.1, "head": 0.2}


def test_a_threshold_lacking_a_region() -> None:
    with pytest.raises(KeyError, match="head"):
        Threshold.parse({"backbone": 0.1})


def test_options_are_told_where_they_differ_from_what_is_usual() -> None:
    recipe = Recipe(0.5, 4, Threshold.everywhere(0.05), recovery_epochs=6, start="rewind", distillation=6.0)
    assert recipe.as_dict() == {
        **Recipe(0.5, 4, Threshold.everywhere(0.05), recovery_epochs=6).as_dict(),
        "start": "rewind",
        "distillation": 6.0,
    }
    assert str(recipe).endswith("threshold 0.05, recover 6, start rewind, distillation 6)")


def test_the_last_threshold_holds_for_all_further_rounds() -> None:
    first, second = Threshold.everywhere(0.1), Threshold(0.2, 0.3)
    recipe = Recipe(0.5, 4, first, rounds=3, later_thresholds=(second,))
    assert [recipe.cut(number) for number in (1, 2, 3)] == [first, second, second]
    assert "threshold 0.1, then 0.2 / 0.3" in str(recipe)


def test_the_neck_has_the_heads_threshold_where_it_has_none() -> None:
    assert Threshold(0.1, 0.2).for_region("neck") == 0.2
    own = Threshold(0.1, 0.2, neck=0.3)
    assert [own.for_region(region) for region in ("backbone", "neck", "head")] == [0.1, 0.3, 0.2]
    assert own.as_json() == {"backbone": 0.1, "neck": 0.3, "head": 0.2}
    assert str(own) == "0.1 / 0.3 / 0.2"
