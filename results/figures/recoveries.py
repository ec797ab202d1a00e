"""The figure of the recoveries: how accuracy came back, and what was decided at the rungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from prunetune.results.figures.style import FAINT, FRONT, LIMIT, REGIONS, SELECTED, canvas, escape
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.histories import read_curves
from prunetune.results.record import RungDecision, TrialRecord
from prunetune.spaces.outcome import Outcome

DRAWN = 200
"""So many recoveries are drawn at most: all of the front, and others from all over the study."""

POINTS = 60
"""A longer curve is thinned to so many of its epochs."""


@dataclass(frozen=True)
class Recovered:
    """The last recovery of one trial."""

    trial: int
    network: str
    """The name of what the trial came to."""
    curve: tuple[tuple[int, float], ...]
    """Epoch, from 1, and map50_95. Where no curve was kept: at the rungs and at the end."""
    decisions: tuple[RungDecision, ...]
    kind: str
    """`front`, `complete` or `stopped early`."""


def recoveries(found: Findings, folder: Path) -> list[Recovered]:
    """The recoveries that a figure has room for.

    Args:
        found: The study.
        folder: The study's folder, where the curves are.
    """
    kinds = {Outcome.OK: "complete", Outcome.STOPPED_EARLY: "stopped early"}
    names = {number: found.key(number) for number, record in found.records.items() if record.outcome in kinds}
    members = {network.own_name for network in found.front}  # the same recovery, whatever it is deployed at
    front = [number for number, name in names.items() if name in members]
    others = [number for number, name in names.items() if name not in members]
    room = max(0, DRAWN - len(front))
    step = max(1, -(-len(others) // room)) if room else len(others) + 1
    drawn = []
    for number in sorted([*front[:DRAWN], *others[::step][:room]]):
        record = found.records[number]
        kind = "front" if names[number] in members else kinds[record.outcome or Outcome.OK]
        drawn.append(Recovered(number, names[number], recovery_curve(record, folder), last_decisions(record), kind))
    return [recovered for recovered in drawn if recovered.curve or recovered.decisions]


def recoveries_figure(items: Sequence[Recovered]) -> go.Figure | None:
    """Accuracy over the epochs of each recovery, with the rungs; None if nothing was recovered.

    The page draws the selected network's curve into the last trace.
    """
    if not any(item.curve for item in items):
        return None
    figure = canvas(height=420)
    kinds = {
        "front": {"color": FRONT, "width": 1.6},
        "complete": {"color": FAINT, "width": 1.1},
        "stopped early": {"color": LIMIT, "width": 1.1},
    }
    for kind, line in kinds.items():
        members = [item for item in items if item.kind == kind and item.curve]
        if members:
            # One trace for all: None lifts the pen between two curves.
            drawn = [(epoch, value, item) for item in members for epoch, value in [*item.curve, (None, None)]]
            figure.add_scatter(
                x=[epoch for epoch, _, _ in drawn],
                y=[value for _, value, _ in drawn],
                mode="lines",
                line=line,
                opacity=1 if kind == "front" else 0.6,
                name=kind,
                customdata=[[str(item.trial), item.network] for _, _, item in drawn],
                hovertemplate="trial %{customdata[0]}, epoch %{x}: %{y:.3f}<extra></extra>",
            )
    for goes_on, name, marker in (
        (True, "goes on from a rung", {"symbol": "triangle-right", "size": 8, "color": REGIONS["backbone"]}),
        (False, "ended at a rung", {"symbol": "x", "size": 8, "color": LIMIT}),
    ):
        told = [(item, decision) for item in items for decision in item.decisions if decision.goes_on is goes_on]
        if told:
            figure.add_scatter(
                x=[decision.epochs for _, decision in told],
                y=[decision.values[0] for _, decision in told],
                mode="markers",
                name=name,
                marker=marker,
                customdata=[
                    [f"<b>trial {item.trial}</b><br>{escape(decision.reason)}", item.network] for item, decision in told
                ],
                hovertemplate="%{customdata[0]}<extra></extra>",
            )
    figure.add_scatter(x=[None], y=[None], mode="lines", name="selected", line={"color": SELECTED, "width": 3})
    figure.update_layout(legend={"y": -0.18})
    longest = max(epoch for item in items for epoch, _ in item.curve)
    figure.update_xaxes(title="epochs of the last recovery", range=[0, 1.02 * longest])
    figure.update_yaxes(title="mAP50-95", rangemode="tozero")
    return figure


def recovery_curve(record: TrialRecord, folder: Path, round_number: int | None = None) -> tuple[tuple[int, float], ...]:
    """A recovery by epochs; where no curve was kept, what the rungs and the end say of it.

    Args:
        record: What the trial found.
        folder: The study's folder.
        round_number: The round; the last one that has a curve if None.
    """
    curves = read_curves(record, folder)
    values = list(enumerate(curves.get(round_number or max(curves, default=0), ()), start=1))
    if values:
        thinned = values[:: max(1, -(-len(values) // POINTS))]
        return tuple(thinned if thinned[-1] == values[-1] else [*thinned, values[-1]])
    if round_number is not None and round_number < record.rounds_asked:
        return tuple((item.epochs, item.values[0]) for item in record.decisions if item.round == round_number)
    known = {decision.epochs: decision.values[0] for decision in last_decisions(record)}
    epochs = 0 if record.recipe is None else record.recipe.recovery_epochs
    if epochs and record.network is not None and record.network.recovered:
        known[epochs] = record.network.accuracy.map50_95
    return tuple(sorted(known.items()))


def last_decisions(record: TrialRecord) -> tuple[RungDecision, ...]:
    """What was decided within a trial's last recovery."""
    return tuple(decision for decision in record.decisions if decision.round is None)
