"""The figures of a network that do not depend on its weights, and what they say of the budget."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from prunetune.pruning.structure.depth import lacks_only_blocks, residual_blocks
from prunetune.pruning.yolo.detector import Detector
from prunetune.results.record import NetworkFigures, StudiedFigure
from prunetune.results.record.figure import figure_text
from prunetune.search.latency.study_target import StudyTarget, violations
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.context import TrialContext
from prunetune.spaces import ConfigError, Deployment, LatencyShare, MeasurementError, Recipe
from prunetune.targets import FIGURES, MEMORY, Budget, NormalizedLatency

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
        MeasurementError: A target gives no latency for it, or none its memory where that counts.
    """
    latencies = context.meter.normalized(detector, deployment) if latencies is None else latencies
    channels = detector.channels
    figures = NetworkFigures(
        channels=channels.as_dict(),
        params=detector.params,
        gflops=detector.gflops(deployment.imgsz),
        bytes=checkpoint.stat().st_size,
        channels_removed=1 - sum(channels.values()) / sum(context.dense_channels.values()),
        params_removed=1 - detector.params / context.dense_params,
        latencies=latencies,
        violations=violations(context.meter.targets, latencies),
        blocks_removed=blocks_removed(detector, context) or 0,
    )
    if any(item.of(figures) is None for item in context.figures):
        raise MeasurementError(f"no target told {MEMORY} of this network, though one did of the dense network")
    over = {item.name: item.violation(figures) for item in context.figures if item.limit is not None}
    return replace(figures, violations={**figures.violations, **over})


def blocks_removed(detector: Detector, context: TrialContext) -> int | None:
    """How many residual blocks a network has less than the study's dense one; None where it is another detector."""
    blocks = residual_blocks(context.meter.networks.references["dense"].model)
    if not lacks_only_blocks(detector.channels, context.dense_channels, blocks):
        return None
    return len(blocks) - len(residual_blocks(detector.model))


def studied_figures(
    spec: StudySpec, references: Mapping[str, Detector], targets: Sequence[StudyTarget] = ()
) -> tuple[StudiedFigure, ...]:
    """What a study minimises or limits beside latency, with what the references have of it.

    Args:
        spec: The study's.
        references: The networks that a limit may refer to, by name, `dense` among them.
        targets: The study's, with what the references take there.

    Raises:
        ConfigError: Memory counts, and no target tells it.
    """
    return tuple(_studied(key, spec, references, targets) for key in FIGURES if key in (*spec.objectives, *spec.budget))


def _studied(
    key: str, spec: StudySpec, references: Mapping[str, Detector], targets: Sequence[StudyTarget]
) -> StudiedFigure:
    if key == MEMORY:
        told = [(name, mb) for target in targets for name, mb in target.references_memory_mb.items()]
        values = dict(sorted(told, key=itemgetter(1)))  # of several targets the most
        if "dense" not in values:
            raise ConfigError(f"{MEMORY}: no target tells it; a program of kind: command does by printing {_PRINTED}")
    else:
        values = {name: _figure(detector, key, spec.imgsz) for name, detector in references.items()}
    text = spec.budget.get(key)
    limit = None if text is None else Budget.parse(text, key).limit(values)
    return StudiedFigure(key, key in spec.objectives, text, limit, values)


_PRINTED = f'{{"latency_ms": 1.5, "{MEMORY}": 12}}'


def _figure(detector: Detector, key: str, imgsz: int) -> float:
    if key == "params":
        return detector.params
    if key == "gflops":
        return detector.gflops(imgsz)
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        file = Path(folder) / "checkpoint.pt"
        detector.save(file, {}, {})
        return file.stat().st_size


def excess_text(figures: NetworkFigures) -> str:
    """By how much a network is over the budget, where it is over it by most."""
    worst = max(figures.violations, key=lambda key: figures.violations[key])
    idle = "" if figures.channels_removed else "nothing was removed: "
    over = f"{100 * figures.violations[worst]:.0f} % over the budget"
    if (latency := figures.latencies.get(worst)) is None:
        return f"{idle}{figure_text(worst, figures)}, {over}"
    where = f" on {worst}" if len(figures.latencies) > 1 else ""
    how = "predicted " if latency.predicted else ""
    return f"{idle}{how}{latency.ms:.3g} ms{where}, {over}"


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
