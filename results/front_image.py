"""The front as a PNG, for a README or a slide. Drawn without a browser."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from prunetune.results.entries import Entry, is_candidate, outcome
from prunetune.results.findings import Findings
from prunetune.results.style import CONTROL, FAINT, FRONT, LIMIT
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
    _line(axes, front, "" if drawn is None else drawn.name)
    for name, item in controls.items():
        _dots(axes, [item], "controls" if name == next(iter(controls)) else "", color=CONTROL, marker="D", s=60)
        if _is_known(item):
            axes.annotate(
                _plain(name), (item.latency_ms, item.map50_95), (8, 0), textcoords="offset points", color=CONTROL,
                va="center",
            )  # fmt: skip
    if drawn is not None and drawn.budget_ms is not None:
        for axis in {axes, strip}:
            axis.axvline(drawn.budget_ms, color=LIMIT, linestyle="--", linewidth=1.2)
        axes.set_title(_plain(f"budget {limit_text(drawn)}"), color=LIMIT, fontsize=10)
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
    with publish(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that matplotlib's font lacks
        figure.savefig(draft, format="png", dpi=DPI)
    return path


def _line(axes: Axes, front: Sequence[Entry], target: str) -> None:
    if not front:
        return
    latencies, accuracies = [item.latency_ms or 0.0 for item in front], [item.map50_95 or 0.0 for item in front]
    if accuracies == sorted(accuracies):  # members that are ahead on another target only have no step here
        axes.step(latencies, accuracies, where="post", color=FRONT, linewidth=1.6)
    readings = [item.latencies.get(target) for item in front]
    off = [0.0 if item is None else item.latency_ms * (item.latency_uncertainty or 0.0) for item in readings]
    axes.errorbar(latencies, accuracies, xerr=off, fmt="none", ecolor=FRONT, elinewidth=1, capsize=2)
    _dots(axes, front, "front", color=FRONT, s=60, zorder=3)
    for item in front:
        axes.annotate(
            str(item.trial), (item.latency_ms or 0.0, item.map50_95 or 0.0), (-6, 6), textcoords="offset points",
            color=FRONT, ha="right", fontsize=9,
        )  # fmt: skip


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
