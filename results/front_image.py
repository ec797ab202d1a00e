"""The front as a PNG, for a README or a slide. Drawn without a browser."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from prunetune.results.certainty import Interval, confirmation
from prunetune.results.entries import Entry, is_candidate, outcome
from prunetune.results.findings import Findings
from prunetune.results.labels import Label, place_labels
from prunetune.results.style import CONTROL, FAINT, FRONT, INK, LIMIT
from prunetune.results.tables import limit_text
from prunetune.spaces.files import publish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (9.6, 6.0)
"""Of the picture in inches."""

DPI = 150


def write_front_image(study: Study | Findings, path: Path, target: str | None = None) -> Path:
    """Draws the front with its controls, its budget and every recovered trial; bars are 95 % intervals.

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
    drawn = next((item for item in found.targets if item.name == target), found.main)

    def on_target(item: Entry) -> Entry:
        return item if drawn is None else item.on(drawn.name)

    def ended(*names: str) -> list[Entry]:
        return [on_target(found.entry(trial)) for trial in found.trials if outcome(trial) in names]

    front = sorted(map(on_target, found.front), key=lambda item: item.latency_ms or 0.0)
    members = {item.trial for item in front}
    complete = [on_target(found.entry(trial)) for trial in found.trials if is_candidate(trial)]
    controls = {name: on_target(item) for name, item in found.controls.items()}
    over = [item for item in ended("OVER_BUDGET") if _is_known(item)]
    figure = Figure(figsize=SIZE, layout="constrained")
    if over:
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        _dots(strip, over, "over budget, not recovered", color=LIMIT, marker="x", alpha=0.75)
        strip.set_ylabel("before recovery")
        strip.set_ylim(bottom=0)
    else:
        axes = strip = figure.subplots()
    _dots(axes, [item for item in complete if item.trial not in members], "complete, dominated", color=FAINT)
    _dots(axes, ended("STOPPED_EARLY"), "stopped early", edgecolors=FAINT, facecolors="none")
    target_name, budget_ms = "" if drawn is None else drawn.name, None if drawn is None else drawn.budget_ms
    _tested(axes, found, target_name)
    _line(axes, front, target_name)
    _controls(axes, controls, target_name)
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
    if found.trials or controls:
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    drawn_items = [*complete, *ended("STOPPED_EARLY"), *front, *controls.values()]
    points = [_place(item) for item in drawn_items if _is_known(item)]
    with publish(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that matplotlib's font lacks
        lines = [_steps(front), [] if budget_ms is None else [(budget_ms, end) for end in axes.get_ylim()]]
        place_labels(axes, _labels(front, controls, budget_ms), points, [line for line in lines if line])
        figure.savefig(draft, format="png", dpi=DPI)
    return path


def _line(axes: Axes, front: Sequence[Entry], target: str) -> None:
    if not front:
        return
    if steps := _steps(front):
        axes.plot(*zip(*steps, strict=True), color=FRONT, linewidth=1.6)
    _bars(axes, front, target, FRONT)
    _dots(axes, front, "front", color=FRONT, s=60, zorder=3)


def _steps(front: Sequence[Entry]) -> list[tuple[float, float]]:
    """The corners of the front's line; none if members are ahead on another target only."""
    places = [_place(item) for item in front]
    if [accuracy for _, accuracy in places] != sorted(accuracy for _, accuracy in places):
        return []
    corners = [(after, accuracy) for (_, accuracy), (after, _) in pairwise(places)]
    return [place for pair in zip_longest(places, corners) for place in pair if place is not None]


def _controls(axes: Axes, controls: Mapping[str, Entry], target: str) -> None:
    known = {name: item for name, item in controls.items() if _is_known(item)}
    _bars(axes, list(known.values()), target, CONTROL)
    _dots(axes, list(known.values()), "controls", color=CONTROL, marker="D", s=60, zorder=3)


def _labels(front: Sequence[Entry], controls: Mapping[str, Entry], budget_ms: float | None) -> list[Label]:
    """The names of the controls, below their bars, and the numbers of the front, above its line."""
    known = {name: item for name, item in controls.items() if _is_known(item)}
    slowest = max((item.latency_ms or 0.0 for item in known.values()), default=0.0)
    named = []
    for name, item in known.items():
        latency = item.latency_ms or 0.0
        # On the side of the budget's line that the control is on.
        is_left = latency > 0.8 * slowest or budget_ms is None or latency <= budget_ms
        named.append(Label(_plain(name), _place(item), (-1 if is_left else 1, -1), CONTROL))
    return [*named, *(Label(str(item.trial), _place(item), (-1, 1), FRONT, 9) for item in front)]


def _place(item: Entry) -> tuple[float, float]:
    return item.latency_ms or 0.0, item.map50_95 or 0.0


def _tested(axes: Axes, found: Findings, target: str) -> None:
    """What the last confirmation found, with intervals in both directions."""
    told = confirmation(found)
    networks = [] if told is None else list(told.networks.values())
    points = [(item.latencies[target], item.map50_95) for item in networks if target in item.latencies]
    known = [(taken, accuracy) for taken, accuracy in points if accuracy is not None]
    if told is None or not known:
        return
    axes.errorbar(
        [taken.value for taken, _ in known],
        [accuracy.value for _, accuracy in known],
        xerr=_sides([taken for taken, _ in known]),
        yerr=_sides([accuracy for _, accuracy in known]),
        fmt="s", color=INK, markersize=4, elinewidth=1, capsize=2, zorder=1,
        label=_plain(f"on the {told.split} split, with {100 * told.confidence:.0f} % intervals"),
    )  # fmt: skip


def _sides(intervals: Sequence[Interval]) -> list[list[float]]:
    return [[item.value - item.low for item in intervals], [item.high - item.value for item in intervals]]


def _bars(axes: Axes, items: Sequence[Entry], target: str, colour: str) -> None:
    """What is known of the latencies' uncertainty."""
    readings = [item.latencies.get(target) for item in items]
    off = [0.0 if item is None else item.latency_ms * (item.latency_uncertainty or 0.0) for item in readings]
    x, y = [item.latency_ms or 0.0 for item in items], [item.map50_95 or 0.0 for item in items]
    axes.errorbar(x, y, xerr=off, fmt="none", ecolor=colour, elinewidth=1, capsize=2)


def _dots(axes: Axes, items: Sequence[Entry], name: str, **look: Any) -> None:
    known = [item for item in items if _is_known(item)]
    if known:
        x, y = [item.latency_ms or 0.0 for item in known], [item.map50_95 or 0.0 for item in known]
        axes.scatter(x, y, label=_plain(name) if name else "_", **{"s": 36, **look})


def _is_known(item: Entry) -> bool:
    return item.latency_ms is not None and item.map50_95 is not None


def _plain(words: str) -> str:
    """Text in which nothing is a formula."""
    return words.replace("$", r"\$")
