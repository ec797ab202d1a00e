"""Figures of the parameters: importances, parallel coordinates, and slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from prunetune.results.figures.style import CONTROL, FRONT, SCALE, canvas, escape
from prunetune.results.findings.parameter_importances import Parameter, Tried, spread
from prunetune.results.tables.rows import decimals, significant

SLICED = 500
"""A slice shows so many trials at most."""

MARKED = 6
"""An axis of no more values than this has a mark for each, and no others."""

FEWEST_LINES = 2
"""Of fewer trials there is nothing to compare."""


def importances_figure(parameters: Sequence[Parameter], shares: Mapping[str, Mapping[str, float]]) -> go.Figure | None:
    """Bars of each parameter's share, for each objective; None if there are none."""
    titles = {parameter.name: parameter.title for parameter in parameters}
    names = list(dict.fromkeys(name for told in shares.values() for name in told))
    if not names:
        return None
    names.sort(key=lambda name: sum(told.get(name, 0.0) for told in shares.values()))
    figure = canvas(height=110 + 44 * len(names))
    for colour, (objective, told) in zip((FRONT, CONTROL), shares.items(), strict=False):
        figure.add_bar(
            y=[escape(titles[name]) for name in names],
            x=[100 * told.get(name, 0.0) for name in names],
            orientation="h",
            name=f"for {objective}",
            marker={"color": colour},
            hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.3, margin={"t": 10}, legend={"y": -0.28, "traceorder": "normal"})
    figure.update_xaxes(title="share of the importance", ticksuffix=" %", rangemode="tozero")
    return figure


def parallel_figure(parameters: Sequence[Parameter], tried: Sequence[Tried]) -> go.Figure | None:
    """Each recovered trial as a line through its parameters, latency and accuracy; None if there are too few."""
    drawn = [item for item in tried if item.is_final and item.network.latency_ms is not None]
    drawn = [item for item in drawn if all(parameter.name in item.params for parameter in parameters)]
    if len(drawn) < FEWEST_LINES or not parameters:
        return None
    accuracies = [item.network.map50_95 for item in drawn]
    dimensions = [_dimension(parameter, [item.params[parameter.name] for item in drawn]) for parameter in parameters]
    dimensions.append({"label": "latency in ms", "values": [item.network.latency_ms for item in drawn]})
    dimensions.append({"label": "mAP50-95", "values": accuracies})
    figure = canvas(height=380)
    figure.add_parcoords(
        dimensions=dimensions,
        line={"color": accuracies, "colorscale": SCALE},
        labelfont={"size": 12},
        tickfont={"size": 11},
        unselected={"line": {"opacity": 0.06}},
    )
    figure.update_layout(margin={"l": 54, "r": 44, "t": 54, "b": 18})
    return figure


def slice_figure(parameter: Parameter, tried: Sequence[Tried]) -> go.Figure | None:
    """Accuracy over one parameter, coloured by latency; None if no recovered trial has it."""
    known = [item for item in tried if item.is_final and parameter.name in item.params]
    drawn = spread([item for item in known if item.network.latency_ms is not None], SLICED)
    if not drawn:
        return None
    figure = canvas(height=260)
    figure.add_scatter(
        x=[_text(item.params[parameter.name]) for item in drawn],
        y=[item.network.map50_95 for item in drawn],
        mode="markers",
        marker={
            "size": 7,
            "color": [item.network.latency_ms for item in drawn],
            "colorscale": SCALE,
            "opacity": 0.8,
            "colorbar": {"title": {"text": "ms"}, "thickness": 8, "len": 0.9, "outlinewidth": 0, "nticks": 4},
            "showscale": True,
        },
        customdata=[[_hover(parameter, item), item.network.name] for item in drawn],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )
    figure.update_layout(showlegend=False, margin={"t": 10})
    if parameter.choices is not None:
        order = [escape(choice) for choice in parameter.choices]
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    elif parameter.is_log:
        figure.update_xaxes(type="log", nticks=6)
    figure.update_xaxes(title=escape(parameter.title))
    figure.update_yaxes(title="mAP50-95")
    return figure


def _text(value: float | str) -> float | str:
    return escape(value) if isinstance(value, str) else value


def _hover(parameter: Parameter, item: Tried) -> str:
    value = item.params[parameter.name]
    told = escape(value) if isinstance(value, str) else f"{value:.4g}"
    return (
        f"<b>{item.network.title}</b><br>{escape(parameter.title)} {told}<br>"
        f"mAP50-95 {decimals(item.network.map50_95)}, {significant(item.network.latency_ms)} ms"
    )


def _dimension(parameter: Parameter, values: Sequence[float | str]) -> dict[str, Any]:
    label = escape(parameter.title)
    if parameter.choices is not None:
        places = [parameter.choices.index(str(value)) for value in values]
        ticks = list(range(len(parameter.choices)))
        return {"label": label, "values": places, "tickvals": ticks, "ticktext": [*map(escape, parameter.choices)]}
    numbers = [float(value) for value in values]
    if len(set(numbers)) <= MARKED:
        marks = sorted(set(numbers))
        return {"label": label, "values": numbers, "tickvals": marks, "ticktext": [f"{mark:.4g}" for mark in marks]}
    if not parameter.is_log or min(numbers) <= 0:
        return {"label": label, "values": numbers}
    logs = [math.log10(value) for value in numbers]
    low, high = min(logs), max(logs)
    ticks_at = [low + (high - low) * share / 4 for share in range(5)] if high > low else [low]
    return {
        "label": label,
        "values": logs,
        "tickvals": ticks_at,
        "ticktext": [f"{10**place:.3g}" for place in ticks_at],
    }
