"""The front as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunetune.results import Confirmation, ConfirmedNetwork, Interval
from prunetune.results.figures.front_image import DPI, SIZE, write_front_image
from prunetune.results.figures.style import CONTROL, FRONT, INK, LIMIT
from prunetune.spaces import StoreError

Builder = Any


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (round(SIZE[0] * DPI), round(SIZE[1] * DPI))
        return {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24)}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def test_the_picture_shows_front_controls_and_budget(filled: Builder, tmp_path: Path) -> None:
    seen = colours(write_front_image(filled.study, tmp_path / "front.png"))
    assert {rgb(FRONT), rgb(CONTROL), rgb(LIMIT)} <= seen


def test_the_picture_has_the_intervals_of_a_confirmation(filled: Builder, tmp_path: Path) -> None:
    assert rgb(INK) not in colours(write_front_image(filled.study, tmp_path / "before.png"))
    network = ConfirmedNetwork(None, Interval(0.6, 0.55, 0.64), {"cpu": Interval(1.2, 1.1, 1.3)}, {})
    told = Confirmation("test", 72, 1000, 0, 0.95, "2026-01-01T00:00:00", 0.01, {"0": network})
    filled.store(confirmation=told)
    assert rgb(INK) in colours(write_front_image(filled.study, tmp_path / "after.png"))


def test_earlier_rounds_are_drawn(builder: Builder, tmp_path: Path) -> None:
    builder.context()
    slow = builder.network(0.95, 1.3, violations={"cpu": 0.3})
    builder.trial(0.6, 0.7, rounds=[slow, builder.network(0.9, 0.9, round=2)])
    assert rgb(FRONT) in colours(write_front_image(builder.study, tmp_path / "front.png"))


def test_a_study_without_anything_has_an_empty_picture(builder: Builder, tmp_path: Path) -> None:
    assert rgb(FRONT) not in colours(write_front_image(builder.study, tmp_path / "front.png"))


def test_names_are_no_formulas(builder: Builder, tmp_path: Path) -> None:
    odd = r"$\nonsense{$ 条码"
    builder.context(
        baselines={odd: builder.baseline(0.9, {odd: 1.0})},
        targets=[
            builder.target(odd, (odd, 1.0), is_objective=False),
            builder.target("other", None, is_objective=False),
        ],
    )
    assert rgb(CONTROL) in colours(write_front_image(builder.study, tmp_path / "front.png"))


def test_a_folder_that_cannot_be_written_is_named(filled: Builder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        write_front_image(filled.study, tmp_path / "file" / "front.png")
