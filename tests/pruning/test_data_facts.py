"""What a study knows of its data: counts, and images that stand in two splits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pets.folders import Folder, make_folder

from prunetune.pruning.data.data_facts import DataFacts, SharedImages, Split
from prunetune.pruning.data.dataset import inspect_dataset

SHARED: dict[str, tuple[Callable[[Folder], object], list[tuple[str, str, int, int]]]] = {
    "none": (lambda f: None, []),
    "val is train": (lambda f: f.describe(val="images/train"), [("train", "val", 3, 3)]),
    "a copy by another name": (
        lambda f: shutil.copy(f.image(), f.image("test", "copy.jpg")),
        [("train", "test", 1, 2)],
    ),
    "all is one": (
        lambda f: f.describe(val="images/train", test="images/train"),
        [("train", "val", 3, 3), ("train", "test", 3, 3), ("val", "test", 3, 3)],
    ),
    "twice in a split": (lambda f: shutil.copy(f.image("val"), f.image("val", "copy.jpg")), []),
    "test is a part of val": (lambda f: shutil.copy(f.image("val"), f.image("test")), [("val", "test", 1, 1)]),
    "a damaged copy": (
        lambda f: [file.write_bytes(b"") for file in (f.image(), f.image("val"))],
        [],
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_images_in_two_splits(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "pets")
    spoil, expected = SHARED[name]
    spoil(folder)
    cache = tmp_path / "cache.json"
    for found in (inspect_dataset(folder.data, cache), inspect_dataset(folder.data, cache)):
        assert [(item.first, item.second, item.images, item.of) for item in found.shared] == expected
        notes = [note for note in found.facts.notes("x") if "also in" in note]
        assert len(notes) == len(expected)
        for note, (first, second, images, of) in zip(notes, expected, strict=True):
            assert f"{images} of {of} {second} images" in note
            assert f"also in {first}," in note


FACTS = [
    DataFacts(),
    DataFacts({"train": Split(3, 4, 1), "val": Split(2, 4, 0, 5)}),
    DataFacts({"test": Split(1, 0, 1)}, (SharedImages("train", "val", 1, 2), SharedImages("val", "test", 2, 2))),
]


@pytest.mark.parametrize("facts", FACTS)
def test_facts_are_read_back(facts: DataFacts) -> None:
    assert DataFacts.parse(json.loads(json.dumps(facts.as_dict()))) == facts


@pytest.mark.parametrize(
    "told",
    [
        None,
        3,
        [],
        {"splits": 3, "shared": {}},
        {"splits": {"train": {"images": "x"}}, "shared": [{"first": "train"}, 7]},
        {"shared": [{"first": "attic", "second": "val", "images": 1, "of": 1}]},
        {"splits": {"train": {"images": 1, "boxes": 1}}},
    ],
)
def test_damaged_facts_are_none(told: object) -> None:
    assert DataFacts.parse(told) == DataFacts()
