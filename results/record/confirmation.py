"""How sure a study's figures are: what `prunetune confirm` measured, with intervals, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunetune.pruning.data.data_facts import DataFacts, SharedImages
from prunetune.spaces.fields import integer, mapping, number, text


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    def excludes(self, point: float) -> bool:
        """Whether the value differs from a point by more than its uncertainty."""
        return not self.low <= point <= self.high

    def as_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def parse(cls, told: Any) -> Interval | None:
        """The interval that `as_dict` wrote; None for anything else."""
        value, low, high = (number(mapping(told).get(name)) for name in ("value", "low", "high"))
        return None if value is None or low is None or high is None else cls(value, low, high)


@dataclass(frozen=True)
class Comparison:
    """One network against another, on the same images and in the same rounds."""

    map50: Interval | None
    """This network's mAP50 minus the other's."""
    map50_95: Interval | None
    """This network's map50_95 minus the other's."""
    latencies: Mapping[str, Interval] = field(hash=False)
    """This network's latency in multiples of the other's, by target."""

    @property
    def is_accuracy_sure(self) -> bool:
        """Whether the difference in map50_95 is larger than its uncertainty."""
        return self.map50_95 is not None and self.map50_95.excludes(0.0)

    def is_latency_sure(self, target: str) -> bool:
        """Whether the difference in latency on a target is larger than its uncertainty."""
        return target in self.latencies and self.latencies[target].excludes(1.0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "map50": None if self.map50 is None else self.map50.as_dict(),
            "map50_95": None if self.map50_95 is None else self.map50_95.as_dict(),
            "latencies": {target: interval.as_dict() for target, interval in self.latencies.items()},
        }

    @classmethod
    def parse(cls, told: Any) -> Comparison:
        """The comparison that `as_dict` wrote; what is damaged is missing."""
        values = mapping(told)
        return cls(Interval.parse(values.get("map50")), Interval.parse(values.get("map50_95")), _latencies(values))


@dataclass(frozen=True)
class ConfirmedNetwork:
    """What is known of one network."""

    map50: Interval | None
    map50_95: Interval | None
    latencies: Mapping[str, Interval] = field(hash=False)
    """In ms, by target."""
    against: Mapping[str, Comparison] = field(hash=False)
    """By the other network: each control, and for a member of the front the next slower member, by its number."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = Comparison(self.map50, self.map50_95, self.latencies).as_dict()
        return {**figures, "against": {name: other.as_dict() for name, other in self.against.items()}}

    @classmethod
    def parse(cls, told: Any) -> ConfirmedNetwork:
        """The network that `as_dict` wrote; what is damaged is missing."""
        figures = Comparison.parse(told)
        against = mapping(mapping(told).get("against"))
        others = {str(name): Comparison.parse(other) for name, other in against.items()}
        return cls(figures.map50, figures.map50_95, figures.latencies, others)


@dataclass(frozen=True)
class Confirmation:
    """One run of `prunetune confirm`.

    Accuracies are those of images that no decision saw, if `split` is `test` and `shared` is empty. Their intervals
    come from resampling these images with replacement (bootstrap, percentiles), those of latencies from the rounds of
    one interleaved measurement. Differences are taken image by image and round by round.
    """

    split: str
    """`test`, or `val` for data without a test split: those images decided which checkpoint was kept."""
    images: int
    resamples: int
    seed: int
    confidence: float
    """How many of such intervals hold the true value, as a share."""
    made: str
    """When, in ISO 8601 and UTC."""
    busy: float | None
    """Share of the CPU that other programs took just before the measurement."""
    networks: Mapping[str, ConfirmedNetwork] = field(hash=False)
    """By the control's name or the trial's number."""
    shared: tuple[SharedImages, ...] = ()
    """Images of the split that are in earlier ones as well."""

    def of(self, name: str | int) -> ConfirmedNetwork | None:
        """A control by its name, or a trial by its number; None for one that was not there."""
        return self.networks.get(str(name))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "split": self.split,
            "images": self.images,
            "resamples": self.resamples,
            "seed": self.seed,
            "confidence": self.confidence,
            "made": self.made,
            "busy": self.busy,
            "networks": {name: network.as_dict() for name, network in self.networks.items()},
            "shared": [item.as_dict() for item in self.shared],
        }

    @classmethod
    def parse(cls, stored: Any) -> Confirmation | None:
        """The confirmation that `as_dict` wrote; None where it knows no network. What is damaged is missing."""
        told = mapping(stored)
        networks = mapping(told.get("networks"))
        if not networks:
            return None
        return cls(
            split=text(told.get("split")) or "test",
            images=integer(told.get("images")) or 0,
            resamples=integer(told.get("resamples")) or 0,
            seed=integer(told.get("seed")) or 0,
            confidence=number(told.get("confidence")) or 0.95,
            made=text(told.get("made")) or "",
            busy=number(told.get("busy")),
            networks={str(name): ConfirmedNetwork.parse(network) for name, network in networks.items()},
            shared=DataFacts.parse(told).shared,
        )


def _latencies(told: Mapping[str, Any]) -> dict[str, Interval]:
    parsed = {str(target): Interval.parse(values) for target, values in mapping(told.get("latencies")).items()}
    return {target: interval for target, interval in parsed.items() if interval is not None}
