"""How slow networks are on a study's targets, as the search for a threshold wants to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.detector import Detector
from prunetune.search.yardstick import Yardstick
from prunetune.targets import Latency

if TYPE_CHECKING:
    from prunetune.search.workspace import Workspace


class StudyLatencies:
    """Latencies as shares of a study's budgets; of several targets the one that is nearest to its limit, or furthest
    above it, counts. A `LatencyShares` of `prunetune.pruning`.

    Args:
        workspace: The study's. Its references must be measured before anything is asked.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def _limited(self) -> list[Yardstick]:
        return [yardstick for yardstick in self._workspace.yardsticks if yardstick.is_limited]

    @property
    def dense(self) -> float:
        """The dense network's share."""
        ratios = [(item, item.references["dense"] / item.references[item.anchor]) for item in self._limited]
        return max(yardstick.share(ratio) for yardstick, ratio in ratios)

    def predicted(self, channels: ChannelConfig) -> float | None:
        """By the latency tables; None where a target with a budget has none."""
        if any(yardstick.table is None for yardstick in self._limited):
            return None
        return self._largest(self._workspace.predict(channels))

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        """As measured now or before in this study.

        Raises:
            MeasurementError: The network cannot be measured, though its reference can.
            TargetError: Nothing can be measured any more.
        """
        return self._largest(self._workspace.measure_channels(channels, build, self._limited))

    def _largest(self, latencies: Mapping[str, Latency]) -> float:
        return max(yardstick.share(latencies[yardstick.name].ratio) for yardstick in self._limited)
