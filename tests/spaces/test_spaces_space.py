"""The search space: from YAML to recipes."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prunetune.spaces import (
    PRESETS,
    FixedParameter,
    FloatParameter,
    IntParameter,
    LatencyShare,
    Recipe,
    SearchSpace,
    Threshold,
)
from prunetune.spaces.recipe import OPTIONS

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE: dict[str, Any] = {
    "sparsity": {"low": 0.1, "high": 1.0, "log": True, "grid": 5, "unit": "pull"},
    "sparse_epochs": {"choices": [2, 4]},
    "threshold": {"low": 0.005, "high": 0.5, "log": True},
    "rounds": {"low": 1, "high": 2},
    "recovery_epochs": 6,
}
REGIONS = {**SPACE, "threshold": {"backbone": {"low": 0.01, "high": 0.1}, "head": 0.2}}
LATENCY = {**{name: value for name, value in SPACE.items() if name != "threshold"}, "latency": {"low": 0.6, "high": 1}}


def new_trial(seed: int = 0) -> optuna.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


def covers(parameter: Any, value: float) -> bool:
    """Whether a trial could get the value."""
    if parameter.values is not None:
        return value in parameter.values
    return bool(parameter.low <= value <= parameter.high)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sparsity", [6e-4 * 0.01 * 100 * epochs for epochs in (171, 449, 600)]),  # SGD, a hundred steps an epoch
        ("sparse_epochs", [171, 449, 600]),
        ("rounds", [1, 2, 3]),
        ("recovery_epochs", [50, 800]),
    ],
)
def test_the_preset_contains_the_hand_made_campaign(name: str, values: list[float]) -> None:
    parameters = dict(SearchSpace(preset="yolov5-slimming").parameters())
    assert [value for value in values if not covers(parameters[name], value)] == []


def test_the_presets_sparsity_means_the_same_for_every_optimizer() -> None:
    assert SearchSpace(preset="yolov5-slimming").sparsity_unit == "pull"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_space(name: str) -> None:
    assert SearchSpace(preset=name).suggest(new_trial()).epochs > 0


def test_a_given_key_replaces_the_presets() -> None:
    space = SearchSpace(preset="yolov5-slimming", rounds=1, sparsity={"low": 0.1, "high": 1.0, "unit": "pull"})
    assert space.rounds == FixedParameter(value=1)
    assert (space.sparsity, space.sparsity_unit) == (FloatParameter(low=0.1, high=1.0), "pull")
    assert space.latency == SearchSpace(preset="yolov5-slimming").latency


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.sampled_from([SPACE, REGIONS, {"preset": "yolov5-slimming"}]))
def test_a_suggested_recipe_lies_in_the_space(seed: int, description: dict[str, Any]) -> None:
    space = SearchSpace(**description)
    trial = new_trial(seed)
    recipe = space.suggest(trial)
    parameters = dict(space.parameters())
    assert covers(parameters["sparsity"], recipe.sparsity)
    assert covers(parameters["sparse_epochs"], recipe.sparse_epochs)
    assert covers(parameters["rounds"], recipe.rounds)
    assert covers(parameters["recovery_epochs"], recipe.recovery_epochs)
    if "latency" in parameters:
        assert covers(parameters["latency"], recipe.threshold.share)
    else:
        assert covers(parameters.get("threshold_backbone", parameters.get("threshold")), recipe.threshold.backbone)
        assert covers(parameters.get("threshold_head", parameters.get("threshold")), recipe.threshold.head)
    assert recipe.epochs <= space.longest_epochs
    assert recipe == space.recipe(trial.params), "the study's parameters must lead back to the recipe"


def test_one_threshold_for_the_whole_detector() -> None:
    space = SearchSpace(**SPACE)
    trial = new_trial()
    recipe = space.suggest(trial)
    assert recipe.threshold == Threshold.everywhere(trial.params["threshold"])
    assert set(trial.params) == {"sparsity", "sparse_epochs", "threshold", "rounds"}


OPTIONS_SPACE = {
    **LATENCY,
    "shrinkage": {"choices": ["proximal", "subgradient"]},
    "importance": {"choices": ["gamma", "taylor"]},
    "floor": {"low": 0, "high": 0.5},
    "start": {"choices": ["current", "rewind", "scratch"]},
    "recovery_lr": {"low": 0.1, "high": 3, "log": True},
    "distillation": {"choices": [0, 3, 6]},
    "sparse_distillation": {"low": 0.0, "high": 6.0},
}


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000))
def test_options_are_parameters_like_the_others(seed: int) -> None:
    space, trial = SearchSpace(**OPTIONS_SPACE), new_trial(seed)
    recipe = space.suggest(trial)
    assert recipe == space.recipe(trial.params)
    assert set(trial.params) == set(OPTIONS_SPACE) - {"recovery_epochs"}
    assert {name: getattr(recipe, name) for name in OPTIONS if name in trial.params} == {
        name: value for name, value in trial.params.items() if name in OPTIONS
    }
    assert SearchSpace.model_validate(space.as_json()) == space


@pytest.mark.parametrize("base", [LATENCY, {"preset": "yolov5-slimming"}])
@pytest.mark.parametrize(("word", "depth"), [(False, None), (True, 0)])
def test_depth_may_be_switched_off_and_on(base: dict[str, Any], word: bool, depth: int | None) -> None:
    space = SearchSpace(**base, depth=word)
    assert space.suggest(new_trial()).depth == depth
    assert SearchSpace(**space.as_json()) == space


@pytest.mark.parametrize("name", ["penalty", "penalty_weights", "planner"])
def test_an_option_that_is_gone_is_named_with_the_remedy(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name}: .* gone since prunetune 0\.2; remove it"):
        SearchSpace(**SPACE, **{name: "group"})


def test_a_space_without_options_is_what_it_was() -> None:
    space = SearchSpace(**SPACE)
    assert set(space.as_json()) == {*SPACE, "sparsity_unit"}
    assert not {*OPTIONS} & {name for name, _ in space.parameters()} - {"sparsity", "sparse_epochs"}


def test_a_threshold_for_each_round_and_region() -> None:
    later = [0.3, {"backbone": {"low": 0.4, "high": 0.5}, "neck": 0.6, "head": 0.7}]
    space = SearchSpace(**{**SPACE, "rounds": {"low": 1, "high": 4}, "later_thresholds": later})
    assert SearchSpace.model_validate(space.as_json()) == space
    values = {"sparsity": 0.1, "sparse_epochs": 2, "threshold": 0.2, "threshold_round3_backbone": 0.45}
    recipe = space.recipe({**values, "rounds": 4})
    assert [recipe.cut(number) for number in (1, 2)] == [Threshold.everywhere(0.2), Threshold.everywhere(0.3)]
    assert recipe.cut(3) == recipe.cut(4) == Threshold(0.45, 0.7, 0.6)
    assert space.recipe({**values, "rounds": 1}).later_thresholds == (), "recipes of one round are equal"


def test_later_thresholds_are_not_found() -> None:
    with pytest.raises(ValidationError, match=r"later_thresholds\n.*latency cannot both be given"):
        SearchSpace(**{**LATENCY, "later_thresholds": [0.1]})


def test_a_threshold_for_each_region() -> None:
    space = SearchSpace(**REGIONS)
    trial = new_trial()
    recipe = space.suggest(trial)
    assert recipe.threshold == Threshold(trial.params["threshold_backbone"], 0.2)
    assert "threshold" not in trial.params
    assert "threshold_head" not in trial.params, "a fixed value is not asked for"


def test_a_latency_stands_in_the_thresholds_place() -> None:
    space, trial = SearchSpace(**LATENCY), new_trial()
    recipe = space.suggest(trial)
    assert recipe.threshold == LatencyShare(trial.params["latency"], balance=1.0)
    assert 0.6 <= trial.params["latency"] <= 1
    assert set(trial.params) == {"sparsity", "sparse_epochs", "latency", "rounds"}
    assert space.recipe(trial.params) == recipe


def test_the_balance_of_the_regions_is_searched_if_it_is_given() -> None:
    space = SearchSpace(**LATENCY, balance={"low": 0.5, "high": 2.0, "log": True})
    found = {space.suggest(new_trial(seed)).threshold for seed in range(8)}
    assert len({cut.balance for cut in found}) == 8
    assert all(0.5 <= cut.balance <= 2 for cut in found)
    assert SearchSpace(**space.as_json()) == space


def test_a_threshold_replaces_a_presets_latency() -> None:
    space = SearchSpace(preset="yolov5-slimming", threshold=0.1)
    assert space.latency is None
    assert space.suggest(new_trial()).threshold == Threshold.everywhere(0.1)


def test_a_latency_replaces_a_presets_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "old", {**SPACE, "threshold": 0.1})
    space = SearchSpace(preset="old", latency=0.9)
    assert space.threshold is None
    assert space.suggest(new_trial()).threshold == LatencyShare(0.9)


def test_a_presets_latency_takes_a_balance() -> None:
    assert SearchSpace(preset="yolov5-slimming", balance=2).suggest(new_trial()).threshold.balance == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latency": 0.9, "threshold": 0.1}, "threshold\n.*and latency cannot both be given"),
        ({"latency": None}, "threshold\n.*missing; give it, or latency"),
        ({"latency": None, "threshold": 0.1, "balance": 2}, "threshold\n.*and balance cannot both be given"),
        ({"latency": {"low": 0.5, "high": 1.2}}, "latency: 1.2 is no share of the budget"),
        ({"latency": 0}, "latency: 0 is no share of the budget"),
        ({"latency": "half"}, "latency: 'half' is not a number"),
        ({"balance": {"low": 0.0, "high": 2}}, "balance: 0.0 is not from 0.001 to 1000"),
    ],
)
def test_a_wrong_latency_says_what_is_allowed(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SearchSpace(**{**LATENCY, **changes})


def test_the_recipe_of_given_values() -> None:
    values = {"sparsity": 0.5, "sparse_epochs": 4, "threshold": 0.1, "rounds": 2}
    expected = Recipe(0.5, 4, Threshold.everywhere(0.1), rounds=2, recovery_epochs=6, sparsity_unit="pull")
    assert SearchSpace(**SPACE).recipe(values) == expected


def test_a_missing_value_of_a_searched_parameter() -> None:
    with pytest.raises(KeyError, match="rounds"):
        SearchSpace(**SPACE).recipe({"sparsity": 0.5, "sparse_epochs": 4, "threshold": 0.1})


def test_the_longest_recipe() -> None:
    space = SearchSpace(**SPACE)
    assert space.longest_sparse_epochs == 4
    assert space.longest_epochs == 2 * (4 + 6)


@pytest.mark.parametrize("unit", ["lambda", "pull"])
def test_the_unit_stands_beside_the_bounds(unit: str) -> None:
    space = SearchSpace(**{**SPACE, "sparsity": {"low": 0.1, "high": 1.0, "unit": unit}})
    assert space.sparsity_unit == unit
    assert space.suggest(new_trial()).sparsity_unit == unit


def test_the_unit_beside_a_fixed_value() -> None:
    space = SearchSpace(**{**SPACE, "sparsity": {"value": 6e-4, "unit": "lambda"}})
    assert (space.sparsity, space.sparsity_unit) == (FixedParameter(value=6e-4), "lambda")


@pytest.mark.parametrize("name", ["sparsity", "threshold"])
def test_whole_bounds_of_a_real_parameter_still_mean_real_numbers(name: str) -> None:
    space = SearchSpace(**{**SPACE, name: {"low": 0, "high": 1}})
    assert dict(space.parameters())[name] == FloatParameter(low=0.0, high=1.0)
    drawn = [getattr(space.suggest(new_trial(seed)), name) for seed in range(4)]
    numbers = [value.head if isinstance(value, Threshold) else value for value in drawn]
    assert any(number not in (0.0, 1.0) for number in numbers)


def test_whole_bounds_of_a_regions_threshold_still_mean_real_numbers() -> None:
    space = SearchSpace(**{**SPACE, "threshold": {"backbone": {"low": 0, "high": 1}, "head": 0}})
    assert dict(space.parameters())["threshold_backbone"] == FloatParameter(low=0.0, high=1.0)


def test_whole_bounds_of_a_counted_parameter_mean_whole_numbers() -> None:
    assert SearchSpace(**SPACE).rounds == IntParameter(low=1, high=2)


@pytest.mark.parametrize("description", [SPACE, REGIONS, {"preset": "yolov5-slimming"}])
def test_json_and_back(description: dict[str, Any]) -> None:
    space = SearchSpace(**description)
    assert SearchSpace(**json.loads(json.dumps(space.as_json()))) == space
    assert "preset" not in space.as_json(), "a stored space does not change with a later preset"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": {"low": 1.0, "high": 0.1}}, r"sparsity.*\n.*low \(1.0\) is above high \(0.1\)"),
        ({"sparse_epochs": {"choices": []}}, r"sparse_epochs.*\n.*at least 1 item"),
        ({"preset": "yolov5-sliming"}, "preset: 'yolov5-sliming' is unknown; there are yolov5-slimming"),
        ({"rounds": {"low": 1.0, "high": 3.5}}, "rounds: takes whole numbers, not 3.5"),
        ({"rounds": 1.5}, "rounds: takes whole numbers, not 1.5"),
        ({"rounds": 0}, "rounds: 0 is below 1"),
        ({"rounds": {"low": 0, "high": 2}}, "rounds: 0 is below 1"),
        ({"recovery_epochs": {"choices": [2, 3.5]}}, "recovery_epochs: takes whole numbers, not 3.5"),
        ({"recovery_epochs": -1}, "recovery_epochs: -1 is below 0"),
        ({"recovery_epochs": 1e300}, r"recovery_epochs: 1e\+300 is above 100000"),
        ({"sparse_epochs": {"low": 1, "high": 10**6}}, "sparse_epochs: 1000000 is above 100000"),
        ({"rounds": 1001}, "rounds: 1001 is above 1000"),
        ({"sparse_epochs": "many"}, "sparse_epochs: 'many' is not a number"),
        ({"rounds": True}, "rounds: True is not a number"),
        ({"sparsity": {"low": 0.1, "high": 1.0, "unit": "percent"}}, "sparsity_unit\n.*'lambda' or 'pull'"),
        ({"threshold": {"low": -0.5, "high": 0.5}}, "threshold: -0.5 is below 0"),
        ({"threshold": {"backbone": 0.1}}, r"threshold.*head\n.*Field required"),
        ({"threshold": {"backbone": 0.1, "head": -1}}, "threshold.head: -1 is below 0"),
        ({"threshold": {"backbone": 0.1, "head": 0.1, "tail": 0.1}}, r"threshold.*tail\n.*Extra inputs"),
        ({"importance": "l3"}, "importance: 'l3' is none of gamma, l1, l2, taylor, lamp"),
        ({"start": {"choices": ["current", 2]}}, "start: 2 is none of current, rewind, scratch"),
        ({"start": {"low": 0, "high": 2}}, "start: 0 is none of current, rewind, scratch"),
        ({"floor": {"low": 0, "high": 1}}, "floor: 1.0 is no share of a layer's channels"),
        ({"distillation": -1}, "distillation: -1 is below 0"),
        ({"recovery_lr": 0}, "recovery_lr: 0 is not from 0.001 to 1000"),
        ({"recovery_lr": {"low": 0.0001, "high": 1.0, "log": True}}, "recovery_lr: 0.0001 is not from 0.001 to 1000"),
        ({"later_thresholds": [0.1, 0.2]}, "later_thresholds: 2 for at most 2 rounds"),
        ({"later_thresholds": 0.1}, "later_thresholds"),
        ({"treshold": 0.1}, "treshold\n.*Extra inputs"),
        ({"sparsity": None}, "sparsity"),
    ],
)
def test_a_wrong_space_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchSpace(**{**SPACE, **change})


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ValidationError, match=r"threshold\n.*missing; give it, or latency"):
        SearchSpace(**{name: value for name, value in SPACE.items() if name != "threshold"})


def test_a_space_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SearchSpace(**SPACE).rounds = FixedParameter(value=3)
