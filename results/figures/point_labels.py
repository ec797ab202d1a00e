"""Labels beside the points of a drawing, where they cover least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_NEAR, _FAR = 7, 18
"""How far a label stands from its point, in points of type."""

_RADIUS = 5
"""Of what is kept free around a point, in the same unit."""

_SIDES = ((-1, 1), (-1, -1), (1, -1), (1, 1), (0, -1), (0, 1))
"""Left above, left below, right below, right above, below, above."""

Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point."""

    text: str
    at: Point
    """The point, in data's units."""
    side: tuple[int, int] = (-1, 1)
    """Where it stands where all sides are equally free: left (-1), centred or right, and below (-1) or above."""
    colour: str = "black"
    size: float = 10


def place_labels(
    axes: Axes, labels: Sequence[Label], points: Sequence[Point], lines: Sequence[Sequence[Point]] = ()
) -> list[Bbox]:
    """Writes labels, one after the other, each where it covers fewest points and labels.

    Args:
        axes: Where to. All else is drawn, and its limits stay.
        labels: What to write.
        points: What is to be seen, in data's units; the labels' own points included.
        lines: Lines through these points, which are crossed rather than a point covered.

    Returns:
        What each label takes, in px.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # only now places are known
    renderer, scale = canvas.get_renderer(), figure.dpi / 72
    free = _RADIUS * scale
    kept = [Bbox([[x - free, y - free], [x + free, y + free]]) for x, y in map(axes.transData.transform, points)]
    paths = [Path(axes.transData.transform(line)) for line in lines]
    written: list[Bbox] = []
    for label in labels:
        best: tuple[float, Any, Bbox] | None = None
        for distance in (_NEAR, _FAR):
            for side in (label.side, *(side for side in _SIDES if side != label.side)):
                drawn = _annotate(axes, label, side, distance)
                box = drawn.get_window_extent(renderer)
                cost = 4.0 * box.count_overlaps([*kept, *written])
                cost += sum(path.intersects_bbox(box, filled=False) for path in paths)
                cost += 4.0 * (axes.bbox.count_contains([[box.x0, box.y0], [box.x1, box.y1]]) < 2)
                if best is None or cost < best[0]:
                    if best is not None:
                        best[1].remove()
                    best = (cost, drawn, box)
                else:
                    drawn.remove()
        assert best is not None
        written.append(best[2])
    return written


def _annotate(axes: Axes, label: Label, side: tuple[int, int], distance: float) -> Any:
    across, up = side
    return axes.annotate(
        label.text, label.at, (across * distance, up * distance), textcoords="offset points",
        color=label.colour, fontsize=label.size, ha=("right", "center", "left")[across + 1],
        va="bottom" if up > 0 else "top",
    )  # fmt: skip
