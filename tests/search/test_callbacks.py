"""Callbacks of users, and those that write to MLflow and Weights & Biases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from heard.events import ENDED, EVENTS, RECIPE, STARTED, epoch

from prunetune.results.record import TrialRecord
from prunetune.search import StudyCallback
from prunetune.search.callbacks.callback import create_callback
from prunetune.search.callbacks.events import Event, Listener, StudyEnded, TrialBegun, TrialEnded
from prunetune.spaces import ConfigError, MissingExtraError, Outcome

FAILED = TrialEnded(4, TrialRecord(RECIPE, Outcome.DIVERGED, "box_loss"), 5, 10)


def tell(listener: Listener, *events: Event) -> None:
    for event in events:
        listener.hear(event)


def test_a_callback_has_a_hook_for_every_event_but_the_end_of_work() -> None:
    hooks = {name for name in vars(StudyCallback) if not name.startswith("_")} - {"hear"}
    assert hooks == {kind.name for kind in Event.__subclasses__()} - {"task_ended"}
    tell(StudyCallback(), *EVENTS)


def test_a_hook_hears_its_event() -> None:
    class Mine(StudyCallback):
        def __init__(self) -> None:
            self.heard: list[Event] = []

        def trial_ended(self, event: TrialEnded) -> None:
            self.heard.append(event)

    mine = Mine()
    tell(mine, *EVENTS)
    assert mine.heard == [ENDED]


MINE = """
from prunetune.results.record import TrialRecord
from prunetune.search import StudyCallback


class Mine(StudyCallback):
    pass


class Other:
    pass


class Needs:
    def __init__(self, server):
        pass
"""


def test_a_class_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_callbacks.py").write_text(MINE)
    (tmp_path / "my_broken_callbacks.py").write_text("raise ValueError('no key')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)
    assert type(create_callback("my_callbacks:Mine")).__name__ == "Mine"
    for name, problem in (
        ("my_callbacks:Nobody", "my_callbacks has no Nobody"),
        ("my_callbacks:Other", "is no callback"),
        ("my_callbacks:Needs", r"Needs\(\) cannot be made \(TypeError: .*server.*\)"),
        ("my_broken_callbacks:Mine", r"cannot be imported \(ValueError: no key, .*my_broken_callbacks.py:1\)"),
        ("nowhere_at_all:Mine", "nowhere_at_all cannot be imported"),
        ("mlfow", "takes mlflow, wandb, or MODULE:CLASS"),
    ):
        with pytest.raises(ConfigError, match=problem):
            create_callback(name)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'prunetune\[{name}\]'"):
        create_callback(name)


def test_the_command_refuses_an_unknown_callback(
    write_study: Callable[..., Path], prunetune: Callable[..., Any]
) -> None:
    answer = prunetune("run", write_study(), "--callback", "nothing")
    assert answer.complaint.startswith("--callback: 'nothing': takes mlflow, wandb")


class FakeMlflow(ModuleType):
    """As much of MLflow as the callback asks for."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, SimpleNamespace] = {}
        self.MlflowClient = lambda: self

    def create_experiment(self, name: str) -> str:
        if name in self.experiments:
            raise RuntimeError("RESOURCE_ALREADY_EXISTS")
        self.experiments[name] = f"id of {name}"
        return self.experiments[name]

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=self.experiments[name])

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        run = SimpleNamespace(
            experiment=experiment, name=run_name, tags=tags, parameters={}, metrics=[], status="RUNNING"
        )
        self.runs[run_name] = run
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

    def log_param(self, run: str, name: str, value: Any) -> None:
        self.runs[run].parameters[name] = value

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.runs[run].metrics.append((name, value, step))

    def set_tag(self, run: str, name: str, value: str) -> None:
        self.runs[run].tags[name] = value

    def set_terminated(self, run: str, status: str) -> None:
        self.runs[run].status = status


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def test_mlflow_gets_a_run_for_each_trial(mlflow: FakeMlflow) -> None:
    tell(create_callback("mlflow"), *EVENTS)
    assert mlflow.experiments == {"barcodes": "id of barcodes"}
    assert set(mlflow.runs) == {"dense network", "trial 3"}
    run = mlflow.runs["trial 3"]
    assert run.experiment == "id of barcodes"
    assert run.parameters == RECIPE.as_dict()
    assert ("recovery/map50_95", 0.4, 1) in run.metrics
    assert ("map50_95", 0.411, 0) in run.metrics
    assert ("round 1/map50_95", 0.5, 0) in run.metrics
    assert ("epochs_reused", 4, 0) in run.metrics
    assert ("latency_ms/cpu", 1.01, 0) in run.metrics
    assert (run.status, run.tags["prunetune.outcome"]) == ("FINISHED", "OK")


def test_mlflow_knows_how_trials_ended(mlflow: FakeMlflow) -> None:
    callback = create_callback("mlflow")
    tell(callback, STARTED, TrialBegun(4, RECIPE), FAILED, TrialBegun(5, RECIPE), StudyEnded("stopped"))
    assert {name: run.status for name, run in mlflow.runs.items()} == {"trial 4": "FAILED", "trial 5": "KILLED"}
    assert mlflow.runs["trial 4"].tags["prunetune.reason"] == "box_loss"


def test_a_trial_that_was_put_aside_keeps_its_run(mlflow: FakeMlflow) -> None:
    callback = create_callback("mlflow")
    tell(callback, STARTED, TrialBegun(3, RECIPE), epoch(1), TrialBegun(4, RECIPE), TrialBegun(3, RECIPE), epoch(2))
    steps = [step for name, _, step in mlflow.runs["trial 3"].metrics if name == "recovery/box_loss"]
    assert steps == [1, 2]


def test_a_second_process_uses_the_study_s_experiment(mlflow: FakeMlflow) -> None:
    for _ in range(2):
        tell(create_callback("mlflow"), STARTED, TrialBegun(3, RECIPE), ENDED, StudyEnded("left"))
    assert mlflow.runs["trial 3"].experiment == "id of barcodes"


def test_a_trial_that_another_process_carried_out_has_its_figures(mlflow: FakeMlflow) -> None:
    tell(create_callback("mlflow"), STARTED, ENDED)
    assert ("map50_95", 0.411, 0) in mlflow.runs["trial 3"].metrics


def test_wandb_gets_a_run_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: dict[str, SimpleNamespace] = {}

    def init(**given: Any) -> SimpleNamespace:
        run = SimpleNamespace(**given, logged=[], summary={}, code=None)
        run.log = lambda metrics, step: run.logged.append((step, metrics))
        run.finish = lambda exit_code: setattr(run, "code", exit_code)
        runs[given["name"]] = run
        return run

    fake = ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tell(
        create_callback("wandb"),
        *EVENTS[:-1],
        TrialBegun(5, RECIPE),
        replace(FAILED, trial=5),
        StudyEnded("finished"),
    )
    ended = {name: run.code for name, run in runs.items()}
    assert ended == {"dense network": 0, "trial 3": 0, "trial 5": 1}
    run = runs["trial 3"]
    assert (run.project, run.group) == ("prunetune", "barcodes")
    assert run.config["sparse_epochs"] == RECIPE.sparse_epochs
    assert run.logged[0][0] == 1
    assert run.logged[0][1]["recovery/map50_95"] == 0.4
    assert run.summary["map50_95"] == 0.411
    assert run.summary["prunetune.outcome"] == "OK"
