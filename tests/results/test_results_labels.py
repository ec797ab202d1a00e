"""Labels in drawings stand beside other points, not on them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunetune.results.figures.point_labels import Label, place_labels

AT = (0.5, 0.5)


@pytest.fixture(scope="module")
def axes() -> Axes:
    figure = Figure(figsize=(6, 4), layout="constrained")
    drawn = figure.subplots()
    drawn.set_xlim(0, 1)
    drawn.set_ylim(0, 1)
    return drawn


def test_a_label_stands_on_its_side_where_that_is_free(axes: Axes) -> None:
    x, y = axes.transData.transform(AT)
    for across, up in ((-1, 1), (1, 1), (1, -1), (-1, -1)):
        (box,) = place_labels(axes, [Label("half-width", AT, (across, up))], [AT])
        assert (box.x0 > x) == (across > 0)
        assert (box.y0 > y) == (up > 0)


def test_another_point_moves_it(axes: Axes) -> None:
    """A dominated trial where the name of half-width would be."""
    other = (0.45, 0.46)
    (box,) = place_labels(axes, [Label("half-width", AT, (-1, -1))], [AT, other])
    assert not box.contains(*axes.transData.transform(other))


def test_a_line_moves_it(axes: Axes) -> None:
    line = [(0.45, 0.0), (0.45, 1.0)]
    (box,) = place_labels(axes, [Label("half-width", AT, (-1, -1))], [AT], [line])
    assert box.x0 > axes.transData.transform(line[0])[0]


def test_it_stays_inside(axes: Axes) -> None:
    (box,) = place_labels(axes, [Label("half-width", (0.01, 0.99), (-1, 1))], [(0.01, 0.99)])
    assert axes.bbox.count_contains(box.corners()) == 4


@settings(max_examples=25, deadline=None)
@given(places=st.lists(st.sampled_from([(x / 6, y / 6) for x in range(1, 6) for y in range(1, 6)]), unique=True))
def test_labels_keep_off_each_other_and_off_points(axes: Axes, places: list[tuple[float, float]]) -> None:
    boxes = place_labels(axes, [Label(str(number), at) for number, at in enumerate(places)], places)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.contains(*axes.transData.transform(at)) for box in boxes for at in places)
