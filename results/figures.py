"""The figure of the front: every trial, the controls and the budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from prunetune.results.certainty import confirmation
from prunetune.results.entries import Entry, is_candidate, outcome, recipe_text
from prunetune.results.findings import Findings, Source
from prunetune.results.style import CONTROL, FAINT, FRONT, GRID, INK, LIMIT, canvas, escape, wrapped
from prunetune.results.tables import decimals, latencies_text, latency, limit_text, significant, size

_HOVER = "%{customdata[0]}<extra></extra>"

_ABOVE = 2

CROWD = 300
"""Of more trials than this the points are smaller."""

SELECTED = "selected"
"""The name of the trace that rings the selected network; the page moves it."""


def front_figure(study: Source, chosen: int | None = None, target: str | None = None) -> go.Figure:
    """Accuracy against the latency on one target: every trial, the front, the controls and the budget.

    Trials that the gate ended are known before recovery only. They stand in a strip of their own below, on
    the same latency axis: their accuracy cannot be compared with that of recovered networks. Bars are 95 % intervals.
    A point's `customdata` is its text and its key, a trial's number or a control's name.

    Args:
        study: What to draw.
        chosen: The number of the trial to mark; the most accurate member if None.
        target: The target's name; the main one if None.
    """
    found = Findings.of(study)
    drawn = next((item for item in found.targets if item.name == target), found.main)
    title = "latency in ms" if drawn is None or len(found.targets) == 1 else f"latency on {drawn.name} in ms"

    def on_target(item: Entry) -> Entry:
        return item if drawn is None else item.on(drawn.name)

    def ended(name: str) -> list[Entry]:
        return [on_target(found.entry(trial)) for trial in found.trials if outcome(trial) == name]

    front = sorted(map(on_target, found.front), key=lambda item: item.latency_ms or 0.0)
    members = {item.trial for item in front}
    complete = [on_target(found.entry(trial)) for trial in found.trials if is_candidate(trial)]
    stopped = ended("STOPPED_EARLY")
    over = [item for item in ended("OVER_BUDGET") if item.latency_ms is not None and item.map50_95 is not None]
    controls = {name: on_target(item) for name, item in found.controls.items()}
    budget_ms = None if drawn is None else drawn.budget_ms
    figure = canvas(height=620 if over else 500)
    left, right = _front_axes(figure, [*complete, *stopped, *controls.values()], over, budget_ms)
    figure.update_xaxes(title=escape(title))
    # The order of the traces is that of the legend: what matters comes first, and lies on top.
    _front_line(figure, front, None if drawn is None else drawn.name)
    mark = chosen if chosen is not None else (found.best.trial if found.best else None)
    marked = [item for item in [*complete, *over] if item.trial == mark]
    _ring(figure, marked[0] if marked else None, axis="y2" if marked and marked[0] in over else "y")
    middle = (left + right) / 2
    _controls(figure, controls, middle if budget_ms is None else budget_ms, None if drawn is None else drawn.name)
    _tested(figure, found, drawn.name if drawn is not None else None)
    size_px = 8 if len(found.trials) <= CROWD else 5
    faint = {"size": size_px, "color": FAINT}
    _points(figure, [item for item in complete if item.trial not in members], "complete, dominated", faint)
    _points(figure, stopped, "stopped early", {"size": size_px, "color": FAINT, "symbol": "circle-open"})
    cross = {"symbol": "x", "size": size_px, "color": LIMIT, "opacity": 0.75}
    _points(figure, over, "over budget, not recovered", cross, axis="y2")
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


def _ring(figure: go.Figure, item: Entry | None, axis: str) -> None:
    figure.add_scatter(
        x=[None if item is None else item.latency_ms],
        y=[None if item is None else item.map50_95],
        yaxis=axis,
        mode="markers",
        name=SELECTED if item is None else f"{SELECTED}: trial {item.trial}",
        marker={"symbol": "circle-open", "size": 21, "color": FRONT, "line": {"width": 2}},
        hoverinfo="skip",
        zorder=_ABOVE,
    )


def _front_line(figure: go.Figure, members: Sequence[Entry], target: str | None) -> None:
    if not members:
        return
    accuracies = [item.map50_95 or 0.0 for item in members]
    # Members that are ahead on another target only lie below the step of this one: points without a line.
    is_step = accuracies == sorted(accuracies)
    figure.add_scatter(
        x=[item.latency_ms for item in members],
        y=accuracies,
        mode="lines+markers+text" if is_step else "markers+text",
        name="front",
        # A step: between two members nothing better than the faster one was found.
        line={"color": FRONT, "width": 2, "shape": "hv"},
        marker={"size": 11, "color": FRONT},
        text=[str(item.trial) for item in members],
        textposition="top left",
        textfont={"color": FRONT, "size": 12},
        error_x=_noise(members, target, FRONT),
        zorder=_ABOVE,
        customdata=[[_hover(f"trial {item.trial}", item), str(item.trial)] for item in members],
        hovertemplate=_HOVER,
    )


def _noise(items: Sequence[Entry], target: str | None, colour: str) -> dict[str, Any]:
    """Bars of what is known of the latencies' uncertainty, in ms."""
    readings = [item.latencies.get(target or "") for item in items]
    off = [
        0.0 if reading is None else reading.latency_ms * (reading.latency_uncertainty or 0.0) for reading in readings
    ]
    return {"type": "data", "array": off, "color": colour, "thickness": 1.2, "width": 3, "visible": any(off)}


def _tested(figure: go.Figure, found: Findings, target: str | None) -> None:
    """What the last confirmation found, with intervals in both directions."""
    confirmed = confirmation(found)
    told = {} if confirmed is None else confirmed.networks
    drawn = [
        (name, network.map50_95, network.latencies[target])
        for name, network in told.items()
        if target is not None and network.map50_95 is not None and target in network.latencies
    ]
    if confirmed is None or not drawn:
        return
    bars = {"type": "data", "symmetric": False, "color": INK, "thickness": 1.2, "width": 3}
    accuracies, latencies = [accuracy for _, accuracy, _ in drawn], [latency for _, _, latency in drawn]
    share = f"{100 * confirmed.confidence:.0f} %"
    figure.add_scatter(
        x=[item.value for item in latencies],
        y=[item.value for item in accuracies],
        error_x={
            **bars,
            "array": [item.high - item.value for item in latencies],
            "arrayminus": [item.value - item.low for item in latencies],
        },
        error_y={
            **bars,
            "array": [item.high - item.value for item in accuracies],
            "arrayminus": [item.value - item.low for item in accuracies],
        },
        mode="markers",
        name=f"on the {confirmed.split} split, with {share} intervals",
        marker={"symbol": "square", "size": 6, "color": INK},
        zorder=_ABOVE - 1,
        customdata=[
            [
                f"<b>{escape(f'trial {name}' if name.isdigit() else name)}</b> on {confirmed.images} images<br>"
                f"mAP50-95 {accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})<br>"
                f"{significant(taken.value)} ms ({significant(taken.low)} to {significant(taken.high)})",
                name,
            ]
            for name, accuracy, taken in drawn
        ],
        hovertemplate=_HOVER,
    )


def _points(figure: go.Figure, items: Sequence[Entry], name: str, marker: dict[str, Any], axis: str = "y") -> None:
    drawn = [item for item in items if item.latency_ms is not None and item.map50_95 is not None]
    if drawn:
        figure.add_scatter(
            x=[item.latency_ms for item in drawn],
            y=[item.map50_95 for item in drawn],
            yaxis=axis,
            mode="markers",
            name=name,
            marker=marker,
            customdata=[[_hover(f"trial {item.trial}", item), str(item.trial)] for item in drawn],
            hovertemplate=_HOVER,
        )


def _controls(figure: go.Figure, controls: dict[str, Entry], middle: float, target: str | None) -> None:
    drawn = {name: item for name, item in controls.items() if item.latency_ms is not None and item.map50_95 is not None}
    if drawn:
        latencies = [item.latency_ms or 0.0 for item in drawn.values()]
        figure.add_scatter(
            x=latencies,
            y=[item.map50_95 for item in drawn.values()],
            mode="markers+text",
            name="controls",
            marker={"symbol": "diamond", "size": 12, "color": CONTROL},
            text=[f"\u2002{escape(name)}\u2002" for name in drawn],
            # Names stand below the bars, and on the side of the budget's line that their control is on.
            textposition=[
                "bottom left" if x <= middle or x > 0.8 * max(latencies) else "bottom right" for x in latencies
            ],
            textfont={"color": CONTROL, "size": 12},
            error_x=_noise(list(drawn.values()), target, CONTROL),
            zorder=_ABOVE,
            customdata=[[_hover(name, item), name] for name, item in drawn.items()],
            hovertemplate=_HOVER,
        )


def _front_axes(
    figure: go.Figure, recovered: Iterable[Entry], over: Sequence[Entry], budget_ms: float | None
) -> tuple[float, float]:
    """Ranges with room for the labels; with trials over the budget, a strip below for them.

    Returns:
        The range of latency in ms.
    """
    above = list(recovered)
    low, high = _range([item.map50_95 for item in above], margin=0.1, floor=0.01)
    left, right = _range([*(item.latency_ms for item in [*above, *over]), budget_ms], margin=0.1, floor=0.01)
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


def _range(values: Sequence[float | None], margin: float, floor: float) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    if not known:
        return 0.0, 1.0
    room = margin * max(max(known) - min(known), floor)
    return min(known) - room, max(known) + room


def _hover(name: str, item: Entry) -> str:
    lines = (
        f"<b>{escape(name)}</b>",
        f"mAP50-95 {decimals(item.map50_95)}",
        latency(item.latency_ms, item.latency_ratio) if len(item.latencies) < 2 else escape(latencies_text(item)),
        " ".join(part for part in (size(item.params), "parameters") if size(item.params)),
        f"{significant(item.gflops)} GFLOPs" if item.gflops is not None else "",
        wrapped(recipe_text(item.recipe)),
    )
    return "<br>".join(line for line in lines if line)
