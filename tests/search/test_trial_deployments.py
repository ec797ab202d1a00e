"""A recipe's input size, and what its networks do at further deployments: real steps of a tiny pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning.yolo.detector import Detector
from prunetune.results.findings.findings import Findings
from prunetune.results.record import NetworkFigures, NetworkResult, StudyRecord, TrialRecord
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.baselines import train_baselines
from prunetune.search.engine.engine import prepare
from prunetune.search.engine.taking import next_trial
from prunetune.search.latency.shares import predicted_ratios
from prunetune.search.study.stored_study import StoredStudy
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial import TrialContext, run_trial
from prunetune.search.trial import deployments as deployments_of_trials
from prunetune.spaces import Accuracy, Deployment, Outcome, Recipe, Threshold
from prunetune.targets import NormalizedLatency

pytestmark = pytest.mark.slow

RECIPE = Recipe(0.3, 1, Threshold.everywhere(2.0), recovery_epochs=1)
LARGE, SMALL = Deployment(96), Deployment(64)


@dataclass
class Others:
    """The peers of a trial: records that are known beforehand."""

    known: Mapping[int, TrialRecord] = field(default_factory=dict)

    def records(self) -> Mapping[int, TrialRecord]:
        """See `Peers`."""
        return self.known

    def earlier_attempts(self) -> Sequence[TrialRecord]:
        """See `Peers`."""
        return ()

    def publish(self, record: TrialRecord) -> None:
        """See `Peers`."""


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path, tiny: dict[str, Any]
) -> tuple[StoredStudy, TrialContext]:
    """A study at 96 px, which deploys at 64 px too."""
    folder = tmp_path_factory.mktemp("runs")
    foreign = folder / "foreign.pt"
    Detector.load("yolov5n.yaml", names=("a", "b", "c")).save(foreign, {}, {"task": "detect", "imgsz": 64})
    spec = StudySpec.parse(
        {
            **tiny,
            "runs": str(folder),
            "data": str(shapes),
            "imgsz": 96,
            "early_stopping": False,
            "budget": {"latency": "<= 100 x dense"},
            "controls": ["dense", str(foreign), "yolov8n.yaml"],
            "space": {"sparsity": 0.3, "sparse_epochs": 1, "threshold": 2.0, "recovery_epochs": 1},
            "trust": True,
        }
    )
    return prepare(spec, Progress(None, spec.trials))


@pytest.fixture
def context(prepared: tuple[StoredStudy, TrialContext]) -> Callable[..., TrialContext]:
    """Makes the context of a trial."""
    numbers = iter(range(9))
    return lambda known=None: prepared[1].for_trial(next(numbers), Others(known or {}))


def deployments(record: TrialRecord) -> list[Deployment]:
    return [network.deployment for network in record.networks]


def rival(map50_95: float, ms: float, memory_mb: float | None = None) -> TrialRecord:
    """A trial that has a network of this accuracy and latency."""
    latency = NormalizedLatency(ms, memory_mb=memory_mb)
    figures = NetworkFigures({}, 1, 1.0, 1, 0.0, 0.0, {"cpu": latency}, {"cpu": -0.5})
    accuracy = Accuracy(map50_95, map50_95, 1.0, 1.0, 1.0)
    return TrialRecord(RECIPE, Outcome.OK, networks=(NetworkResult(LARGE, figures, accuracy),))


def test_a_recovered_network_is_looked_at_where_it_was_not_trained(context: Callable[..., TrialContext]) -> None:
    it = context()
    record = run_trial(RECIPE, it)
    assert record.outcome is Outcome.OK
    assert deployments(record) == [LARGE, SMALL]
    own, further = record.networks
    assert record.network == own
    assert (further.stage, further.surgery, further.files) == (own.stage, own.surgery, own.files)
    assert further.figures.channels == own.figures.channels
    assert further.figures.gflops == pytest.approx(own.figures.gflops * (64 / 96) ** 2, rel=0.02)
    detector = Detector.load(it.folder / str(own.files.checkpoint))
    found = it.stages.at(64).evaluate(detector)
    assert further.accuracy.map50_95 == pytest.approx(found.map50_95, abs=1e-6)
    assert record.cost.seconds["deploy"] > 0
    assert record.cost.epochs_trained == it.stages.meter.reading().epochs_trained


def test_a_recipe_for_a_smaller_input_is_trained_there_from_the_same_sparse_phase(
    context: Callable[..., TrialContext],
) -> None:
    large, it = run_trial(RECIPE, context()), context()
    record = run_trial(replace(RECIPE, imgsz=64), it)
    assert deployments(record) == [SMALL], "a larger input than it was trained for is none of its deployments"
    assert record.cost.stages[0].digest == large.cost.stages[0].digest
    assert record.cost.stages[0].kind == "sparse"
    assert record.network is not None
    assert large.network is not None
    assert record.network.surgery != large.network.surgery
    again = run_trial(replace(RECIPE, imgsz=64), context({3: record}))
    assert again.duplicate_of == 3
    assert (again.latency_from, again.cost.epochs_trained) == (None, 0)


def test_what_another_trial_has_recovered_is_taken_over_at_all_deployments(
    context: Callable[..., TrialContext],
) -> None:
    done = run_trial(RECIPE, context())
    record = run_trial(RECIPE, context({3: done}))
    assert record.duplicate_of == 3
    assert deployments(record) == [LARGE, SMALL]
    assert [network.accuracy for network in record.networks] == [network.accuracy for network in done.networks]
    assert len({network.files.checkpoint for network in record.networks}) == 1
    assert record.networks[0].files.checkpoint != done.networks[0].files.checkpoint


@pytest.mark.parametrize(
    ("map50_95", "ms", "is_left_out"), [(0.99, 1e-4, True), (0.0, 1e-4, False), (0.99, 1e4, False)]
)
def test_what_cannot_come_to_the_front_is_left_out(
    context: Callable[..., TrialContext], map50_95: float, ms: float, is_left_out: bool
) -> None:
    record = run_trial(RECIPE, context({5: rival(map50_95, ms)}))
    assert deployments(record) == ([LARGE] if is_left_out else [LARGE, SMALL])


def test_memory_of_a_real_runtime_decides_and_nothing_predicts_it(
    tmp_path: Path, shapes: Path, tiny: dict[str, Any]
) -> None:
    pytest.importorskip("openvino")
    changes: dict[str, Any] = {
        "runs": str(tmp_path),
        "data": str(shapes),
        "imgsz": 96,
        "deploy": {"imgsz": [96, 64]},
        "early_stopping": False,
        "targets": [{"kind": "openvino", "name": "cpu", "runs": 6, "tolerance": 0.5}],
        "objectives": ["map50_95", "memory_mb"],
        "budget": {"latency": "<= 100 x dense", "memory_mb": "<= dense"},
        "controls": [],
    }
    spec = StudySpec.parse({**tiny, **changes})
    it = prepare(spec, Progress(None, spec.trials))[1]
    (memory,) = it.figures
    assert 0 < memory.references["dense"] == memory.limit
    best = rival(0.99, 1e-4, memory_mb=1e-3)
    record = run_trial(RECIPE, it.for_trial(0, Others({5: best})))
    assert deployments(record) == [LARGE, SMALL], "it might take nothing there"
    for network in record.networks:
        assert network.figures.memory_mb is not None
        assert network.figures.violations["memory_mb"] == memory.violation(network.figures) < 0
        assert it.values(network)[1] == network.figures.memory_mb < memory.references["dense"]


def test_a_detector_that_is_better_at_a_smaller_input_has_no_bound(
    context: Callable[..., TrialContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[float] = []

    def may_be_best(*arguments: Any) -> bool:
        bounds.append(arguments[3])
        return True

    def better(network: NetworkResult, _: Detector, deployment: Deployment, __: TrialContext) -> NetworkResult:
        return replace(network, deployment=deployment, accuracy=replace(network.accuracy, map50_95=0.9))

    monkeypatch.setattr(deployments_of_trials, "_may_be_best", may_be_best)
    monkeypatch.setattr(deployments_of_trials, "deployed", better)
    it = context()
    spec = it.spec.model_copy(update={"deploy": it.spec.deploy.model_copy(update={"precision": ("fp32", "int8")})})
    record = run_trial(RECIPE, replace(it, spec=spec))
    assert record.network is not None
    assert bounds == [record.network.accuracy.map50_95 + deployments_of_trials.MARGIN, 1.0, 1.0]


def test_the_other_precision_is_looked_at_too(context: Callable[..., TrialContext]) -> None:
    it = context()
    spec = it.spec.model_copy(update={"deploy": it.spec.deploy.model_copy(update={"precision": ("fp32", "int8")})})
    record = run_trial(RECIPE, replace(it, spec=spec))
    assert deployments(record) == [LARGE, Deployment(96, "int8"), SMALL, Deployment(64, "int8")]
    exact, rounded = record.networks[:2]
    assert rounded.figures.latencies["cpu"].ms != exact.figures.latencies["cpu"].ms


def test_predictions_at_another_size_go_through_what_was_measured_of_the_references(
    context: Callable[..., TrialContext],
) -> None:
    meter = context().meter
    (target,) = meter.targets
    channels = [meter.networks.channels["dense"]]
    there = meter.reference_ratios(target, SMALL)
    found = predicted_ratios(meter, target, channels, SMALL)
    assert found is not None
    assert float(found[0]) == pytest.approx(there["dense"])


def test_trials_are_asked_for_over_the_sizes(prepared: tuple[StoredStudy, TrialContext]) -> None:
    study, it = prepared
    assert StudyRecord.of(study).sizes == it.sizes == (96, 64)
    asked = next_trial(study, it.spec)
    assert asked is not None
    assert asked.recipe.imgsz in (96, 64)
    assert asked.trial.params["imgsz"] == asked.recipe.imgsz


def test_the_baselines_are_looked_at_everywhere(prepared: tuple[StoredStudy, TrialContext]) -> None:
    study, it = prepared
    train_baselines(study, it, Progress(None, None))
    baselines = StudyRecord.of(study).baselines
    assert list(baselines) == [
        "dense", "dense@64", "foreign.pt", "foreign.pt@64", "yolov8n.yaml", "yolov8n.yaml@64", "dense-64",
    ]  # fmt: skip
    assert {name: item.network.deployment for name, item in baselines.items() if "64" in name} == {
        name: SMALL for name in baselines if "64" in name
    }
    assert baselines["dense"].network.stage == baselines["dense@64"].network.stage
    assert baselines["dense-64"].epochs == it.spec.dense_epochs + 1
    assert baselines["yolov8n.yaml"].network.figures.channels.keys() != it.dense_channels.keys()
    for name in ("foreign.pt", "yolov8n.yaml"):
        detector = Detector.load(it.folder / str(baselines[name].network.files.checkpoint))
        assert detector.names == ("square", "disc")
    stored = StudyRecord.of(study)
    train_baselines(study, it, Progress(None, None))
    assert StudyRecord.of(study).baselines == stored.baselines, "what is known is not measured again"
    curve = {network.name for network in Findings.of(study).baseline_front}
    assert curve <= set(baselines)
    assert curve
