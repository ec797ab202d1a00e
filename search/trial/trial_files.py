"""Files that a study keeps of its networks and trials."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.spaces.files import storage_error, write_text

GAMMAS, CURVES = "gammas", "curves"


@dataclass(frozen=True)
class StudyFiles:
    """The files in a study's folder. All paths that are returned start there.

    Attributes:
        folder: The study's.
    """

    folder: Path

    def keep_checkpoint(self, source: Path, name: str) -> str:
        """Puts a checkpoint among the study's candidates: the store may forget the stage that it belongs to.

        A hard link where the file system has them.
        """
        target = self.folder / "candidates" / f"{name}.pt"
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            try:
                os.link(source, draft)
            except OSError:
                shutil.copyfile(source, draft)
            os.replace(draft, target)
        except OSError as error:
            raise storage_error(target, error) from error
        finally:
            draft.unlink(missing_ok=True)
        return str(target.relative_to(self.folder))

    def keep_history(self, kind: str, records: Sequence[Mapping[str, Any]], name: str) -> str | None:
        """Writes what a trial's trainings recorded; None if that is nothing.

        Args:
            kind: `GAMMAS`, the histograms of its sparse phases; `CURVES`, the accuracies of its recoveries.
            records: One for each epoch, or for each round.
            name: The trial's.
        """
        if not records:
            return None
        target = self.folder / kind / f"{name}.json"
        write_text(target, json.dumps(list(records)))
        return str(target.relative_to(self.folder))

    def forget(self, name: str) -> None:
        """Removes what was kept of a trial whose result does not count; on a full or read-only disk it stays."""
        rounds = self.folder.glob(f"candidates/{name}-round-*.pt")
        histories = (self.folder / kind / f"{name}.json" for kind in (GAMMAS, CURVES))
        for file in (self.folder / "candidates" / f"{name}.pt", *rounds, *histories):
            with suppress(OSError):
                file.unlink(missing_ok=True)
