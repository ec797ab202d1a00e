"""Pictures of what networks find: side by side on the same images, and where they differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps

from prunetune.results.tables.escapes import printable

if TYPE_CHECKING:
    from prunetune.pruning.accuracy.detections import Box

SAME = 0.5
"""From this IoU on two boxes of one class are one object."""

_PANEL = 420
"""Width of one image in px."""

_INK, _PAGE = "#1d232b", "#ffffff"
_COLOURS = ("#e6550d", "#1b9e77", "#3b82d6", "#c51b8a", "#b8860b", "#6a51a3", "#00a6c8", "#d1495b")
_TEXT = 14


@dataclass(frozen=True)
class Picture:
    """An image with what is labelled on it, and what each network finds."""

    file: Path
    labelled: tuple[Box, ...]
    found: Mapping[str, tuple[Box, ...]] = field(hash=False)
    """By network, in the order in which they are shown."""


def matched(one: Sequence[Box], other: Sequence[Box]) -> int:
    """How many objects two lists have in common: pairs of one class that overlap by half, the closest first."""
    pairs = [
        (box.iou(rival), left, right)
        for left, box in enumerate(one)
        for right, rival in enumerate(other)
        if box.kind == rival.kind
    ]
    taken_left: set[int] = set()
    taken_right: set[int] = set()
    for iou, left, right in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
        if iou >= SAME and left not in taken_left and right not in taken_right:
            taken_left.add(left)
            taken_right.add(right)
    return len(taken_left)


def difference(one: Sequence[Box], other: Sequence[Box]) -> int:
    """How many objects only one of two networks finds."""
    return len(one) + len(other) - 2 * matched(one, other)


def most_different(pictures: Sequence[Picture], chosen: str, count: int) -> list[Picture]:
    """The pictures on which a network differs most from the others; those on which it does not are left out.

    Args:
        pictures: To choose from; of equals the first.
        chosen: The network.
        count: How many at most.
    """

    def differs(picture: Picture) -> int:
        own = picture.found[chosen]
        return sum(difference(own, boxes) for name, boxes in picture.found.items() if name != chosen)

    ranked = sorted(pictures, key=differs, reverse=True)
    return [picture for picture in ranked[:count] if differs(picture)]


def evenly(pictures: Sequence[Picture], count: int) -> list[Picture]:
    """Some of the pictures, from the first to the last at equal distances: a sample that nobody chose."""
    if count >= len(pictures):
        return list(pictures)
    return [pictures[(2 * place + 1) * len(pictures) // (2 * count)] for place in range(count)]


def draw(picture: Picture, names: Sequence[str]) -> Image.Image:
    """One image as often as there are networks, side by side, after one with its labels.

    Args:
        picture: What to draw. Its file is read now.
        names: The classes' names.
    """
    with Image.open(picture.file) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = _PANEL / image.width
    panel = image.resize((_PANEL, max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
    shown = {"labelled": picture.labelled, **picture.found}
    head = 2 * _TEXT
    page = Image.new("RGB", (len(shown) * (_PANEL + 8) - 8, panel.height + head), _PAGE)
    font = ImageFont.load_default(_TEXT)
    for place, (name, boxes) in enumerate(shown.items()):
        drawn = panel.copy()
        for box in sorted(boxes, key=lambda item: item.confidence):
            _draw_box(drawn, box, scale, _called(box, names, is_labelled=name == "labelled"))
        left = place * (_PANEL + 8)
        page.paste(drawn, (left, head))
        title = name if name == "labelled" else f"{name}: {_score(picture.labelled, boxes)}"
        ImageDraw.Draw(page).text((left + 2, _TEXT // 2), printable(title), fill=_INK, font=font)
    return page


def _score(labelled: Sequence[Box], boxes: Sequence[Box]) -> str:
    right = matched(labelled, boxes)
    wrong = len(boxes) - right
    return f"{right} of {len(labelled)} found" + (f", {wrong} wrong" if wrong else "")


def _called(box: Box, names: Sequence[str], is_labelled: bool) -> str:
    name = printable(names[box.kind]) if box.kind < len(names) else f"class {box.kind}"
    # The font that comes along has Latin letters alone.
    name = name if name.encode("latin-1", "ignore").decode("latin-1") == name else f"class {box.kind}"
    return name if is_labelled else f"{name} {box.confidence:.2f}"


def _draw_box(panel: Image.Image, box: Box, scale: float, text: str) -> None:
    pen, font, colour = ImageDraw.Draw(panel), ImageFont.load_default(_TEXT - 2), _COLOURS[box.kind % len(_COLOURS)]
    left, top, right, bottom = (scale * corner for corner in box.corners)
    left, right = (min(max(side, 0), panel.width - 1) for side in (left, right))
    top, bottom = (min(max(side, 0), panel.height - 1) for side in (top, bottom))
    pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=2)
    _, _, width, height = pen.textbbox((0, 0), text, font=font)
    x, y = min(left, max(0, panel.width - width - 4)), max(0, top - height - 3)
    pen.rectangle((x, y, x + width + 3, y + height + 3), fill=colour)
    pen.text((x + 2, y), text, fill=_PAGE, font=font)
