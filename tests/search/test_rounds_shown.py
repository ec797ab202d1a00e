"""What a trial had after an earlier round is shown, named, and made again, like any other network."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
from heard.events import EARLIER, NETWORK, RECIPE, RECORD
from optuna.trial import create_trial
from rich.console import Console

from prunetune.results.findings.study_network import networks_of
from prunetune.results.record import NetworkResult, StudiedTarget, StudyRecord
from prunetune.search.callbacks.events import Event, FrontMember, StudyProgress, TrialEnded
from prunetune.search.callbacks.progress import Progress
from prunetune.search.callbacks.telling import tell_progress
from prunetune.search.commands.export import recipe_alone
from prunetune.search.commands.status import study_status, write_status
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import LatencyShare, Recipe, Splice, Threshold

MakeSpec = Callable[..., StudySpec]


@pytest.fixture
def spec(make_spec: MakeSpec) -> StudySpec:
    return make_spec()


@pytest.fixture
def study(spec: StudySpec) -> optuna.Study:
    """A study with one trial: its network of round 1 is more accurate than what it came to, and as fast."""
    made = open_study(spec)
    cpu = StudiedTarget("cpu", is_objective=True, budget_text="<= 2 ms", budget_ms=2.0, references={"dense": 2.2})
    StudyRecord.store(made, targets=(cpu,))
    made.add_trial(create_trial(values=[0.411, 1.01], user_attrs=RECORD.to_attrs()))
    return made


def test_status_counts_rounds_and_names_the_best_network(study: optuna.Study, spec: StudySpec) -> None:
    status = study_status(study, spec.folder)
    shown, out = status.as_dict(), io.StringIO()
    assert (shown["finished"], shown["rounds"], shown["front"]) == (1, 1, 1)
    assert (shown["best"]["network"], shown["best"]["round"]) == ("0.1", 1)
    assert (shown["epochs_trained"], shown["epochs_reused"]) == (10, 4)
    write_status(status, Console(file=out, width=200))
    assert "trials (1 OK), and 1 earlier round" in out.getvalue()
    assert "budget on cpu: <= 2 ms" in out.getvalue()
    assert "front: 1 network; best is trial 0, round 1 with map50_95 0.500 at 1.01 ms" in out.getvalue()


def test_progress_after_a_trial_has_the_front_of_networks(study: optuna.Study, spec: StudySpec) -> None:
    heard: list[Event] = []

    class Heard:
        def hear(self, event: Event) -> None:
            heard.append(event)

    tell_progress(study, spec, 0, RECORD, Progress(None, spec.trials, [Heard()]))
    _, ended, progress = heard
    assert isinstance(ended, TrialEnded)
    assert (ended.trial, ended.record, ended.finished) == (0, RECORD, 1)
    assert isinstance(progress, StudyProgress)
    assert progress.front == (FrontMember("0.1", "trial 0, round 1", 0.5, 1.01),)
    assert (progress.finished, progress.trained, progress.reused) == (1, 10, 4)


def alone(recipe: Recipe | Splice, thresholds: tuple[Threshold, ...] = (), *rounds: NetworkResult) -> list[Any]:
    """The recipes that make each of a trial's networks alone. The dense network takes 4 x the budget."""
    record = replace(RECORD, recipe=recipe, thresholds=thresholds, networks=rounds or (EARLIER, NETWORK))
    return [recipe_alone(network, 4.0) for network in networks_of(0, record)]


FIRST, SECOND = Threshold.everywhere(0.4), Threshold(0.5, 0.6)


def test_an_earlier_round_is_made_by_the_recipe_of_its_rounds() -> None:
    assert alone(RECIPE) == [replace(RECIPE, rounds=1), RECIPE]
    later = replace(RECIPE, later_thresholds=(SECOND,))
    assert alone(later) == [replace(RECIPE, rounds=1), later]


def test_thresholds_that_were_found_are_given() -> None:
    recipe = replace(RECIPE, threshold=LatencyShare(1.0))
    assert alone(recipe, (FIRST, SECOND)) == [
        replace(recipe, rounds=1, threshold=FIRST),
        replace(recipe, threshold=FIRST, later_thresholds=(SECOND,)),
    ]


def test_a_round_without_a_threshold_has_its_own_goal() -> None:
    recipe = replace(RECIPE, threshold=LatencyShare(1.0))
    first, whole = alone(recipe)
    assert first == replace(recipe, rounds=1, threshold=LatencyShare(pytest.approx(2.0)))
    assert whole == recipe
    (earlier, _) = networks_of(0, replace(RECORD, recipe=recipe, thresholds=()))
    assert recipe_alone(earlier, None) is None, "without a budget nobody knows it"


def test_a_splice_is_no_recipe() -> None:
    assert alone(Splice("1", "dense", 3), (), replace(NETWORK, round=1)) == [None]
