"""What is said of trials and networks that a study does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from prunetune.results.findings.choice import find_network, find_trial, no_network, spans
from prunetune.results.findings.findings import Findings
from prunetune.spaces import ConfigError

Builder = Any


def test_a_trial_by_its_number(builder: Builder) -> None:
    builder.context()
    builder.trial(0.9, 0.8)
    found = Findings.of(builder.study)
    assert find_trial(found, "0").number == find_trial(found, 0).number == 0


@pytest.mark.parametrize("name", [4, "4", -1, "-1", "two", "", 1.0, "\N{SUPERSCRIPT TWO}"])
def test_no_such_trial(builder: Builder, name: Any) -> None:
    builder.context(baselines={"dense": builder.baseline(0.94)})
    for _ in range(3):
        builder.trial(0.9, 0.8)
    with pytest.raises(ConfigError) as caught:
        find_trial(Findings.of(builder.study), name, or_baseline=True)
    assert str(caught.value) == f"{name}: is no trial of this study (there are 0 to 2), and no control (dense)"


def test_no_trial_yet(builder: Builder) -> None:
    with pytest.raises(ConfigError, match=r"^0: is no trial of this study \(there is none yet\)$"):
        find_trial(Findings.of(builder.study), 0)


def test_no_network_of_it(builder: Builder) -> None:
    builder.context()
    for _ in range(3):
        builder.trial(0.9, 0.8)
    builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL)
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 0.9, files="trials/4/round-1")])
    found = Findings.of(builder.study)
    kept = "networks were kept of 0 to 2, 4, 4.1"
    assert str(no_network(found, 3)) == f"3: no network was kept of it (DIVERGED); {kept}"
    assert str(no_network(found, "dense")) == f"dense: no network was kept of it; {kept}"
    assert str(no_network(found, "4.2")) == f"4.2: no network was kept of it; {kept}"
    with pytest.raises(ConfigError, match=r"^9\.1: is no|^9: is no trial of this study"):
        no_network(found, "9.1")


def test_a_network_by_its_name(builder: Builder) -> None:
    builder.context(baselines={"dense": builder.baseline(0.94, files="baselines/dense")})
    builder.trial(0.6, 0.7, rounds=[builder.network(0.9, 0.9, files="trials/0/round-1")])
    found = Findings.of(builder.study)
    told = {name: find_network(found, name).checkpoint for name in (0, "0", "0.1", "dense")}
    assert told == {
        0: "trials/0/pruned.pt", "0": "trials/0/pruned.pt", "0.1": "trials/0/round-1/pruned.pt",
        "dense": "baselines/dense/pruned.pt",
    }  # fmt: skip


@given(st.sets(st.integers(0, 60)))
def test_spans_say_each_number_once(numbers: set[int]) -> None:
    told = spans(numbers)
    read = [part.split(" to ") for part in told.split(", ")] if told else []
    found = [number for ends in read for number in range(int(ends[0]), int(ends[-1]) + 1)]
    assert found == sorted(numbers)
    assert len(read) == sum(number - 1 not in numbers for number in numbers)


def test_all_commands_say_it_alike(write_study: Callable[..., Builder], tmp_path: Any) -> None:
    from prunetune.results import load_study, write_report

    builder = write_study()
    builder.context()
    builder.trial(0.9, 0.8)
    study = load_study("barcodes", tmp_path / "runs")
    calls: list[Callable[[], Any]] = [
        lambda: write_report(study.findings, tmp_path, tmp_path / "report.html", 7),
        lambda: study.figures.front(7),
        lambda: study.figures.channels(7),
        lambda: study.candidate(7),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"^7: is no trial of this study \(there are 0\)"):
            call()
