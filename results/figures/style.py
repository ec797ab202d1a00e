"""The common look of the figures. Each reads on a light and a dark page: no background, colours of middle lightness."""

from __future__ import annotations

from html import escape as _escape

import plotly.graph_objects as go

FRONT, CONTROL, LIMIT = "#3b82d6", "#d9822b", "#d1495b"
SELECTED = "#c9a227"
WITHOUT_PRUNING = "without pruning"
"""What pictures call the sceptic's curve."""
FAINT, INK, GRID = "#99a0ab", "#808690", "rgba(128,134,145,0.22)"
REGIONS = {"backbone": "#1f9e89", "neck": "#3b82d6", "head": "#9067c6", "": "#3b82d6"}
SCALE = [[0.0, "#7b5cc4"], [0.35, "#3b82d6"], [0.65, "#1f9e89"], [1.0, "#c9a227"]]
"""A colour scale without white and black: it reads on both pages."""


def escape(words: str) -> str:
    """Text that plotly must not read as markup. It knows the entities of brackets, but not those of quotes."""
    return _escape(words, quote=False)


def wrapped(words: str, width: int = 56) -> str:
    """Escaped text with line breaks for a hover, broken at commas and blanks."""
    lines, line = [], ""
    for word in words.split(" "):
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "<br>".join(escape(part) for part in [*lines, line])


def canvas(height: int) -> go.Figure:
    """An empty figure of `height` px in the common style."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    layout = go.Layout(
        template=go.layout.Template(),
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "family": "system-ui, sans-serif", "size": 12},
        margin={"l": 8, "r": 12, "t": 34, "b": 8},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0},
        xaxis=axis,
        yaxis=axis,
        hovermode="closest",
        showlegend=True,
    )
    return go.Figure(layout=layout)
