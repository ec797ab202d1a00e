"""Converts an ONNX file for a Rockchip NPU: `python3 to_rknn.py FILE.onnx OUT.rknn PLATFORM [IMAGES.txt]`.

Needs rknn-toolkit2. IMAGES.txt lists one image a line; with it the network computes in int8, without it in fp16.
"""

from __future__ import annotations

import sys
from typing import Any


def main() -> None:
    """Converts, or ends with what failed."""
    from rknn.api import RKNN

    source, out, platform, *images = sys.argv[1:]
    rknn: Any = RKNN()
    quantised = {"do_quantization": True, "dataset": images[0]} if images else {"do_quantization": False}
    steps = [
        ("config", lambda: rknn.config(mean_values=[[0] * 3], std_values=[[255] * 3], target_platform=platform)),
        ("load_onnx", lambda: rknn.load_onnx(model=source)),
        ("build", lambda: rknn.build(**quantised)),
        ("export_rknn", lambda: rknn.export_rknn(out)),
    ]
    for name, step in steps:
        if step():
            raise SystemExit(f"{source}: {name} failed")


if __name__ == "__main__":
    main()
