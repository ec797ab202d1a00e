"""Writes a data set of DataMatrix, QR and Code 128 codes on cluttered backgrounds, labelled for ultralytics.

    python examples/barcodes/generate.py --out data/barcodes --train 320 --val 96 --test 256 --imgsz 160

The codes are real: zxing-cpp writes them, and reads them again in the tests. A box is the smallest upright
rectangle around a code's modules; the white quiet zone around them is outside.

Everything follows from the seed. Each image has a random generator of its own, seeded by (seed, split, index):
a larger data set begins with the images of a smaller one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from scenes import NAMES, SPLITS, VERSION, Box, code_pool, render_scene

from prunetune.spaces import ConfigError, PrunetuneError
from prunetune.spaces.files import storage_error, write_text

_JPEG_QUALITY = 88
_SETTINGS_FILE = "dataset.json"


def render_image(split: str, index: int, imgsz: int, seed: int) -> tuple[np.ndarray, list[Box]]:
    """Image number `index` of a split, as `write_dataset` writes it."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    return render_scene(rng, imgsz, code_pool(split))


def write_dataset(
    out: str | Path, sizes: Mapping[str, int], imgsz: int = 160, seed: int = 0, force: bool = False
) -> Path:
    """Writes `images/`, `labels/`, `data.yaml` and, last, `dataset.json` with the settings.

    The folder appears complete or not at all. If it is there with the same settings, nothing is done.

    Args:
        out: The data set's folder.
        sizes: Number of images for `train`, `val` and `test`. A split of 0 images is left out.
        imgsz: Width and height of the images in px.
        seed: Decides every image.
        force: Replace a data set that this function wrote with other settings.

    Returns:
        The path of `data.yaml`.

    Raises:
        ConfigError: The folder holds something else, or a setting is out of range.
        StoreError: The folder cannot be written.
    """
    out = Path(out).absolute()
    settings = {
        "version": VERSION,
        "imgsz": imgsz,
        "seed": seed,
        **{split: sizes.get(split, 0) for split in SPLITS},
    }
    _check_settings(settings)
    present = _read_settings(out)
    if present == settings and _count_images(out) == sum(settings[split] for split in SPLITS):
        return out / "data.yaml"
    _check_replaceable(out, present, settings, force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            made = Path(temporary) / "made"
            for split in SPLITS:
                _write_split(made, split, settings)
            sources = {split: f"images/{split}" for split in SPLITS if settings[split]}
            description = {**sources, "names": dict(enumerate(NAMES))}
            write_text(made / "data.yaml", yaml.safe_dump(description, sort_keys=False))
            write_text(made / _SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")
            if out.exists():
                out.rename(Path(temporary) / "replaced")
            made.rename(out)
    except OSError as error:
        raise storage_error(out, error) from error
    return out / "data.yaml"


def _write_split(folder: Path, split: str, settings: Mapping[str, int]) -> None:
    count = settings[split]
    if not count:
        return
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(count):
        image, boxes = render_image(split, index, settings["imgsz"], settings["seed"])
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        (images / f"{index:05d}.jpg").write_bytes(encoded.tobytes())
        lines = [box.as_label(settings["imgsz"]) + "\n" for box in boxes]
        if lines:  # an image without a label file is background
            (labels / f"{index:05d}.txt").write_text("".join(lines))


def _check_settings(settings: Mapping[str, int]) -> None:
    problems = [
        f"--{split}: must be {least} or more, not {settings[split]}"
        for split, least in (("train", 1), ("val", 1), ("test", 0), ("imgsz", 64), ("seed", 0))
        if settings[split] < least
    ]
    if problems:
        raise ConfigError(problems)


def _check_replaceable(out: Path, present: dict[str, Any] | None, settings: Mapping[str, int], force: bool) -> None:
    if present is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} was not written by this generator; choose another folder with --out")
    if present is not None and present != settings and not force:
        changes = [
            f"{key} {present.get(key)}, now {value}" for key, value in settings.items() if present.get(key) != value
        ]
        remedy = "choose another folder with --out, or replace it with --force"
        raise ConfigError(f"{out} was made with other settings ({'; '.join(changes)}); {remedy}")


def _read_settings(out: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((out / _SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "version" in content else None


def _count_images(out: Path) -> int:
    return sum(1 for _ in (out / "images").glob("*/*.jpg"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Write a data set of DataMatrix, QR and Code 128 codes, labelled for ultralytics.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data/barcodes"), help="folder of the data set")
    parser.add_argument("--train", type=int, default=320, help="training images")
    parser.add_argument("--val", type=int, default=96, help="validation images")
    parser.add_argument("--test", type=int, default=256, help="test images; 0 for no test split")
    parser.add_argument("--imgsz", type=int, default=160, help="width and height of the images in px")
    parser.add_argument("--seed", type=int, default=0, help="decides every image")
    parser.add_argument("--force", action="store_true", help="replace a data set made with other settings")
    given = parser.parse_args(arguments)
    sizes = {split: getattr(given, split) for split in SPLITS}
    cv2.setNumThreads(1)  # the images are too small to share
    try:
        data = write_dataset(given.out, sizes, given.imgsz, given.seed, given.force)
    except PrunetuneError as error:
        parser.exit(2, f"error: {error}\n")
    print(data)


if __name__ == "__main__":
    main()
