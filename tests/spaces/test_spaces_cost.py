"""Costs add up, and what several attempts share is counted once."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces.cost import Cost, StageUse

# Whole seconds: sums are exact.
seconds = st.dictionaries(st.sampled_from(["train", "validate", "measure"]), st.integers(1, 100).map(float))
stages = st.builds(
    StageUse,
    st.sampled_from(["sparse", "pruning", "recovery"]),
    st.sampled_from("abcdef"),
    st.integers(0, 9),
    st.integers(0, 9),
    st.booleans(),
)
costs = st.builds(Cost, seconds, st.lists(stages, max_size=4).map(tuple))


@given(costs, costs)
def test_costs_add_up(one: Cost, two: Cost) -> None:
    both = one + two
    assert both.total_s == one.total_s + two.total_s
    assert both.epochs_trained == one.epochs_trained + two.epochs_trained
    assert both.epochs_reused == one.epochs_reused + two.epochs_reused
    assert both - one == two, "what came since an earlier reading"
    assert one + Cost() == one


@given(costs)
def test_it_survives_json(cost: Cost) -> None:
    assert Cost.parse(json.loads(json.dumps(cost.as_dict()))) == cost


@given(costs, costs)
def test_a_recipe_that_was_begun_anew_counts_each_stage_as_it_was_made(first: Cost, second: Cost) -> None:
    both = first.then(second)
    made = {stage.digest for stage in first.stages}
    assert both.total_s == first.total_s + second.total_s, "the time was spent twice"
    assert both.stages[: len(first.stages)] == first.stages
    assert [stage.digest for stage in both.stages[len(first.stages) :]] == [
        stage.digest for stage in second.stages if stage.trained or stage.digest not in made
    ]


def test_what_is_damaged_is_missing() -> None:
    whole = {"kind": "sparse", "digest": "a", "trained": 2, "reused": 1}
    stored = {"seconds": {"train": 3, "measure": "long"}, "stages": [whole, {"kind": "sparse"}, 7]}
    assert Cost.parse(stored) == Cost({"train": 3.0}, (StageUse("sparse", "a", 2, 1),))
    assert Cost.parse(None) == Cost.parse([]) == Cost()
    assert StageUse("sparse", "a", 2, 1).epochs == 3
