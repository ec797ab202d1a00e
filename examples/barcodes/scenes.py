"""Draws scenes with DataMatrix, QR and Code 128 codes, among things that look like codes and are none.

The codes are rotated, seen in perspective, printed on labels, unevenly lit, blurred and noisy. A scene follows
from its random generator alone. Drawn at another size it is the same scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from prunetune.spaces import MissingExtraError

NAMES = ("dmcode", "qrcode", "barcode")
"""Class names by index."""
SPLITS = ("train", "val", "test")
"""The splits; their place in this tuple is part of each image's seed."""
VERSION = 1
"""Raised when the pictures change, so that an old data set is not taken for a new one."""

_POOL = 64  # codes of each class and split
_QUIET_ZONES = (2, 3, 10)  # modules of white around a code of each class; QR asks for 4 and lives with 3
_BARS_HEIGHT = 0.45  # of a Code 128, as a fraction of its length
_SMALLEST, _LARGEST = 0.18, 0.55  # longer side of a code, as a fraction of the image's
_BACKGROUND_ONLY = 0.06  # share of the images without any code


@dataclass(frozen=True)
class Code:
    """A clean code, one pixel a module, dark on white."""

    kind: int
    """Class index."""
    content: str
    """What a reader must find."""
    modules: np.ndarray
    """uint8 grayscale, without a quiet zone."""


@dataclass(frozen=True)
class Box:
    """A labelled code in an image, in pixels."""

    kind: int
    """Class index."""
    left: float
    top: float
    right: float
    bottom: float
    content: str
    """What a reader should find, where the image is large and sharp enough."""

    def as_label(self, imgsz: int) -> str:
        """The line of an ultralytics label file: class, centre, width, height as fractions."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        values = (x, y, self.right - self.left, self.bottom - self.top)
        return " ".join([str(self.kind), *(f"{value / imgsz:.6f}" for value in values)])


@cache
def code_pool(split: str) -> tuple[tuple[Code, ...], ...]:
    """Codes by class. No content of one split occurs in another."""
    index = SPLITS.index(split)
    rng = np.random.default_rng([VERSION, index])
    return tuple(tuple(_draw_codes(rng, kind, prefix="ABC"[index])) for kind in range(len(NAMES)))


def _draw_codes(rng: np.random.Generator, kind: int, prefix: str) -> list[Code]:
    try:
        import zxingcpp
    except ImportError as error:
        raise MissingExtraError("zxing-cpp", "examples") from error

    formats = (
        zxingcpp.BarcodeFormat.DataMatrix,
        zxingcpp.BarcodeFormat.QRCode,
        zxingcpp.BarcodeFormat.Code128,
    )
    lengths = ((3, 14), (4, 18), (3, 6))[kind]
    letters = list("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789")
    codes: dict[str, Code] = {}
    while len(codes) < _POOL:
        content = prefix + "".join(rng.choice(letters, size=int(rng.integers(*lengths))))
        symbol = zxingcpp.create_barcode(content, formats[kind])
        modules = np.array(symbol.to_image(scale=1, add_quiet_zones=False))
        if kind == 2:
            modules = modules[:1]  # bars of one pixel's height, stretched when they are drawn
        elif modules.shape[0] != modules.shape[1]:
            continue  # DataMatrix also has oblong sizes; square ones only
        codes[content] = Code(kind, content, modules)
    return list(codes.values())


def render_scene(
    rng: np.random.Generator, imgsz: int, pool: Sequence[Sequence[Code]] | None = None
) -> tuple[np.ndarray, list[Box]]:
    """One image and the codes in it.

    Args:
        rng: Decides everything.
        imgsz: Width and height of the image in px.
        pool: Codes by class; those of the training split if absent.

    Returns:
        The image, uint8 (imgsz, imgsz, 3) in BGR, and a box for each of its 0 to 4 codes.
    """
    pool = pool or code_pool("train")
    canvas = _background(rng, imgsz)
    for _ in range(int(rng.integers(4, 9))):
        _DISTRACTORS[int(rng.integers(len(_DISTRACTORS)))](rng, canvas)
    count = 0 if rng.random() < _BACKGROUND_ONLY else int(rng.choice([1, 2, 3, 4], p=[0.35, 0.35, 0.2, 0.1]))
    boxes: list[Box] = []
    taken: list[np.ndarray] = []
    for _ in range(count):
        kind = int(rng.integers(len(NAMES)))
        code = pool[kind][int(rng.integers(len(pool[kind])))]
        box = _place_code(rng, canvas, code, taken)
        if box is not None:
            boxes.append(box)
    return _photograph(rng, canvas), boxes


def _place_code(rng: np.random.Generator, canvas: np.ndarray, code: Code, taken: list[np.ndarray]) -> Box | None:
    """Draws a code where there is room for it, which it adds to `taken`."""
    imgsz = canvas.shape[0]
    smallest = _SMALLEST if code.kind < 2 else 1.6 * _SMALLEST  # so many bars need more room
    paper, ink = _paper_and_ink(rng)
    for _ in range(12):
        length = float(rng.uniform(smallest, _LARGEST)) * imgsz
        height = length * (_BARS_HEIGHT * float(rng.uniform(0.6, 1.3)) if code.kind == 2 else 1.0)
        margin = _QUIET_ZONES[code.kind] * length / code.modules.shape[1]
        label = np.array([length + 2 * margin, height + 2 * margin])
        transform = _view(rng, label, imgsz)
        inner = np.array([[margin, margin], [margin + length, margin + height]])
        outline, corners = _project(transform, np.array([[0, 0], label])), _project(transform, inner)
        low, high = corners.min(axis=0), corners.max(axis=0)
        edge = 0.006 * imgsz
        if low.min() < edge or high.max() > imgsz - edge or any(_overlap(outline, other) for other in taken):
            continue
        taken.append(outline)
        _paste(canvas, _print(code, length, height), paper, ink, outline)
        left, top, right, bottom = (float(value) for value in (*low, *high))
        return Box(code.kind, left, top, right, bottom, code.content)
    return None


def _print(code: Code, length: float, height: float) -> np.ndarray:
    """The code with its quiet zone, about `length` x `height` px. All modules are equally wide."""
    columns = code.modules.shape[1]
    quiet = _QUIET_ZONES[code.kind]
    rows = round(columns * height / length)  # a code of bars is one row, repeated
    modules = code.modules if code.modules.shape[0] > 1 else np.repeat(code.modules, rows, axis=0)
    modules = cv2.copyMakeBorder(modules, quiet, quiet, quiet, quiet, cv2.BORDER_CONSTANT, value=255)
    scale = length / columns
    if scale < 1:  # bars finer than the pixels blend to gray, as in a camera
        return cv2.resize(modules, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.kron(modules, np.ones((int(np.ceil(scale)),) * 2, np.uint8))


def _paper_and_ink(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    paper = rng.uniform(150, 250) + rng.uniform(-18, 18, 3)
    ink = rng.uniform(5, 70) + rng.uniform(-12, 12, 3)
    return paper.clip(0, 255), ink.clip(0, 255)


def _view(rng: np.random.Generator, label: np.ndarray, imgsz: int) -> np.ndarray:
    """A 3 x 3 homography: how a camera sees a flat label (width, height in px), turned, tilted and moved."""
    corners = _rectangle(np.array([[0, 0], label])) - label / 2
    tilt = 0.09 * label.max() * rng.uniform(-1, 1, (4, 2))
    # Half of the labels lie nearly straight, as on most photographs of parcels and parts.
    nearly_straight = rng.normal(0, 0.12) + np.pi / 2 * rng.integers(4)
    angle = nearly_straight if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    seen = (corners + tilt) @ turn + rng.uniform(0.1, 0.9, 2) * imgsz
    return cv2.getPerspectiveTransform(_float32(corners + label / 2), _float32(seen))


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _rectangle(ends: np.ndarray) -> np.ndarray:
    (left, top), (right, bottom) = ends
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def _project(transform: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The four corners of a rectangle, given by two opposite ones, as the camera sees them."""
    return cv2.perspectiveTransform(_rectangle(ends)[None], transform)[0]


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    shared, _ = cv2.intersectConvexConvex(_float32(one), _float32(other))
    return shared > 0.02 * cv2.contourArea(_float32(one))


def _paste(canvas: np.ndarray, modules: np.ndarray, paper: np.ndarray, ink: np.ndarray, outline: np.ndarray) -> None:
    """Prints grayscale `modules` in the colours of paper and ink onto the quadrilateral `outline`."""
    height, width = modules.shape
    source = _rectangle(np.array([[0, 0], [width, height]]))
    transform = cv2.getPerspectiveTransform(_float32(source - 0.5), _float32(outline - 0.5))
    size = canvas.shape[1::-1]
    gray = cv2.warpPerspective(modules, transform, size, borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.round(outline * 16).astype(np.int32), 255, cv2.LINE_AA, shift=4)
    left, top, wide, high = cv2.boundingRect(mask)
    area = np.s_[top : top + high, left : left + wide]
    alpha = mask[area][..., None].astype(np.float32) / 255
    whiteness = gray[area][..., None].astype(np.float32) / 255
    printed = _float32(ink) + _float32(paper - ink) * whiteness
    canvas[area] = (canvas[area] * (1 - alpha) + printed * alpha).astype(np.uint8)


def _background(rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Large soft patches of colour and a finer grain: uint8 (imgsz, imgsz, 3)."""
    tone = rng.uniform(40, 215) + rng.uniform(-30, 30, 3)
    patches, grain = rng.normal(0, 28, (4, 4, 3)), rng.normal(0, 9, (24, 24, 1))
    soft = cv2.resize(_float32(patches), (imgsz, imgsz), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(_float32(grain), (imgsz, imgsz), interpolation=cv2.INTER_LINEAR)
    return (tone + soft + fine[..., None]).clip(0, 255).astype(np.uint8)


def _text(rng: np.random.Generator, canvas: np.ndarray) -> None:
    imgsz = canvas.shape[0]
    tone = [float(value) for value in rng.uniform(0, 255, 3)]
    scale = float(rng.uniform(0.3, 0.9)) * imgsz / 160
    left, top = rng.uniform(0, 0.8, 2) * imgsz
    for line in range(int(rng.integers(1, 4))):
        word = "".join(chr(int(value)) for value in rng.integers(48, 91, int(rng.integers(3, 10))))
        where = (int(left), int(top + line * 24 * scale))
        width = max(1, round(2 * scale))
        cv2.putText(canvas, word, where, cv2.FONT_HERSHEY_SIMPLEX, scale, tone, width, cv2.LINE_AA)


def _rectangle_or_disc(rng: np.random.Generator, canvas: np.ndarray) -> None:
    imgsz = canvas.shape[0]
    tone = [float(value) for value in rng.uniform(0, 255, 3)]
    x, y = (int(value) for value in rng.uniform(0, 0.9, 2) * imgsz)
    width, height = (int(value) for value in rng.uniform(0.08, 0.5, 2) * imgsz)
    if rng.random() < 0.5:
        cv2.rectangle(canvas, (x, y), (x + width, y + height), tone, -1)
    else:
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(canvas, (x, y), (width // 2, height // 2), angle, 0, 360, tone, -1, cv2.LINE_AA)


def _lines(rng: np.random.Generator, canvas: np.ndarray) -> None:
    imgsz = canvas.shape[0]
    tone = [float(value) for value in rng.uniform(0, 255, 3)]
    for _ in range(int(rng.integers(1, 6))):
        start, end = (tuple(int(value) for value in rng.uniform(0, imgsz, 2)) for _ in range(2))
        cv2.line(canvas, start, end, tone, max(1, round(rng.uniform(0.004, 0.02) * imgsz)), cv2.LINE_AA)


def _pattern(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Even stripes, a checkerboard, an empty label or random squares: printed as a code is, but none."""
    imgsz = canvas.shape[0]
    count = int(rng.integers(5, 15))
    stripes, checker = np.arange(2 * count).reshape(1, -1) % 2, np.add.outer(np.arange(count), np.arange(count)) % 2
    patterns = (stripes, checker, np.ones((2, 2)), rng.random((count, count)) < 0.5)
    modules = patterns[int(rng.integers(len(patterns)))].astype(np.uint8) * np.uint8(255)
    length = float(rng.uniform(0.12, 0.4)) * imgsz
    label = np.array([length, length * (rng.uniform(0.25, 1.0) if modules.shape[0] < 3 else 1.0)])
    outline = _project(_view(rng, label, imgsz), np.array([[0, 0], label]))
    paper, ink = _paper_and_ink(rng)
    printed = cv2.resize(modules, (int(label[0]), int(label[1])), interpolation=cv2.INTER_NEAREST)
    _paste(canvas, printed, paper, ink, outline)


_DISTRACTORS: tuple[Callable[[np.random.Generator, np.ndarray], None], ...] = (
    _text,
    _rectangle_or_disc,
    _lines,
    _pattern,
)


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, lack of focus, shake and sensor noise."""
    imgsz = canvas.shape[0]
    light = _float32(rng.uniform(0.45, 1.2, (3, 3)))
    image = _float32(canvas) * cv2.resize(light, (imgsz, imgsz), interpolation=cv2.INTER_CUBIC)[..., None]
    sigma = 0.006 * float(rng.uniform(0, 1)) ** 2 * imgsz  # most are in focus
    shaken, angle = rng.random() < 0.25, rng.uniform(0, np.pi)
    reach = round(float(rng.uniform(0.004, 0.02)) * imgsz)
    noise = float(rng.uniform(2, 11))
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if shaken and reach:
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        step = np.array([np.cos(angle), np.sin(angle)]) * reach
        ends = [tuple(int(value) for value in np.round(reach + sign * step)) for sign in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    # Drawn last: how many numbers it takes depends on the size, and nothing else may.
    image = image + noise * rng.standard_normal((imgsz, imgsz, 1), dtype=np.float32)
    return image.clip(0, 255).astype(np.uint8)
