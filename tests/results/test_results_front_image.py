"""The front as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunetune.results.front_image import DPI, SIZE, write_front_image
from prunetune.results.style import CONTROL, FRONT, LIMIT
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


def test_a_study_without_anything_has_an_empty_picture(builder: Builder, tmp_path: Path) -> None:
    assert rgb(FRONT) not in colours(write_front_image(builder.study, tmp_path / "front.png"))


def test_names_are_no_formulas(builder: Builder, tmp_path: Path) -> None:
    odd = r"$\nonsense{$ 条码"
    builder.context(
        controls={odd: {"map50_95": 0.9, "latencies": {odd: {"latency_ms": 1.0}}}},
        targets=[{"name": odd, "budget": {"text": odd, "limit_ms": 1.0}}, {"name": "other"}],
    )
    assert rgb(CONTROL) in colours(write_front_image(builder.study, tmp_path / "front.png"))


def test_a_folder_that_cannot_be_written_is_named(filled: Builder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        write_front_image(filled.study, tmp_path / "file" / "front.png")
