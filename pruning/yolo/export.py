"""Exports of a detector by ultralytics' own exporter, quiet and without a trace in the current folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from prunetune.pruning.structure.layers import coarsest_stride, size_problem
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.spaces.deployment import ImageSize
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.files import publish


def export_onnx(
    model: Any, file: Path, imgsz: ImageSize, *, dynamic: bool = False, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a network as ONNX, simplified, with ultralytics' metadata (names, stride, imgsz, task).

    Args:
        model: An ultralytics `DetectionModel`. It is not changed.
        file: Where to; appears at once and whole.
        imgsz: Side of a square input or (height, width) in px.
        dynamic: Leave batch, height and width of the input open, instead of 1 and `imgsz`.
        metadata: Further entries.

    Raises:
        ConfigError: A side is no multiple of the network's stride, to which ultralytics would round it up.
    """
    with _exported(model, "onnx", imgsz, simplify=True, dynamic=dynamic) as exported:
        if metadata:
            _add_metadata(exported, metadata)
        with publish(file) as draft:
            shutil.copyfile(exported, draft)


def export_openvino(model: Any, folder: Path, imgsz: ImageSize) -> None:
    """Writes a network as OpenVINO's IR in fp32 with ultralytics' metadata.

    Args:
        model: An ultralytics `DetectionModel`. It is not changed.
        folder: Where to. `YOLO(folder)` takes it if its name ends in `_openvino_model`.
        imgsz: As for `export_onnx`.

    Raises:
        ConfigError: As there.
    """
    with _exported(model, "openvino", imgsz) as exported:
        shutil.copytree(exported, folder)


@contextmanager
def _exported(model: Any, kind: str, imgsz: ImageSize, **options: Any) -> Iterator[Path]:
    """What ultralytics' exporter leaves, for as long as the block runs."""
    prepare_ultralytics()
    from ultralytics.cfg import DEFAULT_CFG_DICT
    from ultralytics.engine.exporter import Exporter

    if problem := size_problem(imgsz, coarsest_stride(model), "the network"):
        raise ConfigError(f"imgsz: {problem}")
    copied = deepcopy(model).cpu().float()
    copied.args = dict(DEFAULT_CFG_DICT)
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        copied.pt_path = str(Path(folder) / "model.pt")
        overrides = {"format": kind, "imgsz": imgsz, "batch": 1, "device": "cpu", **options}
        yield Path(Exporter(overrides=overrides)(model=copied))


def _add_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    import onnx

    graph = onnx.load(file)
    known = {item.key: item.value for item in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**known, **metadata})
    onnx.save(graph, file)
