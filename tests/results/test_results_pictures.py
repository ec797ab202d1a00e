"""Pictures: which objects two networks have in common, which images are shown, and how they are drawn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunetune.pruning.accuracy.detections import Box
from prunetune.results.figures.pictures import Picture, difference, draw, evenly, matched, most_different

corners = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)).map(
    lambda box: (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
)
boxes = st.builds(Box, st.integers(0, 2), st.floats(0, 1), corners)
lists = st.lists(boxes, max_size=6)


@given(one=lists, other=lists)
def test_what_two_have_in_common_is_symmetric_and_no_more_than_either_has(one: list[Box], other: list[Box]) -> None:
    assert matched(one, other) == matched(other, one) <= min(len(one), len(other))
    assert difference(one, other) == difference(other, one)
    assert matched(one, one) == len(one)


def test_only_boxes_of_one_class_that_overlap_by_half_are_one_object() -> None:
    box = Box(0, 1.0, (0.0, 0.0, 10.0, 10.0))
    assert matched([box], [Box(0, 0.3, (0.0, 0.0, 10.0, 6.0))]) == 1
    assert matched([box], [Box(0, 0.3, (0.0, 0.0, 10.0, 4.0))]) == 0
    assert matched([box], [Box(1, 0.3, box.corners)]) == 0
    assert difference([box], [Box(1, 0.3, box.corners)]) == 2
    # Two detections of one object: one of them is right.
    assert matched([box], [box, Box(0, 0.5, (0.0, 0.0, 10.0, 9.0))]) == 1


def picture(name: str, own: int, dense: int) -> Picture:
    found = [Box(0, 0.5, (20.0 * place, 0.0, 20.0 * place + 10, 10.0)) for place in range(9)]
    return Picture(Path(f"{name}.png"), (), {"dense": tuple(found[:dense]), "trial 1": tuple(found[:own])})


def test_the_images_where_a_network_differs_most_come_first() -> None:
    pictures = [picture("same", 3, 3), picture("less", 1, 2), picture("most", 0, 4), picture("more", 5, 3)]
    assert [item.file.stem for item in most_different(pictures, "trial 1", 5)] == ["most", "more", "less"]
    assert [item.file.stem for item in most_different(pictures, "trial 1", 1)] == ["most"]


@given(size=st.integers(0, 30), count=st.integers(1, 12))
def test_a_sample_is_spread_over_all(size: int, count: int) -> None:
    pictures = [picture(str(index), 0, 0) for index in range(size)]
    sample = [int(item.file.stem) for item in evenly(pictures, count)]
    assert len(sample) == min(size, count) == len(set(sample))
    assert sample == sorted(sample)
    steps = [after - before for before, after in pairwise(sample)]
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize("size", [(60, 40), (1, 300), (900, 30)])
@pytest.mark.parametrize("name", ["disc", "<b>量产</b>", "x" * 300, "\x1b[31m"])
def test_any_picture_is_drawn(tmp_path: Path, size: tuple[int, int], name: str) -> None:
    file = tmp_path / "picture.png"
    Image.new("RGB", size, "#204060").save(file)
    found = (Box(0, 0.9, (-5.0, -5.0, 2000.0, 30.0)), Box(7, 0.5, (3.0, 3.0, 3.0, 3.0)))
    page = draw(Picture(file, found[:1], {"dense": found, name: ()}), [name])
    assert page.width == 3 * 420 + 2 * 8
    assert page.height == 28 + max(1, round(size[1] * 420 / size[0]))


def test_a_turned_photograph_is_drawn_as_it_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    image = Image.new("RGB", (80, 40), "white")
    exif = image.getexif()
    exif[274] = 6  # by a quarter
    image.save(file, exif=exif)
    assert draw(Picture(file, (), {}), []).height == 28 + 840
