"""Spaces to start from. A study names one with `space: {preset: NAME}` and overrides what it wants."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Network slimming of YOLOv5 over hundreds of epochs: the ranges around a published hand-made campaign, which
    # used lambda 6e-4, sparse phases of 171, 449 and 600 epochs, up to three rounds, and 50 to 800 epochs of
    # fine-tuning. Its lambda holds for its optimizer, steps and classes alone. A pull holds for any: 0.1 is mild, and 1
    # is the median gamma of trained detectors. Its thresholds, 0.01 to 0.2, were tried until the latency was right;
    # here they are found from it.
    "yolov5-slimming": {
        "sparsity": {"low": 0.1, "high": 1.0, "log": True},
        "sparsity_unit": "pull",
        "sparse_epochs": {"choices": [171, 300, 449, 600]},
        "latency": {"low": 0.6, "high": 0.98},
        "rounds": {"low": 1, "high": 3},
        "recovery_epochs": {"choices": [50, 100, 200, 400, 800]},
        "depth": {"low": 0, "high": 4},
    },
}
"""Preset name to the keys of a `SearchSpace`."""
