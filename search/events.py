"""What happens while a study runs, as values. Who shows or records it hears them; see `Listener`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from prunetune.pruning.training import EpochRecord
from prunetune.results.entries import FOUND, ROUNDS_ASKED, UNSEPARATED, jsonable
from prunetune.search.limits import Forecast
from prunetune.search.outcome import TrialResult
from prunetune.spaces import Recipe


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    name: ClassVar[str]
    """The event in a log, and the hook of a `StudyCallback` that hears it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return {key: jsonable(value) for key, value in told.items()}


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
class WorkBegun(Event):
    """Something that takes a while has begun, such as `measuring the reference networks`."""

    name = "work_begun"
    what: str


@dataclass(frozen=True)
class WorkEnded(Event):
    """Nothing is going on at the moment."""

    name = "work_ended"


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
    """A trial has its result, be it a network or a failure."""

    name = "trial_ended"
    result: TrialResult
    finished: int
    """How many trials of the study have ended with it."""
    trials: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: how it ended and its figures, without channels and stages."""
        told = self.result.attributes
        return {
            **_figures(self.result),
            "equals": told.get("equals"),
            "epochs": jsonable(told.get("epochs")),
            "seconds": round(self.result.seconds, 3),
            "finished": self.finished,
            "trials": self.trials,
        }


@dataclass(frozen=True)
class RoundEnded(Event):
    """An earlier round of a trial is a trial of its own. It is told after the end of the whole trial."""

    name = "round_ended"
    result: TrialResult
    """The round's."""
    round_of: int
    """The trial whose round it is."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as a trial's. It has cost nothing of its own."""
        return {**_figures(self.result), "round_of": self.round_of}


def _figures(result: TrialResult) -> dict[str, Any]:
    told = result.attributes
    known = {key: told[key] for key in _FIGURES if key in told} if result.outcome.has_values else {}
    return {
        "trial": result.number,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "recipe": result.recipe.as_dict(),
        **jsonable(known),
    }


_FIGURES = (
    "accuracy", "latencies", "gflops", "params", "bytes", "channels_removed", "params_removed", "feasible", "violation",
    "checkpoint", FOUND, UNSEPARATED, ROUNDS_ASKED,
)  # fmt: skip


@dataclass(frozen=True)
class Standing(Event):
    """Where the study is, with the trials of all its processes."""

    name = "standing"
    finished: int
    trials: int | None
    trained: int
    """Epochs that trials have trained."""
    reused: int
    """Epochs that they have read back instead."""
    front: Sequence[Mapping[str, Any]]
    """`trial`, `map50_95` and `latency_ms` of each member, by rising latency."""
    remaining: Forecast | None
    is_due: bool = True
    """Whether it is told in plain lines, which is done every few trials."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = super().as_dict()
        del told["is_due"]
        return told


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
class Said(Event):
    """Anything else that a user should know."""

    name = "said"
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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value
