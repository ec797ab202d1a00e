"""What a picture of the front shows: a study's networks on one target, by what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prunetune.results.findings.findings import Findings
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import StudiedTarget
from prunetune.spaces.outcome import Outcome

WIDTH, HEIGHT = 0.07, 0.04
"""Of a name, as shares of the picture's."""


@dataclass(frozen=True)
class Point:
    """A network with its place: accuracy against the latency on the target that is drawn."""

    network: StudyNetwork
    latency_ms: float

    @property
    def map50_95(self) -> float:
        """On `val`."""
        return self.network.map50_95

    @property
    def off_ms(self) -> float:
        """Half of the latency's 95 % interval; 0 where it is not known."""
        latency = self.network.latency
        return 0.0 if latency is None else latency.ms * (latency.uncertainty or 0.0)


@dataclass(frozen=True)
class FrontPoints:
    """All networks whose latency on the target is known."""

    target: StudiedTarget | None
    front: tuple[Point, ...]
    """By rising latency."""
    dominated: tuple[Point, ...]
    """Further candidates, those that fell over a budget at the last measurement among them."""
    deployed: tuple[Point, ...]
    """Networks of trials at further deployments that are not on the front: of less interest, and many."""
    stopped: tuple[Point, ...]
    """Those whose recovery was stopped early."""
    slow: tuple[Point, ...]
    """Recovered ones over the budget, whose recipes had further rounds."""
    over: tuple[Point, ...]
    """Those over the budget that were not recovered: their accuracy is the one before."""
    curve: tuple[Point, ...]
    """The sceptic's curve: the baselines that no other dominates, by rising latency."""
    baselines: tuple[Point, ...]
    """The others at the deployments that they were trained for."""
    deployed_baselines: tuple[Point, ...]
    """The others at further deployments."""

    @classmethod
    def of(cls, found: Findings, target: str | None = None) -> FrontPoints:
        """Sorts a study's networks.

        Args:
            found: The study.
            target: The target's name; the main one if None.
        """
        drawn = next((known for known in found.targets if known.name == target), found.main)

        def points(networks: Iterable[StudyNetwork]) -> tuple[Point, ...]:
            on_target = [network if drawn is None else network.on(drawn.name) for network in networks]
            return tuple(Point(network, network.latency_ms) for network in on_target if network.latency_ms is not None)

        members = {network.name for network in found.front}
        networks = [network for network in found.networks.values() if not network.is_deployed_further]
        further = [network for network in found.networks.values() if network.is_deployed_further]
        curve = {network.name for network in found.baseline_front}
        controls = [network for network in found.baselines.values() if network.name not in curve]
        raw = [network for network in networks if not network.result.recovered]
        return cls(
            target=drawn,
            front=_by_latency(points(found.front)),
            dominated=points(item for item in networks if item.result.is_candidate and item.name not in members),
            deployed=points(item for item in further if item.result.recovered and item.name not in members),
            stopped=points(network for network in raw if found.outcome(network) is Outcome.STOPPED_EARLY),
            slow=points(network for network in networks if network.result.recovered and not network.figures.feasible),
            over=points(network for network in raw if found.outcome(network) is Outcome.OVER_BUDGET),
            curve=_by_latency(points(found.baseline_front)),
            baselines=points(network for network in controls if not network.is_deployed_further),
            deployed_baselines=points(network for network in controls if network.is_deployed_further),
        )

    @property
    def controls(self) -> tuple[Point, ...]:
        """The baselines that are named: those on the sceptic's curve, then the others that are drawn large."""
        return (*self.curve, *self.baselines)

    @property
    def drawn(self) -> tuple[Point, ...]:
        """All that were recovered or trained, whose accuracies compare."""
        return (*self.front, *self.dominated, *self.deployed, *self.stopped, *self.slow, *self.controls,
                *self.deployed_baselines)  # fmt: skip


def with_room(points: Iterable[Point], width: float, height: float) -> set[str]:
    """The names of points that have room for it; those of the most accurate come first.

    Args:
        points: The points.
        width: Of a name, in ms.
        height: Of a name, in map50_95.
    """
    named: list[Point] = []
    for point in sorted(points, key=lambda point: -point.map50_95):
        near = (item for item in named if abs(item.latency_ms - point.latency_ms) < width)
        if all(abs(item.map50_95 - point.map50_95) >= height for item in near):
            named.append(point)
    return {point.network.name for point in named}


def is_left(point: Point, controls: Sequence[Point], budget_ms: float | None) -> bool:
    """Whether the name of a control stands to its left: so that it keeps to its side of the budget's line, and within
    the picture."""
    slowest = max(control.latency_ms for control in controls)
    is_near = budget_ms is not None and 0.8 * budget_ms <= point.latency_ms <= budget_ms
    return is_near or point.latency_ms > 0.8 * slowest


def is_step(line: Sequence[Point]) -> bool:
    """Whether points by rising latency are a line of steps; not if some are ahead on another target only, and lie below
    it."""
    return all(before.map50_95 <= after.map50_95 for before, after in pairwise(line))


def _by_latency(points: Iterable[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: point.latency_ms))
