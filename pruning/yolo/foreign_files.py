"""Tells what a file is that ultralytics cannot load, so that the user hears what to do."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path

import torch

_REPOSITORIES = ("models.yolo", "models.common", "yolov5.", "nets.")


def why_unreadable(file: Path, error: Exception) -> str:
    """Why a file is no checkpoint of ultralytics, and what to do: what follows `it` in a sentence.

    Args:
        file: An existing file.
        error: What loading it raised.
    """
    with suppress(OSError):
        with file.open("rb") as opened:
            start = opened.read(512)
        if not start:
            return "is empty; copy it again"
        if start.startswith(b"version https://git-lfs"):
            return "is a pointer of Git LFS in the place of the file; run: git lfs pull"
        if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
            return "is a web page, as a failed download leaves one; download it again"
        if start[:1] == b"\x08" and _is_onnx(file):
            return "is an ONNX file; give the .pt that it was exported from"
    if _is_torchscript(file):
        return "is TorchScript, whose widths are fixed; give the .pt that it was exported from"
    with suppress(Exception):  # a damaged file can raise anything
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        if any(name.startswith(_REPOSITORIES) for name in named):
            return "is of a repository such as YOLOv5's own; train the network with ultralytics"
        if not named:
            return "holds weights, and no network; give the .pt that ultralytics' training wrote"
    message = str(error).splitlines()[0] if str(error) else "no message"
    return f"raises {type(error).__name__}: {message}; give a .pt that YOLO() loads"


def _is_torchscript(file: Path) -> bool:
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False


def _is_onnx(file: Path) -> bool:
    import onnx

    with suppress(Exception):  # protobuf's errors have no common base
        return bool(onnx.load(file, load_external_data=False).graph.node)
    return False
