"""The figures of a network that do not depend on its weights, and what they say of the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prunetune.pruning.detector import Detector
from prunetune.results.record import NetworkFigures
from prunetune.search.latency.study_target import violations
from prunetune.search.trial.context import TrialContext
from prunetune.spaces import Deployment, LatencyShare, Recipe
from prunetune.targets import NormalizedLatency

SHARE_TOLERANCE = 1e-6
"""A share of the budget counts as met up to this relative excess."""


def network_figures(
    detector: Detector,
    checkpoint: Path,
    context: TrialContext,
    deployment: Deployment,
    latencies: Mapping[str, NormalizedLatency] | None = None,
) -> NetworkFigures:
    """A network's figures at a deployment.

    Args:
        detector: The network.
        checkpoint: Its file.
        context: The trial's.
        deployment: How it runs.
        latencies: By target; what the study's meter says if None.

    Raises:
        MeasurementError: A target gives no latency for it.
    """
    latencies = context.meter.normalized(detector, deployment) if latencies is None else latencies
    channels = detector.channels
    return NetworkFigures(
        channels=channels.as_dict(),
        params=detector.params,
        gflops=detector.gflops(deployment.imgsz),
        bytes=checkpoint.stat().st_size,
        channels_removed=1 - sum(channels.values()) / sum(context.dense_channels.values()),
        params_removed=1 - detector.params / context.dense_params,
        latencies=latencies,
        violations=violations(context.meter.targets, latencies),
    )


def excess_text(figures: NetworkFigures) -> str:
    """By how much a network is over the budget, where it is over it by most."""
    worst = max(figures.violations, key=lambda target: figures.violations[target])
    latency = figures.latencies[worst]
    where = f" on {worst}" if len(figures.latencies) > 1 else ""
    idle = "" if figures.channels_removed else "nothing was removed: "
    how = "predicted " if latency.predicted else ""
    return f"{idle}{how}{latency.ms:.3g} ms{where}, {100 * figures.violations[worst]:.0f} % over the budget"


@dataclass(frozen=True)
class MissedShare:
    """That a network takes more than the share of the budget that its recipe asks for, and even the strongest pruning
    does: the share is the limit that it violates then."""

    violations: Mapping[str, float]
    """By how much, as a share of each limit."""
    reason: str


def missed_share(figures: NetworkFigures, recipe: Recipe, context: TrialContext) -> MissedShare | None:
    """What is said where a recipe's share of the budget is missed; None where it is met, or none was asked for."""
    cut = recipe.threshold
    if not isinstance(cut, LatencyShare) or not figures.violations:
        return None
    over = violations(context.meter.targets, figures.latencies, cut.share)
    worst = max(over.values())
    if worst <= SHARE_TOLERANCE:
        return None
    floor = f", with a floor of {recipe.floor:.3g}" if recipe.floor else ""
    strongest = (1 + worst) * cut.share
    reason = f"no pruning meets {cut.share:.3g} of the budget, the strongest takes {strongest:.3g} of it{floor}"
    return MissedShare(over, reason)
