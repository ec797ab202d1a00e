"""What trackers of experiments get of a study: a run for each trial, and one for each control."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from prunetune.results.record import NetworkResult
from prunetune.search.callbacks.callback import StudyCallback
from prunetune.search.callbacks.events import (
    NUMBERS,
    EpochEnded,
    NetworkReady,
    StudyEnded,
    StudyStarted,
    TrialBegun,
    TrialEnded,
)

FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
"""How a run ends."""


class TrackingCallback(StudyCallback, ABC):
    """Turns events into runs with parameters, metrics and an end. A subclass writes them to a tracker.

    A run's metrics are counted by the epochs that this process has trained for it. Where trials are carried out
    elsewhere, as on a Ray cluster, a run has its figures alone.
    """

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}

    # What a subclass does

    @abstractmethod
    def begin(self, run: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begins a run of the study."""

    @abstractmethod
    def log(self, run: str, metrics: Mapping[str, float], step: int | None) -> None:
        """Adds figures to a run: of a step, or of its end."""

    @abstractmethod
    def end(self, run: str, how: str, tags: Mapping[str, str]) -> None:
        """Ends a run."""

    # What happens

    def study_started(self, event: StudyStarted) -> None:
        """Names the study."""
        self.study = event.study

    def trial_begun(self, event: TrialBegun) -> None:
        """Begins a trial's run. One that was put aside has it already."""
        self._begin(f"trial {event.trial}", event.recipe.as_dict())

    def epoch_ended(self, event: EpochEnded) -> None:
        """Adds an epoch's figures."""
        run = event.what
        if run not in self._steps:
            return
        self._steps[run] += 1
        told = event.as_dict()
        metrics = {**told["losses"], **(told["accuracy"] or {}), "epoch": told["epoch"], "seconds": told["seconds"]}
        self.log(run, {f"{event.stage}/{name}": value for name, value in metrics.items()}, self._steps[run])

    def trial_ended(self, event: TrialEnded) -> None:
        """Adds a trial's figures and ends its run. Those of its earlier rounds are named `round 1/map50_95`."""
        run, record, cost = f"trial {event.trial}", event.record, event.record.cost
        self._begin(run, {} if record.recipe is None else record.recipe.as_dict())
        metrics = {"seconds": cost.total_s, "epochs_trained": cost.epochs_trained, "epochs_reused": cost.epochs_reused}
        for network in event.trained[:-1]:
            figures = _metrics(network.result)
            metrics |= {f"round {network.result.round}/{name}": value for name, value in figures.items()}
        for network in event.trained[-1:]:
            metrics |= _metrics(network.result)
        self.log(run, metrics, None)
        self._end(
            run, FINISHED if event.networks else FAILED, {"outcome": str(record.outcome), "reason": record.reason}
        )

    def network_ready(self, event: NetworkReady) -> None:
        """Adds a run with the figures of the dense network or a control."""
        self._begin(event.network, {})
        latencies = {f"latency_ms/{name}": value for name, value in event.latencies.items()}
        figures = {"map50_95": event.map50_95, "gflops": event.gflops, "params": event.params, **latencies}
        self.log(event.network, figures, None)
        self._end(event.network, FINISHED, {})

    def study_ended(self, event: StudyEnded) -> None:
        """Ends the runs of trials that were given back."""
        for run in tuple(self._steps):
            self._end(run, STOPPED, {"reason": event.reason or event.state})

    def _begin(self, run: str, parameters: Mapping[str, Any]) -> None:
        if run not in self._steps:
            self.begin(run, parameters, {"prunetune.study": self.study})
            self._steps[run] = 0

    def _end(self, run: str, how: str, tags: Mapping[str, str]) -> None:
        self.end(run, how, {f"prunetune.{name}": value for name, value in tags.items() if value})
        del self._steps[run]


def _metrics(network: NetworkResult) -> dict[str, float]:
    """A network's figures by name."""
    accuracy, figures = network.accuracy, network.figures
    numbers = {
        **{name: getattr(accuracy, name) for name in ("map50", "map50_95", "precision", "recall", "f1", "confidence")},
        **{name: getattr(figures, name) for name in NUMBERS},
        "violation": figures.violation,
        **{f"latency_ms/{target}": latency.ms for target, latency in figures.latencies.items()},
    }
    return {name: value for name, value in numbers.items() if value is not None}
