"""Figures of what a study took: the hypervolume over its cost, and where the time of its trials went."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import plotly.graph_objects as go

from prunetune.results.figures.style import CONTROL, FAINT, FRONT, INK, REGIONS, WITHOUT_PRUNING, canvas
from prunetune.results.findings.costs import Costs, Progress, TrialCost, part_text

PARTS = {
    "train": FRONT, "validate": REGIONS["backbone"], "measure": CONTROL, "deploy": REGIONS["head"], "overhead": INK,
}  # fmt: skip
BARS = 100
"""A study with more trials than this has several in a bar."""


def progress_figure(
    steps: Sequence[Progress], over: Literal["epochs", "hours"], baselines: float | None = None
) -> go.Figure | None:
    """The hypervolume over epochs or hours; None if nothing has ended.

    Only the steps at which it grew are drawn, and the end.

    Args:
        steps: After each trial.
        over: What it is drawn over.
        baselines: The hypervolume that is had without pruning, a dashed line; none if None.
    """
    if not steps:
        return None
    unit, divisor = str(over), 1.0
    if over == "hours" and steps[-1].hours < 2:
        unit, divisor = "minutes", 1 / 60
    grown = [after for before, after in pairwise(steps) if after.hypervolume > before.hypervolume]
    drawn = [*([steps[0]] if steps[0].hypervolume > 0 else []), *grown]
    figure = canvas(height=300)
    figure.add_scatter(
        x=[0.0, *(getattr(step, over) / divisor for step in [*drawn, steps[-1]])],
        y=[0.0, *(step.hypervolume for step in [*drawn, steps[-1]])],
        line={"color": FRONT, "width": 2, "shape": "hv"},
        mode="lines",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[getattr(step, over) / divisor for step in drawn],
        y=[step.hypervolume for step in drawn],
        mode="markers",
        marker={"color": FRONT, "size": 8},
        customdata=[[str(step.trial), step.network] for step in drawn],
        hovertemplate=f"trial %{{customdata[0]}}: %{{y:.3f}} after %{{x:.4g}} {unit}<extra></extra>",
    )
    if baselines is not None:
        figure.add_hline(
            y=baselines,
            line={"color": CONTROL, "width": 1.5, "dash": "dash"},
            annotation={"text": WITHOUT_PRUNING, "font": {"color": CONTROL}},
            annotation_position="top left",
        )
    figure.update_layout(showlegend=False, margin={"t": 14})
    words = "epochs trained" if over == "epochs" else f"{unit} in which trials ran"
    figure.update_xaxes(title=words, rangemode="tozero")
    figure.update_yaxes(title="hypervolume", rangemode="tozero")
    return figure


def time_figure(costs: Costs) -> go.Figure | None:
    """Where the time of each trial went, and about how much it saved by reuse. None if no trial has recorded any."""
    groups = _groups(costs)
    if not costs.total.total_s:
        return None
    longest = max(sum(_work(group).values()) for group in groups)
    unit, divisor = ("h", 3600) if longest > 7200 else ("min", 60) if longest > 120 else ("s", 1)
    titles = [_title(group) for group in groups]
    figure = canvas(height=360)
    for part, colour in PARTS.items():
        spent = [_work(group)[part] / divisor for group in groups]
        if part == "deploy" and not any(spent):
            continue
        figure.add_bar(
            x=titles,
            y=spent,
            name=part_text(part),
            marker={"color": colour},
            hovertemplate=f"%{{x}}, {part_text(part)}: %{{y:.3g}} {unit}<extra></extra>",
        )
    saved = [sum(spent.cost.epochs_reused for spent in group) * costs.epoch_s / divisor for group in groups]
    if any(saved):
        figure.add_bar(
            x=titles,
            y=saved,
            name="saved by reuse, estimated",
            marker={"color": "rgba(59,130,214,0.12)", "line": {"color": FAINT, "width": 1}},
            hovertemplate=f"%{{x}}: about %{{y:.3g}} {unit} saved<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.25, legend={"y": -0.24, "traceorder": "normal"})
    figure.update_xaxes(title="trial", showgrid=False, type="category", nticks=12)
    figure.update_yaxes(title=f"time in {unit}")
    return figure


def _groups(costs: Costs) -> list[tuple[TrialCost, ...]]:
    size = max(1, -(-len(costs.trials) // BARS))
    return [costs.trials[start : start + size] for start in range(0, len(costs.trials), size)]


def _title(group: Sequence[TrialCost]) -> str:
    first, last = group[0].trial, group[-1].trial
    return str(first) if first == last else f"{first} to {last}"


def _work(group: Sequence[TrialCost]) -> dict[str, float]:
    told = {part: sum(spent.cost.seconds.get(part, 0.0) for spent in group) for part in PARTS}
    return told | {"overhead": sum(spent.overhead for spent in group)}
