"""The study's description: what it takes, what it fills in, and what a resumed study must share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prunetune.search.study.study_spec import CHANGEABLE, StudySpec
from prunetune.spaces import FixedParameter

Written = Callable[..., Path]


def test_the_published_form_parses(written: Written, published: str) -> None:
    spec = StudySpec.read(written(published))
    assert (spec.name, spec.model, spec.data) == ("barcodes", "yolov5n.yaml", "data/barcodes/data.yaml")
    assert (spec.imgsz, spec.batch, spec.device, spec.dense_epochs, spec.seed) == (160, 32, "cpu", 30, 0)
    assert spec.space.sparsity_unit == "pull"
    assert spec.space.sparsity.values == (0.1, 0.177828, 0.316228, 0.562341, 1.0)
    assert spec.space.sparse_epochs.values == (2, 4)
    assert (spec.space.threshold.low, spec.space.threshold.high, spec.space.threshold.log) == (0.005, 0.5, True)
    assert (spec.space.rounds.low, spec.space.rounds.high) == (1, 2)
    assert spec.space.recovery_epochs == FixedParameter(value=6)
    assert spec.space.longest_epochs == 2 * (4 + 6)
    (target,) = spec.targets
    assert (target.kind, target.name, target.threads, target.alignment.as_json()) == ("onnxruntime", "cpu", 1, 8)
    assert spec.objectives == ("map50_95", "latency")
    assert (spec.limit_of("cpu"), spec.judged) == ("<= half-width", ["cpu"])
    assert (spec.sampler, spec.controls, spec.trials) == ("tpe", ("dense", "half-width"), 12)
    assert spec.folder == Path("runs/barcodes")
    assert spec.storage_url == "sqlite:///runs/barcodes/study.db"


def test_only_four_keys_must_be_given(written: Written, short: str) -> None:
    spec = StudySpec.read(written(short))
    assert (spec.imgsz, spec.batch, spec.device, spec.seed, spec.choose) == (640, 16, "cpu", 0, "map50_95")
    assert [target.kind for target in spec.targets] == ["onnxruntime"]
    assert spec.targets[0].alignment.as_json() == 8
    assert spec.objectives == ("map50_95", "latency")
    assert spec.budget == {"latency": "<= half-width"}
    assert (spec.sampler, spec.controls, spec.storage) == ("tpe", ("dense", "half-width"), None)
    assert (spec.trials, spec.epochs, spec.hours) == (30, None, None)
    assert spec.space.sparsity_unit == "pull"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("cuda:1", "1"),
        ("0", "0"),
        (3, "3"),
        ("cpu", "cpu"),
        ("mps", "mps"),
        ("[0, 1]", "0,1"),
        ("cuda:0,1", "0,1"),
        ("2, 3", "2,3"),
    ],
)
def test_a_device_is_named_as_ultralytics_names_it(written: Written, short: str, given: Any, meant: str) -> None:
    assert StudySpec.read(written(short), [f"device={given}"]).device == meant


def test_a_threshold_for_each_region(written: Written, short: str) -> None:
    file = written(short)
    spec = StudySpec.read(file, ["space.threshold={backbone: 0.1, head: {low: 0.1, high: 0.5}}"])
    assert [name for name, _ in spec.space.parameters() if "threshold" in name] == [
        "threshold_backbone",
        "threshold_head",
    ]


def test_a_description_is_a_value_that_survives_json(written: Written, published: str) -> None:
    spec = StudySpec.read(written(published))
    assert StudySpec.parse(spec.model_dump(mode="json", exclude_none=True)) == spec
    with pytest.raises(ValidationError, match="frozen"):
        spec.trials = 13  # type: ignore[misc]


def test_only_how_far_and_where_may_change(written: Written, published: str) -> None:
    file = written(published)
    spec = StudySpec.read(file)
    same = [
        "trials=99",
        "epochs=500",
        "hours=1.5",
        "device=0",
        "workers=2",
        "cache=disk",
        "storage=sqlite:///x.db",
        "runs=elsewhere",
        "store_gb=50",
        "engine=ray",
        "ray.gpus=0.5",
        "allow_new_device=true",
        "trust=true",
    ]
    assert {override.partition("=")[0].partition(".")[0] for override in same} == CHANGEABLE
    for override in same:
        assert StudySpec.read(file, [override]).frozen_part() == spec.frozen_part(), override
    for default in ("space.floor=0.0", "space.start=current", "space.importance=gamma"):
        assert StudySpec.read(file, [default]).frozen_part() == spec.frozen_part(), default
    board = [
        f'targets=[{{kind: command, command: [run, "{{onnx}}"], {keys}}}]' for keys in ("retries: 0", "timeout: 9")
    ]
    assert len({str(StudySpec.read(file, [override]).frozen_part()) for override in board}) == 1
    others = [
        "model=yolov5s.yaml", "data=d.yaml", "imgsz=320", "batch=8", "dense_epochs=3", "seed=1", "choose=f1",
        "deploy.imgsz=[64]",
        "train.lr0=0.1", "targets.0.alignment=4", "objectives=[map50_95]", "budget.latency='<= dense'",
        "sampler=gp", "controls=[dense]", "space.rounds.high=3",
        "space.importance=taylor",
        "early_stopping=false",
    ]  # fmt: skip
    for override in others:
        assert StudySpec.read(file, [override]).frozen_part() != spec.frozen_part(), override
    assert {override.partition("=")[0].partition(".")[0] for override in others} | CHANGEABLE | {"name"} == set(
        StudySpec.model_fields
    )
