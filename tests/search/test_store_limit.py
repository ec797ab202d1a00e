"""The limit on the size of the stage store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunetune.search.study.store_limit import STORE, keep_within_limit
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.objective import run_and_tell
from prunetune.spaces import StoreError

MakeSpec = Callable[..., StudySpec]


def stage(spec: StudySpec, name: str, size: int, idle_s: float) -> Path:
    """A stage that was last used so long ago."""
    folder = Path(spec.runs) / STORE / "stages" / name
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(bytes(size))
    then = folder.stat().st_mtime - idle_s
    os.utime(folder, (then, then))
    return folder


@pytest.fixture
def spec(make_spec: MakeSpec) -> StudySpec:
    return make_spec(store_gb=1e-3)


def test_without_a_store_nothing_is_limited(spec: StudySpec) -> None:
    keep_within_limit(spec)
    assert not (Path(spec.runs) / STORE).exists()


def test_below_the_limit_nothing_is_freed(spec: StudySpec) -> None:
    old = stage(spec, "sparse-a", 500_000, 1e6)
    keep_within_limit(spec)
    assert old.is_dir()


def test_above_it_what_was_used_longest_ago_is_freed(spec: StudySpec) -> None:
    old, older, oldest = (stage(spec, name, 400_000, days * 86400) for name, days in (("a", 1), ("b", 2), ("c", 3)))
    keep_within_limit(spec)
    assert not oldest.exists()
    assert older.is_dir()
    assert old.is_dir()


def test_a_trial_is_not_begun_where_that_is_not_enough(spec: StudySpec) -> None:
    recent = stage(spec, "sparse-b", 1_200_000, 60)
    context: Any = SimpleNamespace(spec=spec)
    nothing: Any = None
    with pytest.raises(StoreError, match=r"store_gb: .* holds 0.0012 GB that trainings use .* the limit is 0.001"):
        run_and_tell(nothing, nothing, context)
    assert recent.is_dir()
