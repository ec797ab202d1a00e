"""The barcode data set: real codes, true boxes, the same bytes on every run."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

zxingcpp = pytest.importorskip("zxingcpp")
cv2 = pytest.importorskip("cv2")

from prunetune.pruning.data.dataset import inspect_dataset  # noqa: E402
from prunetune.spaces.errors import ConfigError, StoreError  # noqa: E402

FOLDER = Path(__file__).parents[2] / "examples" / "barcodes"
SMALL = {"train": 6, "val": 3, "test": 2}


@pytest.fixture(scope="module")
def generate() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    try:
        import generate

        yield generate
    finally:
        sys.path.remove(str(FOLDER))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def clean(code: Any) -> np.ndarray:
    rows = 1 if code.modules.shape[0] > 1 else 40
    modules = np.kron(code.modules, np.ones((4 * rows, 4), np.uint8))
    return cv2.copyMakeBorder(modules, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_code_is_real(generate: Any, split: str) -> None:
    formats = ("DataMatrix", "QRCode", "Code128")
    pool = generate.code_pool(split)
    assert [len(codes) for codes in pool] == [64, 64, 64]
    for code in chain.from_iterable(pool):
        read = zxingcpp.read_barcodes(clean(code))
        wanted = getattr(zxingcpp.BarcodeFormat, formats[code.kind])
        assert [(found.text, found.format) for found in read] == [(code.content, wanted)]


def test_no_content_is_in_two_splits(generate: Any) -> None:
    contents = [{code.content for codes in generate.code_pool(split) for code in codes} for split in generate.SPLITS]
    assert not contents[0] & contents[1] | contents[0] & contents[2] | contents[1] & contents[2]


def decodes(image: np.ndarray, box: Any) -> bool:
    margin = 0.08 * image.shape[0]
    top, left = int(max(0, box.top - margin)), int(max(0, box.left - margin))
    crop = image[top : int(box.bottom + margin), left : int(box.right + margin)]
    # The reader finds square codes best where the noise is averaged out, and bars only where they are upright.
    if box.kind < 2:
        views = [cv2.resize(crop, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)]
    else:
        views = [turned(crop, angle) for angle in (0, 20, 40, 60, 80)]
    return any(box.content == found.text for view in views for found in zxingcpp.read_barcodes(view))


def turned(image: np.ndarray, angle: float) -> np.ndarray:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def test_codes_in_large_scenes_can_be_read(generate: Any) -> None:
    seen, read = [0, 0, 0], [0, 0, 0]
    for index in range(40):
        image, boxes = generate.render_image("train", index, imgsz=640, seed=0)
        for box in boxes:
            seen[box.kind] += 1
            read[box.kind] += decodes(image, box)
    shares = dict(zip(generate.NAMES, np.divide(read, seen), strict=True))
    # Measured: 0.95, 0.91 and 0.38. The finest bars are gone where a scene is blurred.
    assert shares["dmcode"] > 0.8
    assert shares["qrcode"] > 0.75
    assert shares["barcode"] > 0.25


def test_boxes_hold_their_codes(generate: Any) -> None:
    """The reader's own corners of a code lie within the box, and reach its sides."""
    checked = 0
    for index in range(40):
        image, boxes = generate.render_image("val", index, imgsz=640, seed=0)
        half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for found in zxingcpp.read_barcodes(half, formats=zxingcpp.BarcodeFormat.QRCode):
            box = next(box for box in boxes if box.content == found.text)
            place = found.position
            corners = [place.top_left, place.top_right, place.bottom_left, place.bottom_right]
            x, y = sorted(2 * corner.x for corner in corners), sorted(2 * corner.y for corner in corners)
            slack = 0.04 * (box.right - box.left)
            assert (x[0], y[0], x[-1], y[-1]) == pytest.approx((box.left, box.top, box.right, box.bottom), abs=slack)
            checked += 1
    assert checked >= 10


def test_a_scene_has_the_same_boxes_at_any_size(generate: Any) -> None:
    for index in range(20):
        small, large = (generate.render_image("train", index, imgsz, seed=1)[1] for imgsz in (160, 480))
        assert [box.content for box in small] == [box.content for box in large]
        for one, other in zip(small, large, strict=True):
            fine = np.array([other.left, other.top, other.right, other.bottom]) / 3
            assert [one.left, one.top, one.right, one.bottom] == pytest.approx(fine, abs=0.1)


def test_scenes_vary(generate: Any) -> None:
    scenes = [generate.render_image("train", index, 160, seed=0) for index in range(100)]
    counts = [len(boxes) for _, boxes in scenes]
    assert set(counts) == {0, 1, 2, 3, 4}
    assert counts.count(0) <= 15
    boxes = list(chain.from_iterable(boxes for _, boxes in scenes))
    assert min(sum(box.kind == kind for box in boxes) for kind in range(3)) > 40
    assert all(0 < box.left < box.right < 160 and 0 < box.top < box.bottom < 160 for box in boxes)
    image = scenes[0][0]
    assert image.shape == (160, 160, 3)
    assert image.dtype == np.uint8


def test_the_data_set_is_sound(generate: Any, tmp_path: Path) -> None:
    data = generate.write_dataset(tmp_path / "bars", {"train": 40, "val": 10, "test": 5}, imgsz=96)
    dataset = inspect_dataset(data)
    assert dataset.names == ("dmcode", "qrcode", "barcode")
    assert {split: counts.images for split, counts in dataset.splits.items()} == {"train": 40, "val": 10, "test": 5}
    assert dataset.splits["train"].boxes > 40
    assert dataset.has_test


def test_the_same_seed_gives_the_same_bytes(generate: Any, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        generate.write_dataset(tmp_path / name, SMALL, imgsz=96, seed=seed)
    one, two, other = (digest(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert not {one[name] for name in one if name.endswith("jpg")} & set(other.values())


def test_a_larger_set_begins_with_the_smaller_one(generate: Any, tmp_path: Path) -> None:
    generate.write_dataset(tmp_path / "small", SMALL, imgsz=96)
    generate.write_dataset(tmp_path / "large", {"train": 9, "val": 4, "test": 4}, imgsz=96)
    small, large = digest(tmp_path / "small"), digest(tmp_path / "large")
    assert {name: large[name] for name in small if name != "dataset.json"} == {
        name: value for name, value in small.items() if name != "dataset.json"
    }


def test_a_complete_set_is_left_alone(generate: Any, tmp_path: Path) -> None:
    out = tmp_path / "bars"
    generate.write_dataset(out, SMALL, imgsz=96)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    generate.write_dataset(out, SMALL, imgsz=96)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bars"]


def test_a_damaged_set_is_made_again(generate: Any, tmp_path: Path) -> None:
    out = tmp_path / "bars"
    generate.write_dataset(out, SMALL, imgsz=96)
    before = digest(out)
    (out / "images" / "val" / "00001.jpg").unlink()
    generate.write_dataset(out, SMALL, imgsz=96)
    assert digest(out) == before


def test_other_settings_need_force(generate: Any, tmp_path: Path) -> None:
    out = tmp_path / "bars"
    generate.write_dataset(out, SMALL, imgsz=96)
    before = digest(out)
    with pytest.raises(ConfigError, match=r"imgsz 96, now 128.*--out.*--force"):
        generate.write_dataset(out, SMALL, imgsz=128)
    assert digest(out) == before
    generate.write_dataset(out, {"train": 2, "val": 1}, imgsz=128, force=True)
    assert set(inspect_dataset(out / "data.yaml").splits) == {"train", "val"}


def test_a_strangers_folder_is_never_touched(generate: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="not written by this generator"):
        generate.write_dataset(tmp_path, SMALL, force=True)
    with pytest.raises(ConfigError, match="not written by this generator"):
        generate.write_dataset(tmp_path / "thesis.tex", SMALL)
    with pytest.raises(StoreError):
        generate.write_dataset(tmp_path / "thesis.tex" / "bars", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_wrong_settings_are_reported_together(generate: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        generate.write_dataset(tmp_path / "bars", {"train": 0, "val": -1}, imgsz=8, seed=-3)
    assert len(caught.value.problems) == 4
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "generate.py"), "--out", str(tmp_path / "bars")]
    command += ["--train", "3", "--val", "2", "--test", "0", "--imgsz", "96"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert first.stdout.strip() == str(tmp_path / "bars" / "data.yaml")
    assert json.loads((tmp_path / "bars" / "dataset.json").read_text())["train"] == 3
    subprocess.run(command, capture_output=True, check=True)
    clash = subprocess.run([*command, "--seed", "7"], capture_output=True, text=True)
    assert clash.returncode == 2
    assert "error: " in clash.stderr
    assert "seed 0, now 7" in clash.stderr
    assert "Traceback" not in clash.stderr
