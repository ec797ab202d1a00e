"""Tells once a run what its study will take on this machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from prunetune.search.callbacks.events import EpochEnded, Event, StageBegun, StudyProgress, TaskStarted, TrialBegun
from prunetune.search.study.study_cost import cost_forecast, work_share
from prunetune.search.study.study_spec import StudySpec

TRAINED = ("original", "sparse", "recovery")
"""Stages whose epochs are those of a study; a control may be a smaller network, and comes when trials are done."""


class ForecastTeller:
    """Listens until the first epoch is measured, or until it hears how long earlier trials took, and tells a line.

    Args:
        spec: The study's.
        workers: Trials that run at once.
        say: Tells a line.
    """

    def __init__(self, spec: StudySpec, workers: int, say: Callable[[str], None]) -> None:
        self._spec, self._workers, self._say = spec, workers, say
        self._share, self._done, self._has_told = 1.0, 0, False

    def hear(self, event: Event) -> None:
        """Looks for what says how long an epoch takes here."""
        if self._has_told:
            return
        if isinstance(event, StudyProgress) and event.remaining is not None:
            self._tell(f"forecast: {event.remaining.text(datetime.now())}" if event.remaining.trials else None)
        elif isinstance(event, TaskStarted):
            self._share = 1.0
        elif isinstance(event, TrialBegun) and event.recipe.imgsz is not None:
            self._share = work_share(event.recipe.imgsz, self._spec.imgsz)
        elif isinstance(event, StageBegun):
            self._done = event.done
        elif isinstance(event, EpochEnded) and event.stage in TRAINED:
            self._tell_after(event)

    def _tell_after(self, event: EpochEnded) -> None:
        share = self._share if event.stage == "recovery" else 1.0
        epoch_s = (event.record.train_s + event.record.validate_s) / share
        dense_left = event.epochs - self._done if event.stage == "original" else 0
        forecast = cost_forecast(self._spec, epoch_s, self._workers, dense_left=dense_left)
        self._tell(None if forecast is None else forecast.text())

    def _tell(self, line: str | None) -> None:
        self._has_told = True
        if line is not None:
            self._say(line)
