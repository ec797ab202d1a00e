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

from prunetune.pruning.claims import StageClaim, StageClaimedError
from prunetune.pruning.store import StageStore
from prunetune.search import runner
from prunetune.search.aside import MOST_ASIDE, Aside, patiently
from prunetune.search.heartbeat import Heartbeat
from prunetune.search.interruption import Interruption
from prunetune.search.objective import TrialResult
from prunetune.search.outcome import Outcome
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.study import open_study
from prunetune.spaces import PrunetuneError, StoreError

MakeSpec = Callable[..., StudySpec]
THIS = f"{socket.gethostname()}:{os.getpid()}"


class Scene:
    """A study whose trials need nothing but a stage that somebody may be training."""

    def __init__(self, spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spec, self.study = spec, open_study(spec)
        self.store = StageStore(spec.folder.parent / ".store")
        self.out = io.StringIO()
        self.progress = Progress(Console(file=self.out, width=200), spec.trials)
        self.claims: dict[int, StageClaim] = {}
        self.told: list[int] = []
        self.waits: list[str] = []
        self.on_wait: Callable[[], None] = lambda: None
        begin = self.progress.begin

        def listen(what: str) -> None:
            begin(what)
            if what.startswith("waiting for"):
                self.waits.append(what)
                self.on_wait()

        monkeypatch.setattr(self.progress, "begin", listen)
        monkeypatch.setattr(runner, "carry_out", self.carry_out)

    def claim(self, number: int) -> None:
        """Lets another process train what a trial needs."""
        self.claims[number] = self.store.claim(f"sparse-{number}", f"sparse-{number}", "")

    def carry_out(self, study: optuna.Study, trial: optuna.Trial, recipe: Any, *_: Any) -> TrialResult:
        self.store.claim(f"sparse-{trial.number}", f"sparse-{trial.number}", "").release()
        self.told.append(trial.number)
        trial.set_user_attr("outcome", Outcome.ERROR.value)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return TrialResult(trial.number, recipe, Outcome.ERROR, "", {"epochs": {"reused": 0}}, 0.1)

    def run(self) -> None:
        workspace: Any = SimpleNamespace(spec=self.spec, store=self.store)
        with Interruption(), Heartbeat(self.study) as heartbeat:
            runner.carry_out_trials(self.study, self.spec, workspace, self.progress, heartbeat)

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.trials]


@pytest.fixture
def make_scene(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    return lambda **changes: Scene(make_spec(**changes), monkeypatch)


def test_other_trials_come_first_and_then_the_one_that_waited(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=3)
    scene.claim(0)
    scene.on_wait = lambda: scene.claims[0].release()
    scene.run()
    assert scene.told == [1, 2, 0]
    assert scene.states() == ["FAIL"] * 3, "it stayed this process's all the while"
    assert scene.waits == [f"waiting for sparse-0 on {THIS}"]
    assert f"trial 0: put aside, waiting for sparse-0 on {THIS}" in scene.out.getvalue()


def test_who_waited_comes_before_new_trials(make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(trials=4)
    scene.claim(0)
    tell = scene.carry_out

    def release_then_tell(study: optuna.Study, trial: optuna.Trial, *rest: Any) -> TrialResult:
        if trial.number == 1:
            scene.claims[0].release()
        return tell(study, trial, *rest)

    monkeypatch.setattr(runner, "carry_out", release_then_tell)
    scene.run()
    assert scene.told == [1, 0, 2, 3]
    assert scene.waits == []


def test_no_more_than_a_few_are_put_aside(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=MOST_ASIDE + 2)
    for number in range(MOST_ASIDE + 2):
        scene.claim(number)
    seen: list[int] = []

    def release_one() -> None:
        seen.append(len(scene.study.trials))
        for number, claim in scene.claims.items():
            if number not in scene.told:
                claim.release()
                del scene.claims[number]
                return

    scene.on_wait = release_one
    scene.run()
    assert seen[0] == MOST_ASIDE
    assert sorted(scene.told) == list(range(MOST_ASIDE + 2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError("/disk: the disk is full")])
def test_trials_that_wait_are_given_back_when_the_run_ends(make_scene: Callable[..., Scene], error: Any) -> None:
    scene = make_scene(trials=3)
    scene.claim(0)
    scene.claim(1)

    def end() -> None:
        if error is KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)
        else:
            raise error

    scene.on_wait = end
    with pytest.raises((KeyboardInterrupt, PrunetuneError)):
        scene.run()
    assert scene.states() == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert [trial.user_attrs["outcome"] for trial in scene.study.trials[:2]] == ["INTERRUPTED"] * 2
    assert [trial.user_attrs["retry_of"] for trial in scene.study.trials[2:]] == [0, 1]


def test_a_trial_that_runs_when_the_run_ends_does_not_lose_those_that_wait(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(trials=3)
    scene.claim(0)
    tell = scene.carry_out

    def interrupt(study: optuna.Study, trial: optuna.Trial, *rest: Any) -> TrialResult:
        if trial.number == 1:
            raise KeyboardInterrupt
        return tell(study, trial, *rest)

    monkeypatch.setattr(runner, "carry_out", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scene.run()
    assert sorted(scene.states()) == ["FAIL", "FAIL", "WAITING", "WAITING"]


def test_what_cannot_be_put_off_waits(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    scene.claim(0)
    scene.on_wait = lambda: scene.claims[0].release()

    def train() -> str:
        scene.store.claim("sparse-0", "sparse-0", "").release()
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
    aside.put("trial 7", "work", StageClaimedError("sparse-0", "sparse-0", None))
    assert aside.ready() == "work", "nobody claims it"
    assert aside.take_all() == []
