"""One look at a data set: what is accepted, what is refused, and what a second look costs."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pets.folders import BOX, Folder, make_folder, save_image
from PIL import Image

from prunetune.pruning.data.data_facts import Split
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.spaces.errors import DatasetError, StoreError


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
    "path is missing": (lambda f: f.describe(path="nowhere"), ["path: nowhere does not exist in", "correct it"]),
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
    "windows separators": (lambda f: f.describe(train="images\\train"), ["images\\train does not exist", "Windows"]),
    "windows path": (lambda f: f.describe(path="C:\\data"), ["C:\\data does not exist", "Windows"]),
    "windows list": (lambda f: f.describe(val=["lists\\val.txt"]), ["lists\\val.txt does not exist", "Windows"]),
    "index twice": (lambda f: f.describe(names={0: "a", "0": "c", 1: "b"}), ["names: 0 is there twice"]),
    "another index twice": (lambda f: f.describe(names={"1": "a", 0: "c", 1: "b"}), ["names: 1 is there twice"]),
    "index twice by its zeros": (lambda f: f.describe(names={"00": "a", 0: "c"}), ["names: 0 is there twice"]),
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
    "no label files": (
        lambda f: shutil.rmtree(f.root / "labels/val"),
        ["val: no labels", "any of its 2 images", "expected in", "labels/val/0.txt"],
    ),
    "empty label files": (
        lambda f: [f.label("train", f"{index}.txt").write_text("\n") for index in range(3)],
        ["train: no labels: the label files are empty"],
    ),
}


# What leaves out one image, as it does for ultralytics, and the reason that is given for it.
LEFT_OUT: dict[str, tuple[Spoil, list[str]]] = {
    "truncated jpeg": (
        lambda f: f.image().write_bytes(f.image().read_bytes()[:-100]),
        ["images/train/0.jpg: cannot be used", "truncated", "replace it"],
    ),
    "empty image": (lambda f: f.image().write_bytes(b""), ["images/train/0.jpg: is empty (0 bytes)"]),
    "no image": (
        lambda f: f.image().write_text("hello"),
        ["images/train/0.jpg: cannot be used", "no known image"],
    ),
    "truncated png": (
        lambda f: save_image(f.image(name="x.png")).write_bytes(save_image(f.image(name="x.png")).read_bytes()[:400]),
        ["images/train/x.png: cannot be used"],
    ),
    "gif called jpg": (
        lambda f: Image.new("RGB", (20, 20)).save(f.image(), format="GIF"),
        ["images/train/0.jpg: cannot be used (Invalid image format GIF)", "replace it"],
    ),
    "tiny image": (
        lambda f: save_image(f.image(), (9, 30)),
        ["images/train/0.jpg: cannot be used (image size (30, 9) <10 pixels)"],
    ),
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
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_ultralytics_leaves_out_is_left_out(folder: Folder, tmp_path: Path, name: str) -> None:
    spoil, phrases = LEFT_OUT[name]
    spoil(folder)
    cache = tmp_path / "cache.json"
    for found in (inspect_dataset(folder.data, cache), inspect_dataset(folder.data, cache)):
        assert found.splits["train"].left_out == 1
        ((image, reason),) = found.left_out.items()
        assert image.parent == folder.image().parent
        for phrase in phrases:
            assert phrase in reason
        assert yaml.safe_load(found.as_yaml())["left_out"] == {str(image): reason}
        (note,) = found.facts.notes("here")
        total = sum(split.images for split in found.splits.values()) + 1
        assert f"1 of {total} images are left out, as ultralytics leaves them out (train 1)" in note


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
    folder.describe(nc=7)
    folder.label().write_text("7 .5 .5 .1 .1")
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(("bad", "refused"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_a_split_does_without_half_of_its_images(folder: Folder, bad: int, refused: bool) -> None:
    save_image(folder.image(name="3.jpg"))
    folder.label(name="3.txt").write_text(BOX)
    for index in range(bad):
        folder.image(name=f"{index}.jpg").write_bytes(b"")
    if not refused:
        assert inspect_dataset(folder.data).splits["train"].left_out == bad
        return
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    assert f"train: {bad} of its 4 images cannot be used" in caught.value.problems[0]
    assert len(caught.value.problems) == 1 + bad


def test_only_what_is_used_counts_in_the_fingerprint(folder: Folder) -> None:
    before = inspect_dataset(folder.data)
    broken = folder.image(name="broken.jpg")
    broken.write_bytes(folder.image().read_bytes()[:-20])
    found = inspect_dataset(folder.data)
    assert (found.fingerprint, found.has_test) == (before.fingerprint, before.has_test)
    assert found.left_out.keys() == {broken}
    assert "image file is truncated" in found.left_out[broken]


def test_all_problems_at_once(folder: Folder) -> None:
    folder.describe(nc=5, test="images/tst")
    folder.image("val", "1.jpg").write_bytes(b"")
    folder.label("train", "1.txt").write_text("0 .5 .5 .1")
    folder.label("train", "2.txt").write_text("0 .5 .5 3 3")
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    text = str(caught.value)
    for phrase in ("5 problems", "nc: is 5", "images/tst", "train: 2 of its 3", "train/1.txt:1", "train/2.txt:1"):
        assert phrase in text


def test_many_wrong_lines_do_not_hide_a_broken_image(folder: Folder) -> None:
    for index in range(50):
        save_image(folder.image(name=f"{index}.jpg"))
        folder.label(name=f"{index}.txt").write_text("9 .5 .5 .1 .1\n" * 20)
    folder.image(name="7.jpg").write_bytes(b"")
    folder.describe(test="nowhere")
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    problems = caught.value.problems
    assert len(problems) == 11
    assert any("train/7.jpg" in problem for problem in problems)
    assert any("nowhere" in problem for problem in problems)
    assert problems[-1] == "and 43 more, 53 in all"


def test_rounded_and_repeated_lines_are_accepted(folder: Folder) -> None:
    folder.label().write_text("0 1.0004 -0.002 0.1 0.1\n0.0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n\n")
    assert inspect_dataset(folder.data).splits["train"].boxes == 2 + 4


def test_outlines_and_byte_order_marks_are_accepted(folder: Folder) -> None:
    folder.label().write_text("0 .1 .1 .2 .2 .3 .3\n1 .1 .1 .2 .2 .3 .3 .4 .4\n", encoding="utf-8-sig")
    assert inspect_dataset(folder.data).splits["train"].boxes == 2 + 4


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


@pytest.mark.parametrize(("end", "count"), [("", 0), ("  ", 2), ("\t", 2), (",", 2)], ids=ascii)
def test_lines_that_name_no_image_are_told(
    folder: Folder, caplog: pytest.LogCaptureFixture, end: str, count: int
) -> None:
    lines = [f"./images/train/0.jpg{end}", "", f"./images/train/1.jpg{end}", "./images/train/2.jpg"]
    (folder.root / "train.txt").write_text("\n".join(lines))
    folder.describe(train="train.txt")
    with caplog.at_level(logging.WARNING):
        assert inspect_dataset(folder.data).splits["train"].images == 3 - count
    assert len(caplog.messages) == bool(count)
    if count:
        assert "2 of its 3 lines name no image file and are not used, such as " in caplog.text
        assert repr(f"0.jpg{end}")[1:] in caplog.text


def test_a_list_of_no_image(folder: Folder) -> None:
    (folder.root / "train.txt").write_text("./images/train/0.jpg  \n./images/train/1.jpg\t\n.")
    folder.describe(train="train.txt")
    with pytest.raises(
        DatasetError, match=r"none of the 3 lines of .*train\.txt names an image file, such as .*0\.jpg  '"
    ):
        inspect_dataset(folder.data)


@pytest.mark.parametrize("damaged", [1, 2, 5])
def test_images_that_are_newly_left_out_are_named(folder: Folder, tmp_path: Path, damaged: int) -> None:
    for index in range(12):
        save_image(folder.image(name=f"{index}.jpg"))
        folder.label(name=f"{index}.txt").write_text(BOX)
    folder.image(name="9.jpg").write_bytes(b"")
    study = tmp_path / "study.yaml"
    study.write_text(inspect_dataset(folder.data).as_yaml())
    for index in range(damaged):
        folder.image(name=f"{index}.jpg").write_bytes(b"")
    dataset = inspect_dataset(folder.data)
    told = dataset.newly_left_out(study)
    assert told.startswith("1 more image is" if damaged == 1 else f"{damaged} more images are")
    for index in range(12):
        assert (str(folder.image(name=f"{index}.jpg")) in told) == (index < min(damaged, 3))
    assert told.endswith(" and 2 more") == (damaged == 5)
    study.write_text(dataset.as_yaml())
    assert dataset.newly_left_out(study) == ""


@pytest.mark.parametrize("content", [None, "", "[a", "- left_out", "left_out: 7", "\0"])
def test_nothing_is_said_of_a_description_that_cannot_be_read(
    folder: Folder, tmp_path: Path, content: str | None
) -> None:
    folder.image().write_bytes(b"")
    if content is not None:
        (tmp_path / "study.yaml").write_text(content)
    assert inspect_dataset(folder.data).newly_left_out(tmp_path / "study.yaml") == ""


def test_a_listed_image_that_is_missing(folder: Folder) -> None:
    (folder.root / "train.txt").write_text("./images/train/0.jpg\n./images/train/17.jpg\n")
    folder.describe(train="train.txt")
    found = inspect_dataset(folder.data)
    assert found.splits["train"] == Split(1, 2, 0, left_out=1)
    assert "does not exist" in found.left_out[folder.image(name="17.jpg")]


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000 + ".jpg"], ids=["nul", "overlong"])
def test_a_listed_image_whose_name_no_file_can_have(folder: Folder, name: str) -> None:
    (folder.root / "train.txt").write_text(f"./images/train/0.jpg\n./images/train/{name}\n")
    folder.describe(train="train.txt")
    (reason,) = inspect_dataset(folder.data).left_out.values()
    assert ".jpg: does not exist" in reason


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
    assert inspect_dataset(folder.data).left_out.keys() == {image}
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert inspect_dataset(folder.data, cache).left_out.keys() == {image}


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
