"""One look at a data set: what is accepted, what is refused, and what a second look costs."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunetune.pruning.dataset import Split, inspect_dataset
from prunetune.pruning.labels import read_labels
from prunetune.spaces.errors import DatasetError, StoreError

BOX = "0 0.5 0.5 0.2 0.2\n"


def save_image(file: Path, size: tuple[int, int] = (24, 16)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.Random(file.name).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, pixels).save(file, format="PNG" if file.suffix.lower() == ".png" else "JPEG")
    return file


@dataclass
class Folder:
    """A data set on disk that a test can spoil."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data.yaml"

    def describe(self, **changes: object) -> None:
        content = yaml.safe_load(self.data.read_text()) if self.data.exists() else {}
        content = {key: value for key, value in {**content, **changes}.items() if value != "remove"}
        self.data.write_text(yaml.safe_dump(content, sort_keys=False))

    def image(self, split: str = "train", name: str = "0.jpg") -> Path:
        return self.root / "images" / split / name

    def label(self, split: str = "train", name: str = "0.txt") -> Path:
        return self.root / "labels" / split / name


def make_folder(root: Path) -> Folder:
    folder = Folder(root)
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for index in range(count):
            save_image(folder.image(split, f"{index}.jpg"))
            label = folder.label(split, f"{index}.txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(BOX + f"1 0.25 0.{index + 1} 0.1 0.1\n")
    folder.describe(train="images/train", val="images/val", test="images/test", names={0: "cat", 1: "dog"})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_folder(tmp_path / "pets")


def test_a_sound_data_set(folder: Folder) -> None:
    folder.label("train", "2.txt").unlink()
    dataset = inspect_dataset(folder.data)
    assert dataset.names == ("cat", "dog")
    assert dataset.splits == {"train": Split(3, 4, 1), "val": Split(2, 4, 0), "test": Split(1, 2, 0)}
    assert dataset.has_test
    assert dataset.file == folder.data
    assert len(dataset.fingerprint) == 16


def test_test_split_is_optional(folder: Folder) -> None:
    folder.describe(test=None)
    dataset = inspect_dataset(str(folder.data))
    assert not dataset.has_test
    assert set(dataset.splits) == {"train", "val"}


def test_a_test_split_without_labels_does_not_count(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.label("test").unlink()
    with caplog.at_level(logging.WARNING):
        dataset = inspect_dataset(folder.data)
    assert dataset.splits["test"] == Split(1, 0, 1)
    assert not dataset.has_test
    assert "test split has no labels" in caplog.text


@pytest.mark.parametrize("names", [["cat", "dog"], {"0": "cat", 1: "dog"}])
@pytest.mark.parametrize("nc", [2, "2", 2.0, "remove"])
def test_names_in_every_form(folder: Folder, names: object, nc: object) -> None:
    folder.describe(names=names, nc=nc)
    assert inspect_dataset(folder.data).names == ("cat", "dog")


@pytest.mark.parametrize(("given", "channels"), [("remove", 3), (3, 3), (1, 1), (4, 4)])
def test_channels_of_images(folder: Folder, tmp_path: Path, given: object, channels: int) -> None:
    usual = inspect_dataset(folder.data).fingerprint
    folder.describe(channels=given)
    cache = tmp_path / "cache.json"
    for found in (inspect_dataset(folder.data, cache), inspect_dataset(folder.data, cache)):
        assert found.channels == channels
        assert yaml.safe_load(found.as_yaml()).get("channels", 3) == channels
        assert (found.fingerprint == usual) == (channels == 3)


# Every way to spoil a data set, and what its error must say.
Spoil = Callable[[Folder], object]
PROBLEMS: dict[str, tuple[Spoil, list[str]]] = {
    "yaml misspelt": (
        lambda f: f.data.rename(f.root / "dat.yaml"),
        ["does not exist", "did you mean", "dat.yaml"],
    ),
    "folder misspelt": (
        lambda f: f.root.rename(f.root.with_name("petz")),
        ["did you mean", "petz/data.yaml"],
    ),
    "yaml is a folder": (lambda f: (f.data.unlink(), f.data.mkdir()), ["is a folder"]),
    "yaml cannot be parsed": (lambda f: f.data.write_text("train: [a, b"), ["is no YAML", "line 1"]),
    "yaml is binary": (lambda f: f.data.write_bytes(b"\xff\xfe\x00"), ["is no YAML"]),
    "yaml is empty": (lambda f: f.data.write_text(""), ["is empty", "train, val and names"]),
    "yaml is a list": (lambda f: f.data.write_text("- train"), ["is a list", "not a mapping"]),
    "path is no text": (lambda f: f.describe(path=3), ["path: must be a folder, not 3"]),
    "path is missing": (lambda f: f.describe(path="nowhere"), ["nowhere", "train: ", "does not exist"]),
    "train missing": (lambda f: f.describe(train="remove"), ["train: missing", "add 'train: images/train'"]),
    "train misspelt": (
        lambda f: f.describe(train="remove", trian="x"),
        ["train: missing", "rename the key 'trian'"],
    ),
    "val missing": (lambda f: f.describe(val="remove"), ["val: missing", "add 'val: images/val'"]),
    "val empty": (lambda f: f.describe(val=None), ["val: is empty"]),
    "train is a number": (lambda f: f.describe(train=7), ["train: must be a folder", "not 7"]),
    "train is an empty list": (lambda f: f.describe(train=[]), ["train: must be a folder"]),
    "train is an image": (
        lambda f: f.describe(train="images/train/0.jpg"),
        ["is an image", "give its folder"],
    ),
    "train is no list": (lambda f: f.describe(train="images/train/x"), ["images/train/x does not exist"]),
    "train folder misspelt": (
        lambda f: f.describe(train="images/trian"),
        ["images/trian does not exist", "did you mean", "images/train?"],
    ),
    "names missing": (lambda f: f.describe(names="remove"), ["names: missing"]),
    "names misspelt": (
        lambda f: f.describe(names="remove", name=["a"]),
        ["names: missing", "rename the key 'name'"],
    ),
    "names is text": (lambda f: f.describe(names="cat"), ["names: must list the classes", "'cat'"]),
    "names with a gap": (lambda f: f.describe(names={0: "cat", 2: "dog"}), ["keys are 0, 2", "from 0 to 1"]),
    "names from one": (lambda f: f.describe(names={1: "cat", 2: "dog"}), ["keys are 1, 2", "from 0 to 1"]),
    "a name twice": (lambda f: f.describe(names=["cat", "cat"]), ["names: 'cat' names more than one class"]),
    "nc differs": (lambda f: f.describe(nc=3), ["nc: is 3", "names has 2 classes"]),
    "nc is no number": (lambda f: f.describe(nc="two"), ["nc: is 'two'"]),
    "no channels": (lambda f: f.describe(channels=0), ["channels: must be a whole number from 1", "not 0"]),
    "channels in words": (lambda f: f.describe(channels="gray"), ["channels: must be a whole number", "'gray'"]),
    "channels are yes": (lambda f: f.describe(channels=True), ["channels: must be a whole number", "True"]),
    "no images": (
        lambda f: shutil.rmtree(f.root / "images/val") or f.image("val").parent.mkdir(),
        ["no images in"],
    ),
    "truncated jpeg": (
        lambda f: f.image().write_bytes(f.image().read_bytes()[:-100]),
        ["images/train/0.jpg: cannot be decoded", "truncated", "replace it"],
    ),
    "empty image": (lambda f: f.image().write_bytes(b""), ["images/train/0.jpg: is empty (0 bytes)"]),
    "no image": (
        lambda f: f.image().write_text("hello"),
        ["images/train/0.jpg: cannot be decoded", "no known image"],
    ),
    "truncated png": (
        lambda f: save_image(f.image(name="x.png")).write_bytes(save_image(f.image(name="x.png")).read_bytes()[:400]),
        ["images/train/x.png: cannot be decoded"],
    ),
    "gif called jpg": (
        lambda f: Image.new("RGB", (20, 20)).save(f.image(), format="GIF"),
        ["images/train/0.jpg: is GIF inside", "save it as PNG"],
    ),
    "tiny image": (lambda f: save_image(f.image(), (9, 30)), ["images/train/0.jpg: is 9 x 30 px"]),
    "dangling link": (
        lambda f: f.image(name="9.jpg").symlink_to("gone.jpg"),
        ["images/train/9.jpg: does not exist"],
    ),
    "four columns": (lambda f: f.label().write_text("\n0 .5 .5 .1"), ["labels/train/0.txt:2: has 4 columns"]),
    "six columns": (
        lambda f: f.label().write_text("0 .5 .5 .1 .1 .9"),
        ["labels/train/0.txt:1: has 6 columns"],
    ),
    "even outline": (lambda f: f.label().write_text("0 .1 .1 .2 .2 .3 .3 .4"), ["0.txt:1: has 8 columns"]),
    "a word": (lambda f: f.label().write_text(BOX + "cat .5 .5 .1 .1"), ["0.txt:2: 'cat' is no number"]),
    "nan": (lambda f: f.label().write_text("0 .5 nan .1 .1"), ["0.txt:1: 'nan' is no number"]),
    "infinite": (lambda f: f.label().write_text("0 .5 .5 inf .1"), ["0.txt:1: 'inf' is no number"]),
    "pixels": (lambda f: f.label().write_text("0 12 8 3 3"), ["0.txt:1: coordinate 12 out of [0, 1]"]),
    "negative": (lambda f: f.label().write_text("0 .5 -.2 .1 .1"), ["0.txt:1: coordinate -.2 out of [0, 1]"]),
    "negative width": (
        lambda f: f.label().write_text("0 .5 .5 -.005 .1"),
        ["coordinate -.005 out of [0, 1]"],
    ),
    "outline outside": (lambda f: f.label().write_text("0 0 0 1 1 1 1.2"), ["coordinate 1.2 out of [0, 1]"]),
    "class too high": (
        lambda f: f.label().write_text("7 .5 .5 .1 .1"),
        ["labels/train/0.txt:1: class index 7 out of range", "names has 2 classes (0 to 1)"],
    ),
    "class negative": (lambda f: f.label().write_text("-1 .5 .5 .1 .1"), ["class index -1 out of range"]),
    "class not whole": (lambda f: f.label().write_text("0.5 .5 .5 .1 .1"), ["class index 0.5 is not whole"]),
    "boxes and outlines": (
        lambda f: f.label().write_text(BOX + "0 .1 .1 .2 .2 .3 .3"),
        ["labels/train/0.txt: mixes boxes and outlines"],
    ),
    "binary label": (lambda f: f.label().write_bytes(b"\xff\xfe\x00"), ["labels/train/0.txt: is no text"]),
    "no label files": (
        lambda f: shutil.rmtree(f.root / "labels/val"),
        ["val: no labels", "any of its 2 images", "expected in", "labels/val/0.txt"],
    ),
    "empty label files": (
        lambda f: [f.label("train", f"{index}.txt").write_text("\n") for index in range(3)],
        ["train: no labels: the label files are empty"],
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_named(folder: Folder, name: str) -> None:
    spoil, phrases = PROBLEMS[name]
    spoil(folder)
    cache = folder.root.parent / "cache.json"
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data, cache)
    text = str(caught.value)
    assert text.startswith(str(folder.data))
    for phrase in phrases:
        assert phrase in text
    assert not cache.exists()


def test_one_problem_is_one_problem(folder: Folder) -> None:
    folder.label().write_text("7 .5 .5 .1 .1")
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    assert len(caught.value.problems) == 1


def test_all_problems_at_once(folder: Folder) -> None:
    folder.describe(nc=5, test="images/tst")
    folder.image("val", "1.jpg").write_bytes(b"")
    folder.label("train", "1.txt").write_text("0 .5 .5 .1")
    folder.label("train", "2.txt").write_text("0 .5 .5 3 3")
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    text = str(caught.value)
    for phrase in ("5 problems", "nc: is 5", "images/tst", "val/1.jpg", "train/1.txt:1", "train/2.txt:1"):
        assert phrase in text


def test_many_wrong_lines_do_not_hide_a_broken_image(folder: Folder) -> None:
    folder.label("train", "0.txt").write_text("9 .5 .5 .1 .1\n" * 500)
    folder.image("val", "1.jpg").write_bytes(b"")
    folder.describe(test="nowhere")
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    problems = caught.value.problems
    assert len(problems) == 11
    assert any("val/1.jpg" in problem for problem in problems)
    assert any("nowhere" in problem for problem in problems)
    assert problems[-1] == "and 492 more, 502 in all"


def test_rounded_and_repeated_lines_are_accepted(folder: Folder) -> None:
    folder.label().write_text("0 1.0004 -0.002 0.1 0.1\n0.0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n\n")
    assert inspect_dataset(folder.data).splits["train"].boxes == 2 + 4


def test_outlines_and_byte_order_marks_are_accepted(folder: Folder) -> None:
    folder.label().write_text("0 .1 .1 .2 .2 .3 .3\n1 .1 .1 .2 .2 .3 .3 .4 .4\n", encoding="utf-8-sig")
    assert inspect_dataset(folder.data).splits["train"].boxes == 2 + 4


@given(
    columns=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    index=st.integers(0, 79),
    classes=st.integers(1, 80),
)
def test_a_box_in_the_image_is_wrong_only_by_its_class(
    tmp_path_factory: pytest.TempPathFactory, columns: list[float], index: int, classes: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "label.txt"
    file.write_text(" ".join(map(repr, [index, *columns])))
    problems = read_labels(file, classes).problems
    assert bool(problems) == (index >= classes)


@pytest.mark.parametrize("name", ["with space", "ünï-代码", "a\"quote's", "dots.in.name", "[glob]*?", "%20#&"])
def test_unusual_names(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / name)
    save_image(folder.image("train", f"{name}.JPG"))
    folder.label("train", f"{name}.txt").write_text(BOX)
    save_image(folder.image("train", f"{name} 2.PNG"))
    dataset = inspect_dataset(folder.data)
    assert dataset.splits["train"] == Split(images=5, boxes=7, background=1)


def test_only_the_last_images_folder_becomes_labels(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images" / "pets")
    assert inspect_dataset(folder.data).splits["train"].boxes == 6


def test_labels_beside_the_images(folder: Folder) -> None:
    for split in ("train", "val", "test"):
        (folder.root / "images" / split).rename(folder.root / split)
        for label in (folder.root / "labels" / split).iterdir():
            label.rename(folder.root / split / label.name)
    folder.describe(train="train", val="val", test="test")
    assert inspect_dataset(folder.data).splits["train"] == Split(3, 6, 0)


def test_lists_of_images_and_lists_of_folders(folder: Folder) -> None:
    lines = ["./images/train/0.jpg", str(folder.image("train", "1.jpg")), "./README.md"]
    (folder.root / "train.txt").write_text("\n".join(lines))
    folder.describe(train=["train.txt", "images/test"], val=["images/val"])
    dataset = inspect_dataset(folder.data)
    assert dataset.splits["train"] == Split(3, 6, 0)
    assert dataset.sources["train"] == (folder.root / "train.txt", folder.root / "images/test")


def test_a_listed_image_that_is_missing(folder: Folder) -> None:
    (folder.root / "train.txt").write_text("./images/train/0.jpg\n./images/train/17.jpg\n")
    folder.describe(train="train.txt")
    with pytest.raises(DatasetError, match=r"images/train/17\.jpg: does not exist"):
        inspect_dataset(folder.data)


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000 + ".jpg"], ids=["nul", "overlong"])
def test_a_listed_image_whose_name_no_file_can_have(folder: Folder, name: str) -> None:
    (folder.root / "train.txt").write_text(f"./images/train/0.jpg\n./images/train/{name}\n")
    folder.describe(train="train.txt")
    with pytest.raises(DatasetError, match=r"\.jpg: does not exist"):
        inspect_dataset(folder.data)


@pytest.mark.parametrize("key", ["path", "train"])
@pytest.mark.parametrize("value", ["a\0b", "x" * 5000, "~nobody-of-this-name/x"], ids=["nul", "overlong", "user"])
def test_a_path_that_none_can_be(folder: Folder, key: str, value: str) -> None:
    folder.describe(**{key: value})
    with pytest.raises(DatasetError, match=rf"{key}: .*correct it") as caught:
        inspect_dataset(folder.data)
    assert len(str(caught.value)) < 800


def test_a_date_that_is_none(folder: Folder) -> None:
    folder.data.write_text(folder.data.read_text() + "date: 2024-13-45\n")
    with pytest.raises(DatasetError, match=r"is no YAML: month must be in 1\.\.12"):
        inspect_dataset(folder.data)


def test_path_key_absolute_and_relative_to_the_yaml(folder: Folder, tmp_path: Path) -> None:
    expected = inspect_dataset(folder.data)
    elsewhere = tmp_path / "configs" / "pets.yaml"
    elsewhere.parent.mkdir()
    for path in (str(folder.root), "../pets"):
        folder.describe(path=path)
        shutil.copy(folder.data, elsewhere)
        found = inspect_dataset(elsewhere)
        assert (found.splits, found.fingerprint) == (expected.splits, expected.fingerprint)


def test_as_yaml_means_the_same_anywhere(folder: Folder, tmp_path: Path) -> None:
    first = inspect_dataset(folder.data)
    copy = tmp_path / "far" / "away.yaml"
    copy.parent.mkdir()
    copy.write_text(first.as_yaml())
    second = inspect_dataset(copy)
    assert (second.splits, second.names, second.sources) == (first.splits, first.names, first.sources)
    assert second.fingerprint == first.fingerprint


def test_fingerprint_does_not_depend_on_the_place(folder: Folder, tmp_path: Path) -> None:
    before = inspect_dataset(folder.data).fingerprint
    folder.root.rename(tmp_path / "elsewhere")
    assert inspect_dataset(tmp_path / "elsewhere" / "data.yaml").fingerprint == before


CHANGES: dict[str, Spoil] = {
    "a label": lambda f: f.label().write_text("1 0.5 0.5 0.2 0.2\n"),
    "a label removed": lambda f: f.label().unlink(),
    "an image replaced": lambda f: save_image(f.image(), (40, 40)),
    "an image added": lambda f: save_image(f.image(name="new.jpg")),
    "an image renamed": lambda f: f.image("test").rename(f.image("test", "other.jpg")),
    "a class renamed": lambda f: f.describe(names=["cat", "cow"]),
    "no test split": lambda f: f.describe(test=None),
    "splits exchanged": lambda f: f.describe(val="images/test", test="images/val"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_fingerprint_changes_with_the_content(folder: Folder, name: str) -> None:
    before = inspect_dataset(folder.data).fingerprint
    CHANGES[name](folder)
    assert inspect_dataset(folder.data).fingerprint != before


def test_an_unchanged_data_set_is_not_decoded_again(folder: Folder, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "datasets.json"
    first = inspect_dataset(folder.data, cache)
    written = cache.read_bytes()
    # Content that only decoding could tell from the image before: same size, same time.
    image, times = folder.image(), folder.image().stat()
    image.write_bytes(bytes(times.st_size))
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert inspect_dataset(folder.data, cache) == first
    assert cache.read_bytes() == written
    with pytest.raises(DatasetError, match="cannot be decoded"):
        inspect_dataset(folder.data)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(DatasetError, match="cannot be decoded"):
        inspect_dataset(folder.data, cache)


def test_the_cache_sees_changed_labels_and_names(folder: Folder, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    seen = {inspect_dataset(folder.data, cache).fingerprint}
    folder.label().write_text(BOX)
    seen.add(inspect_dataset(folder.data, cache).fingerprint)
    folder.describe(names=["cat", "cow"])
    seen.add(inspect_dataset(folder.data, cache).fingerprint)
    assert len(seen) == 3
    assert len(json.loads(cache.read_text())) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"x": 3}', "\x00"])
def test_a_corrupt_cache_is_written_anew(folder: Folder, tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(content)
    first = inspect_dataset(folder.data, cache)
    assert json.loads(cache.read_text())[str(folder.data)]["fingerprint"] == first.fingerprint
    cache.write_text(json.dumps({str(folder.data): {"listing": 1}}))
    assert inspect_dataset(folder.data, cache) == first


def test_one_cache_serves_several_data_sets(folder: Folder, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    other = make_folder(tmp_path / "other")
    inspect_dataset(folder.data, cache)
    inspect_dataset(other.data, cache)
    assert set(json.loads(cache.read_text())) == {str(folder.data), str(other.data)}


def test_a_cache_that_cannot_be_written(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        inspect_dataset(folder.data, tmp_path / "file" / "cache.json")


def test_jpegs_that_ultralytics_would_rewrite(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.image().write_bytes(folder.image().read_bytes() + b"\0\0\0")
    with caplog.at_level(logging.WARNING):
        inspect_dataset(folder.data)
    assert "1 JPEG files have bytes after their end" in caplog.text


@pytest.mark.slow
def test_ultralytics_reads_the_same(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunetune.pruning.compat import prepare_ultralytics

    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    prepare_ultralytics()
    from ultralytics.data import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    save_image(folder.image("train", "a b.PNG"))
    (folder.root / "val.txt").write_text("./images/val/0.jpg\n")
    folder.describe(val="val.txt", train=["images/train", "images/test"])
    ours = inspect_dataset(folder.data)
    absolute = tmp_path / "absolute.yaml"
    absolute.write_text(ours.as_yaml())
    for file in (folder.data, absolute):
        theirs = check_det_dataset(str(file), autodownload=False)
        assert tuple(theirs["names"].values()) == ours.names
        for split, counts in ours.splits.items():
            read = YOLODataset(img_path=theirs[split], data=theirs, task="detect", imgsz=32, augment=False)
            boxes = [len(label["cls"]) for label in read.labels]
            assert Split(len(boxes), sum(boxes), boxes.count(0)) == counts
