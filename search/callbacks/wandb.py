"""Records a study's trials with Weights & Biases, as runs of a group that has the study's name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from prunetune.search.callbacks.tracking import FINISHED, TrackingCallback
from prunetune.spaces import MissingExtraError


class WandbCallback(TrackingCallback):
    """Writes to the project `prunetune`, or that of `WANDB_PROJECT`; `WANDB_MODE=offline` writes to the disk alone.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb") from error
        self._wandb: Any = wandb
        self._runs: dict[str, Any] = {}

    def begin(self, run: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begins a run."""
        self._runs[run] = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "prunetune"),
            group=self.study,
            name=run,
            config={**parameters, **tags},
            reinit="create_new",  # a trial that was put aside has a run, too
        )

    def log(self, run: str, metrics: Mapping[str, float], step: int | None) -> None:
        """Adds figures."""
        if step is None:
            self._runs[run].summary.update(dict(metrics))
        else:
            self._runs[run].log(dict(metrics), step=step)

    def end(self, run: str, how: str, tags: Mapping[str, str]) -> None:
        """Ends a run."""
        ended = self._runs.pop(run)
        ended.summary.update(dict(tags))
        ended.finish(exit_code=0 if how == FINISHED else 1)
