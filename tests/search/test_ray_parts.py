"""What Ray Tune asks of a study, without Ray's processes."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console

from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.training.values import EpochRecord
from prunetune.results.record import TrialRecord
from prunetune.search.callbacks.events import EpochEnded, Event, TrialBegun
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.engine import prepare
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.processes import this_process
from prunetune.search.engine.workers import reap
from prunetune.search.study.open_study import find_study, open_study, stored_spec
from prunetune.search.study.stored_study import set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Accuracy, ConfigError, Cost, Outcome, Recipe, StageUse

pytest.importorskip("ray")

from prunetune.search.ray_tune import engine as ray_engine
from prunetune.search.ray_tune import worker as ray_worker
from prunetune.search.ray_tune.engine import RayEngine
from prunetune.search.ray_tune.searcher import MOST_GIVEN_UP, StudySearcher
from prunetune.search.ray_tune.worker import REPORT, Report, TuneReports, carry_out

MakeSpec = Callable[..., StudySpec]
FINISHED = StudySearcher.FINISHED
USE = StageUse("sparse", "sparse-0", trained=1)
DEAD = {**this_process(), "pid": 2**22 + 1}


class Scene:
    """A driver, and what it says."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec, self.study, self.out = spec, open_study(spec), io.StringIO()
        self.heard: list[Event] = []
        self.progress = Progress(Console(file=self.out, width=200), spec.trials, [self])
        self.searcher = StudySearcher(self.study, spec, self.progress, Heartbeat(self.study))

    def hear(self, event: Event) -> None:
        """What a callback, or the log, is told."""
        self.heard.append(event)

    def tell(self, number: int) -> None:
        """What a worker does at a trial's end."""
        cost = Cost({"train": 1.0}, (USE,))
        self.store(number, TrialRecord(outcome=Outcome.ERROR, cost=cost))
        self.study.tell(number, state=TrialState.FAIL)

    def store(self, number: int, record: TrialRecord) -> None:
        """Stores more of a trial that runs."""
        set_attributes(self.study.running_trial(number), record.to_attrs())

    def record(self, number: int) -> TrialRecord:
        return TrialRecord.from_trial(self.study.trials[number])

    def recipe(self, number: int) -> Recipe:
        recipe = self.record(number).recipe
        assert isinstance(recipe, Recipe)
        return recipe

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.trials]


@pytest.fixture
def make_scene(make_spec: MakeSpec) -> Callable[..., Scene]:
    return lambda **changes: Scene(make_spec(**changes))


def test_trials_are_the_studys_and_ray_knows_them_by_number(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=2)
    first = scene.searcher.suggest("a")
    assert first == {"trial": 0, "recipe": scene.recipe(0).as_dict()}
    assert (scene.record(0).driver or {})["pid"] == this_process()["pid"]
    assert scene.searcher.suggest("b")["trial"] == 1
    assert scene.searcher.suggest("c") is None, "one of those that run may still be given back"
    scene.tell(0)
    scene.searcher.on_trial_complete("a", {REPORT: Report()})
    scene.tell(1)
    scene.searcher.on_trial_complete("b", {REPORT: Report()})
    assert scene.searcher.suggest("c") == FINISHED
    assert "trial 1 [2/2] ERROR" in scene.out.getvalue()


@pytest.mark.parametrize("accuracy", [None, Accuracy(0.6, 0.4, 0.7, 0.5, 0.55, None, {"disc": {"map50": 0.6}})])
def test_listeners_hear_of_trials_and_their_epochs(
    make_scene: Callable[..., Scene], accuracy: Accuracy | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(trials=2)
    scene.searcher.suggest("a")
    (begun,) = scene.heard
    assert begun == TrialBegun(0, scene.recipe(0))
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_worker.tune, "report", reported.append)
    meter = CostMeter()
    reports = TuneReports(0, meter)
    worker = Progress(None, 2)
    with worker.heard_by(reports):
        worker.begin("trial 0")
        meter.count(USE)
        record = EpochRecord(2, {"box_loss": 1.5, "sl_loss": 0.1}, 3.0, 1.0, accuracy)
        worker.epochs("sparse", 4, 1)(record)
    worker.begin("another trial")
    assert [told[REPORT].cost.stages for told in reported] == [(), (USE,)]
    assert reported[1]["losses"] == record.losses
    for told in reported:
        scene.searcher.on_trial_result("a", told)
        scene.searcher.on_trial_result("unknown", told)
    (epoch,) = scene.heard[1:]
    kept = None if accuracy is None else replace(accuracy, classes=None)
    assert epoch == EpochEnded("trial 0", 0, "sparse", 4, replace(record, accuracy=kept))
    assert scene.out.getvalue() == "", "the console shows what the worker writes"


def test_whatever_ends_a_trial_its_cost_is_known(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=5)
    spent = Report(Cost({"train": 2.0}, (USE,)))
    for name in "abc":
        scene.searcher.suggest(name)
    scene.searcher.on_trial_complete("a", {REPORT: spent})  # Ray ends it at a report
    scene.searcher.on_trial_result("b", {REPORT: spent})
    scene.searcher.on_trial_complete("b", error=True)
    scene.searcher.on_trial_result("c", {REPORT: spent})
    scene.searcher.give_all_back()
    ended = [scene.record(number) for number in range(3)]
    assert [record.outcome for record in ended] == [Outcome.INTERRUPTED, Outcome.WORKER_DIED, Outcome.INTERRUPTED]
    assert [record.cost for record in ended] == [spent.cost] * 3
    assert scene.states() == ["FAIL"] * 3


def test_ray_stores_nothing_of_a_searcher(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    assert vars(pickle.loads(pickle.dumps(scene.searcher))) == {}
    assert pickle.loads(pickle.dumps(scene.searcher.stops)).__name__ == "stops"


def test_no_more_trials_run_than_are_wanted(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=5, ray={"concurrent": 2})
    assert [bool(scene.searcher.suggest(name)) for name in "abc"] == [True, True, False]
    assert scene.states() == ["RUNNING", "RUNNING"]


def test_a_dead_worker_is_rays_to_replace_as_long_as_the_driver_lives(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=2)
    scene.searcher.suggest("a")
    scene.store(0, TrialRecord(worker=DEAD))
    assert reap(scene.study) == []
    scene.store(0, TrialRecord(driver=DEAD))
    assert reap(scene.study) == [0]


def test_trials_whose_processes_die_too_often_go_back_and_end_the_run(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=5, ray={"max_failures": 1})
    params = []
    for name in "abc":
        number = scene.searcher.suggest(name)["trial"]
        params.append(scene.study.trials[number].params)
        scene.searcher.on_trial_complete(name, None, error=True)
    assert MOST_GIVEN_UP == 3
    assert scene.states() == ["FAIL", "FAIL", "FAIL"]
    assert params[0] == params[1] == params[2], "the recipe comes again before any other"
    assert scene.record(0).reason == "its process died 2 times"
    assert scene.searcher.stops()
    assert scene.searcher.suggest("d") == FINISHED


def test_what_a_worker_cannot_go_on_for_ends_the_run(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(trials=5)
    scene.searcher.suggest("a")
    scene.searcher.on_trial_result("a", {REPORT: Report(Cost({"train": 2.0}, (USE,)))})
    scene.searcher.on_trial_complete("a", {REPORT: Report(problem="runs: No space left on device")})
    assert scene.searcher.problem == "runs: No space left on device"
    assert scene.states() == ["FAIL"]
    assert (scene.record(0).outcome, scene.record(0).cost.epochs_trained) == (Outcome.INTERRUPTED, 1)


def test_a_trial_that_ray_starts_again_after_its_end_stays_as_it_is(finished_study: Path, tmp_path: Path) -> None:
    """A process dies when a trial's result is told, and before Ray knows of it: another one has it done again."""
    runs = shutil.copytree(finished_study.parent, tmp_path / "runs")
    stored = stored_spec(find_study(str(runs / finished_study.name))[0])
    progress = Progress(None, stored.trials)
    study, context = prepare(stored.model_copy(update={"runs": str(runs)}), progress)
    done = study.trials[1]
    kept = {path: path.read_bytes() for path in context.folder.glob("*/trial-1.*")}
    assert {path.parent.name for path in kept} == {"candidates", "curves", "gammas"}
    recipe = TrialRecord.from_trial(done).recipe
    assert isinstance(recipe, Recipe)
    assert carry_out(1, recipe, study, context, progress) is None
    assert {path: path.read_bytes() for path in kept if path.is_file()} == kept
    assert study.trials[1] == done


def _node(host: str, **resources: float) -> dict[str, Any]:
    return {"NodeManagerHostname": host, "Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("changes", "nodes", "problem"),
    [
        ({}, [_node("a", CPU=1), _node("b", CPU=1)], "storage: an SQLite file is not safe for the 2 hosts"),
        ({"ray": {"cpus": 4}}, [_node("a", CPU=2)], "ray.cpus: a trial asks for 4, and no node has more than 2"),
        ({"device": "0"}, [_node("a", CPU=2)], "ray.gpus: a trial asks for 1, and no node has more than 0"),
    ],
)
def test_a_cluster_that_cannot_do_it_is_refused(
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    nodes: list[dict[str, Any]],
    problem: str,
) -> None:
    monkeypatch.setattr(ray_engine.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_engine.ray, "nodes", lambda: nodes)
    progress = Progress(Console(file=io.StringIO()), 1)
    with pytest.raises(ConfigError) as error, RayEngine(make_spec(**changes), progress):
        pass
    assert str(error.value).startswith(problem)


def test_a_cluster_that_is_not_there(make_spec: MakeSpec, prunetune: Any, write_study: Any) -> None:
    answer = prunetune("run", write_study(), "--engine", "ray", "ray.address=127.0.0.1:1")
    assert answer.code == 2
    assert answer.complaint.startswith("ray.address: 127.0.0.1:1 cannot be reached")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--engine", "ray", "--workers", "2"], "--workers: Ray decides how many; ray.concurrent=N limits them"),
        (["--engine", "spark"], "engine: there is no 'spark'; there are local, ray"),
        (["ray.gpus=-1"], "ray.gpus: "),
        (["ray.cores=2"], "ray.cores: "),
    ],
)
def test_bad_options(prunetune: Any, write_study: Any, arguments: list[str], problem: str) -> None:
    answer = prunetune("run", write_study(), *arguments)
    assert answer.code == 2
    assert problem in answer.err
