"""The description of a target."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from prunetune.targets import OnnxRuntimeSpec, TorchSpec, create_target, parse_target_spec


def test_defaults() -> None:
    spec = OnnxRuntimeSpec()
    assert (spec.name, spec.threads, spec.alignment, spec.device, spec.precision) == (
        "cpu",
        1,
        8,
        "cpu",
        "fp32",
    )
    assert (spec.warmup, spec.runs, spec.seconds, spec.tolerance) == (5, 60, 20, 0.01)
    assert parse_target_spec(spec.model_dump()) == spec
    assert hash(OnnxRuntimeSpec()) == hash(spec)


@pytest.mark.parametrize(("kind", "form"), [("onnxruntime", "onnx"), ("torch", "module")])
def test_the_target_that_it_makes(kind: str, form: str) -> None:
    target = create_target(parse_target_spec({"kind": kind, "name": "board", "alignment": 16}))
    assert (target.name, target.alignment, target.form) == ("board", 16, form)


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
        ({"runs": 5}, "runs"),
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": 1}, "tolerance"),
        ({"warmup": -1}, "warmup"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"device": "gpu"}, "'cuda'"),
        ({"device": "cuda:x"}, "'cuda'"),
        ({"device": "cuda"}, "kind: torch"),
        ({"kind": "torch", "precision": "fp16"}, "device: cuda"),
        ({"kind": "torch", "device": "cuda", "precision": "int8"}, "precision"),
        ({"thread": 2}, "thread"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse_target_spec({"kind": "onnxruntime", **values})


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TorchSpec().threads = 2
