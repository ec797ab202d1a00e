"""The description of a target."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from prunetune.spaces import Alignment
from prunetune.targets import CommandSpec, OnnxRuntimeSpec, TorchSpec, create_target, parse_target_spec
from prunetune.targets.spec import DEFAULT_ALIGNMENTS


def test_defaults() -> None:
    spec = OnnxRuntimeSpec()
    assert (spec.name, spec.threads, spec.alignment, spec.device, spec.precision) == (
        "cpu",
        1,
        Alignment.everywhere(8),
        "cpu",
        "fp32",
    )
    assert (spec.warmup, spec.runs, spec.seconds, spec.tolerance) == (5, 400, 20, 0.01)
    assert parse_target_spec(spec.model_dump()) == spec
    assert hash(OnnxRuntimeSpec()) == hash(spec)


@pytest.mark.parametrize(
    ("kind", "form"), [("onnxruntime", "onnx"), ("openvino", "onnx"), ("torch", "module"), ("command", "onnx")]
)
def test_the_target_that_it_makes(kind: str, form: str) -> None:
    keys = {"command": ["run", "{onnx}"]} if kind == "command" else {}
    target = create_target(parse_target_spec({"kind": kind, "name": "board", "alignment": 16, **keys}))
    assert (target.name, target.alignment, target.form) == ("board", Alignment.everywhere(16), form)


@pytest.mark.parametrize(
    ("given", "meant", "stored"),
    [
        (16, Alignment.everywhere(16), 16),
        ({"default": 16, "first": 8}, Alignment(16, 8, 16), {"default": 16, "first": 8}),
        ({"default": 4}, Alignment.everywhere(4), 4),
    ],
)
def test_an_alignment_for_each_kind_of_layer(given: Any, meant: Alignment, stored: Any) -> None:
    spec = parse_target_spec({"kind": "onnxruntime", "alignment": given})
    assert spec.alignment == meant
    assert spec.model_dump(mode="json")["alignment"] == stored
    assert parse_target_spec(spec.model_dump(mode="json")) == spec
    assert hash(parse_target_spec(spec.model_dump())) == hash(spec)


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "fp16")])
def test_an_alignment_that_is_not_given_follows_from_the_precision(device: str, precision: str) -> None:
    spec = parse_target_spec({"kind": "torch", "device": device, "precision": precision})
    assert spec.alignment == Alignment.everywhere(8)
    assert spec == parse_target_spec({**spec.model_dump(), "alignment": 8})


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"kind": "onnxruntime"}, 16),
        ({"kind": "openvino"}, 16),
        ({"kind": "onnxruntime", "device": "cuda", "provider": "tensorrt"}, 32),
    ],
)
def test_int8_gets_wider_blocks(options: dict[str, Any], channels: int) -> None:
    spec = parse_target_spec({**options, "precision": "int8"})
    assert spec.quantises
    assert spec.alignment == Alignment.everywhere(channels)
    assert parse_target_spec({**options, "precision": "int8", "alignment": 4}).alignment == Alignment.everywhere(4)
    assert set(DEFAULT_ALIGNMENTS) == {"fp32", "fp16", "bf16", "int8"}


@pytest.mark.parametrize(
    ("options", "precisions"),
    [
        ({"kind": "onnxruntime"}, ("fp32", "int8")),
        ({"kind": "onnxruntime", "precision": "int8"}, ("int8", "fp32")),
        ({"kind": "onnxruntime", "device": "cuda"}, ("fp32",)),
        ({"kind": "onnxruntime", "device": "cuda", "provider": "tensorrt"}, ("fp32", "fp16", "int8")),
        ({"kind": "openvino", "precision": "bf16"}, ("bf16", "fp32", "fp16", "int8")),
        ({"kind": "torch"}, ("fp32",)),
        ({"kind": "torch", "device": "cuda", "precision": "fp16"}, ("fp16", "fp32")),
        ({"kind": "tensorrt"}, ("fp32", "fp16", "int8")),
        ({"kind": "command", "command": ["run", "{onnx}"], "precision": "int8"}, ("int8",)),
        (
            {"kind": "command", "command": ["run", "{onnx}", "--{precision}"], "precision": "int8"},
            ("int8", "fp32", "fp16", "bf16"),
        ),
        ({"kind": "table", "file": "table.json"}, ("fp32", "fp16", "bf16", "int8")),
    ],
)
def test_a_description_says_its_precisions_its_own_first(options: dict[str, Any], precisions: tuple[str, ...]) -> None:
    assert parse_target_spec(options).precisions == precisions


def test_bf16_gets_the_width_of_its_registers() -> None:
    assert parse_target_spec({"kind": "openvino", "precision": "bf16"}).alignment == Alignment.everywhere(16)


def test_a_new_key_changes_no_older_description() -> None:
    """A study is compared with what it was started with: keys that are not given are not stored."""
    assert "provider" not in OnnxRuntimeSpec().model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:11"])
def test_half_precision_on_a_gpu(device: str) -> None:
    assert TorchSpec(device=device, precision="fp16").on_gpu


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "tensorrtt"}, "kind"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "a/b"}, "slashes"),
        ({"name": "a\\b"}, "slashes"),
        ({"threads": 0}, "threads"),
        ({"alignment": 0}, "alignment"),
        ({"alignment": None}, "alignment"),
        ({"alignment": {"default": 8, "frist": 8}}, "did you mean first"),
        ({"runs": 5}, "runs"),
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": 1}, "tolerance"),
        ({"warmup": -1}, "warmup"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"device": "gpu"}, "'cuda'"),
        ({"device": "cuda:x"}, "'cuda'"),
        ({"provider": "tensorrt"}, "device: cuda"),
        ({"precision": "fp16"}, "fp32 or int8"),
        ({"device": "cuda", "precision": "fp16"}, "provider: tensorrt"),
        ({"device": "cuda", "precision": "int8"}, "provider: tensorrt"),
        ({"device": "cuda", "provider": "rocm"}, "provider"),
        ({"kind": "openvino", "device": "cuda"}, "openvino measures on the CPU"),
        ({"kind": "openvino", "hint": "speed"}, "hint"),
        ({"kind": "openvino", "precision": "bfloat16"}, "precision"),
        ({"kind": "onnxruntime", "precision": "bf16"}, "precision"),
        ({"kind": "tensorrt", "precision": "bf16"}, "precision"),
        ({"kind": "torch", "precision": "bf16"}, "precision"),
        ({"kind": "torch", "precision": "fp16"}, "device: cuda"),
        ({"kind": "torch", "device": "cuda", "precision": "int8"}, "precision"),
        ({"thread": 2}, "thread"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse_target_spec({"kind": "onnxruntime", **values})


COMMAND = {"kind": "command", "command": ["./measure.sh", "{onnx}"]}


def test_defaults_of_a_command() -> None:
    spec = parse_target_spec(COMMAND)
    assert isinstance(spec, CommandSpec)
    assert (spec.name, spec.command, spec.unit, spec.precision) == ("board", ("./measure.sh", "{onnx}"), "ms", "fp32")
    assert (spec.timeout, spec.retries, spec.runs, spec.seconds) == (120, 3, 20, 600)
    assert spec.alignment == Alignment.everywhere(8)
    assert parse_target_spec({**COMMAND, "precision": "int8"}).alignment == Alignment.everywhere(16)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"json_key": "yolox_s.bus.0", "unit": "ms"},
        {"json_key": "a.b", "unit": "us", "pick": "median", "threads": 4, "alignment": {"default": 16, "first": 8}},
        {"regex": "([0-9]+) ms", "fingerprint": ["uname", "-r"], "device": "RK3588", "occupies": "desk", "runs": 1},
    ],
)
def test_a_command_is_stored_and_read_back(keys: dict[str, Any]) -> None:
    spec = parse_target_spec({**COMMAND, **keys})
    assert parse_target_spec(spec.model_dump(mode="json", exclude_none=True)) == spec
    assert parse_target_spec(spec.model_dump()) == spec
    assert hash(parse_target_spec(spec.model_dump())) == hash(spec)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"command": "ssh board 'run it' {onnx}"},
            r'takes a list, because no shell splits it: \["ssh", "board", "run it", "{onnx}"\]',
        ),
        ({"command": "it's {onnx}"}, r'\["it\'s", "{onnx}"\]'),
        ({"command": []}, r"takes a list: the program and its arguments, such as \[./measure.sh, \"{onnx}\"\]"),
        ({"command": {"onnx": None}}, "takes a list: the program"),
        ({"command": ["run", {"onnx": None}]}, 'YAML reads {onnx} as a mapping; put it in quotes: "{onnx}"'),
        ({"command": ["run", "{onnx}", True]}, "takes text and numbers, not True; put it in quotes"),
        ({"command": ["run", "{onnx}", None]}, "takes text and numbers, not None"),
        ({"command": [" ", "{onnx}"]}, "begins with the program"),
        ({"command": ["run", "{onnx}\0"]}, "NUL"),
        ({"command": ["run"]}, 'does not say where the network\'s file goes; give "{onnx}"'),
        ({"command": ["run", "{{onnx}}"]}, "does not say where the network's file goes"),
        ({"command": ["run", "{onx}"]}, r"unknown placeholder {onx} in '{onx}'; did you mean {onnx}\?"),
        ({"command": ["run", "{onnx}", "{imgsz}"]}, "there are {onnx}, {name}, {batch}, {channels}, {height}, {width}"),
        ({"command": ["run", "{onnx.parent}"]}, r"unknown placeholder {onnx.parent}"),
        ({"command": ["run", "{onnx!r:>8}"]}, r"unknown placeholder {onnx!r:>8}"),
        ({"command": ["awk", "{print", "{onnx}"]}, "'{print': expected '}' before end of string; a plain brace"),
        ({"regex": "(a"}, "is no regular expression"),
        ({"regex": "[0-9]+"}, "takes one group, around the number, not 0"),
        ({"regex": "(a)(b)"}, "not 2"),
        ({"regex": ""}, "takes one group, around the number, not 0"),
        ({"json_key": ""}, "json_key"),
        ({"regex": "(a)", "json_key": "a"}, "read by one of them"),
        ({"pick": "mean"}, "pick"),
        ({"unit": "us"}, "json_key: latency_ms names ms as its unit, and unit: is us"),
        ({"unit": "printed", "json_key": "time"}, "unit: printed stands beside what regex: finds"),
        ({"json_key": "runs.0.us"}, "json_key: runs.0.us names us as its unit, and unit: is ms"),
        ({"json_key": "mean_s", "unit": "ms"}, "json_key: mean_s names s as its unit"),
        ({"json_key": "total_s"}, "json_key: total_s names s as its unit"),
        ({"json_key": "a.latency_us.median"}, "names us as its unit"),
        ({"json_key": "latency(us)"}, "names us as its unit"),
        ({"json_key": "latency.microseconds"}, "names microseconds as its unit"),
        ({"json_key": "mean_fps"}, "names fps as its unit"),
        ({"fingerprint": ["cat", "{onnx}"]}, "asked of the board"),
        ({"fingerprint": "uname -r"}, r'takes a list, .* \["uname", "-r"\]'),
        ({"unit": "ns"}, "unit"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"runs": 0}, "runs"),
        ({"precision": "tf32"}, "precision"),
        ({"warmup": 1}, "warmup"),
    ],
)
def test_wrong_values_of_a_command_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse_target_spec({**COMMAND, **values})


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TorchSpec().threads = 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "tensorrt", "device": "cpu"}, "measures on a GPU"),
        ({"kind": "torch", "cuda_graph": True}, "cuda_graph: needs device: cuda"),
        ({"kind": "torch", "threads": True}, "valid integer"),
        ({"kind": "torch", "tolerance": "0.1"}, "valid number"),
    ],
)
def test_what_a_gpu_needs_and_numbers_are(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        parse_target_spec(values)


def test_a_gpu_replays_graphs_unless_told_otherwise() -> None:
    specs = [TorchSpec(device="cuda"), TorchSpec(device="cuda", cuda_graph=False), TorchSpec()]
    assert [spec.replays for spec in specs] == [True, False, False]


@pytest.mark.parametrize(
    ("values", "name"),
    [({}, "cpu"), ({"device": "cuda"}, "gpu"), ({"device": "cuda:1", "name": "h100"}, "h100")],
)
def test_a_target_is_called_after_its_device(values: dict[str, str], name: str) -> None:
    assert parse_target_spec({"kind": "torch", **values}).name == name
