"""What a study's networks take on its targets: measured once for equal channels, or predicted by a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prunetune.pruning.stages.store import digest_of
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.interruption import safe_point
from prunetune.search.latency.network_files import NetworkExporter
from prunetune.search.latency.study_target import StudyTarget
from prunetune.spaces import Deployment
from prunetune.spaces.files import write_text
from prunetune.targets import Latency, Network, NormalizedLatency


@dataclass(frozen=True)
class LatencyMeter:
    """Measures and predicts.

    Attributes:
        targets: The study's, with their references measured.
        networks: Makes what they measure.
        predicts: Whether a table may stand in for a measurement; it knows nothing of memory.
    """

    targets: tuple[StudyTarget, ...]
    networks: NetworkExporter
    predicts: bool = True
    _ratios: dict[tuple[str, Deployment], dict[str, float]] = field(default_factory=dict, repr=False, compare=False)
    """What `reference_ratios` found: whoever plans a surgery asks for it with every prediction."""

    def normalized(self, detector: Detector, deployment: Deployment | None = None) -> dict[str, NormalizedLatency]:
        """A candidate's latency by target: measured, or predicted where nothing needs to be measured.

        That is where each target has a table, memory does not count, and the network is over a budget by more than the
        error bar.

        Args:
            detector: The network.
            deployment: How it runs; the study's by default.

        Raises:
            MeasurementError, TargetError: As `measure` does.
        """
        channels, deployment = detector.channels, deployment or self.networks.deployment
        latencies = None
        # A table knows its own input size; how much it errs at others nobody has measured.
        may_predict = self.predicts and deployment == self.networks.deployment
        if may_predict and not all(self._file(target, channels, deployment).is_file() for target in self.targets):
            predicted = self.predict(channels)
            is_complete = len(predicted) == len(self.targets)
            if is_complete and any(target.is_surely_over(predicted[target.name]) for target in self.targets):
                latencies = predicted
        latencies = latencies or self.measure(detector, deployment)
        return {target.name: target.normalized(latencies[target.name]) for target in self.targets}

    def measure(self, detector: Detector, deployment: Deployment | None = None, family: str = "") -> dict[str, Latency]:
        """A candidate's latency by target, its ratio that to the reference at the study's own deployment.

        Equal channels at one deployment are measured once per study and target.

        Args:
            detector: The network.
            deployment: How it runs; the study's by default.
            family: Tells networks apart whose equal channels are no equal networks; empty for the study's own.

        Raises:
            MeasurementError: The candidate cannot be measured, though the reference can.
            TargetError: Nothing can be measured any more.
        """
        deployment = deployment or self.networks.deployment

        def make(target: StudyTarget) -> Network:
            return self.networks.candidate(detector, deployment, target)

        return self._measure(detector.channels, deployment, make, self.targets, family)

    def measure_channels(
        self,
        channels: ChannelConfig,
        build: Callable[[], Detector],
        targets: Sequence[StudyTarget],
        deployment: Deployment | None = None,
    ) -> dict[str, Latency]:
        """The latency of a network that nobody needs but for its latency, by its channels; else as `measure`.

        Args:
            channels: The network's.
            build: Makes it. Called only for a target that runs no files, and where residual blocks are missing.
            targets: Where to measure.
            deployment: How it runs; the study's by default.

        Raises:
            MeasurementError, TargetError: As `measure` does.
        """
        deployment = deployment or self.networks.deployment

        def make(target: StudyTarget) -> Network:
            return self.networks.resized(channels, build, deployment, target)

        return self._measure(channels, deployment, make, targets)

    def reference_ratios(self, target: StudyTarget, deployment: Deployment) -> dict[str, float]:
        """What the references take at a deployment, by name, in multiples of the target's reference at the study's."""
        if deployment == self.networks.deployment:
            return {name: ms / target.references_ms[target.reference] for name, ms in target.references_ms.items()}
        if (target.name, deployment) not in self._ratios:
            self._ratios[target.name, deployment] = {
                name: self.measure_channels(detector.channels, detector.copy, [target], deployment)[target.name].ratio
                for name, detector in self.networks.references.items()
                if name in target.references_ms
            }
        return self._ratios[target.name, deployment]

    def predict(self, channels: ChannelConfig) -> dict[str, Latency]:
        """A network's latency on each target that has a table, by name, its ratio that to the reference."""
        predicted = {
            target.name: target.predict(channels, self.networks.channels[target.reference]) for target in self.targets
        }
        return {name: latency for name, latency in predicted.items() if latency is not None}

    def _measure(
        self,
        channels: ChannelConfig,
        deployment: Deployment,
        make: Callable[[StudyTarget], Network],
        targets: Sequence[StudyTarget],
        family: str = "",
    ) -> dict[str, Latency]:
        measured: dict[str, Latency] = {}
        files: set[Path] = set()
        for target in targets:
            file = self._file(target, channels, deployment, family)
            if (latency := _read_latency(file)) is None:
                candidate, reference = make(target), self.networks.reference(target.reference, target)
                with self.networks.cost_meter.part("measure"):
                    latency = target.measure(candidate, reference)
                write_text(file, json.dumps(latency.as_dict()))
                safe_point()
                files |= {candidate.onnx} if candidate.onnx is not None else set()
            measured[target.name] = latency
        for spent in files:
            spent.unlink(missing_ok=True)  # latency depends on channels and deployment alone
        return measured

    def _file(self, target: StudyTarget, channels: ChannelConfig, deployment: Deployment, family: str = "") -> Path:
        """Where the latency of equal channels on a target is kept."""
        own = self.networks.deployment
        further = [*([] if deployment == own else [deployment.as_dict()]), *([family] if family else [])]
        key = digest_of([target.fingerprint, own.imgsz, channels.digest(), target.reference, *further])
        return self.networks.folder / "latencies" / f"{key}.json"


def measure_references(target: StudyTarget, networks: NetworkExporter) -> StudyTarget:
    """A target with the latencies that all others on it are told by, and the memory where it tells that."""
    references = [networks.reference(name, target) for name in target.reference_names]
    measured = target.target.measure(references, reference=target.reference)
    ms = {name: latency.median_ms for name, latency in measured.items()}
    memory = {name: latency.memory_mb for name, latency in measured.items() if latency.memory_mb is not None}
    return replace(target, references_ms=ms, references_memory_mb=memory)


def _read_latency(file: Path) -> Latency | None:
    """A latency that was stored before; None if it was not, or if the file is damaged: it is then measured again."""
    try:
        return Latency.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
