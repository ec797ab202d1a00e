"""What a bundle says and checks of a network whose input is no square."""

from __future__ import annotations

from typing import Any

import pytest

from prunetune.results.bundle.model_card import model_card
from prunetune.results.bundle.verify import sample_images

TOLD: dict[str, Any] = {
    "title": "parcels, trial 1",
    "network": {"params": 1000, "gflops": 1.0},
    "classes": ["parcel"],
    "stride": 32,
    "image_channels": 3,
    "batch": 16,
    "figures": {},
    "latencies": {"cpu": {"latency_ms": 1.0}},
    "files": {"model.onnx": {"format": "onnx", "precision": "fp32", "batch": 1}},
    "versions": {},
    "fingerprints": {},
    "tolerances": {"map50_95": 0.001},
    "data": "data.yaml",
    "data_fingerprint": "",
    "commands": [],
}


@pytest.mark.parametrize(
    ("imgsz", "size", "shape", "command"),
    [
        (640, "640 px", "1 x 3 x 640 x 640", '"model.pt").val(data="DATA.yaml", imgsz=640, batch=16,'),
        ([384, 640], "384x640 px", "1 x 3 x 384 x 640", '"model.onnx").val(data="DATA.yaml", imgsz=640, batch=1,'),
    ],
)
def test_the_card_says_the_shape(imgsz: Any, size: str, shape: str, command: str) -> None:
    card = model_card({**TOLD, "imgsz": imgsz})
    assert f"for images of {size}, stride 32" in card
    assert f"Batch 1, {size}." in card
    assert f"| {shape} |" in card
    assert command in card


@pytest.mark.parametrize(("blocks", "words"), [(2, "parameters and 2 blocks removed."), (0, "parameters removed.")])
def test_the_card_tells_removed_blocks(blocks: int, words: str) -> None:
    network = {"params": 1000, "gflops": 1.0, "params_removed": 0.61, "blocks_removed": blocks}
    assert words in model_card({**TOLD, "imgsz": 640, "network": network})


@pytest.mark.parametrize(
    ("imgsz", "shape"), [(64, (64, 64)), ([64, 96], (64, 96)), ((88, 40), (88, 40)), (32, (32, 32))]
)
def test_sample_images_have_the_shape(imgsz: Any, shape: tuple[int, int]) -> None:
    images = sample_images(imgsz, channels=1, count=2)
    assert images.shape == (2, 1, *shape)
    assert images.min() >= 0
    assert 0.5 < images.max() <= 1
    assert (images == sample_images(imgsz, channels=1, count=2)).all()
