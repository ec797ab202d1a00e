"""What a picture of the front shows: a study's networks on one target, by what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from prunetune.results.findings import Findings
from prunetune.results.record import StudiedTarget
from prunetune.results.study_network import StudyNetwork
from prunetune.spaces.outcome import Outcome


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
    stopped: tuple[Point, ...]
    """Those whose recovery was stopped early."""
    slow: tuple[Point, ...]
    """Recovered ones over the budget, whose recipes had further rounds."""
    over: tuple[Point, ...]
    """Those over the budget that were not recovered: their accuracy is the one before."""
    baselines: tuple[Point, ...]

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
        networks = list(found.networks.values())
        raw = [network for network in networks if not network.result.recovered]
        return cls(
            target=drawn,
            front=tuple(sorted(points(found.front), key=lambda point: point.latency_ms)),
            dominated=points(network for network in found.candidates if network.name not in members),
            stopped=points(network for network in raw if found.outcome(network) is Outcome.STOPPED_EARLY),
            slow=points(network for network in networks if network.result.recovered and not network.figures.feasible),
            over=points(network for network in raw if found.outcome(network) is Outcome.OVER_BUDGET),
            baselines=points(found.baselines.values()),
        )

    @property
    def is_step(self) -> bool:
        """Whether the front is a line of steps; not if members are ahead on another target only, and lie below it."""
        return all(before.map50_95 <= after.map50_95 for before, after in pairwise(self.front))
