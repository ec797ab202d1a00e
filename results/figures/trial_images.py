"""A trial's figures as PNG, for places that show pictures only. Drawn without a browser."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prunetune.results.figures.networks import blocks_removed_text, region_of, threshold
from prunetune.results.figures.recoveries import last_decisions, recovery_curve
from prunetune.results.figures.style import CONTROL, FAINT, FRONT, LIMIT, REGIONS
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.histories import read_gammas
from prunetune.results.findings.study_network import StudyNetwork, networks_of
from prunetune.results.record import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
WIDTH = 8.0
"""Of a picture in inches."""

LINES = 6
"""So many epochs of a phase are drawn."""


def trial_images(found: Findings, number: int, record: TrialRecord, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Draws what can be drawn of a trial: gives each file's name and content.

    Args:
        found: The study; the trial itself need not be in it yet.
        number: The trial's.
        record: What it found.
        folder: The study's.
    """
    if record.curves or last_decisions(record):
        yield "recovery.png", _recovery(found, record, folder)
    for network in reversed(networks_of(number, record)):
        if network.figures.channels and found.study.channels_dense and not network.is_deployed_further:
            of_round = f"-round-{network.result.round}" if network.is_earlier_round else ""
            yield f"channels{of_round}.png", _channels(found, network)
    if record.gammas:
        yield "gammas.png", _gammas(record, folder)


def _recovery(found: Findings, record: TrialRecord, folder: Path) -> bytes:
    """map50_95 over the epochs of the last recovery, with what was decided at its rungs."""
    figure = _canvas(4.0)
    axes = figure.subplots()
    curve = recovery_curve(record, folder)
    axes.plot([at for at, _ in curve], [value for _, value in curve], color=FRONT, marker=".", label="mAP50-95")
    for goes_on, name, marker in ((True, "goes on from a rung", ">"), (False, "ended at a rung", "x")):
        decided = [decision for decision in last_decisions(record) if decision.goes_on is goes_on]
        if decided:
            at, values = [item.epochs for item in decided], [item.values[0] for item in decided]
            color = REGIONS["backbone"] if goes_on else LIMIT
            axes.scatter(at, values, color=color, marker=marker, s=60, label=name, zorder=3)
    for baseline in _beside(found, record):
        axes.axhline(baseline.map50_95, color=CONTROL, linestyle=":", linewidth=1.2)
        axes.annotate(_plain(baseline.name), (1, baseline.map50_95), xycoords=("axes fraction", "data"), color=CONTROL,
                      ha="right", va="bottom", fontsize=9)  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("epochs of the last recovery")
    axes.set_ylabel("mAP50-95")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _tidy(axes)
    return _png(figure)


def _beside(found: Findings, record: TrialRecord) -> list[StudyNetwork]:
    """The baselines at the deployment of a trial's last network; where there is none, at those of their own."""
    deployment = None if record.network is None else record.network.deployment
    alike = [baseline for baseline in found.baselines.values() if baseline.deployment == deployment]
    return alike or [baseline for baseline in found.baselines.values() if not baseline.is_deployed_further]


def _channels(found: Findings, network: StudyNetwork) -> bytes:
    """The share of its channels that each layer kept, beside half-width's."""
    kept = found.study.kept(network.figures.channels)
    dense, half = found.study.channels_dense, found.study.channels_half
    layers = [layer for layer in dense if layer in kept and dense[layer] > 0]
    figure = _canvas(max(2.5, 1.2 + 0.2 * len(layers)))
    axes = figure.subplots()
    places = {layer: index for index, layer in enumerate(layers)}
    axes.barh([*places.values()], [100] * len(layers), color=FAINT, alpha=0.2, height=0.75)
    for region, color in REGIONS.items():
        members = [layer for layer in layers if region_of(found, layer) == region]
        if members:
            shares = [100 * kept[layer] / dense[layer] for layer in members]
            axes.barh([places[layer] for layer in members], shares, color=color, height=0.75, label=region or "kept")
    both = [layer for layer in layers if layer in half]
    if both:
        shares = [100 * half[layer] / dense[layer] for layer in both]
        axes.scatter(shares, [places[layer] for layer in both], color=CONTROL, marker="|", s=70, label="half-width")
    for layer, place in places.items():
        axes.annotate(f"{kept[layer]}/{dense[layer]}", (101, place), va="center", fontsize=7)
    axes.set_yticks([*places.values()], [_plain(layer) for layer in layers], fontsize=7)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xlabel(f"channels kept in %{blocks_removed_text(network)}")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    _tidy(axes)
    return _png(figure)


def _gammas(record: TrialRecord, folder: Path) -> bytes:
    """How the BatchNorm gammas moved in the sparse phases: a row for each round, a column for each region."""
    histograms = read_gammas(record, folder)
    rounds = sorted({item.round for item in histograms}) or [1]
    regions = [name for name in REGIONS if any(name in item.counts for item in histograms)] or [""]
    figure = _canvas(0.4 + 2.4 * len(rounds))
    grid = figure.subplots(len(rounds), len(regions), squeeze=False, sharex=True)
    for row, round_number in enumerate(rounds):
        epochs = sorted((item for item in histograms if item.round == round_number), key=lambda item: item.epoch)
        step = max(1, -(-len(epochs) // LINES))
        for column, region in enumerate(regions):
            axes = grid[row][column]
            drawn = [item for item in epochs[::-1][::step][::-1] if sum(item.counts.get(region, ()))]
            for index, item in enumerate(drawn):
                counts = item.counts[region]
                shares = [100 * count / sum(counts) for count in counts]
                strength = (index + 1) / len(drawn)
                axes.stairs(shares, item.edges, color=REGIONS[region], alpha=0.2 + 0.8 * strength**1.5,
                            fill=index == len(drawn) - 1, label=f"epoch {item.epoch}")  # fmt: skip
            cut = threshold(record, region, round_number)
            if cut is not None:
                axes.axvline(cut, color=LIMIT, linestyle="--", linewidth=1.2, label=f"threshold {cut:.3g}")
            axes.set_title(
                " ".join(filter(None, [f"round {round_number}" if len(rounds) > 1 else "", region])), fontsize=9
            )
            if drawn:
                axes.legend(frameon=False, fontsize=7)
            axes.set_xlabel("gamma" if row == len(rounds) - 1 else "")
            axes.set_ylabel("% of channels" if column == 0 else "")
            _tidy(axes)
    return _png(figure)


def _canvas(height: float) -> Figure:
    # matplotlib looks for a place in the user's home, and takes a second to import.
    os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "prunetune-matplotlib"))
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _tidy(axes: Axes) -> None:
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()


def _plain(words: str) -> str:
    """Text in which nothing is a formula."""
    return words.replace("$", r"\$")
