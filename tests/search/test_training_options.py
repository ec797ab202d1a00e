"""A real study whose space says who teaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning import StageStore
from prunetune.results import load_study
from prunetune.search.study.store_limit import STORE
from prunetune.spaces import Outcome

pytestmark = pytest.mark.slow

SPACE: dict[str, Any] = {
    "sparsity": 0.002,
    "sparse_epochs": 1,
    "threshold": 2.0,
    "recovery_epochs": 1,
    "distillation": {"choices": [0.0, 6.0]},
    "sparse_distillation": 2.0,
}


def test_a_study_searches_the_teachers_weight(
    tmp_path: Path, shapes: Path, write_study: Callable[..., Path], prunetune: Callable[..., Any]
) -> None:
    file = write_study(data=str(shapes), space=SPACE, sampler="random", trials=6, early_stopping=False)
    done = prunetune("run", file)
    assert done.code == 0, done.err
    found = load_study(tmp_path / "runs" / "tiny").findings
    store = StageStore(tmp_path / "runs" / STORE)
    ends: dict[float, set[str]] = {}
    for number, record in found.records.items():
        assert record.outcome is Outcome.OK
        stages = [store.find(use.digest) for use in record.cost.stages]
        sparse, surgery, recovery = (stage for stage in stages if stage is not None)
        taught = sparse.record["settings"]["phase"]
        assert taught["distillation"] == 2.0
        assert sparse.record["parent"] == taught["teacher"]
        assert recovery.record["parent"] == surgery.digest
        weight = found.trials[number].params["distillation"]
        assert recovery.record["settings"]["phase"].get("distillation", 0.0) == weight
        ends.setdefault(weight, set()).add(recovery.digest)
        assert 0 <= (found.networks[str(number)].accuracy.confidence or 0) <= 1
    assert {weight: len(digests) for weight, digests in ends.items()} == {0.0: 1, 6.0: 1}
