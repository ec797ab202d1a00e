"""The clock: every second is counted once."""

from __future__ import annotations

import pytest

from prunetune.pruning.clock import Clock


class Hands:
    """Time as the test sets it, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr("prunetune.pruning.clock.time.perf_counter", hands)
    return hands


def test_a_part_adds_up(hands: Hands) -> None:
    clock = Clock()
    for seconds in (2, 3):
        with clock.part("train"):
            hands.now += seconds
        hands.now += 10  # between parts nothing is counted
    assert clock.seconds == {"train": 5}


def test_an_inner_part_pauses_the_outer_one(hands: Hands) -> None:
    clock = Clock()
    with clock.part("setup"):
        hands.now += 1
        with clock.part("store"):
            hands.now += 2
            with clock.part("validate"):
                hands.now += 4
            hands.now += 8
        hands.now += 16
    assert clock.seconds == {"setup": 17, "store": 10, "validate": 4}


def test_a_part_inside_itself_counts_once(hands: Hands) -> None:
    clock = Clock()
    with clock.part("load"):
        hands.now += 1
        with clock.part("load"):
            hands.now += 2
        hands.now += 4
    assert clock.seconds == {"load": 7}


def test_a_failing_part_counts_and_closes(hands: Hands) -> None:
    clock = Clock()
    with clock.part("setup"):
        hands.now += 1
        with pytest.raises(ZeroDivisionError), clock.part("train"):
            hands.now += 2
            raise ZeroDivisionError
        hands.now += 4
    assert clock.seconds == {"setup": 5, "train": 2}


def test_moved_seconds_keep_the_sum(hands: Hands) -> None:
    clock = Clock()
    with clock.part("setup"):
        hands.now += 10
        clock.move("setup", "train", 7)
        hands.now += 1
    clock.move("setup", "validate", 1)
    assert clock.seconds == {"setup": 3, "train": 7, "validate": 1}
