"""The figure of the recoveries: how accuracy came back, and what was decided at the rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from prunetune.results.entries import integer, mapping, number, outcome, text
from prunetune.results.findings import Findings
from prunetune.results.histories import read_curves
from prunetune.results.style import FAINT, FRONT, LIMIT, REGIONS, SELECTED, canvas, escape

DRAWN = 200
"""So many recoveries are drawn at most: all of the front, and others from all over the study."""

POINTS = 60
"""A longer curve is thinned to so many of its epochs."""


@dataclass(frozen=True)
class Decision:
    """What was decided at one rung."""

    epochs: int
    """Epochs of recovery that were done."""
    map50_95: float
    """Of the best of them."""
    goes_on: bool
    reason: str
    round: int | None = None
    """The round whose end this was; None for a rung of the last recovery."""


@dataclass(frozen=True)
class Recovered:
    """The last recovery of one trial."""

    trial: int
    curve: tuple[tuple[int, float], ...]
    """Epoch, from 1, and map50_95. Where no curve was kept: at the rungs and at the end."""
    decisions: tuple[Decision, ...]
    kind: str
    """`front`, `complete` or `stopped early`."""


def recoveries(found: Findings, folder: Path) -> list[Recovered]:
    """The recoveries that a figure has room for.

    Args:
        found: The study.
        folder: The study's folder, where the curves are.
    """
    members = {item.trial for item in found.front}
    there = [trial for trial in found.trials if outcome(trial) in ("OK", "STOPPED_EARLY")]
    front = [trial for trial in there if trial.number in members]
    others = [trial for trial in there if trial.number not in members]
    room = max(0, DRAWN - len(front))
    step = max(1, -(-len(others) // room)) if room else len(others) + 1
    drawn = sorted([*front[:DRAWN], *others[::step][:room]], key=lambda trial: trial.number)
    read = [_recovered(trial, folder, "front" if trial.number in members else "") for trial in drawn]
    return [item for item in read if item.curve or item.decisions]


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
            drawn = [(epoch, value, item.trial) for item in members for epoch, value in [*item.curve, (None, None)]]
            figure.add_scatter(
                x=[epoch for epoch, _, _ in drawn],
                y=[value for _, value, _ in drawn],
                mode="lines",
                line=line,
                opacity=1 if kind == "front" else 0.6,
                name=kind,
                customdata=[["", str(trial)] for _, _, trial in drawn],
                hovertemplate="trial %{customdata[1]}, epoch %{x}: %{y:.3f}<extra></extra>",
            )
    for goes_on, name, marker in (
        (True, "goes on from a rung", {"symbol": "triangle-right", "size": 8, "color": REGIONS["backbone"]}),
        (False, "ended at a rung", {"symbol": "x", "size": 8, "color": LIMIT}),
    ):
        told = [(item, decision) for item in items for decision in item.decisions if decision.goes_on is goes_on]
        if told:
            figure.add_scatter(
                x=[decision.epochs for _, decision in told],
                y=[decision.map50_95 for _, decision in told],
                mode="markers",
                name=name,
                marker=marker,
                customdata=[
                    [f"<b>trial {item.trial}</b><br>{escape(decision.reason)}", str(item.trial)]
                    for item, decision in told
                ],
                hovertemplate="%{customdata[0]}<extra></extra>",
            )
    figure.add_scatter(x=[None], y=[None], mode="lines", name="selected", line={"color": SELECTED, "width": 3})
    figure.update_layout(legend={"y": -0.18})
    longest = max(epoch for item in items for epoch, _ in item.curve)
    figure.update_xaxes(title="epochs of the last recovery", range=[0, 1.02 * longest])
    figure.update_yaxes(title="mAP50-95", rangemode="tozero")
    return figure


def last_curve(trial: FrozenTrial, folder: Path) -> tuple[tuple[int, float], ...]:
    """A trial's last recovery by epochs; what the rungs and the end say of it where no curve was kept."""
    curves = read_curves(trial, folder)
    if curves:
        values = list(enumerate(curves[max(curves)], start=1))
        step = max(1, -(-len(values) // POINTS))
        thinned = values[::step]
        return tuple(thinned if thinned[-1] == values[-1] else [*thinned, values[-1]])
    known = {decision.epochs: decision.map50_95 for decision in _within(trial)}
    if outcome(trial) == "OK":
        recipe, accuracy = mapping(trial.user_attrs.get("recipe")), mapping(trial.user_attrs.get("accuracy"))
        epochs, end = integer(recipe.get("recovery_epochs")), number(accuracy.get("map50_95"))
        if epochs and end is not None:
            known[epochs] = end
    return tuple(sorted(known.items()))


def decisions(trial: FrozenTrial) -> tuple[Decision, ...]:
    """What was decided at the trial's rungs."""
    told = trial.user_attrs.get("rungs")
    parsed = [_decision(mapping(item)) for item in told] if isinstance(told, list) else []
    return tuple(item for item in parsed if item is not None)


def _within(trial: FrozenTrial) -> tuple[Decision, ...]:
    """What was decided within the last recovery."""
    return tuple(decision for decision in decisions(trial) if decision.round is None)


def _recovered(trial: FrozenTrial, folder: Path, kind: str) -> Recovered:
    usual = "complete" if outcome(trial) == "OK" else "stopped early"
    return Recovered(trial.number, last_curve(trial, folder), _within(trial), kind or usual)


def _decision(told: Mapping[str, Any]) -> Decision | None:
    values = told.get("values")
    epochs, value = integer(told.get("epochs")), number(values[0]) if isinstance(values, list) and values else None
    if epochs is None or value is None:
        return None
    reason, number_of_round = text(told.get("reason")) or "", integer(told.get("round"))
    return Decision(epochs, value, told.get("goes_on") is True, reason, number_of_round)
