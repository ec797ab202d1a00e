"""Networks in the form that a target wants: an ONNX file, or a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from prunetune.pruning.channels import ChannelConfig
from prunetune.pruning.cost_meter import CostMeter
from prunetune.pruning.detector import Detector
from prunetune.search.latency.study_target import StudyTarget
from prunetune.spaces import TargetError
from prunetune.spaces.files import publish
from prunetune.targets import ConvGraph, Network, read_conv_graph
from prunetune.targets.synthesis import write_resized


@dataclass(frozen=True)
class NetworkExporter:
    """Makes what targets measure.

    Attributes:
        folder: The study's.
        references: The detectors that latencies refer to, by name. Their weights do not matter.
        input_shape: Batch, channels, height, width.
        cost_meter: Counts the time of exports.
    """

    folder: Path
    references: Mapping[str, Detector]
    input_shape: tuple[int, int, int, int]
    cost_meter: CostMeter

    def network(self, name: str, detector: Detector, target: StudyTarget, folder: Path | None = None) -> Network:
        """A detector under a name. Its file is kept in a folder, by default that of candidates."""
        if target.target.form == "module":
            return Network(name, self.input_shape, module=detector.deployed)
        # int8 ranges change no latency: it needs no images
        return Network(name, self.input_shape, onnx=self._onnx(name, detector, folder or self.candidates))

    def reference(self, name: str, target: StudyTarget) -> Network:
        """A reference network."""
        return self.network(name, self.references[name], target, self.folder / "references")

    def candidate(self, detector: Detector, target: StudyTarget) -> Network:
        """A network that is measured once."""
        # A file of its own: another process may measure equal channels, and removes its file when it has.
        return replace(self.network(f"candidate-{os.getpid()}", detector, target), name="candidate")

    def resized(self, channels: ChannelConfig, build: Callable[[], Detector], target: StudyTarget) -> Network:
        """A network of these channels with random weights: as fast as any other, and made in a tenth of an export.

        Args:
            channels: Its channels.
            build: Makes it. Called only for a target that runs no files.
            target: Where it is measured.
        """
        if target.target.form == "module":
            return Network("candidate", self.input_shape, module=build().deployed)
        dense = self.reference("dense", target).onnx
        assert dense is not None  # its form is not "module"
        file = self.candidates / f"resized-{os.getpid()}-{channels.digest()}.onnx"
        with self.cost_meter.part("export"), publish(file) as draft:
            write_resized(dense, draft, read_conv_graph(dense), channels)
        return Network("candidate", self.input_shape, onnx=file)

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
            return read_conv_graph(self._onnx("dense", self.references["dense"], self.folder / "references"))
        except TargetError:
            return None

    def _onnx(self, name: str, detector: Detector, folder: Path) -> Path:
        imgsz = self.input_shape[-1]
        image = "x".join(map(str, detector.input_shape(imgsz)[1:]))
        file = folder / f"{name}-{detector.channels.digest()}-{image}.onnx"
        if not file.is_file():
            with self.cost_meter.part("export"):
                detector.export_onnx(file, imgsz)
        return file
