"""What a study will take: epochs by its description, hours by one measured epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.search.study.study_cost import (
    AROUND,
    ENDS_S,
    TRIAL_S,
    CostForecast,
    Epochs,
    cost_forecast,
    planned_epochs,
)
from prunetune.search.study.study_spec import StudySpec

MakeSpec = Callable[..., StudySpec]

PLAIN: dict[str, Any] = {
    "name": "plain",
    "model": "yolov5n.yaml",
    "data": "data.yaml",
    "imgsz": 64,
    "dense_epochs": 20,
    "space": {"sparsity": 0.5, "sparse_epochs": 4, "latency": 0.9, "recovery_epochs": 12},
    "early_stopping": False,
    "controls": [],
    "trials": 6,
}
"""One sparse phase for all trials, one input size."""


def spec_of(**changes: Any) -> StudySpec:
    return StudySpec.parse({**PLAIN, **changes})


def space(**changes: Any) -> dict[str, Any]:
    return {**PLAIN["space"], **changes}


def test_a_study_of_equal_recipes() -> None:
    planned = planned_epochs(spec_of(), 6)
    assert planned.dense == Epochs(20, 20)
    assert planned.trials == Epochs(4 + 6 * 12, 4 + 6 * 12), "the sparse phase is trained once"
    assert planned.baselines == Epochs()


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"space": space(sparsity={"low": 0.1, "high": 1.0, "grid": 3})}, 3 * 4 + 6 * 12),
        ({"space": space(sparsity={"low": 0.1, "high": 1.0})}, 6 * 4 + 6 * 12),
        ({"space": space(sparse_epochs={"choices": [1, 4]})}, 4 + 6 * 12),
        ({"space": space(recovery_epochs={"choices": [6, 12]})}, 4 + 6 * 9),
        ({"space": space(rounds={"low": 1, "high": 2})}, 4 + 6 * (0.5 * (4 + 12) + 12)),
        ({"early_stopping": {"reduction": 3, "rungs": 1}}, 4 + 6 * 12 * (1 / 3 + 2 / 9)),
        ({"early_stopping": {"reduction": 2, "rungs": 2}}, 4 + 6 * 12 * (1 / 4 + 1 / 8 + 1 / 8)),
    ],
)
def test_epochs_of_trials(changes: dict[str, Any], epochs: float) -> None:
    assert planned_epochs(spec_of(**changes), 6).trials.count == pytest.approx(epochs)


def test_smaller_inputs_count_by_their_pixels() -> None:
    planned = planned_epochs(spec_of(imgsz=128, space=space(imgsz={"choices": [128, 64]})), 6)
    assert planned.trials.count == 4 + 6 * 12
    assert planned.trials.work == 4 + 6 * 12 * (1 + 0.25) / 2


def test_controls_train_as_long_as_the_longest_recipe() -> None:
    planned = planned_epochs(spec_of(imgsz=128, deploy={"imgsz": [128, 64]}, controls=["dense", "half-width"]), 6)
    assert planned.baselines == Epochs(16 + 36 + 12, 16 + 36 + 12 / 4)
    assert planned_epochs(spec_of(model="best.pt"), 6).dense == Epochs()


def told(spec: StudySpec, epoch_s: float = 10.0, workers: int = 1, **options: Any) -> CostForecast:
    forecast = cost_forecast(spec, epoch_s, workers, **options)
    assert forecast is not None
    return forecast


def test_hours_of_a_study() -> None:
    forecast = told(spec_of())
    assert forecast.trial_hours == pytest.approx((76 * 10 * AROUND + 6 * TRIAL_S) / 3600)
    assert forecast.hours == pytest.approx((96 * 10 * AROUND + 6 * TRIAL_S + ENDS_S) / 3600)
    assert forecast.most_epochs == 6 * 16
    two = told(spec_of(), workers=2).trial_hours
    assert two == pytest.approx((76 * 10 * AROUND / 2 + 6 * TRIAL_S) / 3600), "measurements take turns"
    assert told(spec_of(), workers=99).workers == 6, "no more at once than there are"
    assert told(spec_of(), dense_left=5).hours == pytest.approx(forecast.hours - 15 * 10 * AROUND / 3600)


@pytest.mark.parametrize(("limit", "trials"), [({"epochs": 40}, 4), ({"hours": 0.1}, 3), ({"trials": 2}, 2)])
def test_the_first_limit_ends_it(limit: dict[str, Any], trials: int) -> None:
    assert told(spec_of(**{"trials": None, **limit})).trials == trials


def test_an_epoch_limit_bounds_the_epochs() -> None:
    assert told(spec_of(epochs=40)).most_epochs == 40 + 16, "the last trial begins before it"


def test_a_study_that_trains_nothing_and_has_no_number_of_trials_has_no_forecast() -> None:
    spec = spec_of(trials=None, epochs=40, space=space(sparse_epochs=0, recovery_epochs=0))
    assert cost_forecast(spec, 10.0) is None


SPECS = st.builds(
    spec_of,
    trials=st.integers(1, 300),
    dense_epochs=st.integers(1, 300),
    imgsz=st.sampled_from([32, 96, 320, 640]),
    controls=st.sampled_from([[], ["dense"], ["dense", "half-width"]]),
    early_stopping=st.sampled_from([False, True]),
    space=st.builds(
        space,
        sparse_epochs=st.integers(0, 600),
        recovery_epochs=st.integers(1, 800),
        rounds=st.integers(1, 3),
        sparsity=st.sampled_from([0.3, {"low": 0.1, "high": 1.0}, {"low": 0.1, "high": 1.0, "grid": 5}]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(SPECS, st.floats(0.01, 1e4), st.integers(1, 16))
def test_more_of_anything_never_takes_less_and_more_workers_never_more(
    spec: StudySpec, epoch_s: float, workers: int
) -> None:
    forecast = told(spec, epoch_s, workers)
    assert 0 < forecast.trial_hours <= forecast.hours
    most = forecast.most_epochs * epoch_s * AROUND + forecast.trials * TRIAL_S
    assert forecast.trial_hours <= most / 3600 * (1 + 1e-9)
    more = spec.model_copy(update={"trials": (spec.trials or 0) + 1})
    one_more = told(more, epoch_s, 1).hours
    assert one_more >= told(spec, epoch_s, 1).hours * (1 - 1e-9)
    assert forecast.hours < told(spec, 2 * epoch_s, workers).hours <= 2 * forecast.hours
    assert told(spec, epoch_s, workers + 1).hours <= forecast.hours * (1 + 1e-9)


def test_the_line_that_is_told() -> None:
    text = CostForecast(30, 3.2, 5.04, 4.123, 1900, 1).text()
    assert text == (
        "forecast: 30 trials take about 3.2 h here, the whole study 5.0 h (4.12 s an epoch, at most 1,900 epochs, "
        "1 worker)"
    )
