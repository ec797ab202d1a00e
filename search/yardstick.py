"""One target within a study: what is measured against what on it, and which limit holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunetune.results.entries import Reading, readings
from prunetune.spaces import MeasurementError, TargetError
from prunetune.spaces.violation import violation
from prunetune.targets import (
    Budget,
    CommandSpec,
    Latency,
    LatencyTable,
    Network,
    RuntimeSpec,
    Skeleton,
    TableTarget,
    Target,
    TargetSpec,
    create_target,
)

REFERENCES = ("dense", "half-width", "quarter-width")
"""The networks that latencies can refer to, in the order in which they are shown."""


class Yardstick:
    """A target with its budget and with the references that every latency stated for it is a multiple of.

    Args:
        spec: The target's description.
        budget: The limit on its latency as the user wrote it; None if there is none.
        controls: The study's controls.
        is_objective: Whether the study minimises the latency on it.

    Raises:
        TargetError: The device is absent.
    """

    def __init__(self, spec: TargetSpec, budget: str | None, controls: Sequence[str], is_objective: bool) -> None:
        self.spec, self.is_objective = spec, is_objective
        self._budget_text, self._budget = budget, None if budget is None else Budget.parse(budget)
        self.target: Target = create_target(spec)
        self.fingerprint = self.target.fingerprint()
        self.table = self._read_table()
        """What predicts latencies here, where something does."""
        needed = self._budget.references_needed() if self._budget else ()
        names = {"dense", *needed, *controls}
        self.reference_names = [name for name in REFERENCES if name in names]
        self.anchor = next(iter(needed), "dense")
        """The network that candidates are measured against: the one the budget speaks of."""
        self.references: dict[str, float] = {}
        """Latencies in ms that were fixed at the study's start."""

    def _read_table(self) -> LatencyTable | None:
        if isinstance(self.target, TableTarget):
            return self.target.table
        if not isinstance(self.spec, RuntimeSpec | CommandSpec) or self.spec.table is None:
            return None
        try:
            table = LatencyTable.load(Path(self.spec.table))
        except TargetError as error:
            raise TargetError(f"target {self.name!r}: table: {error}") from error
        try:
            table.require_device(self.fingerprint)
        except TargetError as error:
            raise self._no_table(str(error)) from error
        return table

    def require_family(self, dense: Network) -> None:
        """Refuses a table that was made for another detector or input size.

        Args:
            dense: The study's dense network.

        Raises:
            TargetError: It was.
        """
        if self.table is None or isinstance(self.target, TableTarget):  # that one looks at every network
            return
        assert dense.onnx is not None  # what runs no ONNX files has no table
        found = Skeleton.read(dense.onnx)
        if found.size != self.table.skeleton.size:
            made, here = ("{} x {} px".format(*size) for size in (self.table.skeleton.size, found.size))
            raise self._no_table(f"was made for {made}, not for imgsz: {here}; run prunetune profile with this --imgsz")
        if not self.table.has_layers_of(found):
            raise self._no_table("was made for another detector; run prunetune profile on the study's model")
        try:
            self.table.predict(found.widths)
        except TargetError as error:
            raise self._no_table(str(error)) from error

    def _no_table(self, reason: str) -> TargetError:
        file = self.spec.table if isinstance(self.spec, RuntimeSpec | CommandSpec) else ""
        return TargetError(f"target {self.name!r}: table: {file}: {reason}")

    @property
    def name(self) -> str:
        """The target's."""
        return self.spec.name

    @property
    def is_limited(self) -> bool:
        """Whether there is a budget for it."""
        return self._budget is not None

    def predict(self, channels: Mapping[str, int], anchor: Mapping[str, int]) -> Latency | None:
        """A network's latency by the table, against the anchor's; None without a table.

        Args:
            channels: The network's, by layer.
            anchor: The anchor's.

        Raises:
            TargetError: The networks are not of the table's family (`require_family`).
        """
        if self.table is None:
            return None
        return self.table.relative(self.table.predict(channels), self.table.predict(anchor))

    def measure(self, candidate: Network, anchor: Network) -> Latency:
        """A candidate's latency, its ratio that to the anchor.

        Raises:
            MeasurementError: The candidate cannot be measured, though the anchor can.
            TargetError: Nothing can be measured any more.
        """
        try:
            return self.target.measure([anchor, candidate], reference=anchor.name)[candidate.name]
        except MeasurementError:
            self._require_device(anchor)
            raise

    def _require_device(self, anchor: Network) -> None:
        """Tells a device that is gone, on which every further trial would fail, from one that refuses a network."""
        try:
            self.target.measure([anchor], reference=anchor.name)
        except MeasurementError as error:
            raise TargetError(
                f"{error}. {anchor.name} could be measured before: the device is gone, and the study stops without "
                "losing a trial. When it is back, the same command goes on"
            ) from error

    def stated(self, latency: Latency) -> dict[str, float | None]:
        """A latency as the study states it: what trials of different hours compare by.

        Args:
            latency: Its ratio is that to the anchor.
        """
        stated = latency.stated_ms(self.references[self.anchor])
        told: dict[str, float | None] = {
            "latency_ms": stated,
            "latency_low_ms": latency.stated_low_ms(self.references[self.anchor]),
            "latency_ratio": stated / self.references["dense"],
            "latency_spread_ms": latency.ratio_spread * self.references[self.anchor],
            "latency_uncertainty": latency.uncertainty if math.isfinite(latency.uncertainty) else None,
        }
        # Where a table stands for the device, all is predicted, and its kind says so.
        is_predicted = latency.runs == 0 and not isinstance(self.target, TableTarget)
        return {**told, "predicted": True} if is_predicted else told

    def is_surely_over(self, predicted: Latency) -> bool:
        """Whether a predicted latency is over the limit by more than its error bar, however wide that is: what a table
        errs by is no noise, and one measurement settles it."""
        return self.is_limited and self.share(predicted.ratio_low) > 1

    def violation(self, reading: Reading, share: float = 1.0) -> float:
        """How far a stated latency is over a share of the limit, which there must be; see `spaces.violation`."""
        assert self._budget is not None
        limit_ms = share * self._budget.limit_ms(self.references)
        return violation(reading.latency_ms, reading.latency_low_ms, limit_ms)

    def share(self, ratio: float) -> float:
        """A latency as a share of the limit, which there must be: 1 just keeps it.

        Args:
            ratio: The latency, in multiples of the anchor's.
        """
        assert self._budget is not None
        return ratio * self.references[self.anchor] / self._budget.limit_ms(self.references)

    def as_dict(self, fingerprint: Mapping[str, str]) -> dict[str, Any]:
        """What the study stores of the target.

        Args:
            fingerprint: Of the device that the study's latencies belong to.
        """
        limit_ms = None if self._budget is None else self._budget.limit_ms(self.references)
        return {
            "name": self.name,
            "kind": self.spec.kind,
            "alignment": self.spec.alignment.as_json(),
            "is_objective": self.is_objective,
            "fingerprint": dict(fingerprint),
            "references": self.references,
            "budget": None if limit_ms is None else {"text": self._budget_text, "limit_ms": limit_ms},
        }


def violations(yardsticks: Sequence[Yardstick], latencies: Mapping[str, Any], share: float = 1.0) -> dict[str, float]:
    """How far a network is over a share of each budget, by target; at most 0 where it is not.

    Args:
        yardsticks: The study's.
        latencies: The network's, by target, as `Yardstick.stated` gives them.
        share: What is asked for of each limit.
    """
    known = readings(latencies)
    return {item.name: item.violation(known[item.name], share) for item in yardsticks if item.is_limited}
