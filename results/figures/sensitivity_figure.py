"""The figure of what single groups of layers are worth."""

from __future__ import annotations

import plotly.graph_objects as go

from prunetune.pruning.accuracy.sensitivity import GroupSensitivity, Removal, Sensitivity
from prunetune.results.figures.style import FRONT, INK, LIMIT, REGIONS, canvas, escape

COLOURS = (REGIONS["backbone"], FRONT, LIMIT)
"""By rising share; further ones begin again."""

ROW, FRAME = 15, 110
"""Height in px of a group, and of what is around them."""


def sensitivity_figure(found: Sensitivity) -> go.Figure | None:
    """What each group's removals cost in map50_95, groups from input (top) to output; None if nothing could go."""
    shares = sorted({removal.share for group in found.groups for removal in group.removals})
    if not shares:
        return None
    figure = canvas(height=FRAME + ROW * len(found.groups))
    for place, share in enumerate(shares):
        told = [(group, removal) for group in found.groups for removal in group.removals if removal.share == share]
        figure.add_scatter(
            x=[found.lost(removal) for _, removal in told],
            y=[group.name for group, _ in told],
            mode="markers",
            marker={"color": COLOURS[place % len(COLOURS)], "size": 7, "opacity": 0.85},
            name=f"{share:.0%} removed",
            customdata=[[_words(group, removal), f"{removal.map50_95:.3f}"] for group, removal in told],
            hovertemplate="%{customdata[0]}<br>mAP50-95 %{customdata[1]}, %{x:.3f} lost<extra></extra>",
        )
    names = [group.name for group in found.groups]
    figure.update_layout(legend={"y": 1.0, "yanchor": "bottom"})
    figure.update_xaxes(title="mAP50-95 lost", zeroline=True, zerolinecolor=INK)
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=names,
        autorange="reversed",
        dtick=1,
        tickfont={"size": 10},
    )
    return figure


def _words(group: GroupSensitivity, removal: Removal) -> str:
    return f"<b>{escape(group.name)}</b> ({escape(group.region)})<br>{removal.kept} of {group.channels} channels kept"
