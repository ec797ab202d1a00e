"""Images and labels are read as ultralytics reads them, and the user's folder stays as it is."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pets.folders import BOX, Folder, make_folder, save_image
from PIL import Image

from prunetune.pruning.data.dataset import MOST_LEFT_OUT, inspect_dataset
from prunetune.pruning.data.images import StudyImages
from prunetune.results.bundle.verify import _linked
from prunetune.spaces.errors import DatasetError

from ultralytics.cfg import get_cfg  # isort: skip
from ultralytics.data import YOLODataset  # isort: skip
from ultralytics.data.utils import check_det_dataset, verify_image_label  # isort: skip

IMAGES = 8
Read = dict[str, tuple[Any, ...]]


def as_read(labels: list[dict[str, Any]], root: Path) -> Read:
    """By the images' names: shape, classes, boxes and outlines."""
    return {
        str(Path(label["im_file"]).relative_to(root)): (
            tuple(label["shape"]) if "shape" in label else None,
            label["cls"].tolist(),
            label["bboxes"].tolist(),
            [outline.tolist() for outline in label["segments"]],
        )
        for label in labels
    }


def stock(root: Path, split: str) -> Read | None:
    """What stock ultralytics reads from a copy of a data set; None if it refuses."""
    copy = root.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, symlinks=True)
    data = check_det_dataset(str(copy / "data.yaml"), autodownload=False)
    try:
        found = YOLODataset(img_path=data[split], data=data, task="detect", imgsz=32, augment=False)
    except RuntimeError:  # no valid images
        return None
    return as_read(found.labels, copy)


def ours(root: Path, split: str) -> Read:
    """What a study's loaders read."""
    copy = root.with_name("study.yaml")
    copy.write_text(inspect_dataset(root / "data.yaml").as_yaml())
    data = check_det_dataset(str(copy), autodownload=False)
    options = get_cfg(overrides={"task": "detect", "imgsz": 32})
    return as_read(StudyImages(options, data[split], 4, data, "val", stride=None).labels, root)


def content(root: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}


# Images


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PIXELS = np.random.default_rng(0)
PICTURE = Image.fromarray(PIXELS.integers(0, 255, (48, 64, 3), dtype=np.uint8))
JPEG, PNG = encoded(PICTURE, "JPEG"), encoded(PICTURE, "PNG")
TURNED = Image.Exif()
TURNED[274] = 6


def with_broken_pixels(png: bytes) -> bytes:
    """A PNG whose sums are right and whose pixels cannot be unpacked."""
    start = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[start - 4 : start])
    pixels = bytearray(png[start + 4 : start + 4 + length])
    pixels[length // 2 : length // 2 + 50] = bytes(50)
    chunk = b"IDAT" + bytes(pixels)
    return png[:start] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[start + 8 + length :]


FILES = {
    "sound.jpg": JPEG,
    "zeros after its end.jpg": JPEG + bytes(3),
    "text after its end.jpg": JPEG + b"made by a camera\n",
    "turned, zeros after its end.jpg": encoded(PICTURE, "JPEG", exif=TURNED) + bytes(8),
    "turned.jpg": encoded(PICTURE, "JPEG", exif=TURNED),
    "two bytes short.jpg": JPEG[:-2],
    "twenty bytes short.jpg": JPEG[:-20],
    "half.jpg": JPEG[: len(JPEG) // 2],
    "half, with an end.jpg": JPEG[: len(JPEG) // 2] + b"\xff\xd9",
    "header.jpg": JPEG[:200],
    "empty.jpg": b"",
    "a byte.jpg": b"\xff",
    "a word.jpg": b"hello",
    "cmyk.jpg": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "gray.jpg": encoded(PICTURE.convert("L"), "JPEG"),
    "small.jpg": encoded(PICTURE.resize((9, 30)), "JPEG"),
    "a gif.jpg": encoded(PICTURE, "GIF"),
    "a png.jpg": PNG,
    "a bmp.jpg": encoded(PICTURE, "BMP"),
    "a webp.jpg": encoded(PICTURE, "WEBP"),
    "a tiff.jpg": encoded(PICTURE, "TIFF"),
    "an mpo.jpg": encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE]),
    "a heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "sound.png": PNG,
    "short.png": PNG[:-20],
    "half.png": PNG[: len(PNG) // 2],
    "palette.png": encoded(PICTURE.convert("P"), "PNG"),
    "transparent.png": encoded(PICTURE.convert("LA"), "PNG"),
    "one bit.png": encoded(PICTURE.convert("1"), "PNG"),
    "16 bit.png": encoded(Image.fromarray(PIXELS.integers(0, 65535, (48, 64), dtype=np.uint16)), "PNG"),
    "webp.webp": encoded(PICTURE, "WEBP"),
    "tiff.tif": encoded(PICTURE, "TIFF"),
}
UNDECODABLE = {
    "broken pixels.png": with_broken_pixels(PNG),
    "32 bit.tif": encoded(Image.fromarray(PIXELS.random((48, 64), dtype=np.float32)), "TIFF"),
}
"""Those that ultralytics takes, to stop at them in the midst of a training."""


def test_images_of_every_form(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets")
    for name, written in (FILES | UNDECODABLE).items():
        folder.image(name=name).write_bytes(written)
        folder.label(name=name.rpartition(".")[0] + ".txt").write_text(BOX)
    before = content(folder.root)
    found, expected = ours(folder.root, "train"), stock(folder.root, "train")
    assert expected is not None
    assert found == {name: label for name, label in expected.items() if Path(name).name not in UNDECODABLE}
    assert content(folder.root) == before
    dataset = inspect_dataset(folder.data)
    assert dataset.splits["train"].images == len(found)
    assert dataset.splits["train"].left_out == len(FILES) + len(UNDECODABLE) + 3 - len(found)
    assert {path.name for path in dataset.left_out} >= {*UNDECODABLE, "twenty bytes short.jpg", "empty.jpg"}


@pytest.mark.parametrize("name", [name for name in FILES if "after its end" in name])
def test_ultralytics_still_saves_such_images_anew(tmp_path: Path, name: str) -> None:
    # When this fails, images need no longer be shown to ultralytics through links.
    image = tmp_path / name
    image.write_bytes(FILES[name])
    verify_image_label((str(image), "", "", False, 1, 0, 0, False))
    assert image.read_bytes() != FILES[name]


def test_a_bundle_is_verified_on_links(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets")
    for name, written in FILES.items():
        folder.image("val", name).write_bytes(written)
        folder.label("val", name.rpartition(".")[0] + ".txt").write_text(BOX)
    before = content(folder.root)
    data = check_det_dataset(str(folder.data), autodownload=False)
    linked = check_det_dataset(str(_linked(data, "val", tmp_path / "links")), autodownload=False)
    assert linked["names"] == data["names"]
    read = YOLODataset(img_path=linked["val"], data=linked, task="detect", imgsz=32, augment=False)
    expected = stock(folder.root, "val")
    assert expected is not None
    assert list(as_read(read.labels, tmp_path / "links").values()) == list(expected.values())
    assert content(folder.root) == before


def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets")
    folder.image().write_bytes(JPEG + bytes(3))
    before = content(folder.root)
    places = [folder.root, *(path for path in folder.root.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o555)
    try:
        assert len(ours(folder.root, "train")) == 3
    finally:
        for place in places:
            place.chmod(0o755)
    assert content(folder.root) == before


def test_a_cache_that_lies_beside_the_labels_is_not_believed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets")
    expected = ours(folder.root, "train")
    data = check_det_dataset(str(folder.data), autodownload=False)
    YOLODataset(img_path=data["train"], data=data, task="detect", imgsz=32, augment=False)
    cache = folder.root / "labels" / "train.cache"
    stored = np.load(cache, allow_pickle=True).item()
    for label in stored["labels"]:
        label["cls"][:] = 1
    with cache.open("wb") as stream:
        np.save(stream, stored)
    assert ours(folder.root, "train") == expected


# Names


def loaded(folder: Folder, split: str) -> dict[str, int]:
    """Boxes by image, of all that a study's loaders give pixels of."""
    copy = folder.root.with_name("study.yaml")
    copy.write_text(inspect_dataset(folder.data).as_yaml(), encoding="utf-8")
    data = check_det_dataset(str(copy), autodownload=False)
    options = get_cfg(overrides={"task": "detect", "imgsz": 32})
    images = StudyImages(options, data[split], 4, data, "val", stride=None)
    return {Path(images[index]["im_file"]).name: len(images[index]["cls"]) for index in range(len(images))}


LISTED: dict[str, Callable[[Path], str]] = {
    "from the list": lambda root: "./../images/val/",
    "with two slashes": lambda root: f"{root}//images//val//",
    "up and down": lambda root: f"{root}/lists/../images/./val/",
    "two slashes from the list": lambda root: ".//..//images/val/",
    "by a linked folder": lambda root: f"{root}/linked/images/val/",
    "up behind a link": lambda root: f"{root}/lists/elsewhere/../pets/images/val/",
}


@pytest.mark.parametrize("form", LISTED)
def test_an_image_is_left_out_whatever_a_list_calls_it(tmp_path: Path, form: str) -> None:
    folder = make_folder(tmp_path / "data" / "pets")
    (folder.root / "lists").mkdir()
    (folder.root / "linked").symlink_to(folder.root)
    (folder.root.parent / "other").mkdir()
    (folder.root / "lists" / "elsewhere").symlink_to(folder.root.parent / "other")
    folder.image("val", "2.png").write_bytes(UNDECODABLE["broken pixels.png"])
    folder.label("val", "2.txt").write_text(BOX)
    start = LISTED[form](folder.root)
    (folder.root / "lists" / "val.txt").write_text("".join(f"{start}{name}\n" for name in ("0.jpg", "1.jpg", "2.png")))
    folder.describe(val="lists/val.txt", path="../../data/pets")
    found = inspect_dataset(folder.data)
    assert (found.splits["val"].images, found.splits["val"].left_out) == (2, 1)
    assert loaded(folder, "val") == {"0.jpg": 2, "1.jpg": 2}


@pytest.mark.parametrize("linked", ["images", "images/val"])
def test_an_image_is_left_out_in_a_linked_folder(tmp_path: Path, linked: str) -> None:
    folder = make_folder(tmp_path / "pets")
    (folder.root / linked).rename(tmp_path / "elsewhere")
    (folder.root / linked).symlink_to(tmp_path / "elsewhere")
    folder.image("val", "2.png").write_bytes(UNDECODABLE["broken pixels.png"])
    if linked == "images/val":
        folder.describe(val="images")
        assert loaded(folder, "val").keys() == {"0.jpg", "1.jpg", "2.jpg"}
    else:
        folder.describe(train="images/train", val="images/val")
        shutil.copytree(folder.root / "labels", tmp_path, dirs_exist_ok=True)
        for split in ("train", "val", "test"):
            for label in (folder.root / "labels" / split).iterdir():
                shutil.copy(label, tmp_path / "elsewhere" / split)
        assert loaded(folder, "val").keys() == {"0.jpg", "1.jpg"}


@pytest.mark.parametrize("in_root", [True, False])
def test_a_relative_line_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_root: bool) -> None:
    folder = make_folder(tmp_path / "pets")
    folder.image("val", "1.jpg").write_bytes(b"")
    start = "images/val" if in_root else "pets/images/val"
    (folder.root / "val.txt").write_text(f"{start}/0.jpg\n{start}/1.jpg\n{start}/0.jpg\n")
    folder.describe(val="val.txt")
    monkeypatch.chdir(folder.root if in_root else tmp_path)
    if in_root:  # to ultralytics no folder called images then: the labels lie beside the images
        for name in ("0.txt", "1.txt"):
            folder.image("val", name).write_text(BOX)
    assert loaded(folder, "val") == {"0.jpg": 1 if in_root else 2}


UNUSUAL = [os.fsdecode(b"\xe9"), "a\nb", "\x01\x7f", "\x85\u2028", "\ufeff\U0001f408", ": #'\"\\"]


@pytest.mark.parametrize("name", UNUSUAL, ids=ascii)
def test_names_that_yaml_can_hardly_hold(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "pets")
    folder.image("val", f"bad{name}.png").write_bytes(UNDECODABLE["broken pixels.png"])
    folder.image("val", f"sound{name}.png").write_bytes(PNG)
    folder.label("val", f"sound{name}.txt").write_text(BOX)
    dataset, cache = inspect_dataset(folder.data), tmp_path / "cache.json"
    assert [inspect_dataset(folder.data, cache) for _ in range(2)] == [dataset, dataset]
    ((image, reason),) = dataset.left_out.items()
    assert image == folder.image("val", f"bad{name}.png")
    assert reason.isprintable()
    assert loaded(folder, "val") == {"0.jpg": 2, "1.jpg": 2, f"sound{name}.png": 1}
    assert dataset.newly_left_out(tmp_path / "study.yaml") == ""
    linked = _linked(check_det_dataset(str(tmp_path / "study.yaml")), "val", tmp_path / "links")
    assert len(list((linked.parent / "images").iterdir())) == 3


@pytest.mark.parametrize("key", ["path", "val"])
@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "a\nb", "a\x85b", "a\u2028b"], ids=ascii)
def test_a_folder_whose_name_no_yaml_can_hold(tmp_path: Path, name: str, key: str) -> None:
    folder = make_folder(tmp_path / (name if key == "path" else "pets"))
    if key == "val":
        (folder.root / "images" / "val").rename(folder.root / "images" / name)
        (folder.root / "images" / "val").symlink_to(name)
    with pytest.raises(DatasetError, match="its name is not UTF-8 or has a line break") as caught:
        inspect_dataset(folder.data)
    assert len(caught.value.problems) == 1


# Labels


def numbers(low: float = 0.0, high: float = 1.0) -> st.SearchStrategy[str]:
    return st.floats(low, high, width=32).map(lambda value: f"{value:.6g}")


ODD = st.sampled_from(["nan", "inf", "-0.005", "-0.02", "1.004", "1.02", "-1", "2", "cat", "0.", "1e-3", ".5,", "0x1"])
CLASS = st.sampled_from(["0", "1"]) | st.sampled_from(["2", "-1", "0.0", "1.0", "0.5", "1e0", "+1", "nan"])


def rows(columns: int) -> st.SearchStrategy[str]:
    """A line of so many columns, mostly a sound one."""
    sound = st.lists(numbers(), min_size=columns - 1, max_size=columns - 1)
    mixed = st.lists(numbers() | ODD, min_size=columns - 1, max_size=columns - 1)
    return st.builds(lambda kind, rest: " ".join([kind, *rest]), CLASS, st.one_of(sound, sound, sound, mixed))


SOUND = st.sampled_from([BOX.strip(), "1 .25 .25 .1 .1", "0 .5 .5 .2 .2"])
FORMS = st.one_of(SOUND, SOUND, *(rows(columns) for columns in (3, 4, 5, 5, 6, 7, 8, 9, 11, 13, 17, 22)))
ENDS = st.sampled_from(["\n", "\r\n", "\n\n", "\r", " \n", "\t\n", "\x0b", "\u2028"])
LABELS = st.builds(
    lambda start, lines, end: (start + end.join(lines) + end).encode(),
    st.sampled_from(["", "", "\ufeff", "\n"]),
    st.lists(FORMS, max_size=4),
    ENDS,
) | st.sampled_from([b"", b"\n", b"\xff\xfe0", b"0 .5 .5 .1 .1\x00", b"0,0.5,0.5,0.1,0.1\n", None])
SHAPES = st.sampled_from(["remove", [4, 2], [2, 3], [1, 2], [0, 0], [2, 1], [17, 3]])


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A data set of some images whose labels are written anew again and again."""
    folder = make_folder(tmp_path_factory.mktemp("labelled") / "pets")
    for index in range(IMAGES):
        save_image(folder.image(name=f"{index}.jpg"))
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=st.lists(LABELS, min_size=IMAGES, max_size=IMAGES), shape=SHAPES)
def test_labels_of_every_form(labelled: Folder, files: list[bytes | None], shape: object) -> None:
    labelled.describe(kpt_shape=shape)
    for index, written in enumerate(files):
        label = labelled.label(name=f"{index}.txt")
        label.unlink(missing_ok=True)
        if written is not None:
            label.write_bytes(written)
    expected = stock(labelled.root, "train")
    try:
        found = ours(labelled.root, "train")
    except DatasetError:
        read = expected or {}
        assert len(read) < (1 - MOST_LEFT_OUT) * IMAGES or not any(boxes for _, boxes, _, _ in read.values())
        return
    assert found == expected
    counts = inspect_dataset(labelled.data).splits["train"]
    boxes = [len(kinds) for _, kinds, _, _ in found.values()]
    assert (counts.images, counts.boxes, counts.background) == (len(boxes), sum(boxes), boxes.count(0))


KEYPOINTS = [
    ("0 .5 .5 .2 .2 .4 .4 .5 .5 .6 .6 .5 .5\n", [4, 2], [0.5, 0.5, 0.2, 0.2]),
    ("0 .5 .5 .2 .2 .4 .4 2 .6 .6 1\n", [2, 3], [0.5, 0.5, 0.2, 0.2]),
    ("0 .2 .2 .6 .2 .6 .8 .2 .8\n", [4, 2], [0.4, 0.5, 0.4, 0.6]),  # another length: an outline
    ("0 .5 .5 .2 .2\n", [4, 2], [0.5, 0.5, 0.2, 0.2]),
]


@pytest.mark.parametrize(("line", "shape", "box"), KEYPOINTS)
def test_keypoints_are_no_outline(tmp_path: Path, line: str, shape: list[int], box: list[float]) -> None:
    folder = make_folder(tmp_path / "pets")
    usual = inspect_dataset(folder.data).fingerprint
    folder.describe(kpt_shape=shape)
    assert inspect_dataset(folder.data).fingerprint != usual
    folder.label().write_text(line)
    found = ours(folder.root, "train")
    assert found == stock(folder.root, "train")
    np.testing.assert_allclose(found["images/train/0.jpg"][2], [box], atol=1e-6)


@pytest.mark.parametrize("shape", [None, [4], [4, 2, 1], ["4", "2"], "4x2", [-1, 2], 17])
def test_keypoints_of_no_shape_are_refused(tmp_path: Path, shape: object) -> None:
    folder = make_folder(tmp_path / "pets")
    folder.describe(kpt_shape=shape)
    with pytest.raises(DatasetError, match=r"kpt_shape: must be \[points, numbers of each\]"):
        inspect_dataset(folder.data)


SPOIL: dict[str, Callable[[Folder], object]] = {
    "nothing": lambda f: None,
    "a short image": lambda f: f.image().write_bytes(f.image().read_bytes()[:-20]),
    "a wrong line": lambda f: f.label().write_text("7 .5 .5 .1 .1\n"),
    "a label that is a folder": lambda f: (f.label().unlink(), f.label().mkdir()),
    "an image in two forms": lambda f: shutil.copy(f.image(), f.image(name="0.PNG")),
    "outlines in some files": lambda f: f.label().write_text("0 .1 .1 .2 .2 .3 .3\n"),
    "lists": lambda f: ((f.root / "t.txt").write_text("./images/train/1.jpg\n"), f.describe(train="t.txt")),
}


@pytest.mark.parametrize("name", SPOIL)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_ultralytics_reads_the_same(tmp_path: Path, name: str, split: str) -> None:
    folder = make_folder(tmp_path / "pets")
    SPOIL[name](folder)
    assert ours(folder.root, split) == stock(folder.root, split)
