"""Callbacks: what a user's own code, or a tracker of experiments, does when something happens in a study."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module

from prunetune.search.callbacks.events import (
    EpochEnded,
    Event,
    Listener,
    Message,
    NetworkReady,
    StageBegun,
    StudyEnded,
    StudyProgress,
    StudyStarted,
    TaskStarted,
    TrialBegun,
    TrialEnded,
)
from prunetune.spaces import ConfigError, PrunetuneError

KNOWN = {
    "mlflow": "prunetune.search.callbacks.mlflow:MlflowCallback",
    "wandb": "prunetune.search.callbacks.wandb:WandbCallback",
}
"""Callbacks that have a name."""


class StudyCallback:
    """A listener with a hook for each event. Override those that matter.

    Hooks are called in the process that does the work, before it goes on: keep them short. One that raises is logged,
    and its callback hears no more; the study goes on.
    """

    def hear(self, event: Event) -> None:
        """Calls the event's hook."""
        hook = getattr(self, event.name, None)
        if hook is not None:
            hook(event)

    def study_started(self, event: StudyStarted) -> None:
        """This process begins to work on a study."""

    def task_started(self, event: TaskStarted) -> None:
        """Something that takes a while has started."""

    def trial_begun(self, event: TrialBegun) -> None:
        """A recipe is about to be carried out."""

    def stage_begun(self, event: StageBegun) -> None:
        """A training has begun."""

    def epoch_ended(self, event: EpochEnded) -> None:
        """An epoch of a training has ended."""

    def trial_ended(self, event: TrialEnded) -> None:
        """A trial has its result."""

    def study_progress(self, event: StudyProgress) -> None:
        """The front and what remains have changed."""

    def network_ready(self, event: NetworkReady) -> None:
        """The dense network or a control is trained."""

    def message(self, event: Message) -> None:
        """Anything else that a user should know."""

    def study_ended(self, event: StudyEnded) -> None:
        """This process is done with the study."""


def create_callback(name: str) -> Listener:
    """A callback by its name.

    Args:
        name: `mlflow`, `wandb`, or `MODULE:CLASS` of one's own, which is looked for in the current folder, too.

    Raises:
        ConfigError: There is none of this name, or it cannot be made.
        MissingExtraError: What it needs is not installed.
    """
    module, _, kind = KNOWN.get(name, name).partition(":")
    if not module or not kind:
        raise ConfigError(f"--callback: {name!r}: takes {', '.join(KNOWN)}, or MODULE:CLASS of your own")
    if name not in KNOWN and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        create = getattr(import_module(module), kind)
    except ImportError as error:
        raise ConfigError(f"--callback: {name}: {module} cannot be imported ({error})") from error
    except AttributeError as error:
        raise ConfigError(f"--callback: {name}: {module} has no {kind}") from error
    # It is the user's code: whatever it raises is theirs to mend, before a study begins.
    except Exception as error:
        raise ConfigError(f"--callback: {name}: {module} cannot be imported ({_said(error)})") from error
    try:
        made = create()
    except PrunetuneError:
        raise
    except Exception as error:
        raise ConfigError(f"--callback: {name}: {kind}() cannot be made ({_said(error)})") from error
    if not callable(getattr(made, "hear", None)):
        raise ConfigError(f"--callback: {name}: is no callback; derive it from prunetune.search.StudyCallback")
    listener: Listener = made
    return listener


def _said(error: Exception) -> str:
    """An error and where it arose, in a line."""
    steps = traceback.extract_tb(error.__traceback__)
    where = f", {steps[-1].filename}:{steps[-1].lineno}" if len(steps) > 1 else ""
    return f"{type(error).__name__}: {error}{where}"
