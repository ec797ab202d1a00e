"""The limit on the size of the stage store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunetune.pruning.store import REGISTRATION
from prunetune.search.spec import StudySpec
from prunetune.search.store_limit import keep_within_limit, size_of
from prunetune.search.trial.objective import run_and_tell
from prunetune.spaces import StoreError

MakeSpec = Callable[..., StudySpec]


def stage(spec: StudySpec, study: str, name: str, size: int) -> Path:
    """A stage that a study has used."""
    store = Path(spec.runs) / ".store"
    folder = store / "stages" / name
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text('{"record": {"kind": "sparse", "parent": "", "epochs": 1}}')
    (folder / "checkpoint.pt").write_bytes(bytes(size))
    (store / "studies" / study).mkdir(parents=True, exist_ok=True)
    (store / "studies" / study / name).touch()
    (store / "studies" / study / REGISTRATION).write_text('{"storage": null}')
    return folder


@pytest.fixture
def spec(make_spec: MakeSpec) -> StudySpec:
    spec = make_spec(store_gb=1e-3)
    spec.folder.mkdir(parents=True)
    return spec


def test_below_the_limit_nothing_is_freed(spec: StudySpec) -> None:
    gone = stage(spec, "gone", "sparse-a", 500_000)
    keep_within_limit(spec)
    assert gone.is_dir()


def test_above_it_what_no_study_needs_is_freed(spec: StudySpec) -> None:
    gone, mine = stage(spec, "gone", "sparse-a", 800_000), stage(spec, spec.name, "sparse-b", 800_000)
    keep_within_limit(spec)
    assert not gone.exists()
    assert mine.is_dir()


def test_a_trial_is_not_begun_where_that_is_not_enough(spec: StudySpec) -> None:
    mine = stage(spec, spec.name, "sparse-b", 1_200_000)
    context: Any = SimpleNamespace(spec=spec)
    nothing: Any = None
    with pytest.raises(StoreError, match=r"store_gb: .* holds 0.0012 GB that studies need, and the limit is 0.001"):
        run_and_tell(nothing, nothing, context)
    assert mine.is_dir()


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d").write_bytes(bytes(10))
    assert size_of(tmp_path) == 1010
