"""What trials took, and how the hypervolume grew with it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from prunetune.results.figures.cost_figures import BARS, progress_figure, time_figure
from prunetune.results.findings.costs import Costs, Progress, progress
from prunetune.results.findings.findings import Findings
from prunetune.results.record import StudyRecord, TrialRecord
from prunetune.spaces import Cost, StageUse

Builder = Any
NOON = datetime(2026, 1, 1, 12)


def at(study: optuna.Study, hours: list[tuple[float, float]]) -> Findings:
    """A study whose trials began and ended at other times."""
    trials = study.get_trials()
    for trial, (start, end) in zip(trials, hours, strict=False):
        trial.datetime_start, trial.datetime_complete = NOON + timedelta(hours=start), NOON + timedelta(hours=end)
    return Findings(study.study_name, tuple(trials), StudyRecord.of(study))


def test_hypervolume_grows_with_epochs_and_hours(builder: Builder) -> None:
    builder.context()
    builder.trial(0.5, 1.0, epochs=(10, 0))
    builder.trial(0.4, 1.5, epochs=(20, 5))
    builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, epochs=(3, 0))
    builder.trial(0.9, 0.5, epochs=(4, 6))
    builder.trial(None, None, outcome="", state=TrialState.RUNNING)
    found = at(builder.study, [(0, 1), (0.5, 2), (5, 6), (6, 7)])
    steps = progress(found)
    assert [step.epochs for step in steps] == [10, 30, 33, 37]
    assert [step.hours for step in steps] == [1, 2, 3, 4], "hours that overlap count once, a pause not at all"
    assert [step.hypervolume for step in steps] == [
        pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.675),
    ]  # fmt: skip
    assert steps[-1].hypervolume == pytest.approx(found.hypervolume)


def test_rounds_count_when_their_trial_ends(builder: Builder) -> None:
    builder.context()
    builder.trial(0.6, 0.5, rounds=[builder.network(0.9, 1.0)])
    found = at(builder.study, [(0, 1)])
    (step,) = progress(found)
    assert step.hypervolume == pytest.approx(found.hypervolume)
    assert step.hypervolume == pytest.approx(0.9 * 0.5 + 0.6 * 0.25)


def test_without_the_dense_network_there_is_no_hypervolume(builder: Builder) -> None:
    builder.trial(0.5, 1.0)
    assert progress(builder.study) == []


def test_only_growth_is_drawn() -> None:
    steps = [Progress(number, str(number), 10 * number, 0.1 * number, 0.1 * (number // 3)) for number in range(9)]
    figure = progress_figure(steps, "epochs")
    assert figure is not None
    line, marks = figure.data
    assert list(line.x) == [0, 30, 60, 80]
    assert list(line.y) == [0, pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.2)]
    assert [told[1] for told in marks.customdata] == ["3", "6"]
    hours = progress_figure(steps, "hours")
    assert hours is not None
    assert hours.layout.xaxis.title.text == "minutes in which trials ran"
    assert list(hours.data[0].x) == [0, pytest.approx(18), pytest.approx(36), pytest.approx(48)]
    assert progress_figure([], "epochs") is None


def test_time_is_told_by_what_a_study_is_for(builder: Builder) -> None:
    builder.trial(0.5, 1.0, seconds={"train": 60.0, "validate": 20, "measure": 5, "store": 1}, epochs=(8, 0))
    builder.trial(0.5, 1.0, seconds={"measure": 5.0, "load": 2}, epochs=(0, 6))
    costs = Costs.of(builder.study)
    assert [cost.overhead for cost in costs.trials] == [1, 2]
    assert (costs.total.epochs_trained, costs.total.epochs_reused, costs.epoch_s) == (8, 6, 10)
    figure = time_figure(costs)
    assert figure is not None
    bars = {trace.name: list(trace.y) for trace in figure.data}
    assert bars["train"] == [60, 0]
    assert bars["overhead"] == [1, 2]
    assert bars["saved by reuse, estimated"] == [0, 60]


def test_many_trials_share_bars() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    cost = Cost({"train": 2.0, "other": 1.0}, (StageUse("sparse", "0a", 1),))
    attrs = TrialRecord(cost=cost).to_attrs()
    study.add_trials(create_trial(values=[0.5, 1.0], user_attrs=attrs) for _ in range(2050))
    figure = time_figure(Costs.of(study))
    assert figure is not None
    train = next(trace for trace in figure.data if trace.name == "train")
    assert len(train.x) <= BARS
    assert train.x[0] == "0 to 20"
    assert sum(train.y) == pytest.approx(2050 * 2)


def test_a_study_that_recorded_nothing_has_no_time(builder: Builder) -> None:
    builder.trial(0.5, 1.0, seconds={}, epochs=(0, 0))
    assert Costs.of(builder.study).trials == ()
    assert time_figure(Costs.of(builder.study)) is None
