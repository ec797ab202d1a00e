"""The card of an export bundle: what the network is, how good, how fast, on what, and how to check and make it again.

It is written from the bundle's description, the plain values of `bundle.json`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from prunetune.results.tables.escapes import markdown_text
from prunetune.results.tables.rows import blocks_text, decimals, percent, significant, size
from prunetune.spaces.fields import mapping

_KINDS = {
    "pt": "checkpoint of ultralytics: `YOLO({name!r})`",
    "onnx": "ONNX",
    "openvino": "OpenVINO IR: `YOLO({name!r})`",
    "tensorrt": "TensorRT engine, for the GPU that built it: `YOLO({name!r})`",
}
_METRICS = ("map50", "map50_95", "precision", "recall", "f1", "confidence")


def model_card(description: Mapping[str, Any], table: str = "") -> str:
    """The card in Markdown.

    Args:
        description: The bundle's.
        table: The network beside the controls of its study, in Markdown.
    """
    told = description
    parts = [
        f"# {_text(told['title'])}",
        _summary(told),
        "## Accuracy",
        _accuracy(told),
        *(["## Beside its controls", table.strip(), TABLE_NOTE] if table else []),
        "## Latency",
        _latency(told),
        "## Files",
        _files(told),
        "## How to check it",
        _how_to_check(told),
        "## How to make it again",
        _how_to_make(told),
        "## Versions and fingerprints",
        _provenance(told),
        "Licence: AGPL-3.0, because ultralytics is.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


TABLE_NOTE = "mmAP is map50_95. Controls were trained on the same data; `change` is against the dense one."


def _summary(told: Mapping[str, Any]) -> str:
    network = told["network"]
    classes = ", ".join(map(_text, told["classes"]))
    removed, blocks = network.get("params_removed"), blocks_text(network.get("blocks_removed", 0))
    further = f" and {blocks}" if blocks else ""
    return (
        f"A detector of {len(told['classes'])} class{'es' * (len(told['classes']) > 1)} ({classes}) for images of "
        f"{input_text(told)} px, stride {told['stride']}: {size(network['params'])} parameters, "
        f"{significant(network['gflops'])} GFLOPs"
        + (f", {percent(removed)} of the dense network's parameters{further} removed" if removed is not None else "")
        + ". `channels.json` has the width of every layer"
        + (f", in multiples of {told['alignment']}." if told.get("alignment") else ".")
        + (f"\n\n{_text(told['standing'])}" if told.get("standing") else "")
    )


def _accuracy(told: Mapping[str, Any]) -> str:
    lines = [f"| file | split | {' | '.join(_METRICS)} |", "|---|---|" + "---:|" * len(_METRICS)]
    for file, splits in told["figures"].items():
        for split, figures in splits.items():
            values = " | ".join(_four(figures.get(name)) for name in _METRICS)
            lines.append(f"| {file} | {split} | {values} |")
    splits = {split for figures in told["figures"].values() for split in figures}
    notes = [told.get("accuracy_note", "")]
    if any(figures.get("confidence") is not None for found in told["figures"].values() for figures in found.values()):
        notes.append(
            "Precision, recall and F1 are those at the confidence where F1 is best: a threshold to begin with."
        )
    if "test" in splits:
        notes.append("No decision saw the test split.")
    else:
        notes.append("It was not evaluated on a test split; the validation images decided which epoch was kept.")
    interval = mapping(told.get("test_interval"))
    if interval:
        low, high = (decimals(interval[name]) for name in ("low", "high"))
        notes.append(f"95 % interval of map50_95 on test: {low} to {high}, over draws of the test images.")
    notes.append("One training with one seed: another one would give another network.")
    return "\n".join(lines) + "\n\n" + " ".join(note for note in notes if note)


def _latency(told: Mapping[str, Any]) -> str:
    if not told["latencies"]:
        return "Not measured."
    lines = [
        "| target | device | runtime | precision | threads | median | off by at most | x dense | budget |",
        "|---|---|---|---|---:|---:|---:|---:|---|",
    ]
    for name, item in told["latencies"].items():
        device = item.get("fingerprint", {})
        off = item.get("latency_uncertainty")
        ratio = item.get("latency_ratio")
        cells = [
            name,
            *(device.get(key, "") for key in ("device", "runtime", "precision", "threads")),
            f"{significant(item['latency_ms'])} ms" + (" (predicted)" if item.get("predicted") else ""),
            "" if off is None else f"{100 * off:.1f} %",
            "" if ratio is None else f"{ratio:.2f}",
            item.get("budget", ""),
        ]
        lines.append("| " + " | ".join(_text(str(cell)) for cell in cells) + " |")
    note = told.get("latency_note") or (
        f"Batch 1, {input_text(told)} px. Median of rounds that were interleaved with the reference networks; the "
        "uncertainty is half of the 95 % interval of the ratio to them."
    )
    return "\n".join(lines) + "\n\n" + note


def _files(told: Mapping[str, Any]) -> str:
    lines = ["| file | what | precision | input |", "|---|---|---|---|"]
    height, width = sides(told)
    for name, item in told["files"].items():
        shape = "any" if item["batch"] is None else f"{item['batch']} x {told['image_channels']} x {height} x {width}"
        lines.append(f"| {name} | {_KINDS[item['format']].format(name=name)} | {item['precision']} | {shape} |")
    lines += [
        "| channels.json | the width of every layer, beside the dense network's | | |",
        "| bundle.json | all that is said here, for programs | | |",
        "| verify.py | checks the bundle; needs ultralytics and onnxruntime only | | |",
        "| SHA256SUMS | for `sha256sum -c SHA256SUMS` | | |",
    ]
    return "\n".join(lines)


def _how_to_check(told: Mapping[str, Any]) -> str:
    versions = told["versions"]
    need = " ".join(f"{name}=={versions[name]}" for name in ("ultralytics", "onnxruntime") if name in versions)
    tolerance, is_square = told["tolerances"]["map50_95"], len(set(sides(told))) == 1
    # Stock ultralytics validates a checkpoint on squares only; a file of a fixed shape is validated at that.
    file, batch = ("model.pt", told["batch"]) if is_square else ("model.onnx", 1)
    return (
        "```\n"
        "sha256sum -c SHA256SUMS\n"
        f"pip install {need}\n"
        "python verify.py                      # every file loads, and all compute the same\n"
        f"python verify.py --data DATA.yaml     # and the accuracy is as stated, to {tolerance:g} map50_95\n"
        "```\n\n"
        "or, by hand:\n\n"
        "```python\n"
        "from ultralytics import YOLO\n\n"
        f'YOLO("{file}").val(data="DATA.yaml", imgsz={max(sides(told))}, batch={batch}, split="val")\n'
        "```\n\n"
        "`batch` belongs to the figures: ultralytics pads the images of a batch to one shape. `DATA.yaml` is "
        f"{_text(told['data'])}" + (f" (fingerprint {told['data_fingerprint']})." if told["data_fingerprint"] else ".")
    )


def _how_to_make(told: Mapping[str, Any]) -> str:
    recipe = told.get("recipe_text")
    commands = "\n".join(told["commands"])
    parts = [f"Recipe: {_text(recipe)}." if recipe else "", f"```\n{commands}\n```" if commands else "", _places(told)]
    return "\n\n".join(part for part in parts if part)


def _places(told: Mapping[str, Any]) -> str:
    """What a reader elsewhere has to change in `study.yaml`."""
    if not told.get("places"):
        return ""
    named = " and ".join(f"`{key}` as {_text(str(place))}" for key, place in told["places"].items())
    changes = " ".join(f"{key}=..." for key in told["places"])
    return f"`study.yaml` names {named}, where its maker had it: add `{changes}` with your own path."


def _provenance(told: Mapping[str, Any]) -> str:
    lines = [f"- {name} {version}" for name, version in told["versions"].items()]
    lines += [f"- {name}: {_text(str(value))}" for name, value in told["fingerprints"].items() if value]
    return "\n".join(lines)


def sides(told: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the network's input in px."""
    imgsz = told["imgsz"]
    return (imgsz, imgsz) if isinstance(imgsz, int) else (imgsz[0], imgsz[1])


def input_text(told: Mapping[str, Any]) -> str:
    """The network's input: `640`, `384x640`."""
    return "x".join(map(str, dict.fromkeys(sides(told))))


def command_line(*words: str) -> str:
    """A command as a shell takes it."""
    return " ".join(map(shlex.quote, words))


def _four(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _text(text: str) -> str:
    return markdown_text(text)
