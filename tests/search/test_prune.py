"""`prunetune prune`: one surgery, without a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunetune.pruning.yolo.detector import Detector

Prunetune = Callable[..., Any]


def spread_gammas(source: Path, target: Path) -> Path:
    """Writes a checkpoint whose gammas rise from 0 to 1 in every layer, as if training had spread them."""
    import torch

    detector = Detector.load(source)
    for module in detector.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.linspace(0, 1, module.num_features))
    detector.save(target, {}, {"task": "detect", "imgsz": 64})
    return target


def test_prune_a_yaml_as_json(prunetune: Prunetune, tmp_path: Path) -> None:
    out = tmp_path / "new" / "pruned.pt"
    answer = prunetune("prune", "yolov5n.yaml", "--threshold", 0.5, "--align", 8, "--out", out, "--imgsz", 64, "--json")
    assert answer.code == 0, answer.err
    pruned = json.loads(answer.out)
    assert pruned["params"] == pruned["params_dense"], "gammas start at 1: nothing is below the threshold"
    assert pruned["channels_removed"] == 0
    assert pruned["gflops"] == pruned["gflops_dense"] > 0
    assert pruned["channels"]["model.0.conv"] == 16
    assert all(isinstance(width, int) for width in pruned["channels"].values())
    assert pruned["out"] == str(out)
    assert list(out.parent.iterdir()) == [out]


def test_prune_a_checkpoint_and_load_it_with_stock_ultralytics(
    prunetune: Prunetune, checkpoint: Path, tmp_path: Path
) -> None:
    import torch
    from ultralytics import YOLO

    spread = spread_gammas(checkpoint, tmp_path / "spread.pt")
    out = tmp_path / "pruned.pt"
    answer = prunetune("prune", spread, "--threshold", 0.5, "--align", 8, "--out", out, "--imgsz", 64, "--json")
    assert answer.code == 0, answer.err
    pruned = json.loads(answer.out)
    assert pruned["params"] < pruned["params_dense"] / 2
    assert 0 < pruned["gflops"] < pruned["gflops_dense"]
    assert 0.3 < pruned["channels_removed"] < 0.6
    prunable = [name for name in pruned["channels"] if ".22." not in name and not name.startswith("model.24")]
    assert all(pruned["channels"][name] % 8 == 0 for name in prunable)
    loaded = YOLO(str(out))
    widths = {
        name: module.out_channels
        for name, module in loaded.model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
    }
    assert {name: widths[name] for name in pruned["channels"]} == pruned["channels"]
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == pruned["params"]
    assert loaded.names == {0: "square", 1: "disc"}
    loaded.model.float().eval()(torch.zeros(1, 3, 64, 64))


def test_prune_with_a_threshold_for_the_head(prunetune: Prunetune, checkpoint: Path, tmp_path: Path) -> None:
    spread = spread_gammas(checkpoint, tmp_path / "spread.pt")

    def pruned(*options: Any) -> dict[str, Any]:
        answer = prunetune("prune", spread, "--imgsz", 64, "--json", *options)
        assert answer.code == 0, answer.err
        found: dict[str, Any] = json.loads(answer.out)
        return found

    both = pruned("--threshold", 0.5)
    head_only = pruned("--threshold", 0, "--head-threshold", 0.5)
    assert both["params"] < head_only["params"] < both["params_dense"]
    assert head_only["channels"]["model.0.conv"] == 16
    assert both["channels"]["model.0.conv"] == 8
    assert head_only["out"] is None
    neck_too = pruned("--threshold", 0, "--head-threshold", 0.5, "--neck-threshold", 0)
    assert head_only["params"] < neck_too["params"] < both["params_dense"]


def test_prune_tells_a_threshold_where_nothing_separates(
    prunetune: Prunetune, checkpoint: Path, tmp_path: Path
) -> None:
    spread = spread_gammas(checkpoint, tmp_path / "spread.pt")
    said = prunetune("prune", spread, "--threshold", 0.5, "--imgsz", 64)
    assert "nothing separates at threshold 0.5: " in said.out
    untouched = prunetune("prune", spread, "--threshold", 0, "--imgsz", 64, "--json")
    assert json.loads(untouched.out)["warning"] is None


def test_prune_by_another_importance_with_a_floor(prunetune: Prunetune, checkpoint: Path) -> None:
    def removed(*options: Any) -> tuple[float, str | None]:
        answer = prunetune("prune", checkpoint, "--threshold", 1, "--imgsz", 64, "--json", *options)
        assert answer.code == 0, answer.err
        pruned = json.loads(answer.out)
        return pruned["channels_removed"], pruned["warning"]

    share, warning = removed("--importance", "l1")
    assert 0.1 < share < 0.7
    assert warning is None
    share, warning = removed("--importance", "l1", "--floor", 0.9)
    assert share < 0.05
    assert warning == "threshold 1 is above all that could go: every layer keeps its least, with a floor of 0.9"
    refused = prunetune("prune", checkpoint, "--threshold", 1, "--importance", "taylor")
    assert refused.code == 2
    assert "importance: taylor needs training images; give --data data.yaml" in refused.err
    unknown = prunetune("prune", checkpoint, "--threshold", 1, "--importance", "size")
    assert unknown.code == 2
    too_much = prunetune("prune", checkpoint, "--threshold", 1, "--floor", 1)
    assert (too_much.code, "floor: 1.0 is no share" in too_much.err) == (2, True)


def test_prune_by_what_the_training_images_say(prunetune: Prunetune, checkpoint: Path, shapes: Path) -> None:
    command = ("prune", checkpoint, "--threshold", 0.5, "--imgsz", 64, "--importance", "taylor", "--data", shapes)
    one, other = (json.loads(prunetune(*command, "--json").out) for _ in range(2))
    assert 0.05 < one["channels_removed"] < 0.95
    assert one["channels"] == other["channels"]
    refused = prunetune("prune", "yolov5n.yaml", *command[2:])
    assert (refused.code, "yolov5n.yaml has 80 classes" in refused.err) == (2, True), refused.err


def test_prune_refuses_what_it_would_not_use(
    prunetune: Prunetune, checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    ignored = prunetune("prune", checkpoint, "--threshold", 1, "--data", shapes)
    assert (ignored.code, "importance: gamma looks at no images" in ignored.err) == (2, True)
    masks = tmp_path / "masks.pt"
    Detector.load("yolov8n-seg.yaml").save(masks, {}, {"task": "segment", "imgsz": 64})
    refused = prunetune("prune", masks, "--threshold", 1, "--importance", "taylor", "--data", shapes, "--imgsz", 64)
    assert (refused.code, "finds masks, for which there is none yet; take gamma" in refused.err) == (2, True)
    assert prunetune("prune", masks, "--threshold", 1, "--importance", "l1", "--imgsz", 64).code == 0


def test_prune_does_not_replace_what_it_prunes(prunetune: Prunetune, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "own.pt").write_bytes(checkpoint.read_bytes())
    refused = prunetune("prune", tmp_path / "own.pt", "--threshold", 1, "--out", tmp_path / "own.pt")
    assert (refused.code, "is the network that is pruned" in refused.err) == (2, True)
    assert (tmp_path / "own.pt").read_bytes() == checkpoint.read_bytes()


def test_prune_tells_that_nothing_more_can_go(prunetune: Prunetune, checkpoint: Path) -> None:
    answer = prunetune("prune", checkpoint, "--threshold", 100, "--importance", "l1", "--imgsz", 64)
    assert answer.code == 0
    assert "threshold 100 is above all that could go: every layer keeps its least" in answer.out


def test_prune_tells_that_it_removes_nothing(prunetune: Prunetune, checkpoint: Path, tmp_path: Path) -> None:
    spread = spread_gammas(checkpoint, tmp_path / "spread.pt")

    def warning(*options: Any) -> str | None:
        told: str | None = json.loads(prunetune("prune", spread, "--imgsz", 64, "--json", *options).out)["warning"]
        return told

    said = warning("--threshold", 1e-3)
    assert said is not None
    assert said.startswith("nothing is removed at threshold 0.001: ")
    assert said.endswith("and no layer has a whole block of them; their gamma is from 0 to 1")
    assert warning("--threshold", 0) is None
    kept = warning("--threshold", 2, "--floor", 0.99)
    assert kept is not None
    assert "beyond what floor 0.99 keeps" in kept
    aligned = warning("--threshold", 0.5, "--align", 1024)
    assert aligned is not None
    assert aligned.startswith("nothing is removed at threshold 0.5: ")


def test_prune_as_a_table(prunetune: Prunetune) -> None:
    answer = prunetune("prune", "yolov5n.yaml", "--threshold", 0.5, "--imgsz", 64)
    assert answer.code == 0, answer.err
    assert "GFLOPs at 64 px" in answer.out
