"""The front as a PNG, for a README or a slide. Drawn without a browser."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from prunetune.results.figures.front_points import HEIGHT, WIDTH, FrontPoints, Point, is_left, is_step, with_room
from prunetune.results.figures.point_labels import Label, place_labels
from prunetune.results.figures.style import CONTROL, FAINT, FRONT, INK, LIMIT, WITHOUT_PRUNING
from prunetune.results.findings.findings import Findings
from prunetune.results.record import Confirmation, Interval
from prunetune.results.tables.rows import limit_text
from prunetune.spaces.files import publish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (9.6, 6.0)
"""Of the picture in inches."""

DPI = 150


def write_front_image(study: Study | Findings, path: Path, target: str | None = None) -> Path:
    """Draws the front, the controls, the budget and every recovered network; bars are 95 % intervals.

    Args:
        study: What to draw.
        path: The PNG to write.
        target: The target whose latency is drawn; the main one if None.

    Returns:
        `path`.

    Raises:
        StoreError: `path` cannot be written.
    """
    # matplotlib looks for a place in the user's home, and takes a second to import.
    os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "prunetune-matplotlib"))
    from matplotlib.figure import Figure

    found = Findings.of(study)
    points = FrontPoints.of(found, target)
    drawn = points.target
    figure = Figure(figsize=SIZE, layout="constrained")
    if points.over:
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        _dots(strip, points.over, "over budget, not recovered", color=LIMIT, marker="x", alpha=0.75)
        strip.set_ylabel("before recovery")
        strip.set_ylim(bottom=0)
    else:
        axes = strip = figure.subplots()
    _dots(axes, points.dominated, "complete, dominated", color=FAINT)
    small = {"s": 12, "alpha": 0.45}
    _dots(axes, points.deployed, "at further deployments, dominated", color=FRONT, **small)
    _dots(axes, points.deployed_baselines, "controls at further deployments", color=CONTROL, marker="D", **small)
    _dots(axes, points.stopped, "stopped early", edgecolors=FAINT, facecolors="none")
    _dots(axes, points.slow, "over budget after an earlier round", color=LIMIT, marker="x", alpha=0.75)
    target_name, budget_ms = "" if drawn is None else drawn.name, None if drawn is None else drawn.budget_ms
    _tested(axes, found.study.confirmation, target_name)
    front, curve = _steps(points.front), _steps(points.curve)
    for steps, colour, line in ((curve, CONTROL, ":"), (front, FRONT, "-")):
        if steps:
            axes.plot(*zip(*steps, strict=True), color=colour, linewidth=1.6, linestyle=line)
    for some, name, colour, marker in (
        (points.front, "front", FRONT, "o"),
        (points.curve, WITHOUT_PRUNING, CONTROL, "D"),
        (points.baselines, "other controls", CONTROL, "d"),
    ):
        _bars(axes, some, colour)
        _dots(axes, some, name, color=colour, marker=marker, s=60, zorder=3)
    if drawn is not None and budget_ms is not None:
        for axis in {axes, strip}:
            axis.axvline(budget_ms, color=LIMIT, linestyle="--", linewidth=1.2)
        words, across = _plain(f"budget {limit_text(drawn)}"), axes.get_xaxis_transform()
        axes.text(budget_ms, 1.015, words, transform=across, ha="center", color=LIMIT, fontsize=10)
    where = f" on {drawn.name}" if drawn is not None and len(found.targets) > 1 else ""
    strip.set_xlabel(_plain(f"latency{where} in ms"))
    axes.set_ylabel("mAP50-95")
    for axis in {axes, strip}:
        axis.grid(color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.08)
    if found.trials or found.baselines:
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    with publish(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that matplotlib's font lacks
        lines = [front, curve, [] if budget_ms is None else [(budget_ms, end) for end in axes.get_ylim()]]
        seen = list(map(_place, points.drawn))
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        named = with_room(points.front, WIDTH * (right - left), HEIGHT * (high - low))
        place_labels(axes, _labels(points, named, budget_ms), seen, [line for line in lines if line])
        figure.savefig(draft, format="png", dpi=DPI)
    return path


def _steps(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The corners of a line through points; none if some are ahead on another target only."""
    places = list(map(_place, points)) if is_step(points) else []
    corners = [(after, accuracy) for (_, accuracy), (after, _) in pairwise(places)]
    return [place for pair in zip_longest(places, corners) for place in pair if place is not None]


def _labels(points: FrontPoints, named: set[str], budget_ms: float | None) -> list[Label]:
    """The names of the controls, below their bars, and those of the front that have room, above its line."""
    controls = [
        Label(_plain(point.network.name), _place(point), (-1 if left else 1, -1), CONTROL)
        for point in points.controls
        for left in [is_left(point, points.controls, budget_ms)]
    ]
    members = [point for point in points.front if point.network.name in named]
    return [*controls, *(Label(point.network.name, _place(point), (-1, 1), FRONT, 9) for point in members)]


def _place(point: Point) -> tuple[float, float]:
    return point.latency_ms, point.map50_95


def _tested(axes: Axes, confirmed: Confirmation | None, target: str) -> None:
    """What the last confirmation found, with intervals in both directions."""
    networks = [] if confirmed is None else list(confirmed.networks.values())
    points = [(network.latencies[target], network.map50_95) for network in networks if target in network.latencies]
    known = [(taken, accuracy) for taken, accuracy in points if accuracy is not None]
    if confirmed is None or not known:
        return
    axes.errorbar(
        [taken.value for taken, _ in known],
        [accuracy.value for _, accuracy in known],
        xerr=_sides([taken for taken, _ in known]),
        yerr=_sides([accuracy for _, accuracy in known]),
        fmt="s", color=INK, markersize=4, elinewidth=1, capsize=2, zorder=1,
        label=_plain(f"on the {confirmed.split} split, with {100 * confirmed.confidence:.0f} % intervals"),
    )  # fmt: skip


def _sides(intervals: Sequence[Interval]) -> list[list[float]]:
    return [[item.value - item.low for item in intervals], [item.high - item.value for item in intervals]]


def _bars(axes: Axes, points: Sequence[Point], colour: str) -> None:
    """What is known of the latencies' uncertainty."""
    x, y = [point.latency_ms for point in points], [point.map50_95 for point in points]
    axes.errorbar(x, y, xerr=[point.off_ms for point in points], fmt="none", ecolor=colour, elinewidth=1, capsize=2)


def _dots(axes: Axes, points: Sequence[Point], name: str, **look: Any) -> None:
    if points:
        x, y = [point.latency_ms for point in points], [point.map50_95 for point in points]
        axes.scatter(x, y, label=_plain(name), **{"s": 36, **look})


def _plain(words: str) -> str:
    """Text in which nothing is a formula."""
    return words.replace("$", r"\$")
