"""Writes an export bundle: one network in every form that is asked for, with all that is known of it.

A bundle appears at once and whole. Whoever receives it needs no prunetune: `verify.py` in it checks it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetune.results.bundle import verify
from prunetune.results.bundle.model_card import model_card
from prunetune.results.bundle.verify import CHANNELS, CHECKPOINT, DESCRIPTION, SUMS
from prunetune.spaces.deployment import ImageSize
from prunetune.spaces.drafts import draft, remove_abandoned
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.fields import jsonable
from prunetune.spaces.files import flush, storage_error

if TYPE_CHECKING:
    from prunetune.pruning.yolo.detector import Detector

CARD, STUDY, VERIFY = "model-card.md", "study.yaml", "verify.py"
FIXED, DYNAMIC, INT8, OPENVINO, TENSORRT = (
    "model.onnx",
    "model-dynamic.onnx",
    "model-int8.onnx",
    "model_openvino_model",
    "model.engine",
)

TOLERANCES = {"map50_95": 0.001, "boxes_px": 0.05, "scores": 0.0001}
"""How far what a receiver finds may be off: map50_95 on the same data, outputs on the same images."""

_PACKAGES = ("prunetune", "torch", "ultralytics", "torch-pruning", "onnx", "onnxruntime", "openvino", "tensorrt")


@dataclass(frozen=True)
class Part:
    """A further form of the network."""

    name: str
    """Its file or folder in the bundle."""
    told: Mapping[str, Any] = field(hash=False)
    """What the description says of it: `format`, `precision`, `batch` (None: any) and perhaps `tolerance`."""
    write: Callable[[Path], None]
    """Writes it there."""


def onnx_parts(detector: Detector, imgsz: ImageSize, metadata: Mapping[str, str]) -> list[Part]:
    """The two ONNX files that every bundle has: for one image of one size, and for any."""
    from prunetune.pruning.yolo.export import export_onnx

    def writer(dynamic: bool) -> Callable[[Path], None]:
        return lambda file: export_onnx(detector.model, file, imgsz, dynamic=dynamic, metadata=metadata)

    told = {"format": "onnx", "precision": "fp32", "tolerance": output_tolerance()}
    return [
        Part(FIXED, {**told, "batch": 1}, writer(False)),
        # Its images may keep their proportions, as the checkpoint's do: so it has the checkpoint's accuracy.
        Part(DYNAMIC, {**told, "batch": None, "figures_of": CHECKPOINT}, writer(True)),
    ]


def output_tolerance(factor: float = 1.0) -> dict[str, float]:
    """How far outputs may be off those of the checkpoint, in multiples of what fp32 allows."""
    return {name: factor * TOLERANCES[name] for name in ("boxes_px", "scores")}


def require_place(out: Path, title: str | None = None) -> None:
    """Refuses a folder that holds something else than a bundle of a network.

    Args:
        out: The folder.
        title: What the network's bundle is called; any bundle may be there if None.

    Raises:
        ConfigError: It does.
    """
    if os.path.isdir(out) and os.listdir(out) and not (out / DESCRIPTION).is_file():
        raise ConfigError(f"--out: {out}: is not empty and holds no bundle; give another folder")
    if os.path.isfile(out):
        raise ConfigError(f"--out: {out}: is a file; give a folder")
    if title is not None and (out / DESCRIPTION).is_file():
        with suppress(verify.NoBundleError):
            there = verify.read_description(out).get("title")
            if there != title:
                raise ConfigError(f"--out: {out}: holds the bundle of {there}; remove it, or give another folder")


def versions() -> dict[str, str]:
    """The versions of what had a part in a network, where it is installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_bundle(
    out: Path,
    checkpoint: Path,
    parts: Sequence[Part],
    channels: Mapping[str, Any],
    describe: Callable[[], Mapping[str, Any]],
    table: str = "",
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Writes a bundle, in the place of one that is there.

    Args:
        out: Its folder.
        checkpoint: The network as a .pt, which is copied.
        parts: Its further forms.
        channels: What `channels.json` says.
        describe: Gives the description without `files`, `tolerances` and `made`. Called when the parts are written.
        table: The network beside the controls of its study, in Markdown, for the card.
        texts: Further files by name.

    Returns:
        `out`.

    Raises:
        ConfigError: `out` holds something else than a bundle of this network.
        StoreError: It cannot be written.
    """
    require_place(out)
    prefix = f".{out.name}."
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out.parent, prefix)
        with draft(out.parent, prefix) as made:
            shutil.copyfile(checkpoint, made / CHECKPOINT)
            files: dict[str, Any] = {CHECKPOINT: {"format": "pt", "precision": "fp32", "batch": None}}
            for part in parts:
                part.write(made / part.name)
                files[part.name] = dict(part.told)
            description = {
                **describe(),
                "files": files,
                "tolerances": TOLERANCES,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            _write(made / CHANNELS, json.dumps(channels, indent=1) + "\n")
            _write(made / DESCRIPTION, json.dumps(jsonable(description), indent=1, allow_nan=False) + "\n")
            _write(made / CARD, model_card(description, table))
            for name, text in (texts or {}).items():
                _write(made / name, text)
            shutil.copyfile(Path(verify.__file__), made / VERIFY)
            _write(made / SUMS, "".join(f"{verify.sha256(made / name)}  {name}\n" for name in verify.files_of(made)))
            require_place(out, str(description.get("title")))
            with draft(out.parent, prefix) as old:
                _put(made, out, old)
    except OSError as error:
        raise storage_error(out, error) from error
    return out


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _put(made: Path, out: Path, old: Path) -> None:
    """Moves a finished folder to its place, and what was there into another."""
    umask = os.umask(0)
    os.umask(umask)
    made.chmod(0o777 & ~umask)
    for name in verify.files_of(made):
        (made / name).chmod(0o666 & ~umask)
        flush(made / name)
    if out.is_dir():
        os.replace(out, old / out.name)
    os.replace(made, out)
    flush(out.parent)
