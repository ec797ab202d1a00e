"""What happens to a recipe, without Optuna: steps of a real tiny pipeline in, a record out."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning.pipeline import Pipeline, Step
from prunetune.pruning.stages.lease import StageBusyError
from prunetune.pruning.training.values import TrainingFailureError
from prunetune.pruning.yolo.detector import Detector
from prunetune.results.findings.histories import read_curves
from prunetune.results.record import RungDecision, TrialRecord
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.engine import prepare
from prunetune.search.latency.meter import LatencyMeter
from prunetune.search.study.study_spec import EarlyStopping, StudySpec
from prunetune.search.trial import TrialContext, run_trial
from prunetune.spaces import Deployment, MeasurementError, Outcome, Recipe, StoreError, Threshold
from prunetune.targets import NormalizedLatency

pytestmark = pytest.mark.slow

RECIPE = Recipe(0.3, 1, Threshold.everywhere(2.0), recovery_epochs=3)
RUNG = EarlyStopping(reduction=2, rungs=1)
"""A recovery of three epochs is judged after two of them."""


@dataclass
class Others:
    """The peers of a trial: records that are known beforehand, and all that it shows them."""

    known: Mapping[int, TrialRecord] = field(default_factory=dict)
    attempts: Sequence[TrialRecord] = ()
    published: list[TrialRecord] = field(default_factory=list)

    def records(self) -> Mapping[int, TrialRecord]:
        """See `Peers`."""
        return self.known

    def earlier_attempts(self) -> Sequence[TrialRecord]:
        """See `Peers`."""
        return self.attempts

    def publish(self, record: TrialRecord) -> None:
        """See `Peers`."""
        self.published.append(record)


class FailingPipeline:
    """A pipeline that fails after some steps."""

    def __init__(self, pipeline: Pipeline, after: int, error: BaseException) -> None:
        self._pipeline, self._after, self._error = pipeline, after, error

    def run(self, recipe: Recipe, rungs: Collection[int] = ()) -> Iterator[Step]:
        """See `Pipeline`."""
        yield from islice(self._pipeline.run(recipe, rungs), self._after)
        raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


class RefusingMeter:
    """A meter whose target gives no latency for the first network."""

    def __init__(self, meter: LatencyMeter) -> None:
        self.targets, self.networks, self._meter, self._refused = meter.targets, meter.networks, meter, False

    def normalized(self, detector: Detector, deployment: Deployment) -> dict[str, NormalizedLatency]:
        """See `LatencyMeter`."""
        if not self._refused:
            self._refused = True
            raise MeasurementError("target 'cpu': no answer")
        return self._meter.normalized(detector, deployment)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, shapes: Path, tiny: dict[str, Any]) -> TrialContext:
    changes = {"runs": str(tmp_path_factory.mktemp("runs")), "data": str(shapes), "early_stopping": False}
    spec = StudySpec.parse({**tiny, **changes, "budget": {"latency": "<= 100 x dense"}})
    return prepare(spec, Progress(None, spec.trials))[1]


@pytest.fixture
def context(prepared: TrialContext, request: pytest.FixtureRequest) -> Callable[..., TrialContext]:
    """Makes the context of a trial: all share the stages, none knows the others."""

    def make(
        peers: Others | None = None,
        early_stopping: EarlyStopping | bool = False,
        budget: str | None = None,
        error: tuple[int, BaseException] | None = None,
    ) -> TrialContext:
        made = prepared.for_trial(next(numbers), peers or Others())
        made = replace(made, spec=made.spec.model_copy(update={"early_stopping": early_stopping}))
        if budget is not None:
            targets = tuple(replace(target, budget_text=budget) for target in made.meter.targets)
            made = replace(made, meter=LatencyMeter(targets, made.meter.networks))
        if error is not None:
            failing: Any = FailingPipeline(made.pipeline, *error)
            made = replace(made, pipeline=failing)
        return made

    numbers = iter(range(9))
    return make


def kinds(record: TrialRecord) -> list[str]:
    return [use.kind for use in record.cost.stages]


def ahead(rung: int, epochs: int, round_number: int | None = None) -> dict[int, TrialRecord]:
    """Two trials that nobody catches up with at a rung."""
    decisions = [
        RungDecision(rung, epochs, (0.99, 1e-3 + place * 1e-6), 0, 1, True, round_number) for place in range(2)
    ]
    return {10 + place: TrialRecord(RECIPE, decisions=(decision,)) for place, decision in enumerate(decisions)}


def test_over_the_budget_it_ends_right_after_surgery(context: Callable[..., TrialContext]) -> None:
    it = context(budget="<= 0.001 x dense")
    record = run_trial(RECIPE, it)
    assert record.outcome is Outcome.OVER_BUDGET
    assert record.reason.endswith(" % over the budget")
    assert kinds(record) == ["sparse", "pruning"], "no recovery is paid"
    (network,) = record.networks
    assert not network.recovered
    assert network.surgery == network.stage == record.cost.stages[-1].digest
    assert (network.figures.violation or 0) > 0
    assert network.files.checkpoint is None
    assert record.rung == 0
    assert record.gammas is not None
    assert {row["round"] for row in json.loads((it.folder / record.gammas).read_text())} == {1}
    again = run_trial(RECIPE, context(Others({4: record}), budget="<= 0.001 x dense"))
    assert (again.outcome, again.duplicate_of, again.latency_from) == (Outcome.OVER_BUDGET, 4, None)
    within = run_trial(replace(RECIPE, recovery_epochs=0), context(Others({4: record})))
    assert (within.outcome, within.duplicate_of, within.latency_from) == (Outcome.OK, None, 4)


def test_what_is_stopped_at_a_rung_goes_on_from_there(context: Callable[..., TrialContext]) -> None:
    recipe, others = replace(RECIPE, recovery_lr=0.5), Others(ahead(1, 2))
    it = context(others, RUNG)
    stopped = run_trial(recipe, it)
    assert stopped.outcome is Outcome.STOPPED_EARLY
    assert stopped.reason == "after 2 epochs of recovery not among the best: 2 of 3 are ahead"
    assert (stopped.rung, [decision.goes_on for decision in stopped.decisions]) == (1, [False])
    assert others.published[-1].outcome is None
    (network,) = stopped.networks
    assert not network.recovered
    assert it.values(network) == stopped.decisions[0].values
    assert (stopped.cost.stages[-1].kind, stopped.cost.stages[-1].trained) == ("recovery", 2)
    curve = read_curves(stopped, it.folder)[1]
    assert len(curve) == 2

    it = context(early_stopping=RUNG)
    whole = run_trial(recipe, it)
    assert whole.outcome is Outcome.OK
    uses = [use for use in whole.cost.stages if use.kind == "recovery"]
    assert (sum(use.trained for use in uses), sum(use.reused for use in uses)) == (1, 2)
    assert read_curves(whole, it.folder)[1][:2] == curve
    assert whole.network is not None
    assert (whole.network.recovered, whole.network.round, whole.network.surgery) == (True, 1, network.surgery)

    free = run_trial(recipe, context(Others(ahead(1, 2)), RUNG))
    assert free.outcome is Outcome.OK, "its whole recovery is stored: going on costs nothing"
    assert [decision.goes_on for decision in free.decisions] == [False]


def test_an_equal_network_is_taken_over(context: Callable[..., TrialContext]) -> None:
    first = run_trial(RECIPE, context())
    assert (first.outcome, kinds(first)) == (Outcome.OK, ["sparse", "pruning", "recovery"])
    it = context(Others({3: first, **ahead(1, 2)}), RUNG)
    record = run_trial(replace(RECIPE, threshold=Threshold.everywhere(2.0 + 1e-9)), it)
    assert (record.outcome, record.duplicate_of, record.latency_from) == (Outcome.OK, 3, None)
    assert record.decisions == (), "it is judged nowhere"
    assert [replace(use, trained=0, reused=0) for use in record.cost.stages] == [
        replace(use, trained=0, reused=0, was_stored=True) for use in first.cost.stages
    ]
    assert (record.cost.epochs_trained, record.cost.epochs_reused) == (0, 4)
    (mine,), (theirs,) = record.networks, first.networks
    assert replace(mine, files=theirs.files) == theirs
    assert mine.files.checkpoint == f"candidates/{it.name}.pt"
    assert record.curves != first.curves
    assert read_curves(record, it.folder) == read_curves(first, it.folder)

    (it.folder / (theirs.files.checkpoint or "")).unlink()
    again = run_trial(RECIPE, context(Others({3: first})))
    assert (again.outcome, again.duplicate_of) == (Outcome.OK, 3)
    assert again.network is not None
    assert (it.folder / (again.network.files.checkpoint or "")).is_file(), "it is made again"


def test_each_round_is_a_network_that_the_others_see(context: Callable[..., TrialContext]) -> None:
    others, recipe = Others(), replace(RECIPE, rounds=2)
    it = context(others)
    record = run_trial(recipe, it)
    assert (record.outcome, record.reason) == (Outcome.OK, "")
    assert kinds(record) == 2 * ["sparse", "pruning", "recovery"]
    assert [(network.round, network.recovered) for network in record.networks] == [(1, True), (2, True)]
    ends = [use.digest for use in record.cost.stages]
    assert [(network.surgery, network.stage) for network in record.networks] == [(ends[1], ends[2]), (ends[4], ends[5])]
    checkpoints = [network.files.checkpoint for network in record.networks]
    assert checkpoints == [f"candidates/{it.name}-round-1.pt", f"candidates/{it.name}.pt"]
    for network in record.networks:
        kept = Detector.load(it.folder / (network.files.checkpoint or ""))
        assert kept.channels.as_dict() == network.figures.channels
    assert {shown.outcome for shown in others.published} == {None}
    assert others.published[-1].networks == record.networks[:1]
    curves = read_curves(record, it.folder)
    assert {number: len(curve) for number, curve in curves.items()} == {1: 3, 2: 3}

    it = context(Others({2: record}))
    short = run_trial(RECIPE, it)
    assert (short.outcome, short.duplicate_of) == (Outcome.OK, 2)
    assert short.network is not None
    assert short.network.accuracy == record.networks[0].accuracy
    assert short.cost.epochs_trained == 0
    assert read_curves(short, it.folder) == {1: curves[1]}
    same = run_trial(replace(recipe, threshold=Threshold.everywhere(2.0 + 1e-9)), context(Others({2: record})))
    assert [network.stage for network in same.networks] == [network.stage for network in record.networks]

    bare = replace(record, networks=())
    far = context(Others({5: bare, **ahead(2, 3, 1)}), RUNG)
    assert run_trial(recipe, far).outcome is Outcome.OK, "decisions of others say nothing of their rounds' networks"


def test_a_round_far_behind_is_the_last(context: Callable[..., TrialContext]) -> None:
    recipe = replace(RECIPE, rounds=2)
    whole = run_trial(recipe, context())
    assert whole.network is not None
    best = {
        10 + place: replace(
            whole,
            networks=(
                replace(
                    whole.network,
                    stage=f"recovery-{place}",
                    surgery="",
                    accuracy=replace(whole.network.accuracy, map50_95=0.99),
                    figures=replace(
                        whole.network.figures,
                        channels={},
                        latencies={
                            name: replace(latency, ms=1e-3 + place * 1e-6)
                            for name, latency in whole.network.figures.latencies.items()
                        },
                    ),
                ),
            ),
        )
        for place in range(3)
    }
    others = Others(best)
    ended = run_trial(recipe, context(others, RUNG))
    assert ended.outcome is Outcome.STOPPED_EARLY
    assert ended.reason == "after round 1 not among the best: 3 of 4 are ahead"
    (network,) = ended.networks
    assert (network.round, network.recovered, ended.rung) == (1, True, 2)
    assert [(item.round, item.rung, item.goes_on) for item in ended.decisions] == [(1, 2, False)]

    before = TrialRecord(recipe, decisions=(replace(ended.decisions[0], goes_on=True),))
    again = run_trial(recipe, context(Others(best, [before]), RUNG))
    assert [network.round for network in again.networks] == [1, 2], "what an earlier attempt decided stands"
    assert again.decisions[0] == before.decisions[0]


def test_a_diverged_training_leaves_the_rounds_before_it(context: Callable[..., TrialContext]) -> None:
    recipe = replace(RECIPE, rounds=2)
    record = run_trial(recipe, context(error=(2, TrainingFailureError("DIVERGED", "box_loss is not finite"))))
    assert (record.outcome, record.reason) == (Outcome.DIVERGED, "box_loss is not finite")
    (network,) = record.networks
    assert (network.round, network.is_candidate) == (1, True)
    assert kinds(record) == ["sparse", "pruning", "recovery"]
    assert record.gammas is not None
    assert record.curves is not None


def test_a_full_disk_says_nothing_of_a_recipe(context: Callable[..., TrialContext]) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/scratch")
    with pytest.raises(StoreError, match=r"/tmp/scratch: the disk is full"):
        run_trial(RECIPE, context(error=(1, full)))
    record = run_trial(RECIPE, context(error=(1, OSError(errno.EIO, "Input/output error"))))
    assert record.outcome is Outcome.ERROR


def test_a_round_that_cannot_be_measured_is_no_network(context: Callable[..., TrialContext]) -> None:
    it = context()
    meter: Any = RefusingMeter(it.meter)
    record = run_trial(replace(RECIPE, rounds=2), replace(it, meter=meter))
    assert record.outcome is Outcome.OK
    assert [network.round for network in record.networks] == [2]


def test_the_costs_of_attempts_add_up(context: Callable[..., TrialContext]) -> None:
    recipe = replace(RECIPE, sparsity=0.7, recovery_epochs=2)
    it = context(error=(1, StageBusyError("recovery-1", "trunk-1")))
    began = it.cost_meter.reading()
    with pytest.raises(StageBusyError):
        run_trial(recipe, it)
    spent = it.cost_meter.reading() - began
    assert [(use.kind, use.trained) for use in spent.stages] == [("sparse", 1), ("pruning", 0)]
    record = run_trial(recipe, context())
    assert record.cost.epochs_trained == 2
    both = spent.then(record.cost)
    assert [(use.kind, use.trained, use.reused) for use in both.stages] == [
        ("sparse", 1, 0),
        ("pruning", 0, 0),
        ("recovery", 2, 0),
    ], "each stage once, as it was made"
    assert both.total_s == pytest.approx(spent.total_s + record.cost.total_s)
    assert min(record.cost.seconds.values()) > 0
