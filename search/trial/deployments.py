"""What a recovered network does at further deployments: smaller inputs, other precisions, without any training.

Most of them cannot come to the front, and are not measured for that. A network has hardly more accuracy at a smaller
input than at a larger one; so what it had there, with some margin, bounds what it can have here. Whoever is faster than
it is predicted to be and more accurate than that bound keeps it from the front.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prunetune.pruning.structure.channels import digest_of
from prunetune.pruning.yolo.detector import Detector
from prunetune.results.findings.pareto import nondominated
from prunetune.results.record import NetworkFigures, NetworkResult
from prunetune.search.latency.shares import predicted_ratios
from prunetune.search.latency.study_target import violations
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.figures import blocks_removed, network_figures
from prunetune.spaces import Deployment, MeasurementError
from prunetune.targets import NormalizedLatency

MARGIN = 0.02
"""So much map50_95 more than at a larger input, or in full precision, a network may have."""

SLACK = 0.15
"""By this share a latency may be below its prediction."""

_log = logging.getLogger(__name__)


def further_networks(
    network: NetworkResult, detector: Detector, context: TrialContext, own: Sequence[NetworkResult] = ()
) -> tuple[NetworkResult, ...]:
    """A recovered network at the study's further deployments, those left out that cannot come to the front.

    Args:
        network: At the deployment that it was recovered for, its checkpoint among the study's files.
        detector: The same.
        context: The trial's.
        own: What the trial has beside it.
    """
    found: list[NetworkResult] = []
    is_bounded = True
    with context.cost_meter.all_as("deploy"):
        rivals = [other for record in context.peers.records().values() for other in record.networks]
        for deployment in context.further(network.deployment):
            before = [other for other in (network, *found) if _covers(other.deployment, deployment)]
            bound = min(other.accuracy.map50_95 for other in before) + MARGIN if is_bounded else 1.0
            if not _may_be_best(network, detector, deployment, bound, [*rivals, *own, network, *found], context):
                continue
            try:
                found.append(deployed(network, detector, deployment, context))
                # A detector that was given may have learnt at a smaller input, and be better there.
                is_bounded = is_bounded and found[-1].accuracy.map50_95 <= bound
            except MeasurementError as error:  # that is this deployment's end, and not the trial's
                _log.warning("%s at %s: %s", context.title, deployment, error)
    return tuple(found)


def deployed(
    network: NetworkResult, detector: Detector, deployment: Deployment, context: TrialContext
) -> NetworkResult:
    """A network measured and evaluated at another deployment.

    Args:
        network: At its own, its checkpoint among the study's files.
        detector: The same.
        deployment: Where to.
        context: The study's.

    Raises:
        MeasurementError: A target cannot run it there.
    """
    figures = measured_figures(detector, context.folder / str(network.files.checkpoint), deployment, context)
    accuracy = context.shipping.evaluate(detector, deployment)
    return replace(network, deployment=deployment, figures=figures, accuracy=accuracy)


def measured_figures(
    detector: Detector, checkpoint: Path, deployment: Deployment, context: TrialContext
) -> NetworkFigures:
    """The figures of a network of whatever family, measured in any case: no table predicts them.

    Raises:
        MeasurementError: A target cannot run it there.
    """
    measured = context.meter.measure(detector, deployment, _family(detector, context))
    latencies = {target.name: target.normalized(measured[target.name]) for target in context.meter.targets}
    return network_figures(detector, checkpoint, context, deployment, latencies)


def _family(detector: Detector, context: TrialContext) -> str:
    """What tells the latency of another detector from that of equal channels in the study's; empty for the study's, and
    for what is left of it without residual blocks."""
    if blocks_removed(detector, context) is not None:
        return ""
    return digest_of([detector.model.yaml.get(part) for part in ("backbone", "head")])


def _covers(other: Deployment, deployment: Deployment) -> bool:
    """Whether no network has more accuracy at a deployment than at another one, which is larger or more exact."""
    (height, width), (least_height, least_width) = other.height_width, deployment.height_width
    is_as_exact = other.precision == deployment.precision or deployment.precision == "int8"
    return height >= least_height and width >= least_width and is_as_exact


def _may_be_best(
    network: NetworkResult,
    detector: Detector,
    deployment: Deployment,
    bound: float,
    rivals: Sequence[NetworkResult],
    context: TrialContext,
) -> bool:
    """Whether a network could come to the front if it had an accuracy and was a little faster than predicted."""
    predicted = _predicted(detector, deployment, context)
    if predicted is None:
        return True
    if any(over > 0 for over in violations(context.meter.targets, predicted).values()):
        return False
    figures = replace(network.figures, latencies=predicted, gflops=detector.gflops(deployment.imgsz))
    hoped = replace(network, figures=figures, accuracy=replace(network.accuracy, map50_95=bound))
    points = [context.values(other) for other in rivals if other.is_candidate]
    return nondominated([*points, context.values(hoped)])[-1]


def _predicted(
    detector: Detector, deployment: Deployment, context: TrialContext
) -> Mapping[str, NormalizedLatency] | None:
    """The least that a network may take, by target; None where that cannot be told without measuring."""
    found = {}
    for target in context.meter.targets:
        ratios = predicted_ratios(context.meter, target, [detector.channels], deployment)
        if ratios is None:
            return None
        ms = (1 - SLACK) * float(ratios[0]) * target.references_ms[target.reference]
        ratio = ms / target.references_ms["dense"]
        found[target.name] = NormalizedLatency(ms, ratio, predicted=True, memory_mb=0.0)  # nothing predicts memory
    return found
