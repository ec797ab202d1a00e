"""One training by several runners, to its end or a part of the way: each epoch is counted once, as what it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.pruning import StageBusyError, StageRunner, StageStore, TrainingFailureError, TrainingSetup
from prunetune.pruning.stages.stage import trunk
from prunetune.pruning.stages.stage_files import CHECKPOINT, read_history
from prunetune.pruning.stages.stage_runner import Progress, StageResult, Untrained
from prunetune.pruning.training.values import EpochListener, EpochRecord, recovery_phase
from prunetune.pruning.yolo.detector import Detector, read_description
from prunetune.spaces import StageUse, StoreError

pytestmark = [pytest.mark.slow, pytest.mark.core]

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
    with closing(other.train_in_parts("recovery", PARENT, PHASE, [1, 2])) as parts:
        theirs = next(parts)
    assert other.meter.reading().stages == (StageUse("recovery", name, trained=1),), "the rest was not asked for"

    parts = me.train_in_parts("recovery", PARENT, PHASE, [1, 2, 4, 9])
    rungs, whole = [next(parts), next(parts)], ending(parts)
    assert not whole.stage.reused
    assert whole.cost.stages == (StageUse("recovery", name, trained=3, reused=1),)
    assert whole.cost.seconds["train"] > 0
    history = read_history(whole.stage)
    assert [theirs.history, *(rung.history for rung in rungs)] == [history[:1], history[:1], history[:2]]
    assert not any(rung.is_whole for rung in rungs)

    again = other.train_in_parts("recovery", PARENT, PHASE, [2])
    rung = next(again)
    assert (rung.history, rung.is_whole) == (history[:2], True)
    assert ending(again).cost.stages == (StageUse("recovery", name, reused=4, was_stored=True),)


def ending(parts: Generator[Progress, None, StageResult]) -> StageResult:
    """What a training returns when nobody pauses any more."""
    with pytest.raises(StopIteration) as end:
        next(parts)
    result: StageResult = end.value.value
    return result


def test_a_training_that_paused_is_the_one_that_did_not(
    setup: TrainingSetup, tmp_path: Path, runner: Callable[..., StageRunner]
) -> None:
    """To the last bit, whether it paused in this process or was read back by another one."""
    parts = runner().train_in_parts("recovery", PARENT, PHASE, [1])
    next(parts)
    paused = ending(parts).stage
    once = StageRunner(setup, StageStore(tmp_path / "other")).train("recovery", PARENT, PHASE).stage
    with closing(
        (third := StageRunner(setup, StageStore(tmp_path / "third"))).train_in_parts("recovery", PARENT, PHASE, [2])
    ) as parts:
        next(parts)
    resumed = third.train("recovery", PARENT, PHASE).stage
    states = [Detector.load(stage.file(CHECKPOINT)).model.state_dict() for stage in (paused, once, resumed)]
    for state in states[1:]:
        assert all(torch.equal(value, state[key]) for key, value in states[0].items())


def test_what_is_further_than_asked_is_not_trained(runner: Callable[..., StageRunner], name: str) -> None:
    with closing(runner().train_in_parts("recovery", PARENT, PHASE, [3])) as parts:
        next(parts)
    me = runner(listener=stopping(1, AssertionError()))
    with closing(me.train_in_parts("recovery", PARENT, PHASE, [2])) as parts:
        assert [record.epoch for record in next(parts).history] == [1, 2]
    assert me.meter.reading().stages == (StageUse("recovery", name, reused=2),)


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), TrainingFailureError("DIVERGED", "box_loss is not finite"), StoreError("the disk is full")],
)
def test_what_ran_before_it_ended_counts(error: BaseException, runner: Callable[..., StageRunner], name: str) -> None:
    me = runner(listener=stopping(3, error))
    parts = me.train_in_parts("recovery", PARENT, PHASE, [1])
    next(parts)
    with pytest.raises(type(error)):
        next(parts)
    assert me.meter.reading().stages == (StageUse("recovery", name, trained=3),)


def test_what_a_training_starts_from_is_in_use_until_its_last_rung(runner: Callable[..., StageRunner]) -> None:
    """And so is all that this was made from."""
    me = runner()
    first = me.train("recovery", PARENT, replace(PHASE, epochs=1)).stage
    start = me.train("recovery", first, replace(PHASE, epochs=1)).stage
    for stage in (first, start):
        os.utime(stage.folder, (1.0, 1.0))
    with closing(me.train_in_parts("recovery", start, PHASE, [1])) as parts:
        next(parts)
    assert min(first.folder.stat().st_mtime, start.folder.stat().st_mtime) > 1.0


def test_a_part_of_the_way_is_leased_as_the_whole(runner: Callable[..., StageRunner], name: str) -> None:
    me = runner()
    with me.store.lease(name, name), pytest.raises(StageBusyError):
        next(runner().train_in_parts("recovery", PARENT, PHASE, [1]))
