"""How slow networks are, in the terms of those who plan a surgery: as shares of the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.detector import Detector
from prunetune.search.latency.meter import LatencyMeter
from prunetune.search.latency.study_target import StudyTarget
from prunetune.spaces import ImageSize
from prunetune.targets import Latency

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BudgetShares:
    """Latencies as shares of a study's budgets; of several targets the one that is nearest to its limit, or furthest
    above it, counts. A `LatencyShares` of `prunetune.pruning`.

    Args:
        meter: The study's.
    """

    def __init__(self, meter: LatencyMeter) -> None:
        self._meter = meter
        self._limited = [target for target in meter.targets if target.is_limited]

    def at(self, imgsz: ImageSize | None) -> BudgetShares:
        """Of the study's own input size, whatever the size."""
        return self

    @property
    def dense(self) -> float:
        """The dense network's share."""
        return max(
            target.share(target.references_ms["dense"] / target.references_ms[target.reference])
            for target in self._limited
        )

    @property
    def is_calibrated(self) -> bool:
        """Whether each target with a budget has a latency table."""
        return all(target.table is not None for target in self._limited)

    def predicted(self, channels: ChannelConfig) -> float | None:
        """By the latency tables; by multiply-adds where a target has none, or None if they cannot be counted."""
        shares = self.predicted_many([channels])
        return None if shares is None else float(shares.max())

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> NDArray[Any] | None:
        """The same of many networks at once, at each target with a budget: networks by targets."""
        if not self.is_calibrated and self._meter.networks.conv_graph is None:
            return None
        return numpy.stack([target.share(1.0) * self._ratios(target, networks) for target in self._limited], axis=1)

    def _ratios(self, target: StudyTarget, networks: Sequence[Mapping[str, int]]) -> NDArray[Any]:
        """Networks' latencies in multiples of the reference's: by the table, or on a straight line through the
        reference's multiply-adds and the dense network's."""
        channels = self._meter.networks.channels
        reference = channels[target.reference]
        if (table := target.table) is not None:
            ratios = table.predict_many(table.as_array([reference, *networks]))
            return ratios[1:] / ratios[0]
        graph = self._meter.networks.conv_graph
        assert graph is not None  # `predicted_many` has looked
        most, least, *work = map(graph.multiply_adds, (channels["dense"], reference, *networks))
        dense = target.references_ms["dense"] / target.references_ms[target.reference]
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
        latencies: Mapping[str, Latency] = self._meter.measure_channels(channels, build, self._limited)
        return max(target.share(latencies[target.name].ratio) for target in self._limited)
