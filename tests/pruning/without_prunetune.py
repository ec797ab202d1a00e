"""What a user's process without prunetune does with a checkpoint: run by the tests, not collected by them.

    python without_prunetune.py val pruned.pt data.yaml 64 8
    python without_prunetune.py predict pruned.pt image.png 64
    python without_prunetune.py compare folder

The last line of its output is JSON.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path


class _NoPrunetune(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> None:
        if name.split(".")[0] == "prunetune":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def stand_in_for_torchvision() -> None:
    """Where torchvision cannot load beside a CPU build of torch, gives ultralytics its own NMS under that name."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("torchvision", "torchvision.ops", "torchvision.transforms"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
        root = sys.modules["torchvision"]
        root.__version__ = "0.0.0"
        root.ops, root.transforms = sys.modules["torchvision.ops"], sys.modules["torchvision.transforms"]

        from ultralytics.utils.nms import TorchNMS

        root.ops.nms = TorchNMS.nms


def compare(folder: Path) -> dict[str, object]:
    """How far the outputs of all checkpoints in a folder are from what is expected of them there."""
    import torch
    from ultralytics import YOLO

    def first(value: object) -> torch.Tensor:
        return value if isinstance(value, torch.Tensor) else first(value[0])  # type: ignore[index]

    images, found = torch.load(folder / "images"), {}
    for file in sorted(folder.glob("*.pt")):
        with torch.no_grad():
            output = first(YOLO(file).model.eval()(images))
        found[file.stem] = float((output - torch.load(folder / f"{file.stem}.expected")).abs().max())
    return found


def main(task: str, checkpoint: str, *rest: str) -> dict[str, object]:
    from ultralytics import YOLO

    if task == "compare":
        return compare(Path(checkpoint))
    model = YOLO(checkpoint)
    dtype = str(next(model.model.parameters()).dtype) if checkpoint.endswith(".pt") else None
    if task == "predict":
        image, imgsz = rest
        boxes = model.predict(image, imgsz=int(imgsz), device="cpu", conf=0.0, verbose=False)[0].boxes
        return {"boxes": boxes.xyxy.tolist(), "classes": list(model.names.values()), "dtype": dtype}
    data, imgsz, batch = rest
    options = {"data": data, "imgsz": int(imgsz), "batch": int(batch)}
    metrics = model.val(**options, device="cpu", plots=False, verbose=False)
    figures = {name: float(value) for name, value in metrics.results_dict.items()}
    curve = metrics.box.f1_curve.mean(0).tolist()  # over confidences from 0 to 1
    return {**figures, "f1": float(metrics.box.f1.mean()), "f1_curve": curve, "dtype": dtype}


if __name__ == "__main__":
    sys.meta_path.insert(0, _NoPrunetune())
    stand_in_for_torchvision()
    result = main(*sys.argv[1:])
    assert not [name for name in sys.modules if name.split(".")[0] == "prunetune"]
    print(json.dumps(result))
