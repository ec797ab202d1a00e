"""Parameters: what Optuna is asked, and what comes back."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter, ValidationError

from prunetune.spaces import ChoiceParameter, FixedParameter, FloatParameter, IntParameter, Parameter
from prunetune.spaces.parameters import parse_shorthand

optuna.logging.set_verbosity(optuna.logging.WARNING)

POSITIVE = st.floats(1e-6, 1e3, allow_nan=False)
PARSE: TypeAdapter[Any] = TypeAdapter(Parameter)


def ask(parameter: Any, seed: int = 0, trials: int = 3) -> tuple[list[Any], optuna.Study]:
    """The values of a few trials of a real study."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    values = []
    for _ in range(trials):
        trial = study.ask()
        values.append(parameter.suggest(trial, "x"))
        study.tell(trial, 0.0)
    return values, study


def bounds(low: float, high: float) -> dict[str, float]:
    """Two bounds in order, far enough apart to hold a grid."""
    low, high = sorted((float(f"{low:.6g}"), float(f"{high:.6g}")))
    return {"low": low, "high": high if high > low * 1.01 else low * 2}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(POSITIVE, POSITIVE, st.booleans(), st.integers(0, 99))
def test_a_float_lies_in_its_bounds(one: float, other: float, log: bool, seed: int) -> None:
    parameter = FloatParameter(**bounds(one, other), log=log)
    for value in ask(parameter, seed)[0]:
        assert isinstance(value, float)
        assert parameter.low <= value <= parameter.high


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(POSITIVE, POSITIVE, st.booleans(), st.integers(2, 12), st.integers(0, 99))
def test_a_float_on_a_grid_is_one_of_its_values(one: float, other: float, log: bool, grid: int, seed: int) -> None:
    parameter = FloatParameter(**bounds(one, other), log=log, grid=grid)
    assert parameter.values is not None
    assert len(parameter.values) == grid
    assert (parameter.values[0], parameter.values[-1]) == (parameter.low, parameter.high)
    values, study = ask(parameter, seed)
    assert set(values) <= set(parameter.values)
    # What the study stores and what the recipe says must be the same number, or a replay makes another recipe.
    assert [trial.params["x"] for trial in study.trials] == values


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 50), st.integers(0, 500), st.booleans(), st.none() | st.integers(2, 9), st.integers(0, 99))
def test_an_integer_lies_in_its_bounds_or_grid(low: int, width: int, log: bool, grid: int | None, seed: int) -> None:
    parameter = IntParameter(low=low, high=low + width + (1 if grid else 0), log=log, grid=grid)
    for value in ask(parameter, seed)[0]:
        assert isinstance(value, int)
        assert low <= value <= parameter.high
        assert parameter.values is None or value in parameter.values


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(-5, 5) | st.text(max_size=3), min_size=1, max_size=5, unique=True), st.integers(0, 99))
def test_a_choice_is_one_of_the_choices(choices: list[int | str], seed: int) -> None:
    parameter = ChoiceParameter(choices=tuple(choices))
    assert set(ask(parameter, seed)[0]) <= set(choices)


def test_a_log_grid_has_equal_ratios() -> None:
    values = FloatParameter(low=0.01, high=100, log=True, grid=5).values
    assert values == (0.01, 0.1, 1.0, 10.0, 100.0)


def test_a_linear_grid_has_equal_steps() -> None:
    assert FloatParameter(low=0.0, high=1.0, grid=5).values == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert IntParameter(low=1, high=9, grid=3).values == (1, 5, 9)


def test_an_integer_grid_names_no_value_twice() -> None:
    assert IntParameter(low=1, high=3, grid=9).values == (1, 2, 3)


def test_without_a_grid_there_are_no_values() -> None:
    assert FloatParameter(low=0.0, high=1.0).values is None
    assert IntParameter(low=0, high=1).values is None


def test_optuna_learns_of_bounds_and_scale() -> None:
    cases = [
        (FloatParameter(low=0.1, high=1.0, log=True), FloatDistribution(0.1, 1.0, log=True)),
        (FloatParameter(low=0.0, high=1.0, grid=3), CategoricalDistribution((0.0, 0.5, 1.0))),
        (IntParameter(low=1, high=8, log=True), IntDistribution(1, 8, log=True)),
        (IntParameter(low=1, high=9, grid=3), CategoricalDistribution((1, 5, 9))),
        (ChoiceParameter(choices=(2, 4)), CategoricalDistribution((2, 4))),
    ]
    for parameter, distribution in cases:
        assert ask(parameter)[1].trials[0].distributions == {"x": distribution}


def test_a_fixed_value_is_no_question_to_the_study() -> None:
    values, study = ask(FixedParameter(value=7))
    assert values == [7, 7, 7]
    assert study.trials[0].params == {}


def test_the_largest_value() -> None:
    assert FloatParameter(low=0.1, high=2.0).largest == 2.0
    assert IntParameter(low=1, high=3).largest == 3
    assert ChoiceParameter(choices=(4, 9, 2)).largest == 9
    assert ChoiceParameter(choices=("b", "a")).largest == "b"
    assert FixedParameter(value=5).largest == 5


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ({"low": 1, "high": 3}, IntParameter),
        ({"low": 1, "high": 3.5}, FloatParameter),
        ({"low": 0.1, "high": 1.0, "log": True, "grid": 5}, FloatParameter),
        ({"choices": [2, 4]}, ChoiceParameter),
        (6, FixedParameter),
        (0.5, FixedParameter),
        ({"value": 6}, FixedParameter),
    ],
)
def test_yaml_says_which_parameter_is_meant(text: Any, kind: type) -> None:
    assert type(PARSE.validate_python(parse_shorthand(text))) is kind


@pytest.mark.parametrize("parameter", [FloatParameter(low=0.1, high=1, grid=3), ChoiceParameter(choices=(1, 2))])
def test_a_parameter_parses_to_itself(parameter: Any) -> None:
    assert PARSE.validate_python(parameter) == parameter
    assert PARSE.validate_python(parameter.model_dump(mode="json")) == parameter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"low": 2, "high": 1}, r"low \(2\) is above high \(1\)"),
        ({"low": 0.0, "high": 1.0, "log": True}, "a log scale needs low > 0, not 0.0"),
        ({"low": -1.5, "high": 1.0, "log": True}, "a log scale needs low > 0"),
        ({"low": 1.0, "high": 1.0, "grid": 3}, "a grid needs low < high"),
        ({"low": 0.1, "high": 1.0, "grid": 1}, "greater than or equal to 2"),
        ({"low": 0.1, "high": 1.0, "gird": 3}, "gird\n.*Extra inputs"),
        ({"low": 0.1}, "high\n.*Field required"),
        ({"low": 0.1, "high": math.nan}, "finite number"),
        ({"low": 0.1, "high": math.inf}, "finite number"),
        ({"low": "a", "high": 2.0}, "low\n.*valid number"),
        ({"choices": []}, "choices\n.*at least 1 item"),
        ({"choices": [2, 4, 2]}, r"choices has a value twice: \[2, 4, 2\]"),
        (math.nan, "nan"),
        (None, "None"),
    ],
)
def test_a_wrong_parameter_says_what_is_wrong(text: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PARSE.validate_python(parse_shorthand(text))
