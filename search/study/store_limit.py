"""A limit on the size of the stage store, looked at before each trial."""

from __future__ import annotations

from pathlib import Path

from prunetune.pruning.stages.store_contents import StoreContents, free
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import StoreError

STORE = ".store"
"""The folder of stages inside `runs`: all studies there share them."""

GB = 1e9


def keep_within_limit(spec: StudySpec) -> None:
    """Frees what was used longest ago if the store is larger than the study allows.

    Raises:
        StoreError: It is larger still.
    """
    root = Path(spec.runs) / STORE
    if spec.store_gb is None or not root.is_dir():
        return
    contents, limit = StoreContents.read(root), spec.store_gb * GB
    if contents.size <= limit:
        return
    free(root, contents.removable(max_bytes=limit))
    size = StoreContents.read(root).size
    if size > limit:
        raise StoreError(
            f"store_gb: {root} holds {size / GB:.3g} GB that trainings use or that were used within the last hour, and "
            f"the limit is {spec.store_gb:g}; allow more, or wait. The same command goes on"
        )
