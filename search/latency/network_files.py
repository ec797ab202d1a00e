"""Networks in the form that a target wants: an ONNX file, or a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.latency.study_target import StudyTarget
from prunetune.spaces import Deployment, ImageSize, TargetError, size_text
from prunetune.spaces.files import publish
from prunetune.targets import ConvGraph, Network, read_conv_graph
from prunetune.targets.latency_model.synthesis import write_resized


@dataclass(frozen=True)
class NetworkExporter:
    """Makes what targets measure.

    Attributes:
        folder: The study's.
        references: The detectors that latencies refer to, by name. Their weights do not matter.
        deployment: The study's own, at which the references are measured.
        cost_meter: Counts the time of exports.
    """

    folder: Path
    references: Mapping[str, Detector]
    deployment: Deployment
    cost_meter: CostMeter

    def network(
        self, name: str, detector: Detector, deployment: Deployment, target: StudyTarget, folder: Path | None = None
    ) -> Network:
        """A detector under a name at a deployment. Its file is kept in a folder, by default that of candidates."""
        network = self._network(name, deployment)
        if target.target.form == "module":
            return replace(network, module=detector.deployed)
        # int8 ranges change no latency: it needs no images
        return replace(network, onnx=self._onnx(name, detector, deployment.imgsz, folder or self.candidates))

    def reference(self, name: str, target: StudyTarget, imgsz: ImageSize | None = None) -> Network:
        """A reference network, by default at the study's input size."""
        deployment = self.deployment if imgsz is None else replace(self.deployment, imgsz=imgsz)
        return self.network(name, self.references[name], deployment, target, self.folder / "references")

    def candidate(self, detector: Detector, deployment: Deployment, target: StudyTarget) -> Network:
        """A network that is measured once."""
        # A file of its own: another process may measure equal channels, and removes its file when it has.
        return replace(self.network(f"candidate-{os.getpid()}", detector, deployment, target), name="candidate")

    def resized(
        self, channels: ChannelConfig, build: Callable[[], Detector], deployment: Deployment, target: StudyTarget
    ) -> Network:
        """A network of these channels with random weights: as fast as any other, and made in a tenth of an export.

        Args:
            channels: Its channels.
            build: Makes it. Called only for a target that runs no files, and where residual blocks are missing.
            deployment: How it runs.
            target: Where it is measured.
        """
        network = self._network("candidate", deployment)
        if target.target.form == "module":
            return replace(network, module=build().deployed)
        if self.channels["dense"].keys() - channels.keys():
            return self.candidate(build(), deployment, target)
        dense = self.reference("dense", target, deployment.imgsz).onnx
        assert dense is not None  # its form is not "module"
        file = self.candidates / f"resized-{os.getpid()}-{size_text(deployment.imgsz)}-{channels.digest()}.onnx"
        with self.cost_meter.part("export"), publish(file) as draft:
            write_resized(dense, draft, read_conv_graph(dense), channels)
        return replace(network, onnx=file)

    @property
    def candidates(self) -> Path:
        """The folder of files that are measured once."""
        return self.folder / "networks"

    @cached_property
    def channels(self) -> dict[str, ChannelConfig]:
        """The references' channels, by name."""
        return {name: detector.channels for name, detector in self.references.items()}

    @cached_property
    def conv_graph(self) -> ConvGraph | None:
        """The dense network's layers; None where something in it cannot be followed."""
        try:
            folder, imgsz = self.folder / "references", self.deployment.imgsz
            return read_conv_graph(self._onnx("dense", self.references["dense"], imgsz, folder))
        except TargetError:
            return None

    def _network(self, name: str, deployment: Deployment) -> Network:
        """One without a form yet. At the study's precision each target computes in its own."""
        channels = self.references["dense"].image_channels
        precision = None if deployment.precision == self.deployment.precision else deployment.precision
        return Network(name, (1, channels, *deployment.height_width), precision=precision)

    def _onnx(self, name: str, detector: Detector, imgsz: ImageSize, folder: Path) -> Path:
        image = "x".join(map(str, detector.input_shape(imgsz)[1:]))
        file = folder / f"{name}-{detector.channels.digest()}-{image}.onnx"
        if not file.is_file():
            with self.cost_meter.part("export"):
                detector.export_onnx(file, imgsz)
        return file
