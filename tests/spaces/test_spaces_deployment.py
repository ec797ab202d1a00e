"""How a network runs: its input size and precision."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.spaces.deployment import Deployment

sides = st.integers(min_value=32, max_value=4096)
deployments = st.builds(Deployment, sides | st.tuples(sides, sides), st.sampled_from(["fp32", "fp16", "bf16", "int8"]))


@given(deployments)
def test_it_survives_json(deployment: Deployment) -> None:
    assert Deployment.parse(json.loads(json.dumps(deployment.as_dict()))) == deployment


@pytest.mark.parametrize(
    ("deployment", "text", "height_width"),
    [
        (Deployment(640), "640 px fp32", (640, 640)),
        (Deployment(512, "int8"), "512 px int8", (512, 512)),
        (Deployment((384, 640)), "384x640 fp32", (384, 640)),
    ],
)
def test_it_reads_as_one_says_it(deployment: Deployment, text: str, height_width: tuple[int, int]) -> None:
    assert str(deployment) == text
    assert deployment.height_width == height_width


@pytest.mark.parametrize(
    "stored",
    [
        None,
        640,
        {},
        {"imgsz": 640},
        {"imgsz": "640", "precision": "fp32"},
        {"imgsz": [384], "precision": "fp32"},
        {"imgsz": [384, None], "precision": "fp32"},
        {"imgsz": 640, "precision": 32},
    ],
)
def test_anything_else_is_none(stored: object) -> None:
    assert Deployment.parse(stored) is None
