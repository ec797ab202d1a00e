"""Where a network stands in its study, in words."""

from __future__ import annotations

from typing import Any

from prunetune.results.findings.findings import Findings
from prunetune.results.tables.standing import standing

Builder = Any


def told(builder: Builder) -> list[str]:
    found = Findings.of(builder.study)
    return [standing(found, network) for network in found.networks.values()]


def test_of_each_kind(builder: Builder) -> None:
    builder.context()
    builder.trial(0.9, 0.8)
    builder.trial(0.8, 0.7)
    builder.trial(0.7, 0.75)
    builder.trial(0.3, 1.3, outcome="OVER_BUDGET", violation=0.3)
    builder.trial(0.85, 0.72, outcome="STOPPED_EARLY")
    best, member, dominated, over, stopped = told(builder)
    assert best == "It is on the front of its study, the most accurate there."
    assert member == "It is on the front of its study."
    off = "It is not on the front of its study: "
    assert dominated == f"{off}trial 1 is at least as accurate and as fast."
    assert over.startswith(f"{off}it is over the budget (budget <= half-width")
    assert stopped == f"{off}its recovery was stopped early, so that its accuracy is not final."


def test_rounds(builder: Builder) -> None:
    builder.context()
    builder.trial(
        0.3, 0.7, rounds=[builder.network(0.9, 1.3, violations={"cpu": 0.3}), builder.network(0.8, 0.9, round=2)]
    )
    builder.trial(0.7, 0.95)
    slow, member, last, other = told(builder)
    assert slow.endswith("it is over the budget (budget <= half-width (1.00 ms)).")
    assert member == "It is on the front of its study, the most accurate there."
    assert last == "It is on the front of its study."
    assert other.endswith(": trial 0, round 2 is at least as accurate and as fast.")


def test_several_are_better(builder: Builder) -> None:
    builder.context()
    for accuracy, latency in ((0.9, 0.8), (0.8, 0.7), (0.7, 0.9)):
        builder.trial(accuracy, latency)
    assert told(builder)[2].endswith("trials 0 to 1 are at least as accurate and as fast.")


def test_what_the_last_measurement_moved(builder: Builder) -> None:
    builder.context()
    builder.confirm({"0": 1.2})
    builder.trial(0.9, 0.8)
    assert "the last measurement put it over the budget" in told(builder)[0]


def test_a_control(builder: Builder) -> None:
    builder.context()
    found = Findings.of(builder.study)
    assert standing(found, found.baselines["dense"]) == "A control: the study compares its networks with it."
