"""What is allowed and hardly wanted is told when a study begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prunetune.search.advice import advice
from prunetune.search.spec import StudySpec

MakeSpec = Callable[..., StudySpec]

SPACE = {"sparsity": 0.3, "sparse_epochs": 1, "recovery_epochs": 1, "latency": 0.9}
SGD = {"optimizer": "SGD", "lr0": 0.01}
BOTH = ["proximal", "subgradient"]


@pytest.mark.parametrize(
    ("options", "train", "words"),
    [
        ({}, {}, []),
        ({"importance": "gamma"}, {}, []),
        ({"planner": "knapsack", "importance": "taylor"}, {}, []),
        ({"planner": "knapsack"}, {}, ["planner: knapsack", "and gamma cannot"]),
        ({"planner": {"choices": ["threshold", "knapsack"]}, "importance": {"choices": ["taylor", "l2"]}}, {}, ["l2"]),
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
