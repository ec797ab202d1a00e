"""What a study may spend: counted once, pauses left out, and looked ahead of."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from prunetune.results.record import TrialRecord
from prunetune.search.commands.status import study_status, write_status
from prunetune.search.engine.taking import next_trial
from prunetune.search.engine.workers import this_worker
from prunetune.search.study.limits import IDLE, Forecast, Limits, Spent, extrapolate, forecast, spent, union
from prunetune.search.study.open_study import open_study, stored_spec
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError, Cost, Outcome, Recipe, Splice, StageUse

MakeSpec = Callable[..., StudySpec]

NOON = dt.datetime(2026, 6, 1, 12)


def cost(trained: int, reused: int = 0) -> Cost:
    return Cost(stages=(StageUse("recovery", "recovery-0", trained, reused),))


Known = tuple[FrozenTrial, TrialRecord]


def trial(
    begin: float = 0.0,
    hours: float | None = 1.0,
    trained: int = 10,
    outcome: Outcome = Outcome.OK,
    state: TrialState = TrialState.COMPLETE,
    recipe: Recipe | Splice | None = None,
) -> Known:
    """A trial that began some hours after noon; without `hours` it still runs."""
    record = TrialRecord(recipe) if hours is None else TrialRecord(recipe, outcome, cost=cost(trained, 3))
    made = create_trial(
        state=TrialState.RUNNING if hours is None else state,
        values=[0.5, 1.0] if hours is not None and state == TrialState.COMPLETE else None,
        user_attrs=record.to_attrs(),
    )
    made.datetime_start = NOON + dt.timedelta(hours=begin)
    made.datetime_complete = None if hours is None else made.datetime_start + dt.timedelta(hours=hours)
    return made, TrialRecord.from_trial(made)


def at(hours: float) -> float:
    return (NOON + dt.timedelta(hours=hours)).timestamp()


# The union of intervals

TIMES = st.integers(0, 50)
INTERVALS = st.lists(st.tuples(TIMES, TIMES), max_size=12)


@given(intervals=INTERVALS)
def test_a_union_is_what_it_covers(intervals: list[tuple[int, int]]) -> None:
    covered = {moment for begin, end in intervals for moment in range(begin, end)}
    assert union(intervals) == len(covered)


@given(intervals=INTERVALS, more=st.tuples(TIMES, TIMES))
def test_a_union_grows_by_at_most_what_is_added(intervals: list[tuple[int, int]], more: tuple[int, int]) -> None:
    before, after = union(intervals), union([*intervals, more])
    assert before <= after <= before + max(0, more[1] - more[0])


@given(intervals=INTERVALS, shift=st.floats(-1e9, 1e9))
def test_a_union_does_not_depend_on_when(intervals: list[tuple[int, int]], shift: float) -> None:
    moved = [(begin + shift, end + shift) for begin, end in intervals]
    assert union(moved) == pytest.approx(union(intervals), abs=1e-4)


# What was spent


def test_nothing_is_spent_before_the_first_trial() -> None:
    assert spent([], at(5)) == Spent(begun=0, finished=0, epochs=0, hours=0.0)
    assert spent([(create_trial(state=TrialState.WAITING), TrialRecord())], at(5)).begun == 0


def test_pauses_do_not_count_and_two_workers_count_once() -> None:
    trials = [trial(0, 1), trial(0.5, 1), trial(10, 2)]
    found = spent(trials, at(100))
    assert (found.begun, found.finished, found.epochs) == (3, 3, 30)
    assert found.hours == pytest.approx(1.5 + 2)


def test_a_running_trial_has_begun_and_counts_its_time() -> None:
    found = spent([trial(0, 1), trial(2, None)], at(2.5))
    assert (found.begun, found.finished, found.epochs) == (2, 1, 10)
    assert found.hours == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("outcome", "counted", "hours"),
    [(Outcome.DIVERGED, 1, 1), (Outcome.INTERRUPTED, 0, 1), (Outcome.WORKER_DIED, 0, 0)],
)
def test_what_failed_took_time_where_its_end_is_known(outcome: Outcome, counted: int, hours: float) -> None:
    found = spent([trial(outcome=outcome, trained=4, state=TrialState.FAIL)], at(2))
    assert (found.begun, found.finished, found.epochs) == (counted, counted, 4)
    assert found.hours == pytest.approx(hours)


def test_a_splice_counts_towards_no_limit() -> None:
    spliced = trial(5, 1, recipe=Splice("0", "dense", 3))
    assert spent([trial(), spliced], at(9)) == spent([trial()], at(9))
    assert forecast(Limits(trials=9), [trial(), spliced], at(9)) == forecast(Limits(trials=9), [trial()], at(9))


# Limits


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(trials=7), "trials: 7 of 7"),
        (Limits(trials=8), None),
        (Limits(epochs=60), "epochs: 61 of 60"),
        (Limits(epochs=62), None),
        (Limits(hours=1.5), "hours: 1.50 of 1.5"),
        (Limits(hours=1.6), None),
        (Limits(trials=8, epochs=100, hours=1), "hours: 1.50 of 1"),
        (Limits(trials=8, epochs=100, hours=2), None),
    ],
)
def test_the_first_limit_that_is_reached_ends_a_study(limits: Limits, said: str | None) -> None:
    assert limits.reached(Spent(begun=7, finished=6, epochs=61, hours=1.5)) == said


def test_a_study_that_trains_nothing_ends_although_it_has_epochs_left() -> None:
    trials = [trial(trained=5)] + [trial(trained=0)] * IDLE
    reached = Limits(epochs=1000).reached(spent(trials, at(1)))
    assert reached is not None
    assert "trained nothing" in reached
    assert Limits(epochs=1000).reached(spent([*trials, trial(trained=1)], at(1))) is None
    assert Limits(trials=1000, epochs=1000).reached(spent(trials, at(1))) is None


# Forecast


def test_a_forecast_goes_by_the_latest_trials() -> None:
    slow = [trial(10 * place, 5, trained=100) for place in range(5)]
    fast = [trial(100 + 10 * place, 0.5, trained=8) for place in range(10)]
    found = forecast(Limits(trials=20), [*fast, *slow, trial(300, None)], at(300))
    assert found is not None
    assert (found.trials, found.limit) == (5, "trials")
    assert found.epochs == pytest.approx(40)
    assert found.hours == pytest.approx(2.5)


def test_two_workers_end_sooner() -> None:
    pairs = [trial(place // 2, 1) for place in range(10)]
    found = forecast(Limits(trials=20), pairs, at(5))
    assert found is not None
    assert found.hours == pytest.approx(5)


def test_there_is_no_forecast_without_a_trial_or_an_end() -> None:
    assert forecast(Limits(trials=20), [trial(0, None)], at(1)) is None
    assert forecast(Limits(epochs=20), [trial(trained=0)], at(1)) is None


LIMITS = st.builds(
    Limits,
    trials=st.none() | st.integers(1, 100),
    epochs=st.none() | st.integers(1, 1000),
    hours=st.none() | st.floats(0.01, 100),
)


@given(
    limits=LIMITS,
    finished=st.integers(1, 100),
    epochs=st.integers(0, 1000),
    hours=st.floats(0, 100),
    epochs_each=st.floats(0, 50),
    hours_each=st.floats(0, 5),
)
def test_a_forecast_ends_where_a_limit_is_reached(
    limits: Limits, finished: int, epochs: int, hours: float, epochs_each: float, hours_each: float
) -> None:
    found = extrapolate(limits, Spent(finished, finished, epochs, hours), epochs_each, hours_each)
    if found is None:
        assert limits.trials is None
        return

    def after(trials: int) -> bool:
        """Whether a limit is reached after so many more trials."""
        return any(
            limit is not None and used + trials * each >= limit * (1 - 1e-9)
            for limit, used, each in (
                (limits.trials, finished, 1),
                (limits.epochs, epochs, epochs_each),
                (limits.hours, hours, hours_each),
            )
        )

    assert after(found.trials)
    assert found.trials == 0 or not after(found.trials - 1) or found.trials > 1e8
    assert found.epochs == found.trials * epochs_each


def test_a_forecast_reads_well() -> None:
    found = Forecast(trials=12, epochs=340.4, hours=1.5, limit="epochs")
    assert found.text() == "about 12 trials, 340 epochs, 1.5 h remain (epochs ends it), then controls and report"
    assert ", until 13:30, " in found.text(NOON)
    assert ", until 2026-06-02 00:30, " in found.text(NOON.replace(hour=23))
    assert Forecast(1, 5, 0.2, "trials").text().startswith("about 1 trial, 5 epochs, 12 min remain (trials ends it), ")
    assert Forecast(0, 0, 0, "trials").text(NOON) == "the trials are done; controls and report remain"


# In a study


def finish(study: optuna.Study, claim: Any, trained: int) -> None:
    for name, value in TrialRecord(outcome=Outcome.OVER_BUDGET, cost=cost(trained)).to_attrs().items():
        claim.trial.set_user_attr(name, value)
    study.tell(claim.trial, [0.5, 1.0])


def run(study: optuna.Study, spec: StudySpec, trained: int) -> int:
    """Carries out what the limits allow; returns how many trials that were."""
    trials = 0
    while (claim := next_trial(study, spec)) is not None:
        finish(study, claim, trained)
        trials += 1
    return trials


def test_a_study_ends_with_the_first_limit_and_goes_on_when_that_is_raised(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=9, epochs=25)
    study = open_study(spec)
    assert run(study, spec, trained=10) == 3, "the last one begins at 20 epochs"
    raised = make_spec(trials=9, epochs=45)
    study = open_study(raised)
    assert stored_spec(study).epochs == 45
    assert run(study, raised, trained=10) == 2
    open_ended = make_spec(trials=9)
    assert stored_spec(open_study(open_ended)).epochs is None
    assert run(study, open_ended, trained=10) == 4


def test_epochs_alone_limit_a_study(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=None, epochs=10)
    study = open_study(spec)
    assert stored_spec(study).limits == Limits(epochs=10)
    assert run(study, spec, trained=3) == 4


def test_hours_limit_a_study(make_spec: MakeSpec) -> None:
    spec = make_spec(hours=1.0)
    study = open_study(spec)
    long_ago = create_trial(values=[0.5, 1.0], user_attrs=TrialRecord(outcome=Outcome.OK).to_attrs())
    assert long_ago.datetime_start is not None
    long_ago.datetime_start -= dt.timedelta(hours=2)
    study.add_trial(long_ago)
    assert next_trial(study, spec) is None
    assert next_trial(study, make_spec(hours=9.0)) is not None


def test_a_study_without_limits_has_thirty_trials(make_spec: MakeSpec) -> None:
    assert make_spec(trials=None).limits == Limits(trials=30)
    assert make_spec(trials=None, hours=2).limits == Limits(hours=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs: input should be greater than or equal to 1, not 0"),
        ({"epochs": 2.5}, "epochs: input should be a valid integer"),
        ({"hours": 0}, "hours: input should be greater than 0"),
        ({"hours": "2 h"}, "hours: input should be a valid number"),
    ],
)
def test_a_limit_that_is_none_is_refused(make_spec: MakeSpec, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_spec(**changes)


def written(study: optuna.Study, spec: StudySpec) -> str:
    out = io.StringIO()
    write_status(study_status(study, spec.folder), Console(file=out, width=200))
    return out.getvalue()


def test_status_says_what_is_used_and_what_remains(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=10, epochs=50, hours=8)
    study = open_study(spec)
    status = study_status(study, spec.folder).as_dict()
    assert (status["limits"], status["remaining"]) == ({"trials": 10, "epochs": 50, "hours": 8}, None)
    for _ in range(2):
        claim = next_trial(study, spec)
        assert claim is not None
        finish(study, claim, 10)
    status = study_status(study, spec.folder).as_dict()
    assert not status["done"]
    assert (status["remaining"]["trials"], status["remaining"]["limit"]) == (3, "epochs")
    text = written(study, spec)
    assert "2 of 10 trials" in text
    assert "epochs: 20 of 50 trained, 0 reused" in text
    assert "hours: 0.00 of 8" in text
    assert "about 3 trials, 30 epochs" in text
    assert "until" not in text, "nothing runs"
    assert next_trial(study, spec) is not None
    assert ", until " in written(study, spec)


def test_status_without_a_number_of_trials(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=None, epochs=5)
    study = open_study(spec)
    run(study, spec, trained=5)
    text = written(study, spec)
    assert "not finished, 1 trials" in text
    assert "the trials are done; controls and report remain" in text
    assert "hours" not in text


def test_what_a_dead_worker_left_open_takes_no_time(make_spec: MakeSpec) -> None:
    spec = make_spec(hours=1)
    study = open_study(spec)
    left = create_trial(
        state=TrialState.RUNNING, user_attrs=TrialRecord(worker={**this_worker("cpu"), "started": 1.0}).to_attrs()
    )
    assert left.datetime_start is not None
    left.datetime_start -= dt.timedelta(hours=5)
    study.add_trial(left)
    assert study_status(study, spec.folder).as_dict()["hours"] == 0
    assert next_trial(study, spec) is not None
