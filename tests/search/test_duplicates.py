"""Which earlier trial already has what a trial would recover."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from heard.events import NETWORK, RECIPE

from prunetune.results.record import NetworkResult, TrialRecord
from prunetune.search.trial.duplicates import (
    Duplicate,
    recovered_duplicates,
    trial_over_budget,
    trial_with_channels,
    trial_with_stage,
)
from prunetune.spaces import Outcome, Recipe, StageUse
from prunetune.targets import NormalizedLatency

DONE = replace(NETWORK, surgery="pruning-1", stage="recovery-1")
CUT = replace(DONE, stage="pruning-1", recovered=False)
OTHER = replace(DONE.figures, channels={"model.0.conv": 8})


def trial(*networks: NetworkResult, **changes: Any) -> TrialRecord:
    return TrialRecord(**{"recipe": RECIPE, "outcome": Outcome.OK, "networks": networks, **changes})


def test_equal_surgery_and_recovery_is_not_repeated() -> None:
    record = trial(DONE)
    (found,) = recovered_duplicates("pruning-1", replace(RECIPE, sparsity=0.4), {4: record})
    assert found == Duplicate(4, record, DONE)
    assert [*recovered_duplicates("pruning-2", RECIPE, {4: record})] == []


@pytest.mark.parametrize(
    "change", [{"recovery_epochs": 3}, {"distillation": 6.0}, {"start": "scratch"}, {"recovery_lr": 0.5}]
)
@pytest.mark.parametrize("earlier", [True, False])
def test_another_recovery_is_another_network(change: dict[str, Any], earlier: bool) -> None:
    other = replace(RECIPE, **change)
    done, wanted = (other, RECIPE) if earlier else (RECIPE, other)
    assert [*recovered_duplicates("pruning-1", wanted, {0: trial(DONE, recipe=done)})] == []


def test_another_surgery_with_equal_channels_is_as_fast() -> None:
    peers = {0: trial(replace(DONE, figures=OTHER)), 1: trial(DONE)}
    assert trial_with_channels(DONE, peers) == 1
    assert trial_with_channels(replace(DONE, figures=replace(OTHER, channels={})), peers) is None


def test_what_a_table_predicts_was_measured_by_nobody() -> None:
    predicted = replace(DONE.figures, latencies={"cpu": NormalizedLatency(1.01, predicted=True)})
    assert trial_with_channels(replace(DONE, figures=predicted), {0: trial(DONE)}) is None
    assert trial_with_channels(DONE, {0: trial(replace(DONE, figures=predicted))}) is None


def test_an_earlier_round_is_known_too() -> None:
    first = replace(DONE, surgery="pruning-0", stage="recovery-0", round=1)
    peers = {0: trial(first, DONE)}
    (found,) = recovered_duplicates("pruning-0", replace(RECIPE, rounds=1), peers)
    assert (found.trial, found.network) == (0, first)
    assert trial_with_stage("recovery-0", peers) == 0
    assert trial_with_stage("recovery-2", peers) is None


def test_what_was_not_recovered_is_no_result() -> None:
    assert [*recovered_duplicates("pruning-1", RECIPE, {0: trial(CUT, outcome=Outcome.STOPPED_EARLY)})] == []


def test_over_the_budget_counts_where_the_trial_ended_there() -> None:
    assert trial_over_budget("pruning-1", {0: trial(CUT, outcome=Outcome.OVER_BUDGET)}) == 0
    assert trial_over_budget("pruning-1", {0: trial(CUT)}) is None
    assert trial_over_budget("pruning-1", {0: trial(DONE, outcome=Outcome.OVER_BUDGET)}) is None, "it was recovered"


def test_the_recovery_that_need_not_run_counts_as_reused() -> None:
    record = trial(DONE)
    assert isinstance(record.recipe, Recipe)
    (use,) = Duplicate(0, record, DONE).recovery
    assert use == StageUse("recovery", DONE.stage, reused=record.recipe.recovery_epochs, was_stored=True)
    assert Duplicate(0, record, replace(DONE, stage=DONE.surgery)).recovery == ()
