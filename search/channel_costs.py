"""What a study's networks take, as far as it is known without measuring: for a sparsity that goes where time is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunetune.pruning.channels import ChannelConfig
from prunetune.search.yardstick import Yardstick
from prunetune.spaces import ConfigError

if TYPE_CHECKING:
    from prunetune.search.workspace import Workspace


class StudyCosts:
    """Networks' times as shares of the dense one's, the mean over the study's targets; those with a budget, if any has
    one. A `ChannelCosts` of `prunetune.pruning`.

    Args:
        workspace: The study's.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def time(self, channels: ChannelConfig) -> float:
        """By the latency tables; by multiply-adds where a target has none.

        Raises:
            ConfigError: A target has no table, and the multiply-adds cannot be counted.
        """
        every = self._workspace.yardsticks
        counted = [yardstick for yardstick in every if yardstick.is_limited] or every
        return sum(self._share(yardstick, channels) for yardstick in counted) / len(counted)

    def _share(self, yardstick: Yardstick, channels: ChannelConfig) -> float:
        dense = self._workspace.reference_channels["dense"]
        if (latency := yardstick.predict(channels, dense)) is not None:
            return latency.ratio
        skeleton = self._workspace.skeleton
        if skeleton is None:
            raise ConfigError(
                f"penalty_weights: what a layer's channels cost on target {yardstick.name!r} is not known; make a "
                "latency table with prunetune profile, or give penalty_weights: uniform"
            )
        return skeleton.multiply_adds(channels) / skeleton.multiply_adds(dense)
