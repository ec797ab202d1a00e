"""Figures of one network, for notebooks: which channels went, and how its gammas moved before.

The report draws the same in the page (report.js), for whichever network its reader selects.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from prunetune.results.figures.networks import blocks_removed_text, region_of, threshold
from prunetune.results.figures.style import CONTROL, LIMIT, REGIONS, canvas, escape
from prunetune.results.findings.findings import Findings, Source
from prunetune.results.findings.histories import GammaHistogram
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import TrialRecord
from prunetune.results.tables.rows import percent

_GAMMA_LINES = 6


def channels_figure(study: Source, network: StudyNetwork) -> go.Figure | None:
    """Kept and removed channels of each layer, from the network's input (top) to its output.

    Returns:
        None if the network or the study does not know its widths.
    """
    found = Findings.of(study)
    kept, dense, half = (
        found.study.kept(network.figures.channels),
        found.study.channels_dense,
        found.study.channels_half,
    )
    layers = [layer for layer in dense if layer in kept and dense[layer] > 0]
    if not layers:
        return None
    figure = canvas(height=140 + 19 * len(layers))
    for region in _regions(found, layers):
        members = [layer for layer in layers if region_of(found, layer) == region]
        removed = 1 - sum(kept[layer] for layer in members) / sum(dense[layer] for layer in members)
        name = f"{region or 'channels'} kept ({percent(removed)} removed)"
        shares = [100 * kept[layer] / dense[layer] for layer in members]
        texts = [f"{kept[layer]} of {dense[layer]}" for layer in members]
        figure.add_bar(
            y=[escape(layer) for layer in members],
            x=shares,
            orientation="h",
            name=name,
            marker={"color": REGIONS[region]},
            customdata=texts,
            hovertemplate="%{y}: %{customdata} kept<extra></extra>",
        )
    figure.add_bar(
        y=[escape(layer) for layer in layers],
        x=[100 - 100 * kept[layer] / dense[layer] for layer in layers],
        orientation="h",
        name="removed",
        marker={"color": "rgba(128,134,145,0.2)"},
        hoverinfo="skip",
    )
    both = [layer for layer in layers if layer in half]
    if both:
        figure.add_scatter(
            y=[escape(layer) for layer in both],
            x=[100 * half[layer] / dense[layer] for layer in both],
            mode="markers",
            name="half-width keeps",
            marker={"symbol": "line-ns", "size": 13, "line": {"width": 2.5, "color": CONTROL}},
            customdata=[f"{half[layer]} of {dense[layer]}" for layer in both],
            hovertemplate="%{y}, half-width: %{customdata}<extra></extra>",
        )
    # All at once: plotly checks every annotation again for each that is added.
    figure.update_layout(
        annotations=[
            {
                "x": 1.01,
                "xref": "paper",
                "y": escape(layer),
                "text": f"{kept[layer]}/{dense[layer]}",
                "showarrow": False,
                "xanchor": "left",
                "font": {"size": 11},
            }
            for layer in layers
        ]
    )
    figure.update_layout(barmode="stack", bargap=0.22, margin={"r": 68, "t": 56})
    figure.update_layout(legend={"y": 1, "yanchor": "bottom", "traceorder": "normal"})
    figure.update_xaxes(
        range=[0, 100], ticksuffix=" %", title=f"channels kept{blocks_removed_text(network)}", showgrid=True
    )
    order = [escape(layer) for layer in layers]
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=order,
        range=[len(layers) - 0.5, -0.5],
        showgrid=False,
        tickfont={"size": 11},
    )
    return figure


def gamma_figures(histograms: Sequence[GammaHistogram], record: TrialRecord) -> dict[tuple[int, str], go.Figure]:
    """How the BatchNorm gammas move in the sparse phases: a figure for each round and region.

    Each line is one epoch's histogram, as a share of the region's channels; the last one is the darkest. The
    dashed line is the recipe's threshold, or what was found in its place: what is left of it after the last epoch goes.
    """
    figures: dict[tuple[int, str], go.Figure] = {}
    rounds = sorted({item.round for item in histograms})
    regions = [name for name in REGIONS if any(name in item.counts for item in histograms)]
    high = max((_top(item) for item in histograms), default=1.0)
    for round_number in rounds:
        epochs = sorted((item for item in histograms if item.round == round_number), key=lambda item: item.epoch)
        for region in regions:
            drawn = _spread([item for item in epochs if sum(item.counts.get(region, ())) > 0])
            if not drawn:
                continue
            figure = canvas(height=300)
            for index, item in enumerate(drawn):
                total = sum(item.counts[region])
                shares = [100 * count / total for count in item.counts[region]]
                strength = (index + 1) / len(drawn)
                is_last = index == len(drawn) - 1
                figure.add_scatter(
                    x=list(item.edges),
                    y=[*shares, shares[-1]],
                    name=f"epoch {item.epoch}",
                    line={"shape": "hv", "width": 2.2 if is_last else 1.4, "color": REGIONS[region]},
                    opacity=0.35 + 0.65 * strength**1.5,
                    fill="tozeroy" if is_last else None,
                    fillcolor=_translucent(REGIONS[region]),
                    hovertemplate=f"epoch {item.epoch}, gamma %{{x:.3f}}: %{{y:.1f}} %<extra></extra>",
                )
            cut = threshold(record, region, round_number)
            if cut is not None:
                figure.add_vline(
                    x=cut,
                    line={"color": LIMIT, "width": 1.5, "dash": "dash"},
                    annotation={"text": f"threshold {cut:.3g}", "font": {"color": LIMIT}, "xshift": 4},
                    annotation_position="top right",
                )
            figure.update_layout(margin={"t": 26, "b": 84}, legend={"y": -0.32})
            figure.update_xaxes(title="gamma", range=[0, high])
            figure.update_yaxes(title="share of channels", ticksuffix=" %", rangemode="tozero")
            figures[round_number, region] = figure
    return figures


def _regions(found: Findings, layers: Sequence[str]) -> list[str]:
    present = {region_of(found, layer) for layer in layers}
    return [region for region in REGIONS if region in present]


def _top(item: GammaHistogram) -> float:
    """The upper edge of the last bin that holds anything."""
    filled = [index for bins in item.counts.values() for index, count in enumerate(bins) if count > 0]
    return item.edges[max(filled, default=0) + 1]


def _spread(items: list[GammaHistogram]) -> list[GammaHistogram]:
    """At most `_GAMMA_LINES` of the epochs, evenly, the first and the last among them."""
    if len(items) <= _GAMMA_LINES:
        return items
    step = (len(items) - 1) / (_GAMMA_LINES - 1)
    return [items[round(index * step)] for index in range(_GAMMA_LINES)]


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
