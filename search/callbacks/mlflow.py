"""Records a study's trials with MLflow, as runs of the experiment that has the study's name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from prunetune.search.callbacks.events import StudyStarted
from prunetune.search.callbacks.tracking import FAILED, FINISHED, STOPPED, TrackingCallback
from prunetune.spaces import MissingExtraError

_STATUS = {FINISHED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}


class MlflowCallback(TrackingCallback):
    """Writes where `MLFLOW_TRACKING_URI` says.

    Another experiment can be given by `MLFLOW_EXPERIMENT_NAME`.

    Raises:
        MissingExtraError: MLflow is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow") from error
        self._client: Any = mlflow.MlflowClient()
        self._runs: dict[str, str] = {}

    def study_started(self, event: StudyStarted) -> None:
        """Finds or makes the experiment."""
        super().study_started(event)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", event.study)
        try:
            self._experiment = self._client.create_experiment(name)
        except Exception:  # another run or process has made it: MLflow says so by an error of its backend
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            self._experiment = found.experiment_id

    def begin(self, run: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begins a run."""
        made = self._client.create_run(self._experiment, run_name=run, tags=dict(tags))
        self._runs[run] = made.info.run_id
        for name, value in parameters.items():
            self._client.log_param(made.info.run_id, name, value)

    def log(self, run: str, metrics: Mapping[str, float], step: int | None) -> None:
        """Adds figures."""
        for name, value in metrics.items():
            self._client.log_metric(self._runs[run], name, value, step=step or 0)

    def end(self, run: str, how: str, tags: Mapping[str, str]) -> None:
        """Ends a run."""
        for name, value in tags.items():
            self._client.set_tag(self._runs[run], name, value)
        self._client.set_terminated(self._runs.pop(run), status=_STATUS[how])
