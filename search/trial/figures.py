"""The figures of a network that do not depend on its weights, and what they say of the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prunetune.pruning.detector import Detector
from prunetune.results.record import NetworkFigures
from prunetune.search.latency.study_target import violations
from prunetune.search.trial.context import TrialContext
from prunetune.spaces import LatencyShare, Recipe
from prunetune.targets import NormalizedLatency

EXACT = 1e-6
"""By so little a share of the budget is not missed."""


def network_figures(
    detector: Detector,
    checkpoint: Path,
    context: TrialContext,
    latencies: dict[str, NormalizedLatency] | None = None,
) -> NetworkFigures:
    """A network's figures.

    Args:
        detector: The network.
        checkpoint: Its file.
        context: The trial's.
        latencies: By target; what the study's meter says if None.

    Raises:
        MeasurementError: A target gives no latency for it.
    """
    latencies = context.meter.normalized(detector) if latencies is None else latencies
    channels = detector.channels
    return NetworkFigures(
        channels=channels.as_dict(),
        params=detector.params,
        gflops=detector.gflops(context.spec.imgsz),
        bytes=checkpoint.stat().st_size,
        channels_removed=channels.removed(context.dense_channels),
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


def over_share(figures: NetworkFigures, recipe: Recipe, context: TrialContext) -> tuple[NetworkFigures, str] | None:
    """What is said of a network that takes more than the share of the budget that its recipe asks for.

    Then even the strongest pruning does, and the share is the limit that the network violates.

    Returns:
        The figures with these violations, and the reason; None where the share is kept, or none was asked for.
    """
    cut = recipe.threshold
    if not isinstance(cut, LatencyShare) or not figures.violations:
        return None
    over = violations(context.meter.targets, figures.latencies, cut.share)
    worst = max(over.values())
    if worst <= EXACT:
        return None
    floor = f", with a floor of {recipe.floor:.3g}" if recipe.floor else ""
    strongest = (1 + worst) * cut.share
    reason = f"no pruning meets {cut.share:.3g} of the budget, the strongest takes {strongest:.3g} of it{floor}"
    return replace(figures, violations=over), reason
