"""The figure of the front: every network, the controls and the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from prunetune.results.figures.front_points import HEIGHT, WIDTH, FrontPoints, Point, is_left, is_step, with_room
from prunetune.results.figures.style import (
    CONTROL,
    FAINT,
    FRONT,
    GRID,
    INK,
    LIMIT,
    WITHOUT_PRUNING,
    canvas,
    escape,
    wrapped,
)
from prunetune.results.findings.findings import Findings, Source
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import Interval
from prunetune.results.tables.rows import (
    decimals,
    latencies_text,
    latency_text,
    limit_text,
    memory_text,
    significant,
    size,
    with_interval,
)

_HOVER = "%{customdata[0]}<extra></extra>"

_ABOVE = 2

CROWD = 300
"""Of more networks than this the points are smaller."""

SELECTED = "selected"
"""The name of the trace that rings the selected network; the page moves it."""


def front_figure(study: Source, chosen: str | int | None = None, target: str | None = None) -> go.Figure:
    """Accuracy against the latency on one target: every network, the front, the controls and the budget.

    A second line joins the controls that no other dominates, at all deployments: what can be had without pruning.
    Networks that the gate ended are known before recovery only. They stand in a strip of their own below, on
    the same latency axis: their accuracy cannot be compared with that of recovered networks. Bars are 95 % intervals.
    A point's `customdata` is its text and its network's name.

    Args:
        study: What to draw.
        chosen: The name of the network to mark; the most accurate member if None.
        target: The target's name; the main one if None.
    """
    found = Findings.of(study)
    points = FrontPoints.of(found, target)
    drawn = points.target
    title = "latency in ms" if drawn is None or len(found.targets) == 1 else f"latency on {drawn.name} in ms"
    budget_ms = None if drawn is None else drawn.budget_ms
    figure = canvas(height=620 if points.over else 500)
    left, right = _front_axes(figure, points.drawn, points.over, budget_ms)
    figure.update_xaxes(title=escape(title))
    # The order of the traces is that of the legend: what matters comes first, and lies on top.
    _front_line(figure, points)
    marked = found.best if chosen is None else found.network(str(chosen))
    _ring(figure, marked, [*points.drawn, *points.over], points.over)
    _controls(figure, points, budget_ms)
    _tested(figure, found, drawn.name if drawn is not None else None)
    size_px = 8 if len(found.networks) <= CROWD else 5
    cross = {"symbol": "x", "size": size_px, "color": LIMIT, "opacity": 0.75}
    small = {"size": 5, "opacity": 0.45}
    diamond = {**small, "color": CONTROL, "symbol": "diamond"}
    _points(figure, points.dominated, "complete, dominated", {"size": size_px, "color": FAINT})
    _points(figure, points.deployed, "at further deployments, dominated", {**small, "color": FRONT})
    _points(figure, points.deployed_baselines, "controls at further deployments", diamond)
    _points(figure, points.stopped, "stopped early", {"size": size_px, "color": FAINT, "symbol": "circle-open"})
    _points(figure, points.slow, "over budget after an earlier round", cross)
    _points(figure, points.over, "over budget, not recovered", cross, axis="y2")
    if drawn is not None and budget_ms is not None:
        share = (budget_ms - left) / (right - left)
        line = {"color": LIMIT, "width": 1.5, "dash": "dash"}
        figure.add_shape(type="line", x0=budget_ms, x1=budget_ms, y0=0, y1=1, yref="paper", line=line)
        figure.add_annotation(
            x=budget_ms,
            y=1,
            yref="paper",
            yanchor="bottom",
            xanchor="left" if share < 0.25 else "right" if share > 0.75 else "center",
            text=escape(f"budget {limit_text(drawn)}"),
            showarrow=False,
            font={"color": LIMIT, "size": 12},
        )
    return figure


def _ring(figure: go.Figure, marked: StudyNetwork | None, points: Sequence[Point], over: Sequence[Point]) -> None:
    at = next((point for point in points if marked is not None and point.network.name == marked.name), None)
    figure.add_scatter(
        x=[None if at is None else at.latency_ms],
        y=[None if at is None else at.map50_95],
        yaxis="y2" if at in over else "y",
        mode="markers",
        name=SELECTED if at is None else f"{SELECTED}: {at.network.title}",
        marker={"symbol": "circle-open", "size": 21, "color": FRONT, "line": {"width": 2}},
        hoverinfo="skip",
        zorder=_ABOVE,
    )


def _front_line(figure: go.Figure, points: FrontPoints) -> None:
    if points.front:
        (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
        named = with_room(points.front, WIDTH * (right - left), HEIGHT * (high - low))
        figure.add_scatter(
            **_places(points.front),
            mode="lines+markers+text" if is_step(points.front) else "markers+text",
            name="front",
            # A step: between two members nothing better than the faster one was found.
            line={"color": FRONT, "width": 2, "shape": "hv"},
            marker={"size": 11, "color": FRONT},
            text=[point.network.name if point.network.name in named else "" for point in points.front],
            textposition="top left",
            textfont={"color": FRONT, "size": 12},
            error_x=_noise(points.front, FRONT),
            zorder=_ABOVE,
            cliponaxis=False,  # names may begin left of the axis
        )


def _places(points: Sequence[Point]) -> dict[str, Any]:
    return {
        "x": [point.latency_ms for point in points],
        "y": [point.map50_95 for point in points],
        "customdata": [[_hover(point), point.network.name] for point in points],
        "hovertemplate": _HOVER,
    }


def _noise(points: Sequence[Point], colour: str) -> dict[str, Any]:
    """Bars of what is known of the latencies' uncertainty, in ms."""
    off = [point.off_ms for point in points]
    return {"type": "data", "array": off, "color": colour, "thickness": 1.2, "width": 3, "visible": any(off)}


def _tested(figure: go.Figure, found: Findings, target: str | None) -> None:
    """What the last confirmation found, with intervals in both directions."""
    confirmed = found.study.confirmation
    if confirmed is None or target is None:
        return
    drawn = [
        (name, network.map50_95, network.latencies[target])
        for name, network in confirmed.networks.items()
        if network.map50_95 is not None and target in network.latencies
    ]
    if not drawn:
        return
    figure.add_scatter(
        x=[taken.value for _, _, taken in drawn],
        y=[accuracy.value for _, accuracy, _ in drawn],
        error_x=_sides([taken for _, _, taken in drawn]),
        error_y=_sides([accuracy for _, accuracy, _ in drawn]),
        mode="markers",
        name=f"on the {confirmed.split} split, with {100 * confirmed.confidence:.0f} % intervals",
        marker={"symbol": "square", "size": 6, "color": INK},
        zorder=_ABOVE - 1,
        customdata=[
            [
                f"<b>{escape(found.title(name))}</b> on {confirmed.images} images<br>"
                f"mAP50-95 {with_interval(accuracy.value, accuracy)}<br>"
                f"{significant(taken.value)} ms ({significant(taken.low)} to {significant(taken.high)})",
                name,
            ]
            for name, accuracy, taken in drawn
        ],
        hovertemplate=_HOVER,
    )


def _sides(intervals: Sequence[Interval]) -> dict[str, Any]:
    return {
        "array": [interval.high - interval.value for interval in intervals],
        "arrayminus": [interval.value - interval.low for interval in intervals],
        "type": "data", "symmetric": False, "color": INK, "thickness": 1.2, "width": 3,
    }  # fmt: skip


def _points(figure: go.Figure, points: Sequence[Point], name: str, marker: dict[str, Any], axis: str = "y") -> None:
    if points:
        figure.add_scatter(**_places(points), yaxis=axis, mode="markers", name=name, marker=marker)


def _controls(figure: go.Figure, points: FrontPoints, budget_ms: float | None) -> None:
    for some, name, line in ((points.curve, WITHOUT_PRUNING, "lines+"), (points.baselines, "other controls", "")):
        if not some:
            continue
        sides = ["left" if is_left(point, points.controls, budget_ms) else "right" for point in some]
        figure.add_scatter(
            **_places(some),
            mode=f"{line if is_step(some) else ''}markers+text",
            name=name,
            line={"color": CONTROL, "width": 1.5, "shape": "hv", "dash": "dot"},
            marker={"symbol": "diamond", "size": 12, "color": CONTROL},
            text=[f"\u2002{escape(point.network.name)}\u2002" for point in some],
            textposition=[f"bottom {side}" for side in sides],  # below the bars
            textfont={"color": CONTROL, "size": 12},
            error_x=_noise(some, CONTROL),
            zorder=_ABOVE,
        )


def _front_axes(
    figure: go.Figure, above: Sequence[Point], over: Sequence[Point], budget_ms: float | None
) -> tuple[float, float]:
    """Ranges with room for the labels; with networks over the budget, a strip below for them.

    Returns:
        The range of latency in ms.
    """
    low, high = _range([point.map50_95 for point in above], margin=0.1, floor=0.01)
    budget = [] if budget_ms is None else [budget_ms]
    left, right = _range([*(point.latency_ms for point in [*above, *over]), *budget], margin=0.1, floor=0.01)
    left = max(0.0, left)
    figure.update_xaxes(range=[left, right])
    figure.update_yaxes(title="mAP50-95", range=[max(0.0, low), min(1.0, high)])
    if over:
        axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "rangemode": "tozero", "nticks": 4}
        figure.update_layout(
            yaxis={"domain": [0.3, 1]},
            yaxis2={**axis, "domain": [0, 0.2], "title": "before recovery", "anchor": "x"},
            xaxis={"anchor": "y2"},
            legend={"y": -0.12},
        )
    return left, right


def _range(values: Sequence[float], margin: float, floor: float) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    room = margin * max(max(values) - min(values), floor)
    return min(values) - room, max(values) + room


def _hover(point: Point) -> str:
    network = point.network
    latency = network.latency
    lines = (
        f"<b>{escape(network.title)}</b>",
        str(network.deployment),
        f"mAP50-95 {decimals(network.map50_95)}",
        latency_text(latency.ms, latency.ratio_to_dense)
        if latency and len(network.latencies) < 2
        else escape(latencies_text(network)),
        f"{size(network.figures.params)} parameters",
        f"{significant(network.figures.gflops)} GFLOPs",
        memory_text(network.figures.memory_mb),
        wrapped(network.recipe_text),
    )
    return "<br>".join(line for line in lines if line)
