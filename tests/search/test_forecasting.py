"""When a run tells what its study will take, and from what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from heard.events import PROGRESS, RECIPE, STARTED

from prunetune.pruning.training.values import EpochRecord
from prunetune.search.callbacks.events import EpochEnded, Event, StageBegun, StudyProgress, TaskStarted, TrialBegun
from prunetune.search.callbacks.forecasting import ForecastTeller
from prunetune.search.study.limits import Forecast
from prunetune.search.study.study_cost import CostForecast, cost_forecast
from prunetune.search.study.study_spec import StudySpec

MakeSpec = Callable[..., StudySpec]


def training(stage: str, epochs: int = 10, done: int = 0, train_s: float = 3.0) -> list[Event]:
    """A training of two epochs after those that were done before."""
    records = [EpochRecord(done + number, {}, train_s * number, 1.0) for number in (1, 2)]
    ended = [EpochEnded("it", None, stage, epochs, record) for record in records]
    return [StageBegun("it", None, stage, epochs, done), *ended]


def lines(spec: StudySpec, *events: Event, workers: int = 1) -> list[str]:
    said = list[str]()
    teller = ForecastTeller(spec, workers, said.append)
    for event in events:
        teller.hear(event)
    return said


def expected(spec: StudySpec, epoch_s: float, dense_left: float, workers: int = 1) -> str:
    forecast = cost_forecast(spec, epoch_s, workers, dense_left=dense_left)
    assert isinstance(forecast, CostForecast)
    return forecast.text()


@pytest.mark.parametrize(("done", "left"), [(0, 10), (4, 6)])
def test_the_first_epoch_of_the_dense_network_says_it_once(make_spec: MakeSpec, done: int, left: int) -> None:
    spec = make_spec(dense_epochs=10)
    said = lines(spec, STARTED, *training("original", done=done), *training("sparse"), workers=2)
    assert said == [expected(spec, 4.0, left, workers=2)]


def test_a_dense_network_that_is_there_takes_no_time(make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert lines(spec, STARTED, *training("sparse")) == [expected(spec, 4.0, 0)]


def test_a_recovery_at_a_smaller_input_counts_by_its_pixels(make_spec: MakeSpec) -> None:
    spec = make_spec(imgsz=128)
    small = TrialBegun(0, replace(RECIPE, imgsz=64))
    assert lines(spec, small, *training("recovery")) == [expected(spec, 16.0, 0)]
    assert lines(spec, small, *training("sparse")) == [expected(spec, 4.0, 0)], "sparse phases have the study's size"
    assert lines(spec, small, TaskStarted("it"), *training("recovery")) == [expected(spec, 4.0, 0)]


def test_a_control_says_nothing(make_spec: MakeSpec) -> None:
    assert lines(make_spec(), STARTED, *training("control")) == []


def test_a_study_that_goes_on_takes_what_its_trials_took(make_spec: MakeSpec) -> None:
    (said,) = lines(make_spec(), PROGRESS, *training("sparse"), PROGRESS)
    assert said.startswith("forecast: about 6 trials, 60 epochs, 12 min remain (trials ends it), until ")


def test_a_study_that_is_done_has_no_forecast(make_spec: MakeSpec) -> None:
    done = StudyProgress(3, 3, 60, 40, (), Forecast(0, 0.0, 0.0, "trials"))
    assert lines(make_spec(), done, *training("sparse")) == []
