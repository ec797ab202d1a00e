"""One interleaved run over networks that a study has measured one by one, so that they compare to the last percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import optuna

from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.yolo.detector import Detector
from prunetune.results import Findings, StudyNetwork
from prunetune.results.record import StudyRecord
from prunetune.search.engine.study_setup import sign_devices
from prunetune.search.interruption import safe_point
from prunetune.search.latency.study_target import StudyTarget
from prunetune.search.trial.context import TrialContext
from prunetune.spaces import Deployment
from prunetune.targets import Latency, NormalizedLatency

AT_ONCE = 16
"""Networks that are measured in one run; more would only wait for each other."""


class Deployed(NamedTuple):
    """A network to measure, and how it runs."""

    detector: Detector
    deployment: Deployment


Runs = Mapping[str, Sequence[Mapping[str, Latency]]]
"""What was measured together: by target, for each run the latencies of its networks by name."""


def confirm(
    study: optuna.Study,
    context: TrialContext,
    networks: Mapping[str, Deployed],
    targets: Sequence[StudyTarget] | None = None,
) -> None:
    """Measures networks together, and stores what they are now known by.

    Args:
        study: Gets the latencies, beside those that are there.
        context: The study's.
        networks: By name.
        targets: Those to measure on; all by default.
    """
    runs = {
        target.name: measure_together(context, target, networks)
        for target in (context.meter.targets if targets is None else targets)
    }
    store_latencies(study, context, runs)


def measure_together(
    context: TrialContext, target: StudyTarget, networks: Mapping[str, Deployed], always: Sequence[str] = ()
) -> list[dict[str, Latency]]:
    """Measures networks on one target, interleaved, in as few runs as `AT_ONCE` allows.

    Args:
        context: The study's.
        target: The target.
        networks: By name.
        always: Those of them that take part in every run, so that all others are compared with them.

    Returns:
        For each run the latencies of its networks, each with its ratio to the reference and its rounds.
    """
    exporter = context.meter.networks
    reference = replace(exporter.reference(target.reference, target), name="the reference")
    measured_runs = []
    room = max(1, AT_ONCE - len(always))
    for part in _parts([name for name in networks if name not in always], room) or [[]]:
        safe_point()
        names = [*always, *part]
        compared = [exporter.network(name, *networks[name], target) for name in names]
        with context.cost_meter.part("measure"):
            measured = target.target.measure([reference, *compared], reference=reference.name)
        measured_runs.append({name: measured[name] for name in names})
    return measured_runs


def store_latencies(study: optuna.Study, context: TrialContext, runs: Runs) -> None:
    """Stores what networks are now known by, beside what others are known by.

    Args:
        study: Gets it.
        context: The study's.
        runs: What was measured together. Of a network that took part several times the first time counts.
    """
    confirmed: dict[str, dict[str, NormalizedLatency]] = {
        name: dict(latencies) for name, latencies in StudyRecord.of(study).confirmed.items()
    }
    for target in context.meter.targets:
        for measured in reversed(runs.get(target.name, ())):
            for name, latency in measured.items():
                confirmed.setdefault(name, {})[target.name] = target.normalized(latency)
    StudyRecord.store(study, confirmed=confirmed)


def move_to_these_devices(study: optuna.Study, context: TrialContext, moved: Sequence[StudyTarget]) -> None:
    """Measures every network that the study has kept again, after targets of it came to other devices.

    What the trials tell stays as it was; the latencies that are confirmed replace it wherever the study is read.
    """
    found = Findings.of(study)
    kept: dict[str, StudyNetwork] = {}
    seen: set[tuple[object, ...]] = set()
    for network in found.networks.values():
        runs = (network.deployment, *sorted(network.figures.channels.items()))
        if network.checkpoint is not None and runs not in seen:  # equal channels are equally fast at one deployment
            seen.add(runs)
            kept[network.name] = network
    kept |= {name: network for name, network in found.baselines.items() if network.checkpoint is not None}
    if kept:
        confirm(study, context, {name: load_network(context, network) for name, network in kept.items()}, moved)
    StudyRecord.store(study, finished=None)  # its results are written anew
    sign_devices(study, context)  # last: a death before it repeats all of this


def load_network(context: TrialContext, network: StudyNetwork) -> Deployed:
    """A network that the study has kept. A checkpoint that somebody removed is taken from the store again."""
    file = context.folder / str(network.checkpoint)
    if not file.is_file() and (stage := context.store.find(network.result.stage)) is not None:
        context.files.keep_checkpoint(stage.file(CHECKPOINT), file.stem)
    return Deployed(Detector.load(file), network.deployment)


def _parts(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
