"""Workers that die or freeze on any host: their recipes are carried out again, and late results do no harm."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
import sqlalchemy.exc
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from prunetune.pruning.cost_meter import CostMeter
from prunetune.pruning.lease import StageBusyError
from prunetune.results.record import NetworkFigures, NetworkResult, RungDecision, TrialRecord
from prunetune.search import heartbeat as heartbeats
from prunetune.search import local_engine, runner
from prunetune.search.heartbeat import GRACE_S, INTERVAL_S, Heartbeat, TrialLostError, clock_ahead_s, silent_trials
from prunetune.search.interruption import Interruption, safe_point
from prunetune.search.limits import spent
from prunetune.search.local_engine import carry_out_trials
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.status import study_status
from prunetune.search.storage import set_attributes
from prunetune.search.study import open_study
from prunetune.search.taking import next_trial
from prunetune.search.trial.objective import AskedTrial, StudyPeers, tell
from prunetune.search.workers import reap, this_worker
from prunetune.spaces import Accuracy, Cost, Deployment, Outcome, drafts
from prunetune.targets import NormalizedLatency

MakeSpec = Callable[..., StudySpec]


@pytest.fixture
def spec(make_spec: MakeSpec, storage: str) -> StudySpec:
    """A study in a storage of each kind."""
    return make_spec(storage=storage, trials=3)


def take(study: optuna.Study, spec: StudySpec, host: str | None = "elsewhere") -> AskedTrial:
    """Takes a trial, as a process of another host by default."""
    asked = next_trial(study, spec)
    assert asked is not None
    if host is not None:
        set_attributes(asked.trial, TrialRecord(worker={**this_worker("0"), "host": host}).to_attrs())
    return asked


def records(study: optuna.Study) -> list[TrialRecord]:
    return [TrialRecord.from_trial(trial) for trial in study.get_trials()]


def age(study: optuna.Study, number: int, seconds: float) -> None:
    """Lets the last sign of life of a trial be so much older."""
    storage: Any = study._storage
    trial_id = study.get_trials()[number]._trial_id
    table = sqlalchemy.Table("trial_heartbeats", sqlalchemy.MetaData(), autoload_with=storage._backend.engine)
    with storage._backend.engine.begin() as connection:
        (beat,) = connection.execute(sqlalchemy.select(table.c.heartbeat).where(table.c.trial_id == trial_id)).one()
        changed = table.update().where(table.c.trial_id == trial_id).values(heartbeat=beat - timedelta(seconds=seconds))
        connection.execute(changed)


def complete(study: optuna.Study, asked: AskedTrial) -> None:
    set_attributes(asked.trial, TrialRecord(outcome=Outcome.OK).to_attrs())
    study.tell(asked.trial, [0.5, 1.0])


def test_a_trial_and_its_stages_are_given_up_together() -> None:
    assert GRACE_S == drafts.LEASE_S
    assert INTERVAL_S == drafts.INTERVAL_S


def test_a_worker_that_died_on_another_host_is_noticed(spec: StudySpec) -> None:
    study = open_study(spec)
    dead, alive = take(study, spec), take(study, spec)
    age(study, dead.trial.number, GRACE_S + 5)
    assert silent_trials(study) == {0}
    assert study_status(study, spec.folder).running == {0: False, 1: True}
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
    assert silent_trials(study) == set()


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
    real = heartbeats.sign_of_life

    def listen(*arguments: Any) -> None:
        real(*arguments)
        beaten.set()

    monkeypatch.setattr(heartbeats, "sign_of_life", listen)
    with Heartbeat(study, interval_s=0.01) as heartbeat:
        heartbeat.begin(asked.trial)
        assert beaten.wait(30)


def test_a_lost_connection_is_no_death(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = open_study(spec)
    asked = take(study, spec)

    def fail(*_: Any) -> None:
        raise sqlalchemy.exc.OperationalError("UPDATE", {}, Exception("server closed the connection"))

    with Heartbeat(study, interval_s=1e6) as heartbeat, caplog.at_level(logging.INFO):
        heartbeat.begin(asked.trial)
        monkeypatch.setattr(heartbeats, "sign_of_life", fail)
        heartbeat.beat()
        monkeypatch.undo()
        heartbeat.beat()
    assert "no sign of life could be stored (OperationalError)" in caplog.text


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
    assert silent_trials(study) == silent_trials(other) == set()
    age(study, 1, GRACE_S + 5)
    assert silent_trials(study) == silent_trials(other) == {1}


# Late results


def wakes_after_its_trial_was_given_away(study: optuna.Study, spec: StudySpec) -> tuple[AskedTrial, AskedTrial]:
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
        StudyPeers(study, frozen.trial).publish(TrialRecord(frozen.recipe, decisions=(decision,)))


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

    def act(study: optuna.Study, asked: AskedTrial, _: Any) -> TrialRecord:
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
    assert "trial 0: this process gave no sign of life for 60 s, and the trial was given to another" in out.getvalue()


def context(spec: StudySpec, files: Any = None) -> Any:
    def values(network: NetworkResult) -> tuple[float, float]:
        return network.accuracy.map50_95, network.figures.latencies["cpu"].ms

    return SimpleNamespace(spec=spec, store=None, files=files, cost_meter=CostMeter(), values=values)


def test_containers_of_one_host_do_not_take_each_other_for_dead() -> None:
    from prunetune.pruning.processes import is_alive, this_process

    other = {**this_process(), "pid": 2**22 + 1, "namespace": "4026539999"}
    assert is_alive(other), "only its heartbeat can tell"
    assert not is_alive({**other, "namespace": this_process()["namespace"]})
    assert os.path.exists("/proc/self/ns/pid") == bool(this_process()["namespace"])


# The end of a study, and clocks


def test_the_last_worker_waits_until_the_others_are_heard(spec: StudySpec) -> None:
    study = open_study(spec)
    asked = take(study, spec)
    progress = Progress(Console(file=io.StringIO()), spec.trials)
    said: list[str] = []

    def beat(what: str) -> None:
        said.append(what)
        age(study, asked.trial.number, -1)  # another sign of life

    progress.begin = beat  # type: ignore[method-assign]
    assert runner._others_finish(study, spec, progress) is True
    assert said == ["waiting for a sign of life of trial 0 on elsewhere"]


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


def test_a_clock_that_is_an_hour_off_is_told_by_the_data_base(
    make_spec: MakeSpec, postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(storage=postgres(), hours=0.5)
    study = open_study(spec)
    assert clock_ahead_s(study) == 0
    take(study, spec, host=None)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert clock_ahead_s(study) == pytest.approx(3600, abs=60)
    asked = next_trial(study, spec)
    assert asked is not None, "by the wrong clock, the first trial would have used up the study's hours"
    assert (records(study)[1].worker or {})["ahead_s"] == pytest.approx(3600, abs=60)


def test_hours_of_hosts_whose_clocks_differ_overlap() -> None:
    noon = datetime(2026, 6, 1, 12)

    def trial(ahead_s: int) -> FrozenTrial:
        record = TrialRecord(outcome=Outcome.OK, worker={"host": "a", "ahead_s": ahead_s})
        made = create_trial(values=[0.5], user_attrs=record.to_attrs())
        made.datetime_start = noon + timedelta(seconds=ahead_s)
        made.datetime_complete = made.datetime_start + timedelta(hours=1)
        return made

    trials = [trial(0), trial(3600), trial(-7200)]
    assert spent([(item, TrialRecord.from_trial(item)) for item in trials], 0.0).hours == pytest.approx(1)
