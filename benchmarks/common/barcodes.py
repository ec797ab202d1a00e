"""The demo's barcodes, drawn anew for a benchmark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def draw(folder: Path, imgsz: int, train: int, val: int, test: int = 0) -> Path:
    """Draws barcodes into a folder; returns their data.yaml. They are always the same.

    Args:
        folder: Where the data set goes.
        imgsz: Side of the images in px.
        train: Images to train on.
        val: Images to validate on.
        test: Images to test on.
    """
    sizes = ["--train", str(train), "--val", str(val), "--test", str(test), "--imgsz", str(imgsz)]
    generate = [sys.executable, str(ROOT / "examples/barcodes/generate.py"), "--out", str(folder), *sizes]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    return folder / "data.yaml"
