"""A round that is not a recipe's last: a candidate of the study at no further cost, or the end of the trial."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from prunetune.pruning.detector import Detector
from prunetune.pruning.training import Accuracy
from prunetune.results import Findings
from prunetune.results.entries import ROUND_OF, ROUNDS_ASKED, is_asked_for, recipe_text, round_of
from prunetune.results.headline import summary
from prunetune.results.notes import trial_note
from prunetune.results.recoveries import decisions, last_curve
from prunetune.search.bundle import Forms, _space_of, export_bundle
from prunetune.search.design import first_recipe
from prunetune.search.equal_networks import EqualNetworks
from prunetune.search.interruption import StopAskedError
from prunetune.search.limits import spent
from prunetune.search.objective import carry_out
from prunetune.search.outcome import Outcome, TrialResult
from prunetune.search.progress import Progress
from prunetune.search.rounds import take_params
from prunetune.search.rungs import RUNGS, UNFINISHED, TrialRungs
from prunetune.search.samplers import next_sampler
from prunetune.search.search_trials import searched
from prunetune.search.spec import EarlyStopping, StudySpec
from prunetune.search.status import study_status, write_status
from prunetune.search.study import open_study
from prunetune.search.taking import give_trial_back, next_trial
from prunetune.search.telling import tell_progress
from prunetune.search.workspace import Workspace
from prunetune.spaces import ConfigError, LatencyShare, Recipe, SearchSpace, Threshold

MakeSpec = Callable[..., StudySpec]

ONCE = {"sparsity": 0.3, "sparse_epochs": 1, "recovery_epochs": 1}
SPACE = {**ONCE, "threshold": {"low": 0.0, "high": 3.0}, "rounds": {"low": 1, "high": 2}}
WIDE = {"budget": {"latency": "<= 100 x dense"}}
"""What every network keeps."""


class Bench:
    """A study in a data base, whose trials are carried out one by one."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec, self.study = spec, open_study(spec)
        self.workspace = self.new_workspace()

    def new_workspace(self) -> Workspace:
        """As a new process makes it."""
        self.workspace = Workspace(self.spec)
        self.workspace.prepare(self.study)
        self.workspace.pipeline.original()
        return self.workspace

    def carry_out(self, **params: Any) -> TrialResult:
        """Carries out the next trial: one of these parameters, or whatever comes next."""
        if params:
            self.study.enqueue_trial(params)
        claim = next_trial(self.study, self.spec)
        assert claim is not None
        try:
            return carry_out(self.study, claim.trial, claim.recipe, self.workspace)
        except StopAskedError:
            give_trial_back(self.study, claim.trial.number, "stopped", ledger=claim.ledger)
            raise

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials."""
        return self.study.get_trials()


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


# A trial of its own


@pytest.mark.slow
def test_a_round_on_the_way_is_a_trial(bench: Callable[..., Bench]) -> None:
    it = bench(early_stopping=True)
    result = it.carry_out(threshold=2.0, rounds=2)
    whole, first = it.trials
    assert result.outcome is Outcome.OK
    assert (whole.number, first.number, first.state) == (0, 1, TrialState.COMPLETE)
    assert round_of(first) == 0
    assert round_of(whole) is None
    assert first.params == {"threshold": 2.0, "rounds": 1}
    assert first.distributions == whole.distributions
    told = first.user_attrs
    assert Recipe.from_dict(told["recipe"]) == it.spec.space.recipe(first.params)
    assert first.values == [told["accuracy"]["map50_95"], told["latencies"]["cpu"]["latency_ms"]]
    assert first.constraints == {"latency": told["violation"], UNFINISHED: 0.0}
    assert (told["outcome"], told["feasible"], told["rung"], told["reason"]) == ("OK", True, 1, "")
    assert set(whole.user_attrs) - set(told) <= {"epochs", "seconds", RUNGS, "latency_from"}, "all that a trial has"
    kinds = [stage["kind"] for stage in told["stages"]]
    assert kinds == ["sparse", "pruning", "recovery"]
    assert told["stages"] == whole.user_attrs["stages"][:3]
    stage = it.workspace.store.find(told["stages"][-1]["digest"])
    assert stage is not None
    assert told["accuracy"] == stage.record["accuracy"]
    kept = Detector.load(it.spec.folder / told["checkpoint"])
    assert kept.channels.as_dict() == told["channels"] == stage.record["channels"]
    assert told["checkpoint"] == "candidates/trial-1.pt"
    assert len(last_curve(first, it.spec.folder)) == 1

    # It is no trial of the budget, and costs nothing
    spending = spent(it.trials, time.time())
    assert (spending.begun, spending.epochs) == (1, whole.user_attrs["epochs"]["trained"])
    assert sum(whole.user_attrs["epochs"].values()) == 4
    assert [trial.number for trial in it.trials if is_asked_for(trial)] == [0]
    assert recipe_text(Findings.of(it.study).entry(first).recipe).endswith("recover 1, round 1 of trial 0")

    # It is told
    console = Console(file=(said := io.StringIO()), width=200)
    tell_progress(it.study, it.spec, result, Progress(console, it.spec.trials))
    assert said.getvalue().splitlines()[1].startswith("trial 1, round 1 of trial 0: OK  map50_95 ")
    status = study_status(it.study, it.spec.folder)
    assert (status["finished"], status["outcomes"], status["rounds"]) == (1, {"OK": 1}, 1)
    write_status(status, console)
    assert "1 of 8 trials (1 OK), and 1 earlier round" in said.getvalue()
    assert summary(Findings.of(it.study)).searched.startswith("1 trial and 1 earlier round over threshold, rounds;")
    notes = [trial_note(Findings.of(it.study), trial, "#{}".format) for trial in it.trials]
    assert "on its way to [trial 1](#1)" in notes[0]
    assert "the network of [trial 0](#0) after one of its rounds" in notes[1]

    # Whoever asks for it is told that, too
    again = it.carry_out(threshold=2.0, rounds=1)
    assert again.attributes["equals"] == 1
    assert again.attributes["accuracy"] == told["accuracy"]
    assert again.attributes["epochs"] == {"trained": 0, "reused": 2}
    assert len(it.trials) == 3


@pytest.mark.slow
def test_it_appears_once(bench: Callable[..., Bench], storage: str, tmp_path: Path) -> None:
    it = bench(storage=storage, runs=str(tmp_path))
    stops = [False]

    def stop() -> None:
        if any(round_of(trial) is not None for trial in it.trials):
            stops[0] = True
            raise StopAskedError

    it.workspace.safe_point = stop
    with pytest.raises(StopAskedError):
        it.carry_out(threshold=2.0, rounds=2)
    assert stops[0]
    assert [trial.state.name for trial in it.trials] == ["FAIL", "COMPLETE", "WAITING"]

    it.new_workspace()  # another process
    result = it.carry_out()
    assert (result.number, result.outcome) == (2, Outcome.OK)
    assert [round_of(trial) for trial in it.trials] == [None, 0, None]
    assert it.trials[2].user_attrs["retry_of"] == 0
    assert spent(it.trials, time.time()).begun == 1

    it.carry_out(threshold=2.0 + 1e-9, rounds=2)  # another recipe, the same networks
    assert [round_of(trial) for trial in it.trials] == [None, 0, None, None]

    it.carry_out(threshold=0.0, rounds=1)
    it.carry_out(threshold=0.0, rounds=2)  # begins with the network of the one before
    assert [round_of(trial) for trial in it.trials[4:]] == [None, None]
    assert it.trials[5].user_attrs["recipe"]["rounds"] == 2, "without early stopping all rounds are done"


@pytest.mark.slow
def test_on_the_way_to_a_latency_rounds_may_be_over_the_budget(bench: Callable[..., Bench], tmp_path: Path) -> None:
    space = {**ONCE, "latency": {"low": 0.5, "high": 1.0}, "rounds": {"low": 1, "high": 2}}
    it = bench(space=space, budget={"latency": "<= 0.6 x dense"})
    it.carry_out(latency=0.9, rounds=2)
    whole, first = it.trials
    told = first.user_attrs
    assert first.params == {}, "a share of 1.22 is not in the space"
    share = Recipe.from_dict(told["recipe"]).threshold
    assert isinstance(share, LatencyShare)
    assert share.share == pytest.approx((0.9 / 0.6) ** 0.5)
    assert len(told["threshold_found"]) == 1
    assert first.constraints == {"latency": told["violation"]}
    assert told["rung"] == 1
    assert searched(it.trials) == [whole]
    is_over = told["violation"] > 0  # which it should be, but for the noise of six runs
    assert told["outcome"] == ("OVER_BUDGET" if is_over else "OK")
    assert ("over the budget" in told["reason"]) == is_over
    if is_over:
        bundle = export_bundle(it.study, it.spec.folder, "1", tmp_path / "bundle", Forms())
        commands = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["commands"]
        assert len(commands) == 2, "alone it would not be recovered: the whole study makes it, or nothing"


# The end of the trial


@pytest.mark.slow
def test_a_round_that_removes_nothing_is_the_last(bench: Callable[..., Bench]) -> None:
    it = bench(early_stopping=True)
    result = it.carry_out(threshold=0.0, rounds=2)
    (trial,) = it.trials
    assert result.outcome is Outcome.OK
    assert result.recipe.rounds == 1
    assert trial.params == {"threshold": 0.0, "rounds": 1}, "samplers learn what was done"
    told = trial.user_attrs
    assert Recipe.from_dict(told["recipe"]) == it.spec.space.recipe(trial.params)
    assert told["reason"] == "after round 1 of 2: it removed nothing"
    assert told[ROUNDS_ASKED] == 2
    assert sum(told["epochs"].values()) == 2
    assert trial.constraints is not None
    assert trial.constraints[UNFINISHED] == 0.0
    assert (it.spec.folder / told["checkpoint"]).is_file()
    assert recipe_text(Findings.of(it.study).entry(trial).recipe).endswith("recover 1, the first of 2 rounds")
    assert [item.trial for item in Findings.of(it.study).front] == [0]

    it.carry_out(threshold=0.0, rounds=1)
    assert it.trials[1].user_attrs["equals"] == 0


@pytest.mark.slow
def test_what_the_space_has_not_is_told_as_unfinished(bench: Callable[..., Bench]) -> None:
    it = bench(space={**ONCE, "threshold": {"low": 0.0, "high": 3.0}, "rounds": 2}, early_stopping=True)
    it.carry_out(threshold=0.0)
    (trial,) = it.trials
    assert (trial.params, trial.user_attrs["recipe"]["rounds"]) == ({"threshold": 0.0}, 1)
    assert trial.constraints is not None
    assert trial.constraints[UNFINISHED] == 1.0


@pytest.mark.slow
def test_a_latency_that_is_met_ends_the_rounds(bench: Callable[..., Bench]) -> None:
    space = {**ONCE, "latency": {"low": 0.05, "high": 1.0}, "rounds": {"low": 1, "high": 2}}
    it = bench(space=space, early_stopping=True)
    it.carry_out(latency=1.0, rounds=2)
    (trial,) = it.trials
    assert trial.user_attrs["reason"] == "after round 1 of 2: its latency is met"
    assert trial.params == {"latency": pytest.approx(0.1), "rounds": 1}


@pytest.mark.slow
def test_a_round_far_behind_is_the_last(bench: Callable[..., Bench]) -> None:
    it = bench(early_stopping={"reduction": 2})
    for number in range(3):
        told = {"outcome": "OK", "rung": 1, "feasible": True, "stages": [{"kind": "recovery", "digest": f"{number}"}]}
        it.study.add_trial(create_trial(values=[0.99, 1e-3 + number * 1e-6], user_attrs={"splice": SPLICED, **told}))
    it.carry_out(threshold=2.0, rounds=2)
    trial = it.trials[3]
    assert len(it.trials) == 4, "its network is the trial's, and not one more"
    assert trial.user_attrs["outcome"] == "OK"
    assert trial.user_attrs["reason"] == "after round 1 not among the best: 3 of 4 are ahead"
    assert trial.params["rounds"] == 1
    (told,) = trial.user_attrs[RUNGS]
    assert (told["round"], told["rung"], told["goes_on"]) == (1, 2, False)
    assert [item.round for item in decisions(trial)] == [1]
    assert spent(it.trials, time.time()).begun == 1


@pytest.mark.slow
def test_an_attempt_goes_on_where_an_earlier_one_did(bench: Callable[..., Bench], tmp_path: Path) -> None:
    it = bench(early_stopping={"reduction": 2}, runs=str(tmp_path))

    def stop() -> None:
        if any(round_of(trial) is not None for trial in it.trials):
            raise StopAskedError

    it.workspace.safe_point = stop
    with pytest.raises(StopAskedError):
        it.carry_out(threshold=2.0, rounds=2)
    for number in range(3):
        told = {"outcome": "OK", "rung": 1, "feasible": True, "stages": [{"kind": "recovery", "digest": f"{number}"}]}
        it.study.add_trial(create_trial(values=[0.99, 1e-3 + number * 1e-6], user_attrs={"splice": SPLICED, **told}))
    it.new_workspace()
    result = it.carry_out()
    trial = it.trials[result.number]
    assert trial.user_attrs["retry_of"] == 0
    assert "after round 1" not in trial.user_attrs["reason"], "the round was judged before, and begun work is not lost"
    assert [stage["kind"] for stage in trial.user_attrs["stages"]].count("sparse") == 2
    assert next(item.round for item in decisions(trial)) == 1
    console = Console(file=(said := io.StringIO()), width=200)
    tell_progress(it.study, it.spec, result, Progress(console, it.spec.trials))
    assert "trial 1, round 1 of trial 2: OK" in said.getvalue(), "trial 0, which added it, did not live to say so"


@pytest.mark.slow
def test_a_latency_that_nothing_leads_to_costs_no_recovery(bench: Callable[..., Bench]) -> None:
    space = {**ONCE, "latency": {"low": 0.05, "high": 1.0}, "rounds": {"low": 1, "high": 3}, "floor": 0.99}
    it = bench(space=space, budget={"latency": "<= 1.5 x dense"})
    result = it.carry_out(latency=0.2, rounds=3)
    (trial,) = it.trials
    assert result.outcome is Outcome.OVER_BUDGET
    assert trial.user_attrs["reason"].startswith("no pruning meets 0.2 of the budget")
    assert [stage["kind"] for stage in trial.user_attrs["stages"]] == ["sparse", "pruning"]
    assert trial.constraints is not None
    assert trial.constraints["latency"] > 1
    assert "equals" not in trial.user_attrs

    it.carry_out(latency=1.0, rounds=1)
    again = it.carry_out(latency=0.3, rounds=1)
    assert again.outcome is Outcome.OVER_BUDGET
    assert "equals" not in again.attributes, "that network was not asked for so little"


def test_a_round_that_misses_its_goal_is_no_recipe_of_the_space(make_spec: MakeSpec) -> None:
    spec = make_spec(space={**ONCE, "latency": {"low": 0.2, "high": 1.0}, "rounds": {"low": 1, "high": 2}})
    study = optuna.create_study(directions=["maximize", "minimize"])
    trial = study.ask()
    recipe = spec.space.suggest(trial)
    assert isinstance(recipe.threshold, LatencyShare)
    goal = 0.5
    stored = {"recipe": {**recipe.as_dict(), "rounds": 1, "latency": goal}}
    assert not take_params(trial, {**stored, "violation": 0.6 - 1})
    assert take_params(trial, {**stored, "violation": 0.51 - 1}), "rounds on the way are not found to a percent"
    assert study.trials[0].params["latency"] == goal


SPLICED = {"backbone_from": "0", "head_from": "dense", "recovery_epochs": 1}


def recovered(values: list[float], digest: str, **told: Any) -> FrozenTrial:
    attributes = {"outcome": "OK", "rung": 1, "stages": [{"kind": "recovery", "digest": digest}], **told}
    return create_trial(values=values, user_attrs=attributes)


def test_rounds_are_compared_with_recovered_networks_of_others() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(2):
        study.add_trial(recovered([0.9, 1.0], f"{number}"))
    study.add_trial(recovered([0.9, 1.0], "own"))
    study.add_trial(recovered([0.9, 1.0], "slow", outcome="OVER_BUDGET"))
    study.add_trial(recovered([0.9, 1.0], "raw", outcome="OVER_BUDGET", rung=0))
    study.add_trial(recovered([0.9, 1.0], "stopped", outcome="STOPPED_EARLY"))
    recipe = Recipe(0.3, 1, Threshold.everywhere(0.5), rounds=3, recovery_epochs=9)
    rungs = TrialRungs(study, study.ask(), recipe, EarlyStopping(reduction=3, rungs=2))
    assert not rungs.after_round(1, (0.5, 2.0), {"own"})
    assert rungs.after_round(2, (0.5, 0.5), {"own"}), "nobody dominates it"
    first, second = rungs.decisions
    assert (first.reached, first.ahead, first.round, first.rung) == (4, 3, 1, 3)
    assert first.reason == "after round 1 not among the best: 3 of 4 are ahead"
    assert second.round == 2
    assert TrialRungs(study, study.ask(), recipe, None).after_round(1, (0.0, 9.0), set())
    within = TrialRungs(study, study.ask(), recipe, EarlyStopping(reduction=3, rungs=2, recalibrated=True))
    within.after_surgery(Accuracy(0.1, 0.1, 0.1, 0.1, 0.1), [1.0])
    assert within.decisions[0].reached == 1, "other rungs do not see it"
    assert "round" not in within.decisions[0].as_dict()


def test_a_round_is_judged_once_whoever_takes_the_recipe_up() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    recipe = Recipe(0.3, 1, Threshold.everywhere(0.5), rounds=3, recovery_epochs=9)
    lost = study.ask()
    settings = EarlyStopping(reduction=3, rungs=2)
    before = TrialRungs(study, lost, recipe, settings)
    assert before.after_round(1, (0.5, 1.0), set())
    for number in range(5):
        study.add_trial(recovered([0.9, 0.5], f"{number}"))
    assert not before.after_round(2, (0.5, 1.0), set())

    again = study.ask()
    again.set_user_attr("retry_of", lost.number)
    for trial in (study.ask(), again, lost):
        rungs = TrialRungs(study, trial, recipe, settings)
        assert rungs.after_round(1, (0.5, 1.0), set()) == (trial in (again, lost))
        assert not rungs.after_round(2, (0.5, 1.0), set())
    first, new = (study.trials[number].user_attrs[RUNGS] for number in (lost.number, again.number))
    assert new == first, "what was decided stands with both"


# Those who look at it


def a_study(spec: StudySpec, **told: Any) -> optuna.Study:
    """Six trials of the search, and one like the last of them with further attributes."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    distributions = {"threshold": FloatDistribution(0.0, 3.0), "rounds": IntDistribution(1, 2)}
    for number in range(7):
        params = {"threshold": 0.3 * number, "rounds": 1 + number % 2}
        attributes = {"outcome": "OK", "epochs": {"trained": 2, "reused": 0}, **(told if number == 6 else {})}
        study.add_trial(
            create_trial(params=params, distributions=distributions, values=[0.1 * number, 2.0], user_attrs=attributes)
        )
    return study


def test_samplers_learn_from_it_and_the_design_goes_on(make_spec: MakeSpec) -> None:
    spec = make_spec(space=SPACE, sampler="cost-aware", trials=30)
    trials = a_study(spec, round_of=3).get_trials()
    assert len(searched(trials)) == 7
    assert spent(trials, time.time()).begun == 6
    study = a_study(spec, round_of=3)
    study.sampler = next_sampler(spec, trials)
    trial = study.ask()
    recipe = spec.space.suggest(trial)
    assert recipe == spec.space.recipe(first_recipe(spec.space, spec.seed, 6)), "the seventh of the design"


@pytest.mark.parametrize("name", ["cost-aware", "tpe", "gp", "nsga2", "nsga3", "random"])
def test_every_sampler_goes_on_beside_rounds(name: str, make_spec: MakeSpec) -> None:
    spec = make_spec(space=SPACE, sampler=name, trials=12)
    study = a_study(spec, round_of=3)
    study.add_trial(recovered([0.9, 1.0], "outside", round_of=3))
    study.sampler = next_sampler(spec, study.get_trials())
    trial = study.ask()
    spec.space.suggest(trial)
    assert set(trial.params) == {"threshold", "rounds"}


def test_equal_surgeries_recovered_otherwise_are_not_equal() -> None:
    recipe = Recipe(0.3, 1, Threshold.everywhere(0.5), recovery_epochs=3)
    told = {
        "outcome": "OK",
        "rung": 1,
        "recipe": recipe.as_dict(),
        "channels": {"a": 8},
        "latencies": {"cpu": {"latency_ms": 1.0}},
        "stages": [{"kind": "pruning", "digest": "cut"}, {"kind": "recovery", "digest": "done"}],
    }
    described = {"feasible": True, "channels": {"a": 8}, "latencies": {"cpu": {}}}
    study = optuna.create_study(directions=["maximize"])
    study.add_trial(create_trial(value=0.5, user_attrs=told))
    study.add_trial(create_trial(value=0.5, user_attrs=copy.deepcopy(told) | {"outcome": "OVER_BUDGET", ROUND_OF: 0}))
    networks = EqualNetworks()
    assert networks.known(study.trials, "cut", recipe, described) == {"equals": 0}
    rewound = Recipe(0.3, 1, Threshold.everywhere(0.5), recovery_epochs=3, start="rewind")
    assert networks.known(study.trials, "cut", rewound, described) == {"latency_from": 0}
    over = {**described, "feasible": False}
    assert networks.known(study.trials, "cut", recipe, over) == {"latency_from": 0}, "that one was recovered"
    assert networks.with_stage(study.trials, "done") == 0
    assert networks.with_stage(study.trials, "cut") is None


def test_the_thresholds_that_were_found_make_a_recipe_of_their_own(make_spec: MakeSpec) -> None:
    spec = make_spec(space={**ONCE, "latency": {"low": 0.5, "high": 1.0}, "rounds": 2})
    recipe = spec.space.recipe({"latency": 0.8})
    found = [0.2, {"backbone": 0.3, "head": 0.4}]
    alone = _space_of(recipe, found, spec)
    assert alone is not None
    cuts = SearchSpace.model_validate(alone).recipe({})
    assert (cuts.threshold, cuts.later_thresholds) == (Threshold.everywhere(0.2), (Threshold(0.3, 0.4),))
    assert cuts.rounds == 2


# Refusals


def test_a_rewind_needs_a_dense_training(make_spec: MakeSpec) -> None:
    for start in ("rewind", {"choices": ["current", "rewind"]}):
        with pytest.raises(ConfigError, match=r"space.start: rewind goes back .* give a yaml, or leave rewind out"):
            make_spec(model="best.pt", space={**SPACE, "start": start})
    make_spec(model="best.pt", space={**SPACE, "start": "scratch"})
    make_spec(space={**SPACE, "start": "rewind"})
