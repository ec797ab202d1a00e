"""A study on data as people have them: damaged images, and splits that share some."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from prunetune.pruning.data.data_facts import SharedImages
from prunetune.results import load_study

pytestmark = pytest.mark.slow

Prunetune = Callable[..., Any]
WriteStudy = Callable[..., Path]


def damage(data: Path) -> None:
    """A JPEG with bytes after its end, one that is short, a wrong line, and two images of val that are in test."""
    train, val = (data.parent / "images" / split for split in ("train", "val"))
    for name, cut in (("after", None), ("short", -20)):
        Image.open(train / "000.png").convert("RGB").save(train / f"{name}.jpg", "JPEG")
        written = (train / f"{name}.jpg").read_bytes()
        (train / f"{name}.jpg").write_bytes(written + bytes(3) if cut is None else written[:cut])
        shutil.copy(data.parent / "labels" / "train" / "000.txt", data.parent / "labels" / "train" / f"{name}.txt")
    (data.parent / "labels" / "train" / "001.txt").write_text("9 .5 .5 .1 .1\n")
    (data.parent / "labels" / "test").mkdir(exist_ok=True)
    (data.parent / "images" / "test").mkdir(exist_ok=True)
    for index in range(2):
        shutil.copy(val / f"00{index}.png", data.parent / "images" / "test" / f"copy-{index}.png")
        shutil.copy(data.parent / f"labels/val/00{index}.txt", data.parent / f"labels/test/copy-{index}.txt")
    told = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**told, "test": "images/test"}))


def test_a_study_on_damaged_data(
    prunetune: Prunetune, write_study: WriteStudy, data: Path, checkpoint: Path, quick_space: dict[str, Any]
) -> None:
    damage(data)
    before = {file: file.read_bytes() for file in data.parent.rglob("*") if file.is_file()}
    given = {"model": str(checkpoint), "trust": True, "data": str(data.parent), "space": quick_space}
    study = write_study(**given, controls=[], trials=1, budget={"latency": "<= 100 x dense"})
    folder = study.parent / "runs" / "tiny"
    for _ in range(2):  # the second time it goes on
        answer = prunetune("run", study)
        assert answer.code == 0, answer.err
        for words in ("2 of ", "(train 2)", f"left_out in {folder / 'data.yaml'} lists them", "images are also in val"):
            assert words in answer.out + answer.err
    assert {file: file.read_bytes() for file in data.parent.rglob("*") if file.is_file()} == before

    left_out = yaml.safe_load((folder / "data.yaml").read_text())["left_out"]
    assert {Path(image).name for image in left_out} == {"short.jpg", "001.png"}
    found = load_study(folder).findings
    assert found.study.data.splits["train"].left_out == 2
    (shared,) = found.study.data.shared
    assert (shared.first, shared.second, shared.images) == ("val", "test", 2)
    assert str(shared) in (folder / "report.html").read_text()

    answer = prunetune("confirm", folder, "--resamples", 100)
    assert answer.code == 0, answer.err
    assert str(shared) in answer.out
    confirmed = load_study(folder).confirmation
    assert confirmed is not None
    assert confirmed.shared == (SharedImages("val", "test", 2, shared.of),)
