"""How slow networks are on a study's targets, as the search for a threshold wants to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.detector import Detector
from prunetune.search.yardstick import Yardstick
from prunetune.targets import Latency

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

    @property
    def is_calibrated(self) -> bool:
        """Whether each target with a budget has a latency table."""
        return all(yardstick.table is not None for yardstick in self._limited)

    def predicted(self, channels: ChannelConfig) -> float | None:
        """By the latency tables; by multiply-adds where a target has none, or None if they cannot be counted."""
        shares = self.predicted_many([channels])
        return None if shares is None else float(shares.max())

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> NDArray[Any] | None:
        """The same of many networks at once, at each target with a budget: networks by targets."""
        if not self.is_calibrated and self._workspace.skeleton is None:
            return None
        return numpy.stack([item.share(1.0) * self._ratios(item, networks) for item in self._limited], axis=1)

    def _ratios(self, yardstick: Yardstick, networks: Sequence[Mapping[str, int]]) -> NDArray[Any]:
        """Networks' latencies in multiples of the anchor's: by the table, or on a straight line through the anchor's
        multiply-adds and the dense network's."""
        known = self._workspace.reference_channels
        anchor = known[yardstick.anchor]
        if (table := yardstick.table) is not None:
            ratios = table.predict_many(table.as_array([anchor, *networks]))
            return ratios[1:] / ratios[0]
        skeleton = self._workspace.skeleton
        assert skeleton is not None  # `predicted_many` has looked
        most, least, *work = map(skeleton.multiply_adds, (known["dense"], anchor, *networks))
        dense = yardstick.references["dense"] / yardstick.references[yardstick.anchor]
        slope = (dense - 1) / (most / least - 1) if most > least else 1.0
        if not 0 < slope <= 1:  # by noise: a part of the time depends on no channels, and the rest grows with them
            slope = 1.0
        return 1 + slope * (numpy.array(work) / least - 1)

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        """As measured now or before in this study.

        Raises:
            MeasurementError: The network cannot be measured, though its reference can.
            TargetError: Nothing can be measured any more.
        """
        return self._largest(self._workspace.measure_channels(channels, build, self._limited))

    def _largest(self, latencies: Mapping[str, Latency]) -> float:
        return max(yardstick.share(latencies[yardstick.name].ratio) for yardstick in self._limited)
