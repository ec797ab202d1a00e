"""How a description says no: each problem names its field and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError

Written = Callable[..., Path]
Problem = Callable[..., str]
Problems = Callable[..., tuple[str, ...]]


BAD = [
    ("imgzs: 256", "imgzs", "unknown key; did you mean imgsz?"),
    ("budgets: {latency: '<= half-width'}", "budgets", "did you mean budget?"),
    ("zzz: 1", "zzz", "there are name, model, data"),
    ("global: 1", "global", "unknown key"),
    ("imgsz: big", "imgsz", "'big'"),
    ("imgsz: 1000000000000", "imgsz", "less than or equal to 8192"),
    ("storage: ''", "storage", "at least 1"),
    ("imgsz: 100", "imgsz", "multiple of 32"),
    ("batch: 0", "batch", "greater than or equal to 1, not 0"),
    ("trials: 2.5", "trials", "2.5"),
    ("trials: true", "trials", "valid integer, not True"),
    ("trials: 1:30", "trials", "not '1:30'"),
    ("seed: '7'", "seed", "not '7'"),
    ("trials: 0", "trials", "greater than or equal to 1"),
    ("trials: -3", "trials", "not -3"),
    ("epochs: 0", "epochs", "greater than or equal to 1"),
    ("hours: -1", "hours", "greater than 0, not -1"),
    ("hours: true", "hours", "valid number, not True"),
    ("seed: -1", "seed", "not -1"),
    ("sampler: tpee", "sampler", "did you mean tpe?"),
    ("sampler: cost-aware", "sampler", "remove it"),
    ("choose: map", "choose", "there are map50_95, f1, both"),
    ("cache: yes", "cache", "there are ram, disk, ''"),
    ("device: cpu,0", "device", "GPU numbers such as 0"),
    ("device: true", "device", "string"),
    ("controls: [tiny]", "controls", "there are dense, half-width"),
    ("controls: dense", "controls", "takes a list in brackets, such as [dense]"),
    ("controls: [dense, dense]", "controls", "has 'dense' twice"),
    ("seed: 4294967296", "seed", "less than or equal to 1000000000"),
    ("runs: ''", "runs", "at least 1"),
    ("objectives: [latency]", "objectives", "the first is map50_95, not 'latency'"),
    ("objectives: []", "objectives", "write [map50_95, latency]"),
    ("objectives: [map50_95, speed]", "objectives", "there is no 'speed'; there are latency, latency@cpu"),
    ("objectives: [map50_95, latncy]", "objectives", "did you mean latency?"),
    ("objectives: [map50_95, latency@board]", "objectives", "there is no 'latency@board'"),
    ("objectives: [map50_95, latency, latency]", "objectives", "stands twice"),
    ("objectives: [map50_95, latency, latency@cpu]", "objectives", "stands twice"),
    ("targets: []", "targets", "is empty"),
    ("targets: [{kind: torch}, {kind: onnxruntime}]", "targets", "two are called 'cpu'"),
    ("targets: [{kind: tpu}]", "targets.0.kind", "onnxruntime"),
    ("targets: [{kind: torch, thread: 2}]", "targets.0.thread", "did you mean threads?"),
    ("targets: [{kind: openvino, device: cuda}]", "targets.0", "write kind: torch"),
    ("targets: [{name: cpu}]", "targets.0.kind", "missing"),
    ("targets: [{kind: torch, alignment: 0}]", "targets.0.alignment", "whole number from 1 (no alignment)"),
    ("targets: [{kind: torch, alignment: {frist: 8}}]", "targets.0.alignment", "did you mean first?"),
    ("targets: [board.yaml]", "targets.0", "board.yaml: no such file, neither beside the study's nor in the current"),
    ("targets: [5]", "targets.0", "5"),
    ("targets: [{kind: comand}]", "targets.0.kind", "did you mean command?"),
    ("targets: [{kind: command}]", "targets.0.command", "missing"),
    ("targets: [{kind: command, command: [run, {onnx}]}]", "targets.0.command", 'put it in quotes: "{onnx}"'),
    ("targets: [{kind: command, command: 'run {onnx}'}]", "targets.0.command", 'takes a list, because no shell'),
    ("targets: [{kind: command, command: [run, '{onnx}'], timeot: 5}]", "targets.0.timeot", "did you mean timeout?"),
    ("targets: [{kind: command, command: [run, '{onnx}'], unit: m}]", "targets.0.unit", "there are "),
    ("targets: [{kind: torch, command: [run]}]", "targets.0.command", "unknown key"),
    ("targets: board.yaml", "targets", "board.yaml"),
    ("budget: {latency: fast}", "budget.latency", "'<= half-width'"),
    ("budget: {latency: '<= half-widht'}", "budget.latency", "did you mean half-width?"),
    ("budget: {latency: '<= -1 ms'}", "budget.latency", "positive number"),
    ("budget: {latency: '>= 1 ms'}", "budget.latency", "starts with '<='"),
    ("budget: {latency: '<= nan ms'}", "budget.latency", "positive number"),
    ("budget: {latncy: '<= 1 ms'}", "budget.latncy", "did you mean latency?"),
    ("budget: {latency@bord: '<= 1 ms'}", "budget.latency@bord", "there is no 'latency@bord'"),
    ("budget: 1.0", "budget.latency", "1.0"),
    ("budget: {bytse: '<= 2 MB'}", "budget.bytse", "did you mean bytes?"),
    ("budget: {bytes: '<= 2 ms'}", "budget.bytes", "'<= 2 ms': cannot be read as a limit on bytes; write '<= 2 MB'"),
    ("budget: {bytes: '<= 2'}", "budget.bytes", "write '<= 2 MB', '<= half-width' or '<= 0.5 x dense'"),
    ("budget: {latency: '<= 2 MB'}", "budget.latency", "write '<= 1.0 ms'"),
    ("budget: {gflops: '<= 0.5 x densse'}", "budget.gflops", "did you mean dense?"),
    ("budget: {params: '<= 0'}", "budget.params", "positive number"),
    ("budget: {params: 500000}", "budget.params", "string"),
    ("objectives: [map50_95, parms]", "objectives", "did you mean params?"),
    ("objectives: [map50_95, latency, bytes, bytes]", "objectives", "bytes stands twice"),
    ("objectives: [params]", "objectives", "the first is map50_95"),
    ("budget: {memory_mb: '<= 50 MB'}", "budget.memory_mb", "kind: onnxruntime cannot tell memory_mb; kind: openvino"),
    ("objectives: [map50_95, memory_mb]\ntargets: [{kind: torch}]", "objectives", "kind: torch cannot tell memory_mb"),
    ("targets: [{kind: onnxruntime, name: bytes}]", "targets", "give it another name"),
    ("train: {lr0: [0.1]}", "train.lr0", "valid number"),
    ("train: {lr0: .nan}", "train.lr0", "finite number, not nan"),
    ("storage: 5", "storage", "string"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "field", "said"), BAD)
def test_a_wrong_value_names_its_field_and_what_is_allowed(
    written: Written, short: str, problem: Problem, line: str, field: str, said: str
) -> None:
    found = problem(written(short + line + "\n"))
    assert found.startswith(f"{field}: ")
    assert said in found


BAD_SPACES = [
    ("sparsity={low: 2, high: 1}", "space.sparsity", "low (2.0) is above high (1.0)"),
    ("rounds={low: 3, high: 1}", "space.rounds", "low (3) is above high (1)"),
    ("threshold={low: 0, high: 1, log: true}", "space.threshold", "a log scale needs low > 0"),
    ("threshold={low: 0.1, high: 0.1, grid: 3}", "space.threshold", "a grid needs low < high"),
    ("threshold={low: false, high: true}", "space.threshold.low", "valid number, not False"),
    ("threshold={low: 0.1, high: 0.2, grid: 100000000}", "space.threshold.grid", "less than or equal to 1000"),
    ("preset=[a]", "space", "there are yolov5-slimming"),
    ("threshold={backbone: 0.1, head: 0.1, tail: 1}", "space.threshold.tail", "there are backbone, neck, head"),
    ("threshold={backbone: -0.1, head: 0.1}", "space.threshold.backbone", "-0.1 is below 0"),
    ("later_thresholds=[a]", "space.later_thresholds.0", "'a' is not a number"),
    ("threshold={low: 0.1, high: 0.2, grid: 1}", "space.threshold.grid", "greater than or equal to 2"),
    ("sparse_epochs={choices: []}", "space.sparse_epochs.choices", "at least 1"),
    ("sparse_epochs={choices: [2, 2]}", "space.sparse_epochs", "twice"),
    ("sparse_epochs={choises: [2]}", "space.sparse_epochs.choises", "did you mean choices?"),
    ("sparse_epochs={low: 1.5, high: 3}", "space", "sparse_epochs: takes whole numbers"),
    ("recovery_epochs=2.5", "space", "recovery_epochs: takes whole numbers, not 2.5"),
    ("recovery_epochs=-1", "space", "recovery_epochs: -1 is below 0"),
    ("rounds=0", "space", "rounds: 0 is below 1"),
    ("rounds=many", "space", "rounds: 'many' is not a number"),
    ("rounds=[1, 2]", "space.rounds", "{choices: [...]}"),
    ("treshold=0.1", "space.treshold", "did you mean threshold?"),
    ("threshold={backbone: 0.1}", "space.threshold.head", "missing"),
    ("threshold={backbone: 0.1, haed: 0.1}", "space.threshold", "haed"),
    ("latency=0.9", "space.threshold", "and latency cannot both be given"),
    ("balance=2", "space.threshold", "and balance cannot both be given"),
    ("latncy=0.9", "space.latncy", "did you mean latency?"),
    ("preset=yolov5", "space", "there are yolov5-slimming"),
    ("sparsity.unit=pulls", "space.sparsity_unit", "did you mean pull?"),
    ("sparsity={low: .nan, high: 1}", "space.sparsity.low", "finite"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "field", "said"), BAD_SPACES)
def test_a_wrong_space_names_its_parameter(
    written: Written, published: str, problems: Problems, override: str, field: str, said: str
) -> None:
    found = problems(written(published), f"space.{override}")
    assert all(sentence.startswith(f"{field.rpartition('.')[0] or field}") for sentence in found)
    assert any(sentence.startswith(f"{field}") and said in sentence for sentence in found)


@pytest.mark.parametrize("key", ["name", "model", "data", "space"])
def test_a_missing_key_is_named(written: Written, short: str, problem: Problem, key: str) -> None:
    lines = [line for line in short.splitlines() if not line.startswith(f"{key}:")]
    assert problem(written("\n".join(lines))) == f"{key}: missing"


def test_a_space_without_a_preset_needs_its_parameters(written: Written, short: str, problems: Problems) -> None:
    text = short.replace("{preset: yolov5-slimming}", "{sparsity: 0.5}")
    assert problems(written(text)) == (
        "space.sparse_epochs: missing",
        "space.threshold: missing; give it, or latency, a share of the budget from which it is found",
        "space.recovery_epochs: missing",
    )


@pytest.mark.parametrize("name", ["", "  ", "a/b", "../up", ".hidden", "a\\b", "a\0b", "x" * 201])
def test_a_name_is_a_folder(written: Written, name: str) -> None:
    with pytest.raises(ConfigError, match="name: "):
        StudySpec.parse({"name": name, "model": "m.pt", "data": "d.yaml", "space": {"preset": "yolov5-slimming"}})


def test_all_problems_are_told_together(written: Written, problems: Problems) -> None:
    text = """\
name: a/b
modle: yolov5n.yaml
data: d.yaml
imgsz: 100
space: {preset: yolov5-slimming, rounds: {low: 3, high: 1}, sparse_epochs: {choices: []}}
budget: {latency: soon}
"""
    found = problems(written(text))
    fields = {sentence.partition(":")[0] for sentence in found}
    assert fields == {
        "name", "model", "modle", "imgsz", "space.rounds", "space.sparse_epochs.choices", "budget.latency",
    }  # fmt: skip
    assert len(found) == 7
