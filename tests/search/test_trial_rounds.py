"""Trials of several rounds in a study: what each round leaves is a network of its trial, at no further cost."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial
from rich.console import Console

from prunetune.results import Findings
from prunetune.results.dashboard.notes import trial_note
from prunetune.results.record import TrialRecord
from prunetune.results.tables.headline import summary
from prunetune.search.callbacks.progress import Progress
from prunetune.search.callbacks.telling import tell_progress
from prunetune.search.commands.export import Forms, export_bundle
from prunetune.search.commands.status import study_status, write_status
from prunetune.search.engine import study_setup
from prunetune.search.engine.engine import prepare
from prunetune.search.engine.taking import give_trial_back, next_trial
from prunetune.search.interruption import StopAskedError
from prunetune.search.study.limits import Spent, spent
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import UNFINISHED, run_and_tell
from prunetune.spaces import ConfigError, Outcome

MakeSpec = Callable[..., StudySpec]

ONCE = {"sparsity": 0.3, "sparse_epochs": 1, "recovery_epochs": 1}
SPACE = {**ONCE, "threshold": {"low": 0.0, "high": 3.0}, "rounds": {"low": 1, "high": 2}}
WIDE = {"budget": {"latency": "<= 100 x dense"}}
"""What every network keeps."""


class Bench:
    """A study in a database, whose trials are carried out one by one."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec
        self.study, self.context = prepare(spec, Progress(None, spec.trials))

    def carry_out(self, **params: Any) -> TrialRecord:
        """Carries out the next trial: one of these parameters, or whatever comes next."""
        if params:
            self.study.enqueue_trial(params)
        asked = next_trial(self.study, self.spec)
        assert asked is not None
        began = self.context.cost_meter.reading()
        try:
            return run_and_tell(self.study, asked, self.context)
        except StopAskedError:
            give_trial_back(self.study, asked.number, "stopped", cost=self.context.cost_meter.reading() - began)
            raise

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials."""
        return self.study.get_trials()

    @property
    def found(self) -> Findings:
        """The study as it stands."""
        return Findings.of(self.study)

    @property
    def spent(self) -> Spent:
        """What limits count."""
        return spent([(trial, TrialRecord.from_trial(trial)) for trial in self.trials], time.time())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the studies of this module share their stages."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def bench(make_spec: MakeSpec, shapes: Path, runs: Path, tmp_path: Path) -> Callable[..., Bench]:
    """Makes a study; keyword arguments replace keys."""

    def make(**changes: Any) -> Bench:
        usual = {"name": tmp_path.name, "runs": str(runs), "data": str(shapes), "sampler": "tpe", "trials": 8}
        return Bench(make_spec(**{**usual, "space": SPACE, "early_stopping": False, **WIDE, **changes}))

    return make


# Networks of one trial


@pytest.mark.slow
def test_a_round_on_the_way_is_a_network_of_its_trial(bench: Callable[..., Bench]) -> None:
    it = bench(early_stopping=True)
    record = it.carry_out(threshold=2.0, rounds=2)
    (trial,) = it.trials
    assert (record.outcome, record.reason) == (Outcome.OK, "")
    assert trial.params == {"threshold": 2.0, "rounds": 2}
    assert list(it.found.networks) == ["0.1", "0"]
    first, last = it.found.networks.values()
    assert trial.values == list(it.context.values(last.result))
    assert trial.constraints == {"latency": last.figures.violation, UNFINISHED: 0.0}
    stage = it.context.store.find(first.result.stage)
    assert stage is not None
    assert first.accuracy == stage.accuracy
    assert dict(first.figures.channels) == stage.record["channels"]
    assert {network.name for network in it.found.front} <= {"0", "0.1"}
    assert (it.spent.begun, it.spent.epochs) == (1, record.cost.epochs_trained)
    assert record.cost.epochs_trained + record.cost.epochs_reused == 4

    # It is told
    console = Console(file=(said := io.StringIO()), width=200)
    tell_progress(it.study, it.spec, 0, record, Progress(console, it.spec.trials))
    assert said.getvalue().splitlines()[1].startswith("trial 0, round 1: map50_95 ")
    write_status(study_status(it.study, it.spec.folder), console)
    assert "1 of 8 trials (1 OK), and 1 earlier round" in said.getvalue()
    assert summary(it.found).searched.startswith("1 trial and 1 earlier round over threshold, rounds;")
    assert "| trial 0, round 1 |" in trial_note(it.found, it.found.trials[0])

    # Whoever asks for it is told that, too
    again = it.carry_out(threshold=2.0, rounds=1)
    assert again.duplicate_of == 0
    assert again.network is not None
    assert again.network.accuracy == first.accuracy
    assert (again.cost.epochs_trained, again.cost.epochs_reused) == (0, 2)
    assert list(it.found.networks) == ["0.1", "0", "1"]


@pytest.mark.slow
def test_whoever_takes_a_recipe_up_has_its_rounds(
    bench: Callable[..., Bench], storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"storage": storage, "runs": str(tmp_path)}
    stopped: list[Bench] = []

    def stop() -> None:
        if any(TrialRecord.from_trial(trial).networks for it in stopped for trial in it.trials):
            raise StopAskedError

    with monkeypatch.context() as patch:
        patch.setattr(study_setup, "safe_point", stop)
        it = bench(**options)
    stopped.append(it)
    with pytest.raises(StopAskedError):
        it.carry_out(threshold=2.0, rounds=2)
    assert [trial.state.name for trial in it.trials] == ["FAIL"]
    assert [network.round for network in it.found.records[0].networks] == [1], "it was shown to the others"
    assert it.found.networks == {}

    it = bench(**options)  # another process
    record = it.carry_out()
    assert (record.outcome, it.found.records[1].retry_of) == (Outcome.OK, 0)
    assert list(it.found.networks) == ["1.1", "1"]
    assert it.spent.begun == 1
    assert it.spent.epochs == 4, "no epoch is trained twice"

    same = it.carry_out(threshold=2.0 + 1e-9, rounds=2)  # another recipe, the same networks
    assert same.duplicate_of == 1
    assert list(it.found.networks) == ["1.1", "1", "2.1", "2"]
    assert {network.trial for network in it.found.front} == {1}, "of equal networks the first stands there"

    it.carry_out(threshold=0.0, rounds=1)
    whole = it.carry_out(threshold=0.0, rounds=2)  # begins with the network of the one before
    assert list(it.found.networks)[4:] == ["3", "4.1", "4"]
    assert [use.kind for use in whole.cost.stages].count("sparse") == 2, "without early stopping all rounds are done"


@pytest.mark.slow
def test_on_the_way_to_a_latency_rounds_may_be_over_the_budget(bench: Callable[..., Bench], tmp_path: Path) -> None:
    space = {**ONCE, "latency": {"low": 0.5, "high": 1.0}, "rounds": {"low": 1, "high": 2}}
    it = bench(space=space, budget={"latency": "<= 0.6 x dense"})
    record = it.carry_out(latency=0.9, rounds=2)
    first = it.found.networks["0.1"]
    assert first.result.recovered
    assert len(first.thresholds) == 1
    assert len(record.thresholds) == 2
    if not first.figures.feasible:  # which it should be, but for the noise of six runs
        assert first not in it.found.candidates
        bundle = export_bundle(it.study, it.spec.folder, "0.1", tmp_path / "bundle", Forms())
        commands = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["commands"]
        assert len(commands) == 2, "alone it would not be recovered: the whole study makes it, or nothing"


# The end of the trial


@pytest.mark.slow
def test_a_round_that_removes_nothing_is_the_last(bench: Callable[..., Bench]) -> None:
    it = bench(early_stopping=True)
    record = it.carry_out(threshold=0.0, rounds=2)
    (trial,) = it.trials
    assert (record.outcome, record.reason) == (Outcome.OK, "after round 1 of 2: it removed nothing")
    assert trial.params == {"threshold": 0.0, "rounds": 2}, "what was asked stays"
    assert it.found.records[0].recipe == it.spec.space.recipe(trial.params)
    assert record.cost.epochs_trained + record.cost.epochs_reused == 2
    assert trial.constraints is not None
    assert trial.constraints[UNFINISHED] == 0.0
    (network,) = it.found.front
    assert (network.name, network.title) == ("0.1", "trial 0, round 1")
    assert network.recipe_text.endswith(", after round 1 of 2")
    assert (it.spec.folder / str(network.checkpoint)).is_file()
    assert it.found.last_network(0) == network

    again = it.carry_out(threshold=0.0, rounds=1)
    assert again.duplicate_of == 0


@pytest.mark.slow
def test_a_latency_that_is_met_ends_the_rounds(bench: Callable[..., Bench]) -> None:
    space = {**ONCE, "latency": {"low": 0.05, "high": 1.0}, "rounds": {"low": 1, "high": 2}}
    it = bench(space=space, early_stopping=True)
    record = it.carry_out(latency=1.0, rounds=2)
    assert (record.outcome, record.reason) == (Outcome.OK, "after round 1 of 2: its latency is met")
    assert it.trials[0].params == {"latency": 1.0, "rounds": 2}


@pytest.mark.slow
def test_a_latency_that_nothing_leads_to_costs_no_recovery(bench: Callable[..., Bench]) -> None:
    space = {**ONCE, "latency": {"low": 0.05, "high": 1.0}, "rounds": {"low": 1, "high": 3}, "floor": 0.99}
    it = bench(space=space, budget={"latency": "<= 1.5 x dense"})
    record = it.carry_out(latency=0.2, rounds=3)
    assert record.outcome is Outcome.OVER_BUDGET
    assert record.reason.startswith("no pruning meets 0.2 of the budget")
    assert [use.kind for use in record.cost.stages] == ["sparse", "pruning"]
    (trial,) = it.trials
    assert trial.constraints is not None
    assert trial.constraints["latency"] > 1

    it.carry_out(latency=1.0, rounds=1)
    again = it.carry_out(latency=0.3, rounds=1)
    assert again.outcome is Outcome.OVER_BUDGET
    assert again.duplicate_of is None, "that network was not asked for so little"


# Refusals


def test_a_rewind_needs_a_dense_training(make_spec: MakeSpec) -> None:
    for start in ("rewind", {"choices": ["current", "rewind"]}):
        with pytest.raises(ConfigError, match=r"space.start: rewind goes back .* give a yaml, or leave rewind out"):
            make_spec(model="best.pt", space={**SPACE, "start": start})
    make_spec(model="best.pt", space={**SPACE, "start": "scratch"})
    make_spec(space={**SPACE, "start": "rewind"})
