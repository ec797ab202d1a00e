"""A trial whose stage another process trains: put aside, taken up again, or given back."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from rich.console import Console

from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.stages.lease import StageBusyError, StageLease
from prunetune.pruning.stages.store import StageStore
from prunetune.results.record import TrialRecord
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine import local_engine
from prunetune.search.engine.aside import MOST_ASIDE, Aside, patiently
from prunetune.search.engine.baselines import trained_controls
from prunetune.search.engine.engine import train_meanwhile
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.local_engine import carry_out_trials
from prunetune.search.interruption import Interruption
from prunetune.search.study.open_study import open_study
from prunetune.search.study.stored_study import set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import AskedTrial
from prunetune.search.trial.trial_files import StudyFiles
from prunetune.spaces import Outcome, PrunetuneError, StageUse, StoreError

MakeSpec = Callable[..., StudySpec]
THIS = f"{socket.gethostname()}:{os.getpid()}"


class Scene:
    """A study whose trials need nothing but a stage that somebody may be training."""

    def __init__(self, spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spec, self.study = spec, open_study(spec)
        self.store = StageStore(spec.folder.parent / ".store")
        self.out = io.StringIO()
        self.progress = Progress(Console(file=self.out, width=200), spec.trials)
        self.leases: dict[int, StageLease] = {}
        self.told: list[int] = []
        self.meter = CostMeter()
        self.spent: dict[int, int] = {}
        self.waits: list[str] = []
        self.on_wait: Callable[[], None] = lambda: None
        begin = self.progress.begin

        def listen(what: str) -> None:
            begin(what)
            if what.startswith("waiting for"):
                self.waits.append(what)
                self.on_wait()

        monkeypatch.setattr(self.progress, "begin", listen)
        monkeypatch.setattr(local_engine, "run_and_tell", self.objective)

    def lease(self, number: int) -> None:
        """Lets another process train what a trial needs."""
        self.leases[number] = self.store.lease(f"sparse-{number}", f"sparse-{number}")

    def objective(self, study: optuna.Study, asked: AskedTrial, _: Any) -> TrialRecord:
        """An epoch, and then the stage that another process may be training."""
        self.meter.count(StageUse("sparse", f"trunk-{asked.number}", trained=1))
        self.store.lease(f"sparse-{asked.number}", f"sparse-{asked.number}").release()
        self.told.append(asked.number)
        self.spent[asked.number] = asked.spent.epochs_trained
        record = TrialRecord(asked.recipe, Outcome.ERROR)
        set_attributes(asked.trial, record.to_attrs())
        study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)
        return record

    def run(self) -> None:
        files = StudyFiles(self.spec.folder)
        context: Any = SimpleNamespace(spec=self.spec, store=self.store, cost_meter=self.meter, files=files)
        with Interruption(), Heartbeat(self.study) as heartbeat:
            carry_out_trials(self.study, context, heartbeat, self.progress)

    def records(self) -> list[TrialRecord]:
        return [TrialRecord.from_trial(trial) for trial in self.study.trials]

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.trials]


@pytest.fixture
def make_scene(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    return lambda **changes: Scene(make_spec(**changes), monkeypatch)


def test_other_trials_come_first_and_then_the_one_that_waited(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=3)
    scene.lease(0)
    scene.on_wait = lambda: scene.leases[0].release()
    scene.run()
    assert scene.told == [1, 2, 0]
    assert scene.states() == ["FAIL"] * 3, "it stayed this process's all the while"
    assert scene.spent == {0: 1, 1: 0, 2: 0}, "what it had cost before it waited is not forgotten"
    assert scene.waits == [f"waiting for sparse-0 on {THIS}"]
    assert f"trial 0: put aside, waiting for sparse-0 on {THIS}" in scene.out.getvalue()


def test_who_waited_comes_before_new_trials(make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(trials=4)
    scene.lease(0)

    def release_then_tell(study: optuna.Study, asked: AskedTrial, context: Any) -> TrialRecord:
        if asked.number == 1:
            scene.leases[0].release()
        return scene.objective(study, asked, context)

    monkeypatch.setattr(local_engine, "run_and_tell", release_then_tell)
    scene.run()
    assert scene.told == [1, 0, 2, 3]
    assert scene.waits == []


def test_no_more_than_a_few_are_put_aside(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=MOST_ASIDE + 2)
    for number in range(MOST_ASIDE + 2):
        scene.lease(number)
    seen: list[int] = []

    def release_one() -> None:
        seen.append(len(scene.study.trials))
        for number, lease in scene.leases.items():
            if number not in scene.told:
                lease.release()
                del scene.leases[number]
                return

    scene.on_wait = release_one
    scene.run()
    assert seen[0] == MOST_ASIDE
    assert sorted(scene.told) == list(range(MOST_ASIDE + 2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError("/disk: the disk is full")])
def test_trials_that_wait_are_given_back_when_the_run_ends(make_scene: Callable[..., Scene], error: Any) -> None:
    scene = make_scene(trials=3)
    scene.lease(0)
    scene.lease(1)

    def end() -> None:
        if error is KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)
        else:
            raise error

    scene.on_wait = end
    with pytest.raises((KeyboardInterrupt, PrunetuneError)):
        scene.run()
    assert scene.states() == ["FAIL", "FAIL"]
    given_back = scene.records()
    assert [record.outcome for record in given_back] == [Outcome.INTERRUPTED] * 2
    assert [record.cost.epochs_trained for record in given_back] == [1, 1], "it counts in the study's limits"


def test_a_trial_that_runs_when_the_run_ends_does_not_lose_those_that_wait(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(trials=3)
    scene.lease(0)

    def interrupt(study: optuna.Study, asked: AskedTrial, context: Any) -> TrialRecord:
        if asked.number == 1:
            raise KeyboardInterrupt
        return scene.objective(study, asked, context)

    monkeypatch.setattr(local_engine, "run_and_tell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scene.run()
    assert scene.states() == ["FAIL", "FAIL"]


def test_what_cannot_be_put_off_waits(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    scene.lease(0)
    scene.on_wait = lambda: scene.leases[0].release()

    def train() -> str:
        scene.store.lease("sparse-0", "sparse-0").release()
        return "trained"

    assert patiently(train, "control dense", scene.store, scene.progress) == "trained"
    assert "control dense: waiting for sparse-0 on " in scene.out.getvalue()
    assert len(scene.waits) == 1


def test_nothing_to_wait_for(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    aside: Aside[str] = Aside(scene.store, scene.progress)
    assert aside.ready() is None
    assert aside.wait() is None
    assert not aside.is_full
    aside.put("trial 7", "work", StageBusyError("sparse-0", "sparse-0"))
    assert aside.ready() == "work", "nobody has it"
    assert aside.take_all() == []


def train_controls(scene: Scene, *, waits: bool) -> list[str]:
    """Trains the controls of a study, each of which needs a stage that somebody may be training."""

    def train(name: str, epochs: int) -> str:
        scene.store.lease(f"control-{name}", f"control-{name}").release()
        return name

    pipeline = SimpleNamespace(control=train)
    context: Any = SimpleNamespace(spec=scene.spec, sizes=(scene.spec.imgsz,), store=scene.store, pipeline=pipeline)
    return [str(stage) for _, stage in trained_controls(context, scene.progress, waits=waits)]


def test_of_the_controls_those_come_first_that_nobody_trains(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(controls=["dense", "half-width", "quarter-width"])
    lease = scene.store.lease("control-dense", "control-dense")
    scene.on_wait = lease.release
    assert train_controls(scene, waits=True) == ["half-width", "quarter-width", "dense"]
    assert scene.waits == [f"waiting for control-dense on {THIS}"]


def test_who_leaves_waits_for_no_control(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(controls=["dense", "half-width"])
    with scene.store.lease("control-dense", "control-dense"):
        assert train_controls(scene, waits=False) == ["half-width"]
    assert scene.waits == []


def test_controls_are_trained_while_another_process_trains_the_dense_network(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(controls=["dense", "half-width", "quarter-width"])
    lease, trained = scene.store.lease("original", "original"), []

    def original() -> None:
        scene.store.lease("original", "original").release()

    def train(name: str, epochs: int) -> str:
        if name == "dense":
            original()
        trained.append(name)
        lease.release()
        return name

    pipeline = SimpleNamespace(control=train, original=original)
    context: Any = SimpleNamespace(spec=scene.spec, sizes=(scene.spec.imgsz,), store=scene.store, pipeline=pipeline)
    train_meanwhile(context, scene.progress)
    assert trained == ["half-width"], "once the dense network is there, trials come first"
