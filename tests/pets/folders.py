"""A data set of a few small images, for tests to spoil."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

BOX = "0 0.5 0.5 0.2 0.2\n"


def save_image(file: Path, size: tuple[int, int] = (24, 16)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.Random(f"{file.parent.name}/{file.name}").randbytes(size[0] * size[1] * 3)
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
