"""Which earlier trial already has what a trial would recover."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from prunetune.search.equal_networks import EQUALS, LATENCY_FROM, known
from prunetune.spaces import Recipe, Threshold

RECIPE = Recipe(0.3, 1, Threshold.everywhere(0.1), recovery_epochs=2)
DESCRIBED = {"feasible": True, "channels": {"model.0.conv": 8}, "latencies": {"cpu": {"ratio": 1.0}}}


def trial(recipe: Recipe) -> FrozenTrial:
    attributes = {
        "outcome": "OK",
        "recipe": recipe.as_dict(),
        "stages": [{"kind": "pruning", "digest": "pruning-1"}, {"kind": "recovery", "digest": "recovery-1"}],
        **DESCRIBED,
    }
    made = optuna.trial.create_trial(values=[0.5, 1.0], user_attrs=attributes)
    made.number = 0
    return made


def test_equal_surgery_and_recovery_is_not_repeated() -> None:
    wanted = replace(RECIPE, sparsity=0.4)
    assert known([trial(RECIPE)], "pruning-1", wanted, DESCRIBED) == {EQUALS: 0}


@pytest.mark.parametrize("change", [{"recovery_epochs": 3}, {"distillation": 6.0}, {"start": "scratch"}])
@pytest.mark.parametrize("earlier", [True, False])
def test_another_recovery_is_another_network(change: dict[str, Any], earlier: bool) -> None:
    other = replace(RECIPE, **change)
    done, wanted = (other, RECIPE) if earlier else (RECIPE, other)
    assert known([trial(done)], "pruning-1", wanted, DESCRIBED) == {LATENCY_FROM: 0}


def test_another_surgery_with_equal_channels_is_as_fast() -> None:
    assert known([trial(RECIPE)], "pruning-2", RECIPE, DESCRIBED) == {LATENCY_FROM: 0}
