"""One target within a study: what is measured against what on it, and which limit holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prunetune.results.record import StudiedTarget
from prunetune.spaces import MeasurementError, TargetError
from prunetune.spaces.named_networks import REFERENCES
from prunetune.targets import (
    Budget,
    CommandSpec,
    ConvGraph,
    Latency,
    LatencyTable,
    Network,
    NormalizedLatency,
    RuntimeSpec,
    TableTarget,
    Target,
    TargetSpec,
    create_target,
    read_conv_graph,
)
from prunetune.targets.violation import violation


@dataclass(frozen=True, eq=False)
class StudyTarget:
    """A target with its budget, and with the reference that every latency on it is a multiple of."""

    spec: TargetSpec
    target: Target
    """Measures."""
    fingerprint: Mapping[str, str]
    """What tells this device apart from others."""
    is_objective: bool
    """Whether the study minimises the latency on it."""
    budget_text: str | None
    """The limit as the user wrote it; None if there is none."""
    table: LatencyTable | None
    """What predicts latencies here, where something does."""
    reference_names: tuple[str, ...]
    """The networks whose latencies are fixed at the study's start."""
    reference: str
    """The one of them that candidates are measured against: that of the budget."""
    references_ms: Mapping[str, float] = field(default_factory=dict)
    """Their latencies at the study's start; empty before they are measured."""
    references_memory_mb: Mapping[str, float] = field(default_factory=dict)
    """Their peak memory there, in MB; empty where the target does not tell it."""

    @classmethod
    def create(
        cls, spec: TargetSpec, budget_text: str | None, controls: Collection[str], is_objective: bool
    ) -> StudyTarget:
        """A target whose references are not measured yet.

        Args:
            spec: The target's description.
            budget_text: The limit on its latency as the user wrote it; None if there is none.
            controls: The study's, and whatever else is to be measured of the references.
            is_objective: Whether the study minimises the latency on it.

        Raises:
            TargetError: The device is absent, or its latency table belongs to another one.
        """
        target = create_target(spec)
        fingerprint = target.fingerprint()
        needed = Budget.parse(budget_text).references_needed() if budget_text is not None else ()
        names = {"dense", *needed, *controls}
        return cls(
            spec=spec,
            target=target,
            fingerprint=fingerprint,
            is_objective=is_objective,
            budget_text=budget_text,
            table=_read_table(spec, target, fingerprint),
            reference_names=tuple(name for name in REFERENCES if name in names),
            reference=next(iter(needed), "dense"),
        )

    @property
    def name(self) -> str:
        """The target's."""
        return self.spec.name

    @property
    def is_limited(self) -> bool:
        """Whether there is a budget for it."""
        return self.budget_text is not None

    @property
    def limit_ms(self) -> float | None:
        """The budget in ms; None if there is none."""
        return None if self.budget_text is None else Budget.parse(self.budget_text).limit(self.references_ms)

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
        found: ConvGraph = read_conv_graph(dense.onnx)
        if found.size != self.table.graph.size:
            made, here = ("{} x {} px".format(*size) for size in (self.table.graph.size, found.size))
            raise _wrong_table(
                self.spec, f"was made for {made}, not for imgsz: {here}; run prunetune profile with this --imgsz"
            )
        if not self.table.has_layers_of(found):
            raise _wrong_table(self.spec, "was made for another detector; run prunetune profile on the study's model")
        try:
            self.table.predict(found.widths)
        except TargetError as error:
            raise _wrong_table(self.spec, str(error)) from error

    def predict(self, channels: Mapping[str, int], reference: Mapping[str, int]) -> Latency | None:
        """A network's latency by the table, against the reference's; None without a table.

        Args:
            channels: The network's, by layer.
            reference: The reference's.

        Raises:
            TargetError: The networks are not of the table's family (`require_family`).
        """
        if self.table is None:
            return None
        return self.table.relative(self.table.predict(channels), self.table.predict(reference))

    def measure(self, candidate: Network, reference: Network) -> Latency:
        """A candidate's latency, its ratio that to the reference.

        Raises:
            MeasurementError: The candidate cannot be measured, though the reference can.
            TargetError: Nothing can be measured any more.
        """
        try:
            return self.target.measure([reference, candidate], reference=reference.name)[candidate.name]
        except MeasurementError:
            self._require_device(reference)
            raise

    def _require_device(self, reference: Network) -> None:
        """Tells a device that is gone, on which every further trial would fail, from one that refuses a network."""
        try:
            self.target.measure([reference], reference=reference.name)
        except MeasurementError as error:
            raise TargetError(
                f"{error}. {reference.name} could be measured before: the device is gone, and the study stops without "
                "losing a trial. When it is back, the same command goes on"
            ) from error

    def normalized(self, latency: Latency) -> NormalizedLatency:
        """A latency by which trials of different hours compare.

        Args:
            latency: Its ratio is that to the reference.
        """
        # Where a table stands for the device, all is predicted, and its kind says so.
        predicted = latency.runs == 0 and not isinstance(self.target, TableTarget)
        return latency.normalized(self.references_ms[self.reference], self.references_ms["dense"], predicted=predicted)

    def share(self, ratio: float) -> float:
        """A latency as a share of the limit, which there must be: 1 just keeps it.

        Args:
            ratio: The latency, in multiples of the reference's.
        """
        assert self.limit_ms is not None
        return ratio * self.references_ms[self.reference] / self.limit_ms

    def is_surely_over(self, predicted: Latency) -> bool:
        """Whether a predicted latency is over the limit by more than its error bar, however wide that is: what a table
        errs by is no noise, and one measurement settles it."""
        return self.is_limited and self.share(predicted.ratio_low) > 1

    def as_studied(self, fingerprint: Mapping[str, str]) -> StudiedTarget:
        """What the study stores of the target.

        Args:
            fingerprint: Of the device that the study's latencies belong to.
        """
        return StudiedTarget(
            name=self.name,
            kind=self.spec.kind,
            alignment=self.spec.alignment,
            is_objective=self.is_objective,
            budget_text=self.budget_text,
            budget_ms=self.limit_ms,
            references=self.references_ms,
            fingerprint=fingerprint,
            memory_mb=self.references_memory_mb,
        )


def violations(
    targets: Sequence[StudyTarget], latencies: Mapping[str, NormalizedLatency], share: float = 1.0
) -> dict[str, float]:
    """How far a network is over a share of each budget, by target; at most 0 where it is not. See `spaces.violation`.

    Args:
        targets: The study's.
        latencies: The network's, by target.
        share: What is asked for of each limit.
    """
    return {
        target.name: violation(latencies[target.name].ms, latencies[target.name].low_ms, share * limit_ms)
        for target in targets
        if (limit_ms := target.limit_ms) is not None
    }


def _read_table(spec: TargetSpec, target: Target, fingerprint: Mapping[str, str]) -> LatencyTable | None:
    if isinstance(target, TableTarget):
        return target.table
    if not isinstance(spec, RuntimeSpec | CommandSpec) or spec.table is None:
        return None
    try:
        table = LatencyTable.load(Path(spec.table))
    except TargetError as error:
        raise TargetError(f"target {spec.name!r}: table: {error}") from error
    try:
        table.require_device(fingerprint)
    except TargetError as error:
        raise _wrong_table(spec, str(error)) from error
    return table


def _wrong_table(spec: TargetSpec, reason: str) -> TargetError:
    file = spec.table if isinstance(spec, RuntimeSpec | CommandSpec) else ""
    return TargetError(f"target {spec.name!r}: table: {file}: {reason}")
