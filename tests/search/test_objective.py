"""How a trial that fails is told: by name, never as a score, and the study goes on."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from prunetune.pruning.ledger import Ledger
from prunetune.pruning.pipeline import Candidate
from prunetune.pruning.training import GoesOn, TrainingFailureError
from prunetune.results import front
from prunetune.search import engine, local_engine, runner
from prunetune.search.local_engine import LocalEngine
from prunetune.search.objective import carry_out
from prunetune.search.outcome import Outcome, TrialResult
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.study import open_study
from prunetune.search.taking import next_trial
from prunetune.spaces import MeasurementError, PrunetuneError, Recipe, StoreError

MakeSpec = Callable[..., StudySpec]


class FailingPipeline:
    """Stands at the protocol's edge: what `carry_out` asks of a pipeline, with a run that fails."""

    def __init__(self, error: BaseException, stages: Any) -> None:
        self.error, self.stages = error, stages

    def run(self, recipe: Recipe, goes_on: GoesOn | None = None) -> Iterator[Candidate]:
        """Trains an epoch and fails."""
        self.stages.ledger.epochs_trained += 1
        raise self.error
        yield  # a generator, as the real one is

    def sparsity(self, recipe: Recipe) -> Any:
        """The recipe's sparsity in both units."""
        return SimpleNamespace(coefficient=0.1, pull=recipe.sparsity)


def workspace(spec: StudySpec, error: BaseException) -> Any:
    stages = SimpleNamespace(ledger=Ledger())
    return SimpleNamespace(spec=spec, folder=spec.folder, stages=stages, pipeline=FailingPipeline(error, stages))


def attempt(study: optuna.Study, spec: StudySpec, error: BaseException) -> TrialResult:
    claim = next_trial(study, spec)
    assert claim is not None
    return carry_out(study, claim.trial, claim.recipe, workspace(spec, error))


FAILURES = [
    (TrainingFailureError("DIVERGED", "box_loss is not finite in epoch 2"), Outcome.DIVERGED, "box_loss"),
    (TrainingFailureError("OUT_OF_MEMORY", "try a smaller batch"), Outcome.OUT_OF_MEMORY, "smaller batch"),
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), Outcome.OUT_OF_MEMORY, "allocate"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Outcome.OUT_OF_MEMORY, "DefaultCPUAllocator"),
    (MemoryError(), Outcome.OUT_OF_MEMORY, "MemoryError"),
    (MeasurementError("target 'board': no answer"), Outcome.NOT_MEASURED, "target 'board': no answer"),
    (RuntimeError("size mismatch"), Outcome.ERROR, "RuntimeError: size mismatch"),
    (ZeroDivisionError("division by zero"), Outcome.ERROR, "ZeroDivisionError"),
]


@pytest.mark.parametrize(("error", "outcome", "said"), FAILURES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("objectives", [["map50_95", "latency"], ["map50_95"]], ids=["two", "one"])
def test_a_failure_is_told_by_name_and_not_as_a_score(
    make_spec: MakeSpec, error: Exception, outcome: Outcome, said: str, objectives: list[str]
) -> None:
    spec = make_spec(objectives=objectives)
    study = open_study(spec)
    result = attempt(study, spec, error)
    assert result.outcome is outcome
    assert said in result.reason
    (trial,) = study.trials
    assert trial.state is TrialState.FAIL
    assert trial.values is None
    assert trial.user_attrs["outcome"] == outcome.value
    assert said in trial.user_attrs["reason"]
    assert trial.user_attrs["epochs"] == {"trained": 1, "reused": 0}
    assert Recipe.from_dict(trial.user_attrs["recipe"]) == result.recipe
    assert front(study) == []


def test_the_study_goes_on_after_failures_and_they_count(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=len(FAILURES))
    study = open_study(spec)
    for error, _, _ in FAILURES:
        attempt(study, spec, error)
    assert next_trial(study, spec) is None
    assert [trial.user_attrs["outcome"] for trial in study.trials] == [outcome.value for _, outcome, _ in FAILURES]


def test_an_unknown_error_leaves_its_traceback_in_the_log(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec()
    with caplog.at_level(logging.WARNING, "prunetune.search.objective"):
        attempt(open_study(spec), spec, ZeroDivisionError("division by zero"))
    assert "trial 0 failed" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("/disk: the disk is full; free some space")])
def test_an_interrupted_trial_is_given_back_and_taken_up_again(make_spec: MakeSpec, error: BaseException) -> None:
    spec = make_spec(trials=1)
    study = open_study(spec)
    claim = next_trial(study, spec)
    assert claim is not None
    progress = Progress(Console(file=io.StringIO()), spec.trials)
    with pytest.raises(type(error)):
        LocalEngine(spec, progress, workspace(spec, error)).carry_out(study, claim)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    assert study.trials[0].user_attrs["outcome"] == "INTERRUPTED"
    again = next_trial(study, spec)
    assert again is not None
    assert again.recipe == claim.recipe
    assert again.trial.number == 1


def test_the_line_of_a_failure_says_its_name_and_why(make_spec: MakeSpec) -> None:
    spec = make_spec()
    study, out = open_study(spec), io.StringIO()
    claim = next_trial(study, spec)
    assert claim is not None
    error = TrainingFailureError("DIVERGED", "box_loss is not finite in epoch 2")
    progress = Progress(Console(file=out, width=200), spec.trials)
    LocalEngine(spec, progress, workspace(spec, error)).carry_out(study, claim)
    assert out.getvalue().startswith("trial 0 [1/3] DIVERGED (box_loss is not finite in epoch 2)")


def test_every_few_trials_the_study_says_what_remains(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=20, epochs=8)
    study, out = open_study(spec), io.StringIO()
    error = TrainingFailureError("DIVERGED", "box_loss is not finite in epoch 2")
    for _ in range(5):
        claim = next_trial(study, spec)
        assert claim is not None
        progress = Progress(Console(file=out, width=200), spec.trials)
        LocalEngine(spec, progress, workspace(spec, error)).carry_out(study, claim)
    (line,) = [line for line in out.getvalue().splitlines() if "remain" in line]
    assert line.startswith("about 3 trials, 3 epochs, ")
    assert " (epochs ends it), until " in line


def test_a_user_error_inside_a_trial_reaches_the_user(make_spec: MakeSpec) -> None:
    spec = make_spec()
    study = open_study(spec)
    with pytest.raises(PrunetuneError, match="mend"):
        attempt(study, spec, PrunetuneError("mend this"))
    assert study.trials[0].state is TrialState.RUNNING, "who carries out the study gives it back"


def test_an_interruption_that_is_swallowed_stops_before_the_next_trial(
    make_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Foreign code may catch everything, also KeyboardInterrupt."""
    spec = make_spec(trials=2, data="never read")
    taken: list[int] = []

    def swallow(study: optuna.Study, trial: optuna.Trial, *rest: Any) -> TrialResult:
        taken.append(trial.number)
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        study.tell(trial, [0.5, 1.0])
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        attributes = {
            "accuracy": {"map50_95": 0.5},
            "latencies": {"cpu": {"latency_ms": 1.0}},
            "gflops": 1.0,
            "params": 1,
            "epochs": {"reused": 0},
        }
        return TrialResult(trial.number, recipe, Outcome.OK, "", attributes, 0.1)

    class NoWork:
        store = None

        def __init__(self, *_: Any) -> None: ...

        def prepare(self, study: optuna.Study) -> list[Any]:
            return []

    monkeypatch.setattr(engine, "Workspace", NoWork)
    monkeypatch.setattr(engine, "_train_original", lambda *_: None)
    monkeypatch.setattr(local_engine, "carry_out", swallow)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        runner.run_study(spec, Console(file=io.StringIO()))
    assert taken == [0]
    assert signal.getsignal(signal.SIGINT) is before
