"""What optuna-dashboard shows of a study, stored with it: a note and pictures of each trial, and our table and front.

Stored when a trial ends, so that the stock dashboard shows all of it, while the study runs and later, with no process
of ours. Without optuna-dashboard (the extra `dashboard`) nothing is stored, and a study runs the same.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import Trial

from prunetune.results.dashboard.notes import study_note, trial_note
from prunetune.results.findings.findings import Findings
from prunetune.results.record import StudyRecord, TrialRecord

ARTIFACTS = "artifacts"
"""The folder of the pictures in a study's folder: what `optuna-dashboard --artifact-dir` takes."""

FRONT = "front"
"""The front's id among the dashboard's figures."""

CARD = 450
"""The height of a figure on the dashboard in px."""

LOCKED_S = 30
"""So long a process waits for another that stores the study's page."""

_log = logging.getLogger(__name__)


@contextmanager
def shown_on_dashboard(study: optuna.Study, trial: Trial, record: TrialRecord, folder: Path) -> Iterator[None]:
    """Stores a trial's pictures before its block, and its note and the study's page after it.

    Optuna takes no picture for a trial that has ended, so that the block is where the record is told.

    Args:
        study: The trial's.
        trial: One that runs.
        record: What it found.
        folder: The study's.
    """
    _attempt("a trial's pictures", lambda: _store_pictures(study, trial, record, folder))
    yield
    _attempt("a trial's note", lambda: _store_note(study, trial))
    show_study(study, folder)


def show_study(study: optuna.Study, folder: Path) -> None:
    """Stores the study's note and the figure of its front, in the place of those before."""
    _attempt("the study's note and front", lambda: _store_page(study, folder))


def _store_pictures(study: optuna.Study, trial: Trial, record: TrialRecord, folder: Path) -> None:
    from prunetune.results.figures.trial_images import trial_images  # matplotlib

    kept = folder / ARTIFACTS
    kept.mkdir(exist_ok=True)
    found = Findings(study.study_name, (), StudyRecord.of(study))
    with tempfile.TemporaryDirectory(prefix="prunetune-") as drafts:
        for name, content in trial_images(found, trial.number, record, folder):
            file = Path(drafts, name)
            file.write_bytes(content)
            upload_artifact(artifact_store=FileSystemArtifactStore(kept), file_path=str(file), study_or_trial=trial)


def _store_note(study: optuna.Study, trial: Trial) -> None:
    from optuna_dashboard import save_note

    found = Findings.of(study)
    save_note(trial, trial_note(found, found.trials[trial.number]))


def _store_page(study: optuna.Study, folder: Path) -> None:
    from optuna_dashboard import save_note, save_plotly_graph_object

    from prunetune.results.figures.front_figure import front_figure  # plotly

    # Both are stored in parts, which those of another process must not mix with.
    with FileLock(folder / ".dashboard", timeout=LOCKED_S):
        found = Findings.of(study)
        save_note(study, study_note(found))
        figure = front_figure(found).update_layout(height=CARD, legend={"y": -0.22, "font": {"size": 10}})
        save_plotly_graph_object(study, figure, graph_object_id=FRONT)


def _attempt(what: str, act: Callable[[], None]) -> None:
    """Does something where optuna-dashboard is installed. What goes wrong there is logged."""
    if find_spec("optuna_dashboard") is None:
        return
    try:
        act()
    # A full disk, a database that is away, a figure that cannot be drawn: no reason to lose a trial.
    except Exception as error:
        _complain(what, f"{type(error).__name__}: {error}")


@cache
def _complain(what: str, why: str) -> None:
    """Logs an error, once in this process."""
    _log.warning("optuna-dashboard will not show %s (%s)", what, why)
