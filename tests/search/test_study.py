"""The study's record: created once, found again, resumed only with the same description, shared by workers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from optuna.trial import TrialState

from prunetune.results.record import StudiedTarget, StudyRecord, TrialRecord
from prunetune.search.commands.status import study_status
from prunetune.search.engine.taking import is_over, next_trial
from prunetune.search.engine.workers import give_back, is_alive, reap, requeue, this_worker
from prunetune.search.study.open_study import find_study, open_study, stored_spec, study_exists
from prunetune.search.study.spec_change import flat
from prunetune.search.study.stored_study import set_attributes
from prunetune.search.study.study_spec import SamplerName, StudySpec
from prunetune.search.trial.objective import AskedTrial
from prunetune.spaces import (
    ConfigError,
    Cost,
    Outcome,
    PrunetuneError,
    Recipe,
    SpecChangedError,
    StageUse,
    StoreError,
)

MakeSpec = Callable[..., StudySpec]
WriteStudy = Callable[..., Path]


def finish(study: optuna.Study, asked: AskedTrial, accuracy: float, latency: float, violation: float = -0.1) -> None:
    """Ends a trial as `objective` does."""
    outcome = Outcome.OK if violation <= 0 else Outcome.OVER_BUDGET
    set_attributes(asked.trial, TrialRecord(outcome=outcome).to_attrs())
    asked.trial.set_constraint("latency", violation)
    study.tell(asked.trial, [accuracy, latency][: len(study.directions)])


def take(study: optuna.Study, spec: StudySpec) -> AskedTrial:
    asked = next_trial(study, spec)
    assert asked is not None
    return asked


def die(asked: AskedTrial, worker: dict[str, Any]) -> None:
    """Leaves a trial as its worker's death leaves it."""
    set_attributes(asked.trial, TrialRecord(worker=worker).to_attrs())


def records(study: optuna.Study) -> list[TrialRecord]:
    return [TrialRecord.from_trial(trial) for trial in study.trials]


@pytest.fixture(scope="module")
def dead_worker() -> dict[str, Any]:
    """The signature of a real process that is gone."""
    code = "import json; from prunetune.search.engine.workers import this_worker; print(json.dumps(this_worker('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    worker: dict[str, Any] = json.loads(done.stdout)
    return worker


# Create, find, resume


def test_a_new_study_holds_its_description(make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert not study_exists(spec)
    assert not spec.folder.exists(), "asking creates nothing"
    study = open_study(spec)
    assert study_exists(spec)
    assert (spec.folder / "study.db").is_file()
    assert stored_spec(study) == spec
    assert study.metric_names == ["map50_95", "latency"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_a_single_objective_is_accuracy(make_spec: MakeSpec) -> None:
    study = open_study(make_spec(objectives=["map50_95"]))
    assert study.metric_names == ["map50_95"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"]


def test_the_same_description_goes_on(make_spec: MakeSpec) -> None:
    spec = make_spec()
    study = open_study(spec)
    finish(study, take(study, spec), 0.5, 1.0)
    again = open_study(spec)
    assert len(again.trials) == 1
    assert again.trials[0].values == [0.5, 1.0]


def test_several_processes_make_the_tables_of_a_database_at_once(make_spec: MakeSpec) -> None:
    spec = make_spec()
    spec.folder.mkdir(parents=True)
    code = (
        "import sys; from prunetune.search.study.stored_study import open_storage;"
        "print('ready', flush=True); sys.stdin.readline();"
        "open_storage(sys.argv[1]).get_all_studies()"
    )
    command = [sys.executable, "-c", code, spec.storage_url]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("now\n")
        maker.stdin.flush()
    said = [maker.communicate()[1] for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 4, said


def test_before_its_first_trial_a_study_takes_another_description(make_spec: MakeSpec) -> None:
    study = open_study(make_spec())
    StudyRecord.store(study, targets=(StudiedTarget("cpu"),))
    again = open_study(make_spec(imgsz=96, controls=["dense"]))
    assert (stored_spec(again).imgsz, StudyRecord.of(again).targets) == (96, ()), "references are measured anew"
    study = open_study(make_spec(imgsz=96, controls=["dense"], trials=7))
    with pytest.raises(SpecChangedError, match="imgsz"):
        next_trial(study, make_spec())  # a process that began with the old one
    with pytest.raises(SpecChangedError, match="objectives"):
        open_study(make_spec(objectives=["map50_95"]))


def test_a_changed_description_is_refused_with_each_change(make_spec: MakeSpec) -> None:
    assert next_trial(open_study(make_spec()), make_spec()) is not None
    changed = make_spec(
        imgsz=96, space={**make_spec().space.as_json(), "rounds": 1}, train={"lr0": 0.01}, controls=["dense"], trials=9
    )
    with pytest.raises(SpecChangedError) as caught:
        open_study(changed)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "     key                 stored   given",
        "  !  controls.0          not set  dense",
        "  !  imgsz               64       96",
        "  !  space.rounds.high   2        not set",
        "  !  space.rounds.log    False    not set",
        "  !  space.rounds.low    1        not set",
        "  !  space.rounds.value  not set  1",
        "  !  train.lr0           not set  0.01",
        "     trials              3        9",
    ]
    assert "'tiny'" in lines[0]
    assert "name=tiny-2" in lines[-1]


def test_how_far_and_where_it_runs_may_change(make_spec: MakeSpec) -> None:
    open_study(make_spec())
    study = open_study(make_spec(trials=9, device="0", workers=1, cache=""))
    assert stored_spec(study).trials == 9


def test_studies_of_one_storage_do_not_mix(make_spec: MakeSpec, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    first, second = make_spec(storage=storage), make_spec(storage=storage, name="other", imgsz=96)
    study = open_study(first)
    finish(study, take(study, first), 0.5, 1.0)
    assert open_study(second).trials == []
    assert study_exists(second)


@pytest.mark.parametrize("place", ["runs", "runs/tiny"])
def test_a_file_in_the_folders_place_is_named(make_spec: MakeSpec, tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("not a folder")
    with pytest.raises(StoreError, match=str(tmp_path / "runs")):
        open_study(make_spec())


def test_a_damaged_database_is_named(make_spec: MakeSpec) -> None:
    spec = make_spec()
    spec.folder.mkdir(parents=True)
    (spec.folder / "study.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    for use in (study_exists, open_study):
        with pytest.raises(StoreError, match=r"study\.db"):
            use(spec)


@pytest.mark.parametrize("storage", ["nonsense", "mysterydb://host/name"])
def test_a_storage_that_is_none_is_named(make_spec: MakeSpec, storage: str) -> None:
    with pytest.raises(ConfigError, match="storage: "):
        open_study(make_spec(storage=storage))


def test_a_study_is_found_by_name_folder_and_file(
    make_spec: MakeSpec, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    open_study(spec)
    for name, runs in ((spec.name, spec.runs), (str(spec.folder), "runs"), (str(write_study()), "runs")):
        study, folder = find_study(name, runs)
        assert (study.study_name, folder) == ("tiny", spec.folder)
    monkeypatch.chdir(Path(spec.runs).parent)
    assert find_study("tiny")[1] == Path("runs/tiny")
    assert find_study("runs/tiny")[1] == Path("runs/tiny")


def test_a_study_in_another_storage_is_found_by_its_file(
    make_spec: MakeSpec, write_study: WriteStudy, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    open_study(make_spec(storage=storage))
    open_study(make_spec(storage=storage, name="other"))
    study, folder = find_study(str(write_study(storage=storage)))
    assert (study.study_name, folder.name) == ("tiny", "tiny")


def test_a_moved_folder_is_found(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    open_study(spec)
    spec.folder.rename(tmp_path / "elsewhere")
    assert find_study(str(tmp_path / "elsewhere"))[0].study_name == "tiny"


def test_a_study_that_is_not_there(make_spec: MakeSpec, write_study: WriteStudy, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there are none"):
        find_study("tiny", str(tmp_path / "runs"))
    open_study(make_spec())
    with pytest.raises(StoreError, match=r"did you mean tiny\?"):
        find_study("tniy", str(tmp_path / "runs"))
    with pytest.raises(StoreError, match="there are tiny"):
        find_study("barcodes", str(tmp_path / "runs"))
    with pytest.raises(StoreError, match="no such study"):
        find_study(str(write_study(name="barcodes")))
    with pytest.raises(ConfigError, match=r"no such file; did you mean .*study\.yaml"):
        write_study()
        find_study(str(tmp_path / "stduy.yaml"))
    assert not (tmp_path / "runs" / "barcodes").exists()


def test_a_foreign_study_is_not_taken_for_one_of_ours(tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="foreign")
    with pytest.raises(StoreError, match="not made by prunetune"):
        find_study(str(folder))


def test_a_foreign_study_is_not_gone_on_with(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(storage=f"sqlite:///{tmp_path / 'theirs.db'}")
    optuna.create_study(storage=spec.storage, study_name=spec.name).optimize(lambda _: 1.0, n_trials=1)
    with pytest.raises(StoreError, match=r"'tiny' that prunetune did not start.*name=tiny-2"):
        open_study(spec)


@pytest.mark.parametrize("name", ["a?b#c", "100%(x)s%20", "{x}", "größer 'als\" 3", "-n", "[red]"])
def test_a_study_of_any_name_has_its_database_in_its_folder(make_spec: MakeSpec, name: str) -> None:
    spec = make_spec(name=name)
    open_study(spec)
    assert (spec.folder / "study.db").is_file()
    assert study_exists(spec)
    assert find_study(name, spec.runs)[0].study_name == name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": 5}, "runs: takes a text, not 5"),
        ({"storage": 5}, "storage: takes a text, not 5"),
        ({"storage": "sqlite:///nowhere.db"}, "nowhere.db: no such file"),
        ({"storage": "nonsense"}, "storage: cannot be used"),
        ({"name": "x" * 5000}, "no such study"),
    ],
)
def test_reading_creates_nothing_and_names_what_is_wrong(
    write_study: WriteStudy, tmp_path: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_study(**changes)
    with pytest.raises(PrunetuneError, match=re.escape(said)):
        find_study(str(file))
    assert list(tmp_path.iterdir()) == [file]


def test_flat_values_name_their_place() -> None:
    assert flat({"a": {"b": [1, {"c": 2}]}, "d": None}) == {"a.b.0": 1, "a.b.1.c": 2, "d": None}


# Samplers


@pytest.mark.parametrize("objectives", [["map50_95", "latency"], ["map50_95"]], ids=["two", "one"])
@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_every_sampler_fills_a_study(make_spec: MakeSpec, sampler: str, objectives: list[str]) -> None:
    spec = make_spec(sampler=sampler, objectives=objectives, trials=15)
    study = open_study(spec)
    recipes: list[Recipe] = []
    while (asked := next_trial(study, spec)) is not None:
        recipe = asked.recipe
        recipes.append(recipe)
        latency = 1.2 - recipe.threshold.backbone
        finish(study, asked, 1 - abs(recipe.sparsity - 0.3), latency, violation=latency / 0.6 - 1)
        if len(recipes) == 7:
            study = open_study(spec)  # another process goes on
    assert len(recipes) == 15
    assert len(set(recipes)) > 5
    for recipe in recipes:
        assert recipe.sparsity in spec.space.sparsity.values
        assert recipe.sparse_epochs in (1, 2)
        assert 0.3 <= recipe.threshold.backbone <= 1.1
        assert recipe.rounds in (1, 2)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_a_seed_gives_the_same_recipes_and_another_seed_others(make_spec: MakeSpec) -> None:
    def recipes(name: str, seed: int, reopen: bool) -> list[Recipe]:
        spec = make_spec(name=name, seed=seed, sampler="random", trials=6)
        study, found = open_study(spec), []
        while (asked := next_trial(study, spec)) is not None:
            found.append(asked.recipe)
            finish(study, asked, 0.5, 1.0)
            if reopen:
                study = open_study(spec)
        return found

    first = recipes("first", 0, reopen=False)
    assert recipes("second", 0, reopen=False) == first
    assert recipes("third", 0, reopen=True) == first, "a resumed study goes on as one that was not stopped"
    assert recipes("fourth", 1, reopen=False) != first
    assert len(set(first)) == 6


def test_processes_that_start_together_propose_different_recipes(make_spec: MakeSpec) -> None:
    spec = make_spec(sampler="tpe", trials=6)
    one, other = open_study(spec), open_study(spec)
    recipes = [take(study, spec).recipe for study in (one, other, one, other)]
    assert len(set(recipes)) == 4


# Workers


def test_this_process_lives_and_a_dead_one_does_not(dead_worker: dict[str, Any]) -> None:
    assert is_alive(this_worker("cpu"))
    assert not is_alive(dead_worker)


def test_a_number_that_is_used_again_is_another_process() -> None:
    assert not is_alive({**this_worker("cpu"), "started": 1.0})


def test_a_killed_child_that_nobody_waits_for_is_dead() -> None:
    code = (
        "import json, sys; from prunetune.search.engine.workers import this_worker\n"
        "print(json.dumps(this_worker('cpu')), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        worker = json.loads(child.stdout.readline())
        assert is_alive(worker)
        child.kill()
        assert child.stdout.read() == ""  # its end of the pipe is closed: it is gone, a zombie until we wait
        while is_alive(worker):  # the kernel closes files before it marks the process
            pass
    assert not is_alive(worker)


@pytest.mark.parametrize("worker", [{}, {"host": None}])
def test_a_worker_of_another_host_may_live(worker: dict[str, Any]) -> None:
    assert is_alive({"host": "another", "pid": 1, "started": 0.0, **worker})


def test_a_torn_signature_is_dead() -> None:
    host = this_worker("cpu")["host"]
    assert not is_alive({"host": host})
    assert not is_alive({"host": host, "pid": "x", "started": 0.0})


def test_the_dead_ones_recipe_comes_before_new_ones_exactly_once(
    make_spec: MakeSpec, dead_worker: dict[str, Any]
) -> None:
    spec = make_spec(trials=3)
    study = open_study(spec)
    dead, alive = take(study, spec), take(study, spec)
    die(dead, dead_worker)
    again = take(study, spec)
    assert again.recipe == dead.recipe
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING", "RUNNING"]
    assert records(study)[0].outcome is Outcome.WORKER_DIED
    new = take(study, spec)
    assert new.recipe not in (dead.recipe, alive.recipe)
    assert next_trial(study, spec) is None, "the dead trial does not count, its repetition does"
    for asked in (alive, again, new):
        finish(study, asked, 0.5, 1.0)
    assert next_trial(study, spec) is None
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]


def test_a_study_is_over_only_when_no_trial_is_left_to_take_up(
    make_spec: MakeSpec, dead_worker: dict[str, Any]
) -> None:
    spec = make_spec(trials=2)
    study = open_study(spec)
    done, dead = take(study, spec), take(study, spec)
    finish(study, done, 0.5, 1.0)
    die(dead, dead_worker)
    assert not is_over(study, spec), "the dead one's recipe is carried out again"
    again = take(study, spec)
    assert not is_over(study, spec)
    finish(study, again, 0.5, 1.0)
    assert is_over(study, spec)


def test_reaping_again_changes_nothing(make_spec: MakeSpec, dead_worker: dict[str, Any]) -> None:
    spec = make_spec()
    study = open_study(spec)
    die(take(study, spec), dead_worker)
    assert reap(study) == [0]
    before = study.get_trials()
    assert [trial.state.name for trial in before] == ["FAIL", "WAITING"]
    assert reap(study) == []
    requeue(study)
    assert study.get_trials() == before


def test_a_death_between_giving_back_and_enqueuing_loses_no_recipe(make_spec: MakeSpec) -> None:
    spec = make_spec()
    study = open_study(spec)
    lost = take(study, spec)
    give_back(study, 0, TrialRecord(outcome=Outcome.INTERRUPTED, reason="stopped"))
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    assert take(open_study(spec), spec).recipe == lost.recipe


def test_a_recipe_survives_any_number_of_deaths(make_spec: MakeSpec, dead_worker: dict[str, Any]) -> None:
    spec = make_spec(trials=1)
    study = open_study(spec)
    first = take(study, spec)
    die(first, dead_worker)
    for _ in range(3):
        asked = take(study, spec)
        assert asked.recipe == first.recipe
        die(asked, dead_worker)
    asked = take(study, spec)
    finish(study, asked, 0.5, 1.0)
    assert next_trial(study, spec) is None
    assert [record.retry_of for record in records(study)] == [None, 0, 1, 2, 3]


def test_a_recipe_survives_a_death_right_after_it_was_taken_again(
    make_spec: MakeSpec, dead_worker: dict[str, Any]
) -> None:
    spec = make_spec(trials=2)
    study = open_study(spec)
    first = take(study, spec)
    die(first, dead_worker)
    reap(study)
    study.ask()  # a worker that dies before it has read one parameter
    assert take(study, spec).recipe == first.recipe


def test_a_trial_that_died_before_it_was_signed_is_given_back(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=1)
    study = open_study(spec)
    study.ask()
    asked = take(study, spec)
    finish(study, asked, 0.5, 1.0)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


def test_who_died_before_its_recipe_was_stored_whole_asked_for_nothing(
    make_spec: MakeSpec, dead_worker: dict[str, Any]
) -> None:
    spec = make_spec(trials=1)
    study = open_study(spec)
    trial = study.ask()
    trial.suggest_float("threshold", 0.3, 1.1)
    set_attributes(trial, TrialRecord(worker=dead_worker).to_attrs())
    assert reap(study) == [0]
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    assert take(study, spec).number == 1


def test_a_result_that_was_stored_and_not_told_counts_once(make_spec: MakeSpec, dead_worker: dict[str, Any]) -> None:
    spec = make_spec(trials=2)
    study = open_study(spec)
    lost = take(study, spec)
    trained = Cost(stages=(StageUse("recovery", "recovery-0", trained=5),))
    set_attributes(lost.trial, TrialRecord(lost.recipe, Outcome.OK, cost=trained).to_attrs())
    die(lost, dead_worker)
    again = take(study, spec)
    assert again.recipe == lost.recipe
    assert [record.outcome for record in records(study)] == [Outcome.WORKER_DIED, None]
    reused = Cost(stages=(StageUse("recovery", "recovery-0", reused=5),))
    set_attributes(again.trial, TrialRecord(again.recipe, Outcome.OK, cost=reused).to_attrs())
    study.tell(again.trial, [0.5, 1.0])
    status = study_status(study, spec.folder)
    assert (status.spent.begun, status.spent.finished, status.spent.epochs) == (1, 1, 5)
    assert status.outcomes == {"WORKER_DIED": 1, "OK": 1}


def test_a_living_worker_keeps_its_trial(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=2)
    study = open_study(spec)
    take(study, spec)
    assert reap(study) == []
    take(study, spec)
    assert next_trial(study, spec) is None, "running trials count"


def test_failures_count_and_interruptions_do_not() -> None:
    assert {outcome.name for outcome in Outcome if not outcome.counts} == {"WORKER_DIED", "INTERRUPTED"}
