"""What happens while a study runs, as values. Who shows or records it hears them; see `Listener`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from prunetune.pruning.training.values import EpochRecord
from prunetune.results.findings.study_network import StudyNetwork, latencies_document, networks_of
from prunetune.results.record import NetworkResult, TrialRecord
from prunetune.search.study.limits import Forecast
from prunetune.spaces import Outcome, Recipe
from prunetune.spaces.fields import jsonable


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    name: ClassVar[str]
    """The event in a log, and the hook of a `StudyCallback` that hears it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {item.name: jsonable(_plain(getattr(self, item.name))) for item in dataclasses.fields(self)}


class Listener(Protocol):
    """Hears what happens while a study runs, in the process that does it."""

    def hear(self, event: Event) -> None:
        """Is called after the event, before the work goes on. What it raises is logged, and it hears no more."""


@dataclass(frozen=True)
class StudyStarted(Event):
    """This process begins to work on a study: a new one, or one to go on with."""

    name = "study_started"
    study: str
    folder: str
    trials: int | None
    """How many there will be; None where something else limits them."""
    epochs: int | None
    """The most that are trained in all trials."""
    hours: float | None
    """The most in which trials run."""
    objectives: tuple[str, ...]
    engine: str


@dataclass(frozen=True)
class TaskStarted(Event):
    """Something that takes a while has started, such as `measuring the reference networks`."""

    name = "task_started"
    what: str


@dataclass(frozen=True)
class TaskEnded(Event):
    """Nothing is going on at the moment."""

    name = "task_ended"


@dataclass(frozen=True)
class TrialBegun(Event):
    """A recipe is about to be carried out. One that was put aside begins again when it goes on."""

    name = "trial_begun"
    trial: int
    recipe: Recipe


@dataclass(frozen=True)
class StageBegun(Event):
    """A training has begun."""

    name = "stage_begun"
    what: str
    """What it is for: `trial 3`, `dense network`, `control half-width`."""
    trial: int | None
    stage: str
    """`original`, `sparse`, `recovery` or `control`."""
    epochs: int
    """Of the whole training."""
    done: int
    """Those of them that were trained before, and are read back."""


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch of a training has ended."""

    name = "epoch_ended"
    what: str
    trial: int | None
    stage: str
    epochs: int
    record: EpochRecord

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the record without its gamma histogram."""
        record = self.record
        accuracy = record.accuracy.as_dict() if record.accuracy else {}
        return {
            "what": self.what,
            "trial": self.trial,
            "stage": self.stage,
            "epoch": record.epoch,
            "epochs": self.epochs,
            "losses": jsonable(record.losses),
            "accuracy": jsonable({key: value for key, value in accuracy.items() if key != "classes"}) or None,
            "seconds": round(record.train_s + record.validate_s, 3),
        }


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial has its result, be it networks or a failure."""

    name = "trial_ended"
    trial: int
    record: TrialRecord
    finished: int
    """How many trials of the study have ended with it."""
    trials: int | None

    @property
    def networks(self) -> list[StudyNetwork]:
        """Its networks by round; empty for one that failed."""
        outcome = self.record.outcome
        return networks_of(self.trial, self.record) if outcome is not None and outcome.has_values else []

    @property
    def trained(self) -> list[StudyNetwork]:
        """Those of them at the deployments that they were recovered for; the last one is what the trial came to."""
        return [network for network in self.networks if not network.is_deployed_further]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: how it ended and the figures of its networks, without channels and stages."""
        record, networks = self.record, [network.result for network in self.trained]
        further = [network.result for network in self.networks if network.is_deployed_further]
        cost, found = record.cost, [threshold.as_json() for threshold in record.thresholds]
        return {
            "trial": self.trial,
            "outcome": (record.outcome or Outcome.ERROR).value,
            "reason": record.reason,
            "recipe": None if record.recipe is None else record.recipe.as_dict(),
            **(_network_document(networks[-1]) if networks else {}),
            **({"rounds": [_network_document(network) for network in networks[:-1]]} if networks else {}),
            **({"further": [_network_document(network) for network in further]} if further else {}),
            **({"threshold_found": found} if found else {}),
            **({"unseparated": list(record.warnings)} if record.warnings else {}),
            "duplicate_of": record.duplicate_of,
            "epochs": {"trained": cost.epochs_trained, "reused": cost.epochs_reused},
            "seconds": round(cost.total_s, 3),
            "finished": self.finished,
            "trials": self.trials,
        }


NUMBERS = ("gflops", "params", "bytes", "memory_mb", "channels_removed", "params_removed", "blocks_removed")
"""The figures of a network that events and trackers tell beside its latencies."""


def _network_document(network: NetworkResult) -> dict[str, Any]:
    figures = network.figures
    accuracy = {name: value for name, value in network.accuracy.as_dict().items() if name != "classes"}
    return jsonable(
        {
            "round": network.round,
            "deployment": network.deployment.as_dict(),
            "accuracy": accuracy,
            "latencies": latencies_document(figures.latencies),
            **{name: getattr(figures, name) for name in (*NUMBERS, "feasible", "violation")},
            "checkpoint": network.files.checkpoint,
        }
    )


@dataclass(frozen=True)
class FrontMember:
    """A network of the front, as progress shows it."""

    network: str
    """Its name: `7`, or `7.1` after the first of several rounds."""
    title: str
    """`trial 7, round 1`."""
    map50_95: float
    latency_ms: float | None
    """On the main target."""

    @classmethod
    def of(cls, network: StudyNetwork) -> FrontMember:
        """What is shown of a network."""
        return cls(network.name, network.title, network.map50_95, network.latency_ms)


@dataclass(frozen=True)
class StudyProgress(Event):
    """Where the study is, with the trials of all its processes."""

    name = "study_progress"
    finished: int
    trials: int | None
    trained: int
    """Epochs that trials have trained."""
    reused: int
    """Epochs that they have read back instead."""
    front: tuple[FrontMember, ...]
    """By rising latency."""
    remaining: Forecast | None
    is_due: bool = True
    """Whether plain lines show it, which they do every few trials."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        shown = super().as_dict()
        del shown["is_due"]
        return shown


@dataclass(frozen=True)
class NetworkReady(Event):
    """A network that is no trial's is trained: the dense one, or a control."""

    name = "network_ready"
    network: str
    """`dense network`, `control half-width`."""
    map50_95: float
    latencies: Mapping[str, float]
    """Median latency in ms by target."""
    gflops: float
    params: int
    reused: bool
    """Whether it was read back."""


@dataclass(frozen=True)
class Message(Event):
    """Anything else that a user should know."""

    name = "message"
    text: str


@dataclass(frozen=True)
class StudyEnded(Event):
    """This process is done with the study."""

    name = "study_ended"
    state: str
    """`finished`; `left`: other processes go on and will finish it; `stopped`: as asked for; `failed`."""
    reason: str = ""
    """Why it failed."""


def _plain(value: Any) -> Any:
    if isinstance(value, Recipe):
        return value.as_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value
