from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline per example would be an assertion on the wall clock of a busy machine.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(autouse=True)
def _own_locks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the locks of this test: a measurement of somebody else does not delay it."""
    folder: Path = tmp_path_factory.mktemp("locks")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
