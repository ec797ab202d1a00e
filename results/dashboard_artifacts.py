"""The files that optuna-dashboard shows of a study and its trials, drawn when they are looked at."""

from __future__ import annotations

import io
import mimetypes
import tempfile
import threading
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

from optuna.artifacts import ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial

from prunetune.results.findings import Findings
from prunetune.results.table_formats import csv_text, markdown
from prunetune.results.trial_images import Draw, trial_images

KEPT = 128
"""So many drawn files are kept in memory."""


class Pictures:
    """An artifact store of Optuna's that makes what is asked of it.

    Args:
        folder: The study's, where the records of its trainings are.

    Attributes:
        found: The study as it was last read.
    """

    def __init__(self, folder: Path) -> None:
        self.found: Findings | None = None
        self._folder = folder
        self._makers: dict[str, Callable[[Findings], bytes]] = {}
        self._made: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def of_study(self, found: Findings) -> list[ArtifactMeta]:
        """The study's files. What a browser has of them is old once the study has gone on: they have a new address."""
        stamp = f"{found.counts} {len(found.baselines)} {len(found.study.confirmed)}"
        makers: dict[str, Callable[[Findings], bytes]] = {
            "front.png": _front,
            "table.csv": lambda found: csv_text(found).encode(),
            "table.md": lambda found: markdown(found).encode(),
        }
        if (self._folder / "report.html").is_file():
            makers["report.html"] = lambda _: (self._folder / "report.html").read_bytes()
        return [self._offer(f"{found.name} {stamp}", name, make) for name, make in makers.items()]

    def of_trial(self, found: Findings, trial: FrozenTrial) -> list[ArtifactMeta]:
        """A trial's files, once it has ended."""
        if not trial.state.is_finished():
            return []
        return [
            self._offer(f"{found.name}/{trial.number}", name, partial(_drawn, draw, self._folder))
            for name, draw in trial_images(found, trial.number).items()
        ]

    def _offer(self, origin: str, name: str, make: Callable[[Findings], bytes]) -> ArtifactMeta:
        kind, encoding = mimetypes.guess_type(name)
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{origin}/{name}"))
        self._makers[key] = make
        return ArtifactMeta(key, name, kind or "text/plain", encoding)

    # As Optuna's stores are asked

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """A file's content.

        Raises:
            ArtifactNotFound: There is no such file.
        """
        with self._lock:  # matplotlib draws one figure at a time
            if artifact_id not in self._made:
                make = self._makers.get(artifact_id)
                if make is None or self.found is None:
                    raise ArtifactNotFound(f"no file has the id {artifact_id}")
                while len(self._made) >= KEPT:
                    del self._made[next(iter(self._made))]
                self._made[artifact_id] = make(self.found)
            return io.BytesIO(self._made[artifact_id])

    def write(self, artifact_id: str, content_body: BinaryIO) -> NoReturn:
        """Refused: the store makes its files itself."""
        raise PermissionError("the files of prunetune's dashboard cannot be changed")

    def remove(self, artifact_id: str) -> NoReturn:
        """Refused: the store makes its files itself."""
        raise PermissionError("the files of prunetune's dashboard cannot be changed")


def _drawn(draw: Draw, folder: Path, found: Findings) -> bytes:
    return draw(found, folder)


def _front(found: Findings) -> bytes:
    from prunetune.results.front_image import write_front_image

    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        return write_front_image(found, Path(folder) / "front.png").read_bytes()
