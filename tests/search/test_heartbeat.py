"""Workers that die or freeze on any host: their recipes are carried out again, and late results do no harm."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
import sqlalchemy.exc
from optuna.trial import TrialState
from rich.console import Console

from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.stages.lease import StageBusyError
from prunetune.results.record import NetworkFigures, NetworkResult, RungDecision, TrialRecord
from prunetune.search import runner
from prunetune.search.callbacks.progress import Progress
from prunetune.search.commands.status import study_status
from prunetune.search.engine import local_engine
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.local_engine import carry_out_trials
from prunetune.search.engine.taking import next_trial
from prunetune.search.engine.workers import reap, this_worker
from prunetune.search.interruption import Interruption, TrialLostError, safe_point
from prunetune.search.study.open_study import open_study
from prunetune.search.study.stored_study import GRACE_S, StoredStudy, set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import AskedTrial, StudyPeers, tell
from prunetune.spaces import Accuracy, Cost, Deployment, Outcome
from prunetune.targets import NormalizedLatency

MakeSpec = Callable[..., StudySpec]


@pytest.fixture
def spec(make_spec: MakeSpec, storage: str) -> StudySpec:
    """A study in a storage of each kind."""
    return make_spec(storage=storage, trials=3)


def take(study: StoredStudy, spec: StudySpec, host: str | None = "elsewhere") -> AskedTrial:
    """Takes a trial, as a process of another host by default."""
    asked = next_trial(study, spec)
    assert asked is not None
    if host is not None:
        set_attributes(asked.trial, TrialRecord(worker={**this_worker("0"), "host": host}).to_attrs())
    return asked


def records(study: StoredStudy) -> list[TrialRecord]:
    return [TrialRecord.from_trial(trial) for trial in study.get_trials()]


def age(study: StoredStudy, number: int, seconds: float) -> None:
    """Lets the last heartbeat of a trial be so much older."""
    database = study.database
    study_id = database.get_study_id_from_name(study.study_name)
    trial_id = database.get_trial_id_from_study_id_trial_number(study_id, number)
    table = sqlalchemy.Table("trial_heartbeats", sqlalchemy.MetaData(), autoload_with=database.engine)
    with database.engine.begin() as connection:
        (beat,) = connection.execute(sqlalchemy.select(table.c.heartbeat).where(table.c.trial_id == trial_id)).one()
        changed = table.update().where(table.c.trial_id == trial_id).values(heartbeat=beat - timedelta(seconds=seconds))
        connection.execute(changed)


def complete(study: StoredStudy, asked: AskedTrial) -> None:
    set_attributes(asked.trial, TrialRecord(outcome=Outcome.OK).to_attrs())
    study.tell(asked.trial, [0.5, 1.0])


def test_a_worker_that_died_on_another_host_is_noticed(spec: StudySpec) -> None:
    study = open_study(spec)
    dead, alive = take(study, spec), take(study, spec)
    age(study, dead.trial.number, GRACE_S + 5)
    again = take(study, spec)
    assert again.recipe == dead.recipe
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "RUNNING", "RUNNING"]
    assert records(study)[0].outcome is Outcome.WORKER_DIED
    assert records(study)[2].retry_of == 0
    new = take(study, spec)
    assert next_trial(study, spec) is None, "what was given back does not count"
    for asked in (alive, again, new):
        complete(study, asked)
    status = study_status(study, spec.folder)
    assert status.spent.finished == 3
    assert status.outcomes == {"OK": 3, "WORKER_DIED": 1}


def test_who_died_before_it_signed_a_trial_is_noticed_late_as_well(spec: StudySpec) -> None:
    """Its heartbeat is stored before its signature, and stale when the study is run again."""
    study = open_study(spec)
    study.record_heartbeat(study.ask().number)
    age(study, 0, GRACE_S + 5)
    assert reap(study) == [0]
    assert records(study)[0].outcome is Outcome.WORKER_DIED


def test_a_beat_that_fails_is_not_the_last(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(spec)
    asked = take(study, spec)
    heartbeat = Heartbeat(study)
    heartbeat.begin(asked.trial)
    with monkeypatch.context() as patch:
        patch.setattr(study, "record_heartbeat", lambda number: 1 / 0)
        heartbeat.beat()
    age(study, 0, GRACE_S + 5)
    heartbeat.beat()
    assert reap(study) == []


def test_nothing_is_warned_of(spec: StudySpec, recwarn: pytest.WarningsRecorder) -> None:
    study = open_study(spec)
    take(study, spec)
    reap(study)
    # Connections that earlier tests left behind are collected whenever Python likes.
    found = [str(warning.message) for warning in recwarn if not issubclass(warning.category, ResourceWarning)]
    assert found == []


def test_a_worker_that_was_heard_lately_keeps_its_trial(spec: StudySpec) -> None:
    study = open_study(spec)
    take(study, spec)
    age(study, 0, GRACE_S - 15)
    assert reap(study) == []


def test_a_beat_makes_young_again(spec: StudySpec) -> None:
    study = open_study(spec)
    asked = take(study, spec)
    age(study, 0, 2 * GRACE_S)
    with Heartbeat(study, interval_s=1e6) as heartbeat:
        heartbeat.begin(asked.trial)
        heartbeat.beat()
        assert reap(study) == []
        heartbeat.end(asked.trial)
        age(study, 0, 2 * GRACE_S)
        heartbeat.beat()
        assert reap(study) == [0]


def test_it_beats_by_itself(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(spec)
    asked = take(study, spec)
    beaten = threading.Event()
    monkeypatch.setattr(study, "record_heartbeat", lambda _: beaten.set())
    with Heartbeat(study, interval_s=0.01) as heartbeat:
        heartbeat.begin(asked.trial)
        assert beaten.wait(30)


def test_a_lost_connection_is_no_death(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = open_study(spec)
    asked = take(study, spec)

    def fail(_: int) -> None:
        raise sqlalchemy.exc.OperationalError("UPDATE", {}, Exception("server closed the connection"))

    with Heartbeat(study, interval_s=1e6) as heartbeat, caplog.at_level(logging.INFO):
        heartbeat.begin(asked.trial)
        monkeypatch.setattr(study, "record_heartbeat", fail)
        heartbeat.beat()
        monkeypatch.undo()
        age(study, 0, 2 * GRACE_S)
        heartbeat.beat()
        assert reap(study) == []
    assert "no heartbeat could be stored (OperationalError)" in caplog.text


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
def test_hosts_in_other_time_zones_agree(
    make_spec: MakeSpec, postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    spec = make_spec(storage=postgres())
    study = open_study(spec)
    take(study, spec)
    monkeypatch.setenv("PGTZ", zone)  # what the client asks its connections for
    other = open_study(spec)
    take(other, spec)
    assert reap(study) == reap(other) == []
    age(study, 1, GRACE_S + 5)
    assert reap(study) == [1]
    age(study, 0, GRACE_S + 5)
    assert reap(other) == [0]


# Late results


def wakes_after_its_trial_was_given_away(study: StoredStudy, spec: StudySpec) -> tuple[AskedTrial, AskedTrial]:
    """A worker that was frozen, and the one that got its trial."""
    frozen = take(study, spec)
    age(study, frozen.trial.number, GRACE_S + 5)
    other = open_study(spec)
    successor = next_trial(other, spec)
    assert successor is not None
    assert successor.recipe == frozen.recipe
    return frozen, successor


FIGURES = NetworkFigures({}, 1, 1.0, 1, 0.5, 0.5, {"cpu": NormalizedLatency(0.1)}, {"cpu": -0.5})
LATE = {
    "result": TrialRecord(
        outcome=Outcome.OK,
        networks=(NetworkResult(Deployment(64), FIGURES, Accuracy(0.9, 0.9, 0.9, 0.9, 0.9)),),
        cost=Cost({"train": 1.0}),
    ),
    "failure": TrialRecord(outcome=Outcome.DIVERGED, reason="late", cost=Cost({"train": 1.0})),
}


@pytest.mark.parametrize("successor_is_done", [True, False])
@pytest.mark.parametrize("kind", LATE)
def test_what_is_told_late_is_not_stored(spec: StudySpec, kind: str, successor_is_done: bool) -> None:
    study = open_study(spec)
    frozen, successor = wakes_after_its_trial_was_given_away(study, spec)
    if successor_is_done:
        complete(study, successor)
    before = study.get_trials()
    with pytest.raises(TrialLostError):
        tell(study, frozen.trial, replace(LATE[kind], recipe=frozen.recipe), context(spec))
    assert study.get_trials() == before, "neither its own trial nor the successor's has changed"


def test_what_is_noted_in_the_middle_of_a_lost_trial_ends_it(spec: StudySpec) -> None:
    study = open_study(spec)
    frozen, _ = wakes_after_its_trial_was_given_away(study, spec)
    decision = RungDecision(0, 0, (0.5, 1.0), ahead=0, reached=1, goes_on=True)
    with pytest.raises(TrialLostError):
        StudyPeers(study, frozen.trial, spec).publish(TrialRecord(frozen.recipe, decisions=(decision,)))


def test_a_half_told_result_of_a_silent_worker_does_not_count(spec: StudySpec) -> None:
    study = open_study(spec)
    frozen = take(study, spec)
    set_attributes(frozen.trial, TrialRecord(outcome=Outcome.OK).to_attrs())  # and then it froze
    age(study, 0, GRACE_S + 5)
    assert reap(study) == [0]
    assert records(study)[0].outcome is Outcome.WORKER_DIED
    assert study.get_trials()[1].state == TrialState.WAITING
    with pytest.raises((optuna.exceptions.UpdateFinishedTrialError, ValueError)):
        study.tell(frozen.trial, [0.9, 0.1])


def test_a_lost_trial_is_noticed_at_the_next_safe_point(spec: StudySpec) -> None:
    study = open_study(spec)
    frozen = take(study, spec)
    with Heartbeat(study, interval_s=1e6) as heartbeat:
        heartbeat.begin(frozen.trial)
        with pytest.raises(TrialLostError), heartbeat.carrying_out(frozen.trial):
            heartbeat.beat()
            safe_point()
            age(study, 0, GRACE_S + 5)
            assert reap(open_study(spec)) == [0]
            heartbeat.beat()
            safe_point()
            pytest.fail("it is another's")
        safe_point()


def test_a_stage_that_the_successor_trains_is_not_waited_for(spec: StudySpec) -> None:
    study = open_study(spec)
    frozen, _ = wakes_after_its_trial_was_given_away(study, spec)
    with Heartbeat(study, interval_s=1e6) as heartbeat:
        with pytest.raises(TrialLostError), heartbeat.carrying_out(frozen.trial):
            pytest.fail("it was given away before")
        asked = take(study, spec)
        with pytest.raises(TrialLostError), heartbeat.carrying_out(asked.trial):
            age(study, asked.trial.number, GRACE_S + 5)
            reap(study)
            raise StageBusyError("sparse-0", "sparse-0")


def test_the_run_goes_on_after_a_lost_trial(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out, told, forgotten = open_study(spec), io.StringIO(), [], []

    def act(study: StoredStudy, asked: AskedTrial, _: Any) -> TrialRecord:
        if asked.number == 0:
            age(study, 0, GRACE_S + 5)
            reap(open_study(spec))
            raise TrialLostError
        told.append(asked.number)
        record = TrialRecord(asked.recipe, Outcome.ERROR)
        set_attributes(asked.trial, record.to_attrs())
        study.tell(asked.trial, state=TrialState.FAIL)
        return record

    monkeypatch.setattr(local_engine, "run_and_tell", act)
    files = SimpleNamespace(forget=forgotten.append)
    with Interruption(), Heartbeat(study) as heartbeat:
        progress = Progress(Console(file=out, width=200), spec.trials)
        carry_out_trials(study, context(spec, files), heartbeat, progress)
    assert told == [1, 2, 3]
    assert forgotten == ["trial-0"]
    assert "trial 0: this process had no heartbeat for 60 s, and the trial was given to another" in out.getvalue()


def context(spec: StudySpec, files: Any = None) -> Any:
    def values(network: NetworkResult) -> tuple[float, float]:
        return network.accuracy.map50_95, network.figures.latencies["cpu"].ms

    return SimpleNamespace(spec=spec, store=None, files=files, cost_meter=CostMeter(), values=values)


# The end of a study


def test_the_last_worker_waits_until_the_others_are_alive_or_stale(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(spec)
    take(study, spec)
    progress = Progress(Console(file=io.StringIO()), spec.trials)
    said: list[str] = []
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)

    def pass_time(what: str) -> None:
        said.append(what)
        clock.now += 30

    progress.begin = pass_time  # type: ignore[method-assign]
    monkeypatch.setattr(runner, "time", clock)
    monkeypatch.setattr(runner, "LOOK_S", 0.0)
    assert runner._others_finish(study, spec, progress) is True
    assert said == ["waiting for a heartbeat of trial 0 on elsewhere"] * 3


def test_the_last_worker_takes_over_what_the_others_died_with(spec: StudySpec) -> None:
    study = open_study(spec)
    asked = take(study, spec)
    progress = Progress(Console(file=io.StringIO()), spec.trials)
    progress.begin = lambda _: age(study, asked.trial.number, GRACE_S + 5)  # type: ignore[method-assign]
    assert runner._others_finish(study, spec, progress) is None
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "WAITING"]
    complete(study, take(study, spec))
    assert runner._others_finish(study, spec, progress) is False


def test_nobody_waits_for_a_process_of_this_host(spec: StudySpec) -> None:
    study = open_study(spec)
    take(study, spec, host=None)
    progress = Progress(Console(file=io.StringIO()), spec.trials)
    progress.begin = lambda what: pytest.fail(what)  # type: ignore[method-assign]
    assert runner._others_finish(study, spec, progress) is True
