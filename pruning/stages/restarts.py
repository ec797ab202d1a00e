"""Where a recovery starts from: other weights than those that the surgery left, in the same channels.

Rewinding goes back to early weights of the dense training (Lottery Ticket; Frankle et al. 2019, arXiv 1903.01611); from
scratch are new ones (Liu et al. 2018, "Rethinking the Value of Network Pruning", arXiv 1810.05270). Such a network is
known by its channels: prunings that keep the same ones, however they came to them, share what follows. Rewound weights
get statistics of BatchNorm that fit what is left of the network; new weights begin with those of a new network.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import nn

from prunetune.pruning.planning.plan import PruningPlan
from prunetune.pruning.stages.stage import Stage
from prunetune.pruning.stages.stage_runner import Restart, StageRunner
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.splicing import Remains, compose, cut_to
from prunetune.pruning.yolo.detector import Detector


class Restarts:
    """The starts of one recipe's recoveries.

    Args:
        start: Which weights.
        stages: Runs the stages.
        original: The dense network.
        early: Gives the same after the beginning of its training; asked for a rewind only.
    """

    def __init__(
        self,
        start: Literal["rewind", "scratch"],
        stages: StageRunner,
        original: StoredStage,
        early: Callable[[], StoredStage],
    ) -> None:
        self._start, self._stages, self._original, self._early = start, stages, original, early
        self._left = Remains()

    def after(self, pruned: StoredStage, plan: PruningPlan) -> Restart:
        """The start of the recovery after the next surgery. Call it after each, in their order.

        Args:
            pruned: The network after the surgery.
            plan: The surgery, in channels of what was left before it.
        """
        return self._rewound(plan) if self._start == "rewind" else self._renewed(pruned)

    def _rewound(self, plan: PruningPlan) -> Restart:
        stages, stage = self._stages, self._early()
        early = stages.load(stage)
        with stages.meter.part("surgery"):
            groups = channel_groups(early.model)
        left = self._left = compose(self._left, plan, groups)

        def build() -> Detector:
            with stages.meter.part("surgery"):
                rewound = Detector(cut_to(early.model, left, groups), early.source)
            stages.recalibrate(rewound)
            return rewound

        settings = {**left.as_dict(), "setup": stages.setup.identity()}
        return Restart(Stage("rewound", stage.digest, settings).digest, build)

    def _renewed(self, pruned: StoredStage) -> Restart:
        stages, seed = self._stages, self._stages.setup.seed

        def build() -> Detector:
            detector = stages.load(pruned)
            return Detector(renew(detector.model, seed), detector.source)

        settings = {"channels": pruned.channels.as_dict(), "seed": seed}
        return Restart(Stage("renewed", self._original.digest, settings).digest, build)


def renew(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a detector with new weights, as ultralytics gives them to a network of these channels.

    Args:
        model: The detector.
        seed: Of the weights.
    """
    fresh: Any = deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, layer in fresh.named_modules():
            if ".dfl" not in name and hasattr(layer, "reset_parameters"):  # dfl is a fixed decoder
                layer.reset_parameters()
    fresh.model[-1].bias_init()
    return fresh
