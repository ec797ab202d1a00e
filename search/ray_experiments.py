"""Ray's experiments of a study: each has a folder, and beside it a note of its driver as long as it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from prunetune.pruning.processes import is_alive, this_process
from prunetune.search.study import folder_lock
from prunetune.spaces.files import write_text

NOTE = ".driver.json"


class Experiments:
    """The experiments of a study.

    Args:
        study: The study's folder.
    """

    def __init__(self, study: Path) -> None:
        self._study = study.resolve()
        self.folder = self._study / "ray"

    @contextmanager
    def new(self) -> Iterator[str]:
        """The name of a new experiment, which is this process's within the block."""
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"
        self._sign(name)
        with self._until_it_ends(name):
            yield name

    @contextmanager
    def one_that_died(self) -> Iterator[str | None]:
        """The last experiment whose driver died, now this process's; None where there is none."""
        with folder_lock(self._study, ".ray"):
            orphans = self._orphans()
            for older in orphans[1:]:
                self._note(older).unlink()
            name = orphans[0] if orphans else None
            if name is not None:
                self._sign(name)
        if name is None:
            yield None
            return
        with self._until_it_ends(name):
            yield name

    def _orphans(self) -> list[str]:
        notes = sorted(self.folder.glob(f"*{NOTE}"), reverse=True)
        return [note.name.removesuffix(NOTE) for note in notes if not is_alive(_driver(note))]

    @contextmanager
    def _until_it_ends(self, name: str) -> Iterator[None]:
        """However it ends: only a driver that was killed leaves its note."""
        try:
            yield
        finally:
            self._note(name).unlink(missing_ok=True)

    def _sign(self, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._note(name), json.dumps(this_process()) + "\n")

    def _note(self, name: str) -> Path:
        return self.folder / f"{name}{NOTE}"


def _driver(note: Path) -> dict[str, object]:
    try:
        told = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
