"""What is allowed and hardly wanted is told when a study begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prunetune.results.record import StudyRecord
from prunetune.search.engine.engine import half_is_no_smaller
from prunetune.search.study.advice import advice
from prunetune.search.study.study_spec import StudySpec

MakeSpec = Callable[..., StudySpec]

SPACE = {"sparsity": 0.3, "sparse_epochs": 1, "recovery_epochs": 1, "latency": 0.9}
SGD = {"optimizer": "SGD", "lr0": 0.01}
BOTH = ["proximal", "subgradient"]


@pytest.mark.parametrize(
    ("options", "train", "words"),
    [
        ({}, {}, []),
        ({"importance": "gamma"}, {}, []),
        ({"shrinkage": "subgradient"}, {}, ["subgradient under AdamW"]),
        ({"shrinkage": {"choices": BOTH}}, {"optimizer": "Adam"}, ["subgradient under Adam,"]),
        ({"shrinkage": {"choices": BOTH}}, SGD, []),
        ({"shrinkage": "subgradient"}, {"optimizer": "MuSGD"}, []),
        ({"shrinkage": "subgradient", "sparse_epochs": 0}, {}, []),
    ],
)
def test_advice(make_spec: MakeSpec, options: dict[str, object], train: dict[str, object], words: list[str]) -> None:
    told = advice(make_spec(space={**SPACE, **options}, train=train))
    assert len(told) == bool(words)
    assert all(word in told[0] for word in words)


def test_how_long_a_checkpoint_was_trained_is_asked_for(make_spec: MakeSpec) -> None:
    options = make_spec(space=SPACE, model="mine.pt", controls=["dense", "half-width"]).model_dump(exclude_unset=True)
    del options["dense_epochs"]
    (told,) = advice(StudySpec.parse(options))
    assert "mine.pt does not say how long it was trained: half-width trains as if it had been 100 epochs" in told
    for further in ({"dense_epochs": 20}, {"controls": []}, {"model": "yolov5n.yaml"}):
        assert advice(StudySpec.parse({**options, **further})) == []


def test_half_of_the_family_is_no_half_of_a_network_that_was_pruned_before() -> None:
    half = {"stem": 8, "head": 16}
    assert half_is_no_smaller(StudyRecord(channels_dense={"stem": 8, "head": 8}, channels_half=half))
    assert not half_is_no_smaller(StudyRecord(channels_dense={"stem": 16, "head": 32}, channels_half=half))
    assert not half_is_no_smaller(StudyRecord(channels_dense=half))
