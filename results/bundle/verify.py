"""Checks an export bundle: its sums, that every file loads, that all compute the same, and its accuracy.

Every bundle ships this file, and `prunetune verify` runs it too. It needs ultralytics and onnxruntime, not prunetune:

    python verify.py                       # in the bundle's folder
    python verify.py --data data.yaml      # also the accuracy that the model card states

The exit code is 0 if all holds, 1 if something does not, 2 if there is no bundle to check.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SUMS, DESCRIPTION, CHANNELS, CHECKPOINT = "SHA256SUMS", "bundle.json", "channels.json", "model.pt"

HOLDS, FAILS, SKIPPED, NOTE = "holds", "fails", "skipped", "note"

Run = Callable[[Any], Any]
"""Computes Detect's output (batch, 4 + classes, boxes) of images (batch, channels, height, width), fp32, 0 to 1."""


class NoBundleError(Exception):
    """There is nothing to check: no bundle, a damaged description, or no data for it."""


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        file: The file that was checked.
        what: What was checked.
        state: `holds`, `fails`, `skipped`, or `note`: to be known, and no fault of the bundle.
        detail: Figures, or the reason.
    """

    file: str
    what: str
    state: str
    detail: str = ""

    def as_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


def verify(
    folder: Path,
    data: str | None = None,
    device: str = "cpu",
    fingerprint: Callable[[str], str | None] | None = None,
) -> Iterator[Check]:
    """Checks a bundle, one yield for each check. A file whose sum is wrong is not loaded.

    Args:
        folder: The bundle.
        data: A data.yaml, to evaluate the accuracy that the bundle states on its `val` and `test`.
        device: ultralytics' device for that.
        fingerprint: Gives the fingerprint of a data.yaml as prunetune does, to compare it with the stated one.

    Raises:
        NoBundleError: There is none, or its description cannot be read; or `data` cannot be used, or has other classes
            or channels.
    """
    description = read_description(folder)
    if data is not None:
        _require_fitting(data, description)
    sums = list(check_sums(folder))
    yield from sums
    wrong = {check.file for check in sums if check.state == FAILS}
    if wrong & {SUMS, DESCRIPTION, CHANNELS}:
        return
    _prepare()
    reference = yield from _check_checkpoint(folder, description, wrong)
    for name, told in description["files"].items():
        if name == CHECKPOINT or _is_damaged(name, wrong):
            continue
        yield from _check_export(folder, name, told, description, reference)
    if data is not None:
        if fingerprint is not None and (stated := description.get("data_fingerprint")):
            yield _same_data(data, fingerprint(data), stated)
        yield from _check_accuracy(folder, description, wrong, data, device)


def summary(states: Sequence[str]) -> str:
    """How many checks came out how, on one line."""
    return ", ".join(f"{states.count(state)} {state}" for state in (HOLDS, FAILS, SKIPPED))


def _require_fitting(data: str, description: Mapping[str, Any]) -> None:
    if not Path(data).is_file():
        raise NoBundleError(f"--data {data}: no such file")
    _prepare()
    from ultralytics.data.utils import check_det_dataset

    try:
        told = check_det_dataset(data, autodownload=False)
    # Whatever ultralytics raises, these data cannot be evaluated on.
    except Exception as error:
        raise NoBundleError(f"--data {data}: cannot be used ({_reason(error)})") from error
    names, stated = [str(told["names"][index]) for index in sorted(told["names"])], description["classes"]
    if (channels := told.get("channels", 3)) != _channels_of(description):
        raise NoBundleError(
            f"--data {data}: has {channels}-channel images, and the bundle takes {_channels_of(description)}-"
            "channel ones; give the data that it was made for"
        )
    if names != list(stated):
        raise NoBundleError(
            f"--data {data}: has the classes {', '.join(names)}, and the bundle {', '.join(stated)}; give the data "
            "that it was made for"
        )


def _channels_of(description: Mapping[str, Any]) -> int:
    """Channels of the images; bundles of 3 did not always say so."""
    return int(description.get("image_channels", 3))


def _same_data(data: str, found: str | None, stated: str) -> Check:
    what = "fingerprint of the data"
    if found == stated:
        return Check(data, what, HOLDS)
    if found is None:
        return Check(data, what, SKIPPED, "something is wrong with the data set")
    return Check(data, what, NOTE, f"{found}, stated {stated}: the bundle's figures are of other images or labels")


def read_description(folder: Path) -> dict[str, Any]:
    """What a bundle says of itself.

    Raises:
        NoBundleError: There is none, or it cannot be read.
    """
    file = folder / DESCRIPTION
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        for key in ("files", "figures", "tolerances"):
            if not isinstance(told[key], dict):
                raise TypeError(key)
        for key in ("imgsz", "batch", "classes"):
            told[key]
    except OSError as error:
        raise NoBundleError(f"{file}: {error.strerror}; give the folder that prunetune export wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise NoBundleError(f"{file}: is damaged ({type(error).__name__}: {error}); export the bundle again") from error
    return dict(told)


def check_sums(folder: Path) -> Iterator[Check]:
    """Compares every file with `SHA256SUMS`."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines if line)}
    except (OSError, ValueError) as error:
        yield Check(SUMS, "SHA-256", FAILS, f"cannot be read ({error})")
        return
    for name, digest in listed.items():
        file = folder / name
        if not file.is_file():
            yield Check(name, "SHA-256", FAILS, "is missing")
        elif sha256(file) != digest:
            yield Check(name, "SHA-256", FAILS, "is another file than was exported")
        else:
            yield Check(name, "SHA-256", HOLDS)
    for name in files_of(folder):
        if name not in listed:
            yield Check(name, "SHA-256", SKIPPED, "is no part of the bundle")
    described = read_description(folder)["files"]
    for name in described:
        if not any(item == name or item.startswith(f"{name}/") for item in listed):
            yield Check(name, "SHA-256", FAILS, f"has no sum in {SUMS}")


def files_of(folder: Path) -> list[str]:
    """A bundle's files but for `SHA256SUMS`, in order, relative to it and with slashes."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != SUMS)


def sha256(file: Path) -> str:
    """A file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sample_images(imgsz: int | Sequence[int], channels: int = 3, count: int = 3) -> Any:
    """The same images on every machine: blobs of several sizes under noise, fp32, 0 to 1.

    Args:
        imgsz: The side in px, or height and width; multiples of 32.
        channels: Of each image.
        count: How many.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    images = 0.2 * rng.random((count, channels, height, width))
    for side in (32, 16, 8):
        rows, columns = height // side, width // side
        coarse = rng.random((count, channels, rows, columns)) * 0.8 / 3
        blobs = coarse.repeat(-(-height // rows), axis=2).repeat(-(-width // columns), axis=3)
        images += blobs[:, :, :height, :width]
    return images.astype(np.float32)


def _is_damaged(name: str, wrong: set[str]) -> bool:
    return any(file == name or file.startswith(f"{name}/") for file in wrong)


def _check_checkpoint(folder: Path, description: Mapping[str, Any], wrong: set[str]) -> Any:
    """Checks `model.pt`; returns what it computes, None where it cannot be loaded."""
    if CHECKPOINT in wrong:
        return None
    import torch
    from ultralytics import YOLO

    try:
        with _readable(folder / CHECKPOINT) as path:
            model: Any = YOLO(path).model
    # Whatever a foreign library raises about the file is what does not hold.
    except Exception as error:
        yield Check(CHECKPOINT, "loads in stock ultralytics", FAILS, _reason(error))
        return None
    yield Check(CHECKPOINT, "loads in stock ultralytics", HOLDS)
    kinds = {parameter.dtype for parameter in model.parameters()}
    names = [model.names[index] for index in sorted(model.names)]
    yield _equal(CHECKPOINT, "classes", names, description["classes"])
    yield _equal(CHECKPOINT, "precision", sorted(map(str, kinds)), ["torch.float32"])
    layers = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    found = {name: part.out_channels for name, part in model.named_modules() if isinstance(part, layers)}
    try:
        layers = json.loads((folder / CHANNELS).read_text(encoding="utf-8"))["layers"]
        stated = {name: told["width"] for name, told in layers.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Check(CHANNELS, "can be read", FAILS, _reason(error))
    else:
        yield _equal(CHECKPOINT, "widths of all layers", found, stated)
    model.float().eval()

    def run(images: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(images))[0].numpy()

    return run


def _check_export(
    folder: Path, name: str, told: Mapping[str, Any], description: Mapping[str, Any], reference: Run | None
) -> Iterator[Check]:
    import numpy as np

    open_ = {"onnx": _open_onnx, "openvino": _open_openvino}.get(told["format"])
    if open_ is None:
        yield Check(name, "loads", SKIPPED, f"{told['format']}: loads on its own device only")
        return
    try:
        run = open_(folder / name, description)
    except ModuleNotFoundError as error:
        yield Check(name, "loads", SKIPPED, f"{error.name} is not installed")
        return
    # As above.
    except Exception as error:
        yield Check(name, "loads", FAILS, _reason(error))
        return
    yield Check(name, "loads", HOLDS)
    images = sample_images(description["imgsz"], _channels_of(description))
    try:
        outputs = run(images) if told["batch"] is None else np.concatenate([run(image[None]) for image in images])
    except Exception as error:
        yield Check(name, "runs", FAILS, _reason(error))
        return
    if not np.isfinite(outputs).all() or outputs.shape[:2] != (len(images), 4 + len(description["classes"])):
        yield Check(name, "runs", FAILS, f"gives {outputs.shape}, or values that are not finite")
        return
    yield Check(name, "runs", HOLDS, f"{outputs.shape[2]} boxes for each of {len(images)} images")
    if reference is not None and told.get("tolerance"):
        yield _compared(name, outputs, reference(images), told["tolerance"])


def _compared(name: str, outputs: Any, expected: Any, tolerance: Mapping[str, float]) -> Check:
    import numpy as np

    what = f"computes what {CHECKPOINT} does"
    if outputs.shape != expected.shape:
        return Check(name, what, FAILS, f"gives {outputs.shape} instead of {expected.shape}")
    off = np.abs(outputs - expected)
    boxes, scores = float(off[:, :4].max()), float(off[:, 4:].max())
    within = boxes <= tolerance["boxes_px"] and scores <= tolerance["scores"]
    detail = (
        f"boxes within {boxes:.2g} px (allowed {tolerance['boxes_px']:g}), scores within {scores:.2g} "
        f"(allowed {tolerance['scores']:g})"
    )
    return Check(name, what, HOLDS if within else FAILS, detail)


def _open_onnx(file: Path, description: Mapping[str, Any]) -> Run:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names = [f"{index}: {name!r}" for index, name in enumerate(description["classes"])]
    if metadata.get("names") != "{" + ", ".join(names) + "}":
        raise ValueError(f"its metadata names the classes {metadata.get('names')}")
    (image,) = session.get_inputs()
    return lambda images: session.run(None, {image.name: images})[0]


def _open_openvino(folder: Path, description: Mapping[str, Any]) -> Run:
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(next(folder.glob("*.xml")), "CPU", hints)
    return lambda images: compiled(images)[0]


def _check_accuracy(
    folder: Path, description: Mapping[str, Any], wrong: set[str], data: str, device: str
) -> Iterator[Check]:
    allowed = description["tolerances"]["map50_95"]
    for name, told in description["files"].items():
        figures = description["figures"].get(told.get("figures_of", name), {})
        if _is_damaged(name, wrong):
            continue
        for split, stated in figures.items():
            what = f"map50_95 on {split}"
            if not isinstance(description["imgsz"], int) and told["batch"] is None:
                yield Check(name, what, SKIPPED, "stock ultralytics validates it on squares only")
                continue
            try:
                found = evaluate(folder / name, data, split, description["imgsz"], description["batch"], device)
            except Exception as error:
                yield Check(name, what, FAILS, _reason(error))
                continue
            if found is None:
                yield Check(name, what, SKIPPED, f"{data} has no {split}")
                continue
            off = abs(found - stated["map50_95"])
            detail = f"{found:.4f}, stated {stated['map50_95']:.4f}, allowed difference {allowed:g}"
            yield Check(name, what, HOLDS if off <= allowed else FAILS, detail)


def evaluate(
    file: Path, data: str, split: str, imgsz: int | Sequence[int], batch: int, device: str = "cpu"
) -> float | None:
    """map50_95 as stock `YOLO(file).val(...)` finds it; None where the data has no such split.

    A file of a fixed shape is validated at that, whatever `imgsz`, of which `val` takes one side only.
    """
    from ultralytics import YOLO
    from ultralytics.data.utils import check_det_dataset

    described = check_det_dataset(data, autodownload=False)
    if not described.get(split):
        return None
    with tempfile.TemporaryDirectory() as folder, _readable(file) as path:
        links = str(_linked(described, split, Path(folder) / "data"))
        metrics = YOLO(path, task="detect").val(
            data=links, split=split, imgsz=imgsz if isinstance(imgsz, int) else max(imgsz), batch=batch, device=device,
            project=folder, plots=False, verbose=False,
        )  # fmt: skip
    return float(metrics.box.map)


def _linked(data: Mapping[str, Any], split: str, folder: Path) -> Path:
    """A data.yaml whose images and labels are links: ultralytics saves some JPEG files anew, and adds a cache file."""
    from ultralytics.data import YOLODataset
    from ultralytics.data.utils import img2label_paths

    reader = YOLODataset.__new__(YOLODataset)  # reads nothing
    reader.prefix, reader.fraction = "", 1.0
    left_out = {os.fsencode(name) for name in data.get("left_out") or ()}
    images = [file for file in reader.get_img_files(data[split]) if os.fsencode(Path(file).absolute()) not in left_out]
    for number, pair in enumerate(zip(images, img2label_paths(images), strict=True)):
        for kind, file in zip(("images", "labels"), map(Path, pair), strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if file.is_file():
                (folder / kind / f"{number:08d}{file.suffix}").symlink_to(file.absolute())
    written = {key: data[key] for key in ("names", "channels", "kpt_shape") if key in data}
    written |= {"path": str(folder), "train": "images", split: "images", "val": "images"}
    file = folder / "data.yaml"
    file.write_text(json.dumps(written), encoding="utf-8")
    return file


@contextmanager
def _readable(file: Path) -> Iterator[Path]:
    """A path without apostrophes, which ultralytics takes out of the paths of weights."""
    if "'" not in str(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / file.name
        link.symlink_to(file.absolute())
        yield link


def _equal(file: str, what: str, found: Any, stated: Any) -> Check:
    if found == stated:
        return Check(file, what, HOLDS)
    if isinstance(stated, dict):
        name = next(key for key in [*stated, *found] if stated.get(key) != found.get(key))
        return Check(file, what, FAILS, f"{name}: {found.get(name)}, stated {stated.get(name)}")
    return Check(file, what, FAILS, f"{found}, stated {stated}")


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def _prepare() -> None:
    """Keeps ultralytics from installing and looking up anything, and lets it do without torchvision.

    On a busy machine non-maximum suppression would run out of its time, and leave images without detections.

    The torchvision of the package index is built against CUDA and does not load beside a CPU build of torch.
    ultralytics needs its non-maximum suppression only, and has an equal one of its own.
    """
    for name, value in (("YOLO_OFFLINE", "True"), ("YOLO_AUTOINSTALL", "False"), ("YOLO_VERBOSE", "False")):
        os.environ.setdefault(name, value)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        stand_ins: dict[str, Any] = {
            name: types.ModuleType(name) for name in ("torchvision", "torchvision.ops", "torchvision.transforms")
        }
        for name, module in stand_ins.items():
            module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
            module.__path__ = []
        root = stand_ins["torchvision"]
        root.__version__ = "0.0.0"
        root.ops, root.transforms = stand_ins["torchvision.ops"], stand_ins["torchvision.transforms"]
        sys.modules.update(stand_ins)

        from ultralytics.utils.nms import TorchNMS

        root.ops.nms = TorchNMS.nms

    from ultralytics.utils import nms

    timeless: Any = types.SimpleNamespace(time=lambda: 0.0)
    nms.time = timeless


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Check an export bundle.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="by default this file's")
    parser.add_argument("--data", help="a data.yaml: evaluate the accuracy too")
    parser.add_argument("--device", default="cpu", help="ultralytics' device for that")
    given = parser.parse_args()
    states = []
    try:
        for check in verify(given.folder, given.data, given.device):
            states.append(check.state)
            print(f"{check.state:8} {check.file}: {check.what}" + (f": {check.detail}" if check.detail else ""))
    except NoBundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary(states))
    return 1 if FAILS in states else 0


if __name__ == "__main__":
    raise SystemExit(main())
