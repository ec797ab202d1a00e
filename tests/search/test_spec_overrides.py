"""Overrides on the command line: `key=value`, a path and a YAML value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.search.study.overrides import overridden
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError

Written = Callable[..., Path]


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("imgsz=256", lambda spec: spec.imgsz == 256),
        ("name=bccd", lambda spec: spec.name == "bccd"),
        ("data=../shared/data/bccd/data.yaml", lambda spec: spec.data == "../shared/data/bccd/data.yaml"),
        ("space.rounds.high=3", lambda spec: spec.space.rounds.largest == 3),
        ("space.recovery_epochs={choices: [5, 7]}", lambda spec: spec.space.recovery_epochs.values == (5, 7)),
        ("targets.0.threads=2", lambda spec: spec.targets[0].threads == 2),
        ("objectives=[map50_95]", lambda spec: spec.objectives == ("map50_95",)),
        ("controls=[]", lambda spec: spec.controls == ()),
        ("train.lr0=6e-4", lambda spec: spec.train == {"lr0": 0.0006}),
        ("space.sparsity={value: 6e-4}", lambda spec: spec.space.sparsity.largest == 0.0006),
        ("budget.latency='<= 0.5 x dense'", lambda spec: spec.limit_of("cpu") == "<= 0.5 x dense"),
        ('budget.latency="<= 1.5 ms"', lambda spec: spec.limit_of("cpu") == "<= 1.5 ms"),
        ("budget=<= 1.5 ms", lambda spec: spec.limit_of("cpu") == "<= 1.5 ms"),
        ("budget.latency=<= half-width", lambda spec: spec.limit_of("cpu") == "<= half-width"),
        ("name='12'", lambda spec: spec.name == "12"),
        ("data=data/a=b.yaml", lambda spec: spec.data == "data/a=b.yaml"),
        ("storage=postgresql+psycopg://u@h/d?a=1", lambda spec: spec.storage == "postgresql+psycopg://u@h/d?a=1"),
        ("train.mosaic=0", lambda spec: spec.train == {"mosaic": 0}),
    ],
)
def test_an_override_is_a_path_and_a_yaml_value(written: Written, published: str, override: str, read: Any) -> None:
    assert read(StudySpec.read(written(published), [override]))


def test_the_last_of_two_overrides_wins(written: Written, published: str) -> None:
    assert StudySpec.read(written(published), ["trials=5", "trials=6"]).trials == 6


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("imgsz", "write key=value"),
        ("=5", "write key=value"),
        ("imgsz.high=5", "inside a value that has no keys"),
        ("targets.7.threads=2", "inside a value that has no keys"),
        ("targets.threads=2", "inside a value that has no keys"),
        ("space=[1", "not valid YAML"),
        ("imgzs=256", "imgzs: unknown key; did you mean imgsz?"),
        ("space.rounds.hihg=3", "space.rounds.hihg: unknown key; did you mean high?"),
    ],
)
def test_an_override_that_leads_nowhere(written: Written, published: str, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StudySpec.read(written(published), [override])
    assert said in str(caught.value)
    assert override.partition("=")[0] in str(caught.value)


def test_an_override_reaches_into_keys_that_are_not_there_yet() -> None:
    for values in ({}, {"train": None}):
        assert overridden(values, "train.lr0=0.01") == {"train": {"lr0": 0.01}}


PULL = {"low": 0.1, "high": 1.0, "log": True, "grid": 5, "unit": "pull"}


@pytest.mark.parametrize(
    ("place", "old", "override", "new"),
    [
        ("sparsity", PULL, "=0.2", {"value": 0.2, "unit": "pull"}),
        ("sparsity", PULL, "={choices: [0.1, 0.2]}", {"choices": [0.1, 0.2], "unit": "pull"}),
        ("sparsity", PULL, "={low: 0.2, high: 0.4}", {"low": 0.2, "high": 0.4, "unit": "pull"}),
        ("sparsity", PULL, "={low: 1e-4, high: 1e-3, unit: lambda}", {"low": 1e-4, "high": 1e-3, "unit": "lambda"}),
        ("sparsity", PULL, ".unit=lambda", {**PULL, "unit": "lambda"}),
        ("sparsity", PULL, ".high=0.5", {**PULL, "high": 0.5}),
        ("sparsity", PULL, ".choices=[0.1, 0.2]", {"choices": [0.1, 0.2], "unit": "pull"}),
        ("sparsity", {"choices": [0.1], "unit": "pull"}, ".value=0.3", {"value": 0.3, "unit": "pull"}),
        ("sparsity", 0.1, "=0.2", 0.2),
        ("sparsity", 0.1, ".unit=pull", {"value": 0.1, "unit": "pull"}),
        ("rounds", {"low": 1, "high": 3}, ".low=2", {"low": 2, "high": 3}),
        ("rounds", {"low": 1, "high": 3}, "=2", 2),
        ("rounds", {"low": 1, "high": 3}, ".choices=[1, 3]", {"choices": [1, 3]}),
        ("rounds", {"low": 1, "high": 3}, ".value=2", {"value": 2}),
        ("rounds", {"choices": [1, 3]}, "={low: 1, high: 2}", {"low": 1, "high": 2}),
        ("threshold", {"low": 0.1, "high": 0.5}, ".grid=3", {"low": 0.1, "high": 0.5, "grid": 3}),
        ("threshold", {"backbone": 0.1, "head": 0.2}, ".head=0.3", {"backbone": 0.1, "head": 0.3}),
        ("threshold", {"backbone": 0.1, "head": {"low": 0.1, "high": 0.2}}, ".head.low=0",
         {"backbone": 0.1, "head": {"low": 0, "high": 0.2}}),
        ("threshold", {"backbone": 0.1, "head": 0.2}, "=0.3", 0.3),
        ("later_thresholds", [0.1, {"low": 0.1, "high": 0.2}], ".1.high=0.3", [0.1, {"low": 0.1, "high": 0.3}]),
        ("later_thresholds", [0.1, {"low": 0.1, "high": 0.2}], ".1=0.3", [0.1, 0.3]),
    ],
)  # fmt: skip
def test_what_stands_beside_a_parameters_value_stays(place: str, old: Any, override: str, new: Any) -> None:
    given = {"space": {place: old, "recovery_epochs": 5}, "seed": 1}
    laid = overridden(given, f"space.{place}{override}")
    assert laid == {"space": {place: new, "recovery_epochs": 5}, "seed": 1}
    assert given["space"] == {place: old, "recovery_epochs": 5}, "the values that were given are not changed"


@pytest.mark.parametrize(
    ("old", "override", "new"),
    [
        ({"budget": {"latency@a": "<= dense", "latency@b": "<= 1 ms"}}, "budget.latency@b=<= 2 ms", "latency@a"),
        ({"train": {"lr0": 0.1, "mosaic": 0.5}}, "train.lr0=0.2", "mosaic"),
        ({"early_stopping": {"reduction": 4, "rungs": 2}}, "early_stopping.rungs=1", "reduction"),
        ({"ray": {"cpus": 2, "gpus": 0.5}}, "ray.cpus=1", "gpus"),
    ],
)
def test_a_key_beside_stays(old: dict[str, Any], override: str, new: str) -> None:
    ((key, values),) = old.items()
    laid = overridden(old, override)[key]
    assert laid.keys() == values.keys()
    assert laid[new] == values[new]
    assert laid != values


@pytest.mark.parametrize("written_out", ["true", "false"])
def test_a_setting_can_be_given_to_what_is_only_on_or_off(written: Written, short: str, written_out: str) -> None:
    spec = StudySpec.read(written(short + f"early_stopping: {written_out}\n"), ["early_stopping.rungs=2"])
    assert (spec.early_stopping.rungs, spec.early_stopping.reduction) == (2, 3)


def test_a_unit_holds_through_a_file_and_an_override(written: Written, published: str, short: str) -> None:
    spec = StudySpec.read(written(published), ["space.sparsity=0.2"])
    assert (spec.space.sparsity.values, spec.space.sparsity_unit) == ((0.2,), "pull")
    spec = StudySpec.read(written(short), ["space.sparsity=0.001"])
    assert (spec.space.sparsity.values, spec.space.sparsity_unit) == ((0.001,), "pull"), "the preset's"


def test_a_part_of_a_presets_range(written: Written, short: str) -> None:
    spec = StudySpec.read(written(short), ["space.rounds.high=2", "space.latency.low=0.9", "space.sparsity.grid=3"])
    assert (spec.space.rounds.low, spec.space.rounds.high) == (1, 2)
    assert (spec.space.latency.low, spec.space.latency.high) == (0.9, 0.98)
    assert (spec.space.sparsity.values, spec.space.sparsity_unit) == ((0.1, 0.316228, 1.0), "pull")


def test_an_anchor_is_overridden_in_one_place(written: Written, short: str) -> None:
    text = short.replace(
        "{preset: yolov5-slimming}",
        "{preset: yolov5-slimming, sparse_epochs: &e {choices: [2, 4]}, recovery_epochs: *e}",
    )
    spec = StudySpec.read(written(text), ["space.recovery_epochs.choices=[5]"])
    assert (spec.space.sparse_epochs.values, spec.space.recovery_epochs.values) == ((2, 4), (5,))


@pytest.mark.parametrize("key", ["model", "data", "runs"])
def test_the_home_is_put_in_its_place(written: Written, short: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave `model=~/best.pt` as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    assert getattr(StudySpec.read(written(short), [f"{key}=~/here"]), key) == "/home/me/here"
    assert getattr(StudySpec.read(written(short), [f"{key}=a ~/ü"]), key) == "a ~/ü"
