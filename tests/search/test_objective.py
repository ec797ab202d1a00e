"""How a trial that fails is told: by name, never as a score, and the study goes on."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
import torch
from heard.events import NETWORK
from optuna.trial import TrialState, create_trial
from rich.console import Console

from prunetune.pruning import StageStore
from prunetune.pruning.pipeline import Step
from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.stages.lease import StageBusyError
from prunetune.pruning.training.values import TrainingFailureError
from prunetune.results import front
from prunetune.results.record import RungDecision, TrialRecord
from prunetune.search import runner
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine import engine, local_engine
from prunetune.search.engine.local_engine import carry_out_trials
from prunetune.search.engine.taking import give_trial_back, next_trial
from prunetune.search.interruption import TrialLostError
from prunetune.search.latency.shipping import Shipping
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial import TrialContext
from prunetune.search.trial.objective import AskedTrial, StudyPeers, attempts_before, run_and_tell, tell
from prunetune.search.trial.trial_files import StudyFiles
from prunetune.spaces import MeasurementError, Outcome, PrunetuneError, Recipe, Splice, StageUse, StoreError

MakeSpec = Callable[..., StudySpec]

SPLICE = Splice("0", "dense", 3)


class FailingPipeline:
    """Stands at the protocol's edge: what `run_trial` asks of a pipeline, with runs that fail one after the other."""

    def __init__(self, folder: Path, *errors: BaseException) -> None:
        self._errors = iter(errors)
        self.stages = SimpleNamespace(meter=CostMeter(), store=StageStore(folder))

    def run(self, recipe: Recipe, rungs: Collection[int] = ()) -> Iterator[Step]:
        """Trains an epoch and fails."""
        self.stages.meter.count(StageUse("sparse", "sparse-0", 1))
        raise next(self._errors)
        yield  # a generator, as the real one is

    def sparsity(self, recipe: Recipe) -> Any:
        """The recipe's sparsity in both units."""
        return SimpleNamespace(coefficient=0.1, pull=recipe.sparsity)


def context(spec: StudySpec, *errors: BaseException) -> Any:
    nothing: Any = None
    return TrialContext(
        spec=spec,
        dataset=nothing,
        pipeline=cast("Any", FailingPipeline(spec.folder / "store", *errors)),
        meter=nothing,
        shipping=Shipping(spec.targets[0], nothing, (), spec.imgsz),
        files=StudyFiles(spec.folder),
        dense_channels=nothing,
        dense_params=0,
    )


def attempt(study: optuna.Study, spec: StudySpec, error: BaseException) -> TrialRecord:
    asked = next_trial(study, spec)
    assert asked is not None
    return run_and_tell(study, asked, context(spec, error))


def records(study: optuna.Study) -> list[TrialRecord]:
    return [TrialRecord.from_trial(trial) for trial in study.get_trials()]


class Alive:
    """A heartbeat that nobody listens for."""

    def begin(self, trial: optuna.Trial) -> None:
        """See `Heartbeat`."""

    def end(self, trial: optuna.Trial) -> None:
        """See `Heartbeat`."""

    def carrying_out(self, trial: optuna.Trial) -> contextlib.AbstractContextManager[None]:
        """See `Heartbeat`."""
        return contextlib.nullcontext()


def carry_out(study: optuna.Study, spec: StudySpec, *errors: BaseException) -> str:
    """Carries out a study's trials, of which each fails with one of the errors; returns what is said."""
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200), spec.trials)
    carry_out_trials(study, context(spec, *errors), cast("Any", Alive()), progress)
    return out.getvalue()


DIVERGED = TrainingFailureError("DIVERGED", "box_loss is not finite in epoch 2")
FAILURES = [
    (DIVERGED, Outcome.DIVERGED, "box_loss"),
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
    record = attempt(study, spec, error)
    assert record.outcome is outcome
    assert said in record.reason
    assert (record.cost.epochs_trained, record.cost.epochs_reused, record.sparsity_lambda) == (1, 0, 0.1)
    (trial,) = study.trials
    assert trial.state is TrialState.FAIL
    assert trial.values is None
    stored = TrialRecord.from_trial(trial)
    assert replace(stored, worker=None) == record
    assert stored.worker is not None
    assert front(study) == []


def test_the_study_goes_on_after_failures_and_they_count(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=len(FAILURES))
    study = open_study(spec)
    for error, _, _ in FAILURES:
        attempt(study, spec, error)
    assert next_trial(study, spec) is None
    assert [record.outcome for record in records(study)] == [outcome for _, outcome, _ in FAILURES]


def test_an_unknown_error_leaves_its_traceback_in_the_log(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec()
    with caplog.at_level(logging.WARNING, "prunetune.search.trial.run"):
        attempt(open_study(spec), spec, ZeroDivisionError("division by zero"))
    assert "trial 0 failed" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("/disk: the disk is full; free some space")])
def test_an_interrupted_trial_is_given_back_and_taken_up_again(make_spec: MakeSpec, error: BaseException) -> None:
    spec = make_spec(trials=1)
    study = open_study(spec)
    with pytest.raises(type(error)):
        carry_out(study, spec, error)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    (given_back,) = records(study)
    assert given_back.outcome is Outcome.INTERRUPTED
    assert given_back.cost.epochs_trained == 1
    again = next_trial(study, spec)
    assert again is not None
    assert again.recipe == given_back.recipe
    assert again.number == 1


def test_what_attempts_cost_before_a_stage_was_free_counts(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=1)
    study = open_study(spec)
    said = carry_out(study, spec, StageBusyError("sparse-1", "trunk-1"), DIVERGED)
    assert "trial 0: put aside, waiting for sparse-1 on another process" in said
    (record,) = records(study)
    assert (record.outcome, record.cost.epochs_trained) == (Outcome.DIVERGED, 2)


def test_the_line_of_a_failure_says_its_name_and_why(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=1)
    said = carry_out(open_study(spec), spec, DIVERGED)
    assert said.startswith("trial 0 [1/1] DIVERGED (box_loss is not finite in epoch 2)")


def test_every_few_trials_the_study_says_what_remains(make_spec: MakeSpec) -> None:
    spec = make_spec(trials=20, epochs=8)
    said = carry_out(open_study(spec), spec, *8 * [DIVERGED])
    (line,) = [line for line in said.splitlines() if "remain" in line]
    assert line.startswith("about 3 trials, 3 epochs, ")
    assert " (epochs ends it), until " in line


def test_a_trial_sees_those_that_are_complete_or_run_and_its_own_attempts(make_spec: MakeSpec) -> None:
    spec = make_spec()
    study = open_study(spec)
    lost, running = (next_trial(study, spec) for _ in range(2))
    assert lost is not None
    assert running is not None
    decision = RungDecision(3, 9, (0.5, 1.0), 0, 1, True, 1)
    StudyPeers(study, lost.trial, spec).publish(TrialRecord(lost.recipe, decisions=(decision,)))
    assert StudyPeers(study, running.trial, spec).records()[0].decisions == (decision,)
    assert [record.decisions for record in StudyPeers(study, lost.trial, spec).earlier_attempts()] == [(decision,)]
    give_trial_back(study, lost.number, "stopped")
    done = TrialRecord(SPLICE, Outcome.OK, networks=(NETWORK,))
    study.add_trial(create_trial(values=[0.5, 1.0], user_attrs=done.to_attrs()))

    again = next_trial(study, spec)
    assert again is not None
    peers = StudyPeers(study, again.trial, spec)
    assert set(peers.records()) == {running.number, 2}, "what was given back is no peer"
    assert peers.records()[2] == done
    mine, before = peers.earlier_attempts()
    assert (mine.recipe, before.decisions) == (lost.recipe, (decision,))
    with pytest.raises(TrialLostError):
        StudyPeers(study, lost.trial, spec).publish(before)


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

    def swallow(study: optuna.Study, asked: AskedTrial, context: TrialContext) -> TrialRecord:
        taken.append(asked.number)
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        record = TrialRecord(asked.recipe, Outcome.ERROR)
        tell(study, asked.trial, record, context)
        return record

    prepared = context(spec)
    monkeypatch.setattr(engine, "check", lambda *_: None)
    monkeypatch.setattr(engine, "prepare_context", lambda *_: prepared)
    monkeypatch.setattr(engine, "_train_original", lambda *_: None)
    monkeypatch.setattr(local_engine, "run_and_tell", swallow)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        runner.run_study(spec, Console(file=io.StringIO()))
    assert taken == [0]
    assert signal.getsignal(signal.SIGINT) is before


def test_attempts_lie_before_a_trial_whatever_an_attribute_says() -> None:
    told = [None, 0, 1, 99, 3, -1, 7, 6]
    trials = [
        create_trial(state=TrialState.FAIL, user_attrs=TrialRecord(retry_of=before).to_attrs()) for before in told
    ]
    assert [attempts_before(trials, number) for number in range(8)] == [
        set(), {0}, {0, 1}, set(), {3}, set(), set(), {6}
    ]  # fmt: skip
