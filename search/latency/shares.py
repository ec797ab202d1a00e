"""How slow networks are, in the terms of those who plan a surgery: as shares of the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy

from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.latency.meter import LatencyMeter
from prunetune.search.latency.study_target import StudyTarget
from prunetune.spaces import Deployment, ImageSize
from prunetune.targets import Latency

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BudgetShares:
    """Latencies as shares of a study's budgets; of several targets the one that is nearest to its limit, or furthest
    above it, counts. A `LatencyShares` of `prunetune.pruning`.

    Args:
        meter: The study's.
        deployment: How the networks run; the study's by default.
    """

    def __init__(self, meter: LatencyMeter, deployment: Deployment | None = None) -> None:
        self._meter, self._deployment = meter, deployment or meter.networks.deployment
        self._limited = [target for target in meter.targets if target.is_limited]

    def at(self, imgsz: ImageSize | None) -> BudgetShares:
        """The same for networks of an input size; None: the study's."""
        own = self._meter.networks.deployment
        return BudgetShares(self._meter, own if imgsz is None else replace(own, imgsz=imgsz))

    @property
    def dense(self) -> float:
        """The dense network's share."""
        return max(
            target.share(self._meter.reference_ratios(target, self._deployment)["dense"]) for target in self._limited
        )

    @property
    def is_calibrated(self) -> bool:
        """Whether each target with a budget has a latency table, which is of the study's own input size."""
        is_own = self._deployment == self._meter.networks.deployment
        return is_own and all(target.table is not None for target in self._limited)

    def predicted(self, channels: ChannelConfig) -> float | None:
        """By the latency tables; by multiply-adds where a target has none, or None if they cannot be counted."""
        shares = self.predicted_many([channels])
        return None if shares is None else float(shares.max())

    def predicted_many(self, networks: Sequence[Mapping[str, int]]) -> NDArray[Any] | None:
        """The same of many networks at once, at each target with a budget: networks by targets."""
        shares = []
        for target in self._limited:
            ratios = predicted_ratios(self._meter, target, networks, self._deployment)
            if ratios is None:
                return None
            shares.append(target.share(1.0) * ratios)
        return numpy.stack(shares, axis=1)

    def measured(self, channels: ChannelConfig, build: Callable[[], Detector]) -> float:
        """As measured now or before in this study.

        Raises:
            MeasurementError: The network cannot be measured, though its reference can.
            TargetError: Nothing can be measured any more.
        """
        latencies: Mapping[str, Latency] = self._meter.measure_channels(
            channels, build, self._limited, self._deployment
        )
        return max(target.share(latencies[target.name].ratio) for target in self._limited)


def predicted_ratios(
    meter: LatencyMeter, target: StudyTarget, networks: Sequence[Mapping[str, int]], deployment: Deployment
) -> NDArray[Any] | None:
    """Networks' latencies in multiples of that of the target's reference at the study's deployment, without measuring.

    At the study's own deployment by the target's table, or else on a straight line through the multiply-adds of the
    reference and the dense network. At another one on the straight line that takes the references' predictions there
    to what was measured of them: a narrower network saves there what it saves here, in proportion.

    Args:
        meter: The study's.
        target: Where they run.
        networks: Layer name to channels.
        deployment: How they run there.

    Returns:
        A ratio for each network; None where there is no table and multiply-adds cannot be counted.
    """
    channels = meter.networks.channels
    if target.table is None and meter.networks.conv_graph is None:
        return None
    own = _own_ratios(meter, target, networks)
    if deployment == meter.networks.deployment:
        return own
    there = meter.reference_ratios(target, deployment)
    names = sorted(there, key=lambda name: name != "dense")[:2]
    here = _own_ratios(meter, target, [channels[name] for name in names])
    if len(names) < 2 or here[0] <= here[1] or there[names[0]] <= there[names[1]]:
        return own * (there["dense"] / here[0])
    slope = (there[names[0]] - there[names[1]]) / (here[0] - here[1])
    return numpy.maximum(there[names[1]] + slope * (own - here[1]), 0.0)


def _own_ratios(meter: LatencyMeter, target: StudyTarget, networks: Sequence[Mapping[str, int]]) -> NDArray[Any]:
    """The same at the study's own deployment, where something predicts it."""
    channels = meter.networks.channels
    reference = channels[target.reference]
    if (table := target.table) is not None:
        ratios = table.predict_many(table.as_array([reference, *networks]))
        return ratios[1:] / ratios[0]
    graph = meter.networks.conv_graph
    assert graph is not None  # the caller has looked
    most, least, *work = map(graph.multiply_adds, (channels["dense"], reference, *networks))
    dense = target.references_ms["dense"] / target.references_ms[target.reference]
    slope = (dense - 1) / (most / least - 1) if most > least else 1.0
    if not 0 < slope <= 1:  # by noise: a part of the time depends on no channels, and the rest grows with them
        slope = 1.0
    return 1 + slope * (numpy.array(work) / least - 1)
