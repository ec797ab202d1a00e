"""A limit on the size of the stage store, looked at before each trial."""

from __future__ import annotations

import os
from pathlib import Path

from prunetune.search.spec import StudySpec
from prunetune.search.store_usage import STORE, find_garbage, free, read_contents
from prunetune.spaces import StoreError

GB = 1e9


def keep_within_limit(spec: StudySpec) -> None:
    """Frees what no study needs if the store is larger than the study allows.

    Raises:
        StoreError: It is larger still.
    """
    runs = Path(spec.runs)
    if spec.store_gb is None or size_of(runs / STORE) <= spec.store_gb * GB:
        return
    contents = read_contents(runs)
    free(contents, find_garbage(contents))
    size = size_of(runs / STORE)
    if size > spec.store_gb * GB:
        raise StoreError(
            f"store_gb: {runs / STORE} holds {size / GB:.3g} GB that studies need, and the limit is {spec.store_gb:g}; "
            "remove the folders of studies that you no longer need, or allow more. The same command goes on"
        )


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, of several names for the same file once."""
    sizes: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue  # other processes store and free meanwhile
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())
