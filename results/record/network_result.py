"""A network of a study: what it is, how fast and how accurate, and where its files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.deployment import Deployment
from prunetune.spaces.fields import integer, mapping, number, numbers, text, widths
from prunetune.targets.latency import NormalizedLatency


@dataclass(frozen=True)
class NetworkFigures:
    """What does not depend on a network's weights."""

    channels: Mapping[str, int] = field(hash=False)
    """Output channels by layer, in the order of the network."""
    params: int
    gflops: float
    bytes: int
    """Size of the checkpoint."""
    channels_removed: float
    """Removed fraction of the dense network's channels."""
    params_removed: float
    """Removed fraction of the dense network's parameters."""
    latencies: Mapping[str, NormalizedLatency] = field(default_factory=dict, hash=False)
    """By target."""
    violations: Mapping[str, float] = field(default_factory=dict, hash=False)
    """How far it is over each budget, as a share of it, by target or by what is limited beside latency (`params`); at
    most 0 where it is not."""
    blocks_removed: int = 0
    """How many of the dense network's residual blocks are gone."""

    @property
    def violation(self) -> float | None:
        """The largest of the violations; None without a budget."""
        return max(self.violations.values(), default=None)

    @property
    def memory_mb(self) -> float | None:
        """Peak memory of the runtime, in MB, on the target where it takes most; None where none tells it."""
        told = [latency.memory_mb for latency in self.latencies.values() if latency.memory_mb is not None]
        return max(told, default=None)

    @property
    def feasible(self) -> bool:
        """Whether every budget is kept."""
        return self.violation is None or self.violation <= 0

    @property
    def predicted(self) -> bool:
        """Whether a latency is known only from a table beside a device that could be measured."""
        return any(latency.predicted for latency in self.latencies.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "channels": dict(self.channels),
            **{name: getattr(self, name) for name in _NUMBERS},
            "latencies": {target: latency.as_dict() for target, latency in self.latencies.items()},
            "violations": dict(self.violations),
        }

    @classmethod
    def parse(cls, stored: Any) -> NetworkFigures | None:
        """The figures that `as_dict` wrote; None where one of its numbers is missing."""
        told = mapping(stored)
        params, size = integer(told.get("params")), integer(told.get("bytes"))
        gflops = number(told.get("gflops"))
        channels_removed, params_removed = number(told.get("channels_removed")), number(told.get("params_removed"))
        if params is None or size is None or gflops is None or channels_removed is None or params_removed is None:
            return None
        return cls(
            channels=widths(told.get("channels")),
            params=params,
            gflops=gflops,
            bytes=size,
            channels_removed=channels_removed,
            params_removed=params_removed,
            latencies=parse_latencies(told.get("latencies")),
            violations=numbers(told.get("violations")),
            blocks_removed=integer(told.get("blocks_removed")) or 0,
        )


_NUMBERS = ("params", "gflops", "bytes", "channels_removed", "params_removed", "blocks_removed")


@dataclass(frozen=True)
class NetworkFiles:
    """Where a network's files are, relative to the study's folder. None: there is no such file."""

    checkpoint: str | None = None
    onnx: str | None = None


@dataclass(frozen=True)
class NetworkResult:
    """A network at one deployment: what a trial had after a round, or a baseline."""

    deployment: Deployment
    figures: NetworkFigures
    accuracy: Accuracy
    """On `val`, as it ships. Of a network that is not recovered: right after surgery, or where it was stopped."""
    recovered: bool = True
    """Whether its accuracy is final."""
    round: int = 1
    """After which round, from 1."""
    surgery: str = ""
    """The digest of the stage that the last surgery made. It stands for its parent and its plan."""
    stage: str = ""
    """The digest of the network's own stage."""
    files: NetworkFiles = NetworkFiles()

    @property
    def is_candidate(self) -> bool:
        """Whether it may stand on a front: recovered, within the budget, measured."""
        return self.recovered and self.figures.feasible and not self.figures.predicted

    def with_latencies(self, latencies: Mapping[str, NormalizedLatency]) -> NetworkResult:
        """The same network with later measurements in the place of its own."""
        return replace(self, figures=replace(self.figures, latencies={**self.figures.latencies, **latencies}))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "deployment": self.deployment.as_dict(),
            "round": self.round,
            "recovered": self.recovered,
            "surgery": self.surgery,
            "stage": self.stage,
            "accuracy": self.accuracy.as_dict(),
            "figures": self.figures.as_dict(),
            "files": {name: path for name, path in vars(self.files).items() if path is not None},
        }

    @classmethod
    def parse(cls, stored: Any) -> NetworkResult | None:
        """The result that `as_dict` wrote; None where its deployment, figures or accuracy are missing or damaged."""
        told = mapping(stored)
        deployment = Deployment.parse(told.get("deployment"))
        figures, accuracy = NetworkFigures.parse(told.get("figures")), Accuracy.parse(told.get("accuracy"))
        if deployment is None or figures is None or accuracy is None:
            return None
        files = mapping(told.get("files"))
        return cls(
            deployment=deployment,
            figures=figures,
            accuracy=accuracy,
            recovered=told.get("recovered") is True,
            round=max(1, integer(told.get("round")) or 1),
            surgery=text(told.get("surgery")) or "",
            stage=text(told.get("stage")) or "",
            files=NetworkFiles(text(files.get("checkpoint")), text(files.get("onnx"))),
        )


def parse_latencies(stored: Any) -> dict[str, NormalizedLatency]:
    """Latencies by target, as they are stored; what is damaged is missing."""
    parsed = {str(target): NormalizedLatency.parse(values) for target, values in mapping(stored).items()}
    return {target: latency for target, latency in parsed.items() if latency is not None}
