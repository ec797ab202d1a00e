"""The figure of a measurement: every round of every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from prunetune.results.figures.style import CONTROL, FRONT, canvas, escape
from prunetune.spaces.files import write_text


def distribution_figure(samples_ms: Mapping[str, Sequence[float]], reference: str) -> go.Figure:
    """Boxes (quartiles, whiskers at 1.5 interquartile ranges) and every round beside them, outliers included.

    Args:
        samples_ms: Network to the times of its rounds, in ms. Equal positions are of the same round.
        reference: The network that the ratios refer to; drawn in another colour.
    """
    figure = canvas(height=140 + 90 * len(samples_ms))
    for name, times in samples_ms.items():
        ratios = [time / other for time, other in zip(times, samples_ms[reference], strict=True)]
        figure.add_box(
            x=list(times),
            name=escape(name),
            orientation="h",
            boxpoints="all",
            jitter=0.5,
            pointpos=-1.6,
            marker={"size": 4, "color": CONTROL if name == reference else FRONT},
            line={"width": 1.5},
            customdata=list(zip(range(1, len(times) + 1), ratios, strict=True)),
            hovertemplate="round %{customdata[0]}: %{x:.3f} ms, ratio %{customdata[1]:.3f}<extra></extra>",
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="latency in ms")
    figure.update_yaxes(autorange="reversed")  # the first network on top, as in the table
    return figure


def write_distribution(samples_ms: Mapping[str, Sequence[float]], reference: str, path: Path) -> None:
    """Writes the figure as one HTML file that opens without a network.

    Raises:
        StoreError: `path` cannot be written.
    """
    write_text(path, distribution_figure(samples_ms, reference).to_html(include_plotlyjs=True))
