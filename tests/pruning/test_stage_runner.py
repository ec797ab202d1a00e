"""One training by several runners, to its end or a part of the way: each epoch is counted once, as what it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning import StageBusyError, StageRunner, StageStore, TrainingFailureError, TrainingSetup
from prunetune.pruning.detector import read_description
from prunetune.pruning.stage_files import read_history
from prunetune.pruning.stage_runner import Untrained
from prunetune.pruning.stages import trunk
from prunetune.pruning.training import EpochListener, EpochRecord, recovery_phase
from prunetune.spaces import StageUse, StoreError

pytestmark = pytest.mark.slow

PARENT = Untrained(read_description("yolov5n.yaml"), ("square", "disc"), seed=0)
PHASE = recovery_phase(4, "map50_95")


@pytest.fixture
def runner(setup: TrainingSetup, tmp_path: Path) -> Callable[..., StageRunner]:
    """Gives one over a store that all share."""

    def make(**options: Any) -> StageRunner:
        return StageRunner(setup, StageStore(tmp_path / "store"), **options)

    return make


@pytest.fixture
def name(setup: TrainingSetup) -> str:
    return trunk("recovery", PARENT.digest, setup, PHASE)


def stopping(after: int, error: BaseException) -> Callable[..., EpochListener]:
    """A listener that raises an error after an epoch."""

    def hear(record: EpochRecord) -> None:
        if record.epoch == after:
            raise error

    return lambda *_: hear


def test_what_is_trained_in_parts_counts_once(runner: Callable[..., StageRunner], name: str) -> None:
    me, other = runner(), runner()
    others = other.advance("recovery", PARENT, PHASE, 1)
    rung = me.advance("recovery", PARENT, PHASE, 2)
    assert me.meter.reading().stages == (StageUse("recovery", name, trained=1, reused=1),)
    other.advance("recovery", PARENT, PHASE, 3, counted=1)
    whole = me.train("recovery", PARENT, PHASE, counted=2)
    assert not whole.stage.reused
    assert whole.cost.stages == (StageUse("recovery", name, trained=1, reused=1),)
    assert whole.cost.seconds["train"] > 0
    mine, theirs = me.meter.reading(), other.meter.reading()
    assert (mine.epochs_trained, mine.epochs_reused) == (2, 2)
    assert (theirs.epochs_trained, theirs.epochs_reused) == (2, 1)

    history = read_history(whole.stage)
    assert (others.history, rung.history) == (history[:1], history[:2])
    assert not rung.is_whole
    again = other.advance("recovery", PARENT, PHASE, 2)
    assert (again.history, again.is_whole) == (history[:2], True)
    assert other.meter.reading().stages == theirs.stages, "what is there is counted by whoever reads it back"
    read = other.train("recovery", PARENT, PHASE, counted=3)
    assert read.cost.stages == (StageUse("recovery", name, reused=1),), "the others it has counted"


def test_what_is_further_than_asked_is_not_trained(runner: Callable[..., StageRunner], name: str) -> None:
    runner().advance("recovery", PARENT, PHASE, 3)
    me = runner(listener=stopping(1, AssertionError()))
    assert [record.epoch for record in me.advance("recovery", PARENT, PHASE, 2).history] == [1, 2]
    assert me.meter.reading().stages == (StageUse("recovery", name, reused=2),)


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), TrainingFailureError("DIVERGED", "box_loss is not finite"), StoreError("the disk is full")],
)
def test_what_ran_before_it_ended_counts(error: BaseException, runner: Callable[..., StageRunner], name: str) -> None:
    me = runner(listener=stopping(3, error))
    me.advance("recovery", PARENT, PHASE, 1)
    with pytest.raises(type(error)):
        me.train("recovery", PARENT, PHASE, counted=1)
    uses = me.meter.reading().stages
    assert uses == (StageUse("recovery", name, trained=1), StageUse("recovery", name, trained=2))


def test_what_a_training_starts_from_is_in_use_until_its_last_rung(runner: Callable[..., StageRunner]) -> None:
    """And so is all that this was made from."""
    me = runner()
    first = me.train("recovery", PARENT, replace(PHASE, epochs=1)).stage
    start = me.train("recovery", first, replace(PHASE, epochs=1)).stage
    for stage in (first, start):
        os.utime(stage.folder, (1.0, 1.0))
    me.advance("recovery", start, PHASE, 1)
    assert min(first.folder.stat().st_mtime, start.folder.stat().st_mtime) > 1.0


def test_a_part_of_the_way_is_leased_as_the_whole(runner: Callable[..., StageRunner], name: str) -> None:
    me = runner()
    with me.store.lease(name, name), pytest.raises(StageBusyError):
        runner().advance("recovery", PARENT, PHASE, 1)
