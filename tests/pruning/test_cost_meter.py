"""The cost meter: every second is counted once, and every stage that is part of a recipe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.spaces import Cost, StageUse


class Hands:
    """Time as the test sets it, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr("prunetune.pruning.stages.cost_meter.time.perf_counter", hands)
    return hands


def test_a_part_adds_up(hands: Hands) -> None:
    meter = CostMeter()
    for seconds in (2, 3):
        with meter.part("train"):
            hands.now += seconds
        hands.now += 10  # between parts nothing is counted
    assert meter.reading() == Cost({"train": 5})


def test_an_inner_part_pauses_the_outer_one(hands: Hands) -> None:
    meter = CostMeter()
    with meter.part("setup"):
        hands.now += 1
        with meter.part("store"):
            hands.now += 2
            with meter.part("setup"):
                hands.now += 4
            hands.now += 8
        hands.now += 16
        assert meter.reading().seconds == {"setup": 21, "store": 10}, "what is open counts as well"
    assert meter.reading().seconds == {"setup": 21, "store": 10}


def test_a_block_that_counts_all_as_one_part(hands: Hands) -> None:
    meter = CostMeter()
    with meter.part("train"):
        hands.now += 1
        with pytest.raises(ZeroDivisionError), meter.all_as("deploy"):
            hands.now += 2
            with meter.part("measure"):
                hands.now += 4
                raise ZeroDivisionError
        with meter.part("measure"):
            hands.now += 8
    assert meter.reading().seconds == {"train": 1, "deploy": 6, "measure": 8}


def test_a_failing_part_counts_and_closes(hands: Hands) -> None:
    meter = CostMeter()
    with meter.part("setup"):
        hands.now += 1
        with pytest.raises(ZeroDivisionError), meter.part("train"):
            hands.now += 2
            raise ZeroDivisionError
        hands.now += 4
    assert meter.reading().seconds == {"setup": 5, "train": 2}


def test_seconds_that_belong_to_another_part(hands: Hands) -> None:
    meter = CostMeter()
    with meter.part("setup") as section:
        hands.now += 10
        section.give("train", 6)
        section.give("train", 1)
        section.give("validate", -5)
        before = meter.reading()
        hands.now += 1
        with meter.part("store"):
            hands.now += 20
    assert meter.reading().seconds == {"setup": 4, "train": 7, "validate": 0, "store": 20}
    assert (meter.reading() - before).seconds == {"setup": 1, "store": 20}


@given(st.floats(0, 1e3), st.lists(st.tuples(st.sampled_from("abc"), st.floats(-1e3, 1e3)), max_size=5))
def test_no_block_gives_more_than_it_took(took: float, gifts: list[tuple[str, float]]) -> None:
    meter = CostMeter()
    with meter.part("own") as section:
        for part, seconds in gifts:
            section.give(part, seconds)
        section.seconds = took
        spent = section.cost().seconds
    assert min(spent.values()) >= 0
    assert sum(spent.values()) == pytest.approx(took)


def test_stages_of_the_dense_training_are_no_part_of_a_recipe() -> None:
    meter = CostMeter()
    before = meter.reading()
    uses = [StageUse(kind, "1", trained=3) for kind in ("original", "early", "sparse")]
    for use in uses:
        meter.count(use)
    assert (meter.reading() - before).stages == (uses[-1],)


def test_an_attempt_that_goes_on_in_a_stage_counts_what_it_trained() -> None:
    begun, read, rest = (
        StageUse("recovery", "1", trained=3),
        StageUse("recovery", "1", reused=3),
        StageUse("recovery", "1", 2),
    )
    whole = Cost(stages=(begun,)).then(Cost(stages=(read, rest)))
    assert (whole.epochs_trained, whole.epochs_reused) == (5, 0)
