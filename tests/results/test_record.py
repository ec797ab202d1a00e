"""What a trial and a study found, written and read back; and what damage does to it: nothing but a gap."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from prunetune.results.record import (
    Baseline,
    NetworkFigures,
    NetworkFiles,
    NetworkResult,
    RungDecision,
    StudiedTarget,
    StudyRecord,
    TrialRecord,
)
from prunetune.spaces import (
    Accuracy,
    Alignment,
    Cost,
    Deployment,
    LatencyShare,
    Outcome,
    Recipe,
    Splice,
    StageUse,
    StoreError,
    Threshold,
)
from prunetune.targets import NormalizedLatency

finite = st.floats(-1e6, 1e6, allow_nan=False)
shares = st.floats(0, 1)
counts = st.integers(0, 10**9)
names = st.text(min_size=1, max_size=8)
files = st.none() | names

accuracies = st.builds(
    Accuracy,
    *[shares] * 5,
    confidence=st.none() | shares,
    classes=st.none()
    | st.dictionaries(names, st.fixed_dictionaries({"map50": shares, "map50_95": shares}), min_size=1),
)
positive = st.floats(1e-6, 1e6)
latencies = st.builds(
    NormalizedLatency,
    positive,
    *[st.none() | finite] * 4,
    predicted=st.booleans(),
    memory_mb=st.none() | positive,
)
figures = st.builds(
    NetworkFigures,
    channels=st.dictionaries(names, st.integers(1, 4096)),
    params=counts,
    gflops=finite,
    bytes=counts,
    channels_removed=shares,
    params_removed=shares,
    blocks_removed=counts,
    latencies=st.dictionaries(names, latencies),
    violations=st.dictionaries(names, finite),
)
deployments = st.builds(
    Deployment,
    st.integers(32, 2048) | st.tuples(st.integers(32, 2048), st.integers(32, 2048)),
    st.sampled_from(["fp32", "int8"]),
)
networks = st.builds(
    NetworkResult,
    deployment=deployments,
    figures=figures,
    accuracy=accuracies,
    recovered=st.booleans(),
    round=st.integers(1, 9),
    surgery=st.just("") | names,
    stage=st.just("") | names,
    files=st.builds(NetworkFiles, files, files),
)
stages = st.builds(StageUse, names, names, st.integers(0, 300), st.integers(0, 300), st.booleans())
costs = st.builds(Cost, st.dictionaries(names, st.floats(0, 1e6)), st.lists(stages, max_size=4).map(tuple))
decisions = st.builds(
    RungDecision,
    st.integers(0, 5),
    st.integers(0, 300),
    st.lists(finite, min_size=1, max_size=3).map(tuple),
    st.integers(0, 99),
    st.integers(1, 99),
    st.booleans(),
    st.none() | st.integers(1, 5),
)
thresholds = st.builds(Threshold, shares, shares, st.none() | shares)
recipes = st.builds(
    Recipe,
    finite,
    st.integers(0, 99),
    thresholds | st.builds(LatencyShare, shares, finite),
    st.integers(1, 4),
    st.integers(0, 99),
    start=st.sampled_from(["current", "rewind"]),
)
splices = st.builds(Splice, st.just("3"), st.just("dense"), st.integers(0, 99))
records = st.builds(
    TrialRecord,
    recipe=st.none() | recipes | splices,
    outcome=st.sampled_from([outcome for outcome in Outcome if outcome.has_values]),
    reason=st.text(max_size=9),
    networks=st.lists(networks, max_size=2).map(tuple),
    cost=costs,
    decisions=st.lists(decisions, max_size=2).map(tuple),
    sparsity_lambda=st.none() | finite,
    sparsity_pull=st.none() | finite,
    thresholds=st.lists(thresholds, max_size=2).map(tuple),
    warnings=st.lists(names, max_size=2).map(tuple),
    duplicate_of=st.none() | counts,
    latency_from=st.none() | counts,
    retry_of=st.none() | counts,
    gammas=files,
    curves=files,
    worker=st.none() | st.fixed_dictionaries({"host": names, "pid": counts}),
    driver=st.none() | st.fixed_dictionaries({"host": names, "pid": counts}),
)


@given(figures)
def test_a_network_of_before_lost_no_blocks(known: NetworkFigures) -> None:
    told = {name: value for name, value in known.as_dict().items() if name != "blocks_removed"}
    assert NetworkFigures.parse(told) == replace(known, blocks_removed=0)


def stored(attrs: Any, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    """A trial with these attributes, as a data base gives them back."""
    value = 0.0 if state is TrialState.COMPLETE else None
    return create_trial(state=state, value=value, user_attrs=json.loads(json.dumps(attrs)))


@given(records)
def test_a_record_is_read_as_it_was_written(record: TrialRecord) -> None:
    assert TrialRecord.from_trial(stored(record.to_attrs())) == record


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(records, st.data())
def test_damage_leaves_a_gap(record: TrialRecord, data: st.DataObject) -> None:
    attrs = record.to_attrs()
    name = data.draw(st.sampled_from(sorted(attrs)))
    read = TrialRecord.from_trial(stored({**attrs, name: data.draw(junk)}))
    assert {key: value for key, value in read.to_attrs().items() if key != name} == {
        key: value for key, value in attrs.items() if key != name
    }


@given(records, st.data())
def test_damage_deep_within_a_network_takes_no_other(record: TrialRecord, data: st.DataObject) -> None:
    attrs = json.loads(json.dumps(record.to_attrs()))
    if not attrs.get("networks"):
        return
    broken = attrs["networks"][0]
    while isinstance(broken, dict) and broken and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(broken)))
        if not isinstance(broken[key], dict) or not broken[key]:
            broken[key] = data.draw(junk)
            break
        broken = broken[key]
    read = TrialRecord.from_trial(stored(attrs))
    assert read.networks[-(len(record.networks) - 1) :] == record.networks[1:] or len(record.networks) == 1


@pytest.mark.parametrize(
    ("state", "attrs", "outcome"),
    [
        (TrialState.RUNNING, {"outcome": "OK"}, None),
        (TrialState.WAITING, {}, None),
        (TrialState.COMPLETE, {}, None),
        (TrialState.COMPLETE, {"outcome": "of another world"}, None),
        (TrialState.COMPLETE, {"outcome": "OVER_BUDGET"}, Outcome.OVER_BUDGET),
        (TrialState.FAIL, {"outcome": "DIVERGED"}, Outcome.DIVERGED),
        (TrialState.FAIL, {}, Outcome.ERROR),
        (TrialState.FAIL, {"worker": {"pid": 7}}, Outcome.WORKER_DIED),
        (TrialState.FAIL, {"worker": {"pid": 7}, "outcome": "OK"}, Outcome.WORKER_DIED),
        (TrialState.PRUNED, {}, Outcome.STOPPED_EARLY),
    ],
)
def test_the_outcome_follows_from_the_state_where_nobody_told_it(
    state: TrialState, attrs: dict[str, Any], outcome: Outcome | None
) -> None:
    assert TrialRecord.from_trial(stored(attrs, state)).outcome is outcome


targets = st.builds(
    StudiedTarget,
    names,
    names,
    st.none() | st.just(Alignment.everywhere(8)),
    st.booleans(),
    st.none() | names,
    st.none() | finite,
    st.dictionaries(names, positive),
    st.dictionaries(names, names),
    st.dictionaries(names, positive),
)
baselines = st.builds(Baseline, networks, st.none() | counts, st.none() | shares, st.none() | shares)


@given(
    st.lists(targets, max_size=2).map(tuple),
    st.dictionaries(names, baselines, max_size=2),
    st.dictionaries(names, st.dictionaries(names, latencies, min_size=1, max_size=2), max_size=2),
    st.dictionaries(names, accuracies, max_size=2),
)
def test_a_study_is_read_as_it_was_written(
    told: tuple[StudiedTarget, ...],
    compared: dict[str, Baseline],
    confirmed: dict[str, dict[str, NormalizedLatency]],
    tested: dict[str, Accuracy],
) -> None:
    study = optuna.create_study()
    written: dict[str, Any] = {
        "version": "0.2.0",
        "spec": {"model": "yolov5n.yaml"},
        "targets": told,
        "baselines": compared,
        "confirmed": confirmed,
        "test": tested,
        "channels_dense": {"model.0": 16},
        "finished": 3,
    }
    StudyRecord.store(study, **written)
    assert StudyRecord.of(study) == StudyRecord(**written)


def test_a_layer_that_went_with_its_block_keeps_nothing() -> None:
    study = StudyRecord(channels_dense={"stem": 16, "block": 8, "out": 6})
    assert study.kept({"stem": 12, "out": 6}) == {"stem": 12, "block": 0, "out": 6}
    assert study.kept({"stem": 12, "another": 6}) == {"stem": 12, "another": 6}
    assert study.kept({}) == {}


@given(st.dictionaries(st.sampled_from(sorted(StudyRecord.__dataclass_fields__)), junk))
def test_a_damaged_study_is_read(attrs: dict[str, Any]) -> None:
    version = attrs.get("version")
    if not (isinstance(version, str) and version.startswith("0.1.")):
        StudyRecord.parse("mine", attrs)


def test_only_known_fields_are_stored() -> None:
    with pytest.raises(TypeError, match="frnt"):
        StudyRecord.store(optuna.create_study(), frnt=1)


def test_a_study_of_an_earlier_layout_is_refused_by_its_version() -> None:
    study = optuna.create_study(study_name="old")
    study.set_user_attr("version", "0.1.0")
    with pytest.raises(StoreError, match=r"old: prunetune 0\.1\.0 .* prunetune==0\.1\.0, .* name=old-2"):
        StudyRecord.of(study)


@given(costs, costs, costs)
def test_costs_add_up(first: Cost, second: Cost, third: Cost) -> None:
    total = first + second
    assert total.epochs_trained == first.epochs_trained + second.epochs_trained
    assert total.total_s == pytest.approx(first.total_s + second.total_s)
    assert (total - first).stages == second.stages
    assert (total + third).stages == (first + (second + third)).stages


@given(costs)
def test_what_an_attempt_reads_back_of_an_earlier_one_counts_once(cost: Cost) -> None:
    again = Cost({"load": 1.0}, tuple(StageUse(use.kind, use.digest, 0, use.epochs, True) for use in cost.stages))
    whole = cost.then(again)
    assert whole.stages == cost.stages
    assert whole.total_s == pytest.approx(cost.total_s + 1)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (NormalizedLatency, {"ms": 0}),
        (NormalizedLatency, {"ms": -1.0}),
        (Accuracy, dict.fromkeys(("map50", "map50_95", "precision", "recall", "f1"), 1.5)),
        (Accuracy, dict.fromkeys(("map50", "map50_95", "precision", "recall", "f1"), -0.1)),
    ],
)
def test_what_cannot_be_is_missing(kind: Any, stored: dict[str, float]) -> None:
    assert kind.parse(stored) is None


def test_impossible_times_are_missing() -> None:
    assert Cost.parse({"seconds": {"train": 1e308, "measure": -1.0, "load": 2.0}}).seconds == {"load": 2.0}
    target = StudiedTarget.parse({"name": "cpu", "references": {"dense": -1.0, "half-width": 1e-320, "x": 2.0}})
    assert target is not None
    assert target.references == {"x": 2.0}
