"""Overrides on the command line: `key=value`, a path and a YAML value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.search.spec import StudySpec, apply_override
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
    values: dict[str, Any] = {}
    apply_override(values, "train.lr0=0.01")
    assert values == {"train": {"lr0": 0.01}}
