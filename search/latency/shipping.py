"""Networks as they ship: exported for the study's first target, in its precision, and evaluated so."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from prunetune.pruning.stages.stage_runner import StageRunner
from prunetune.pruning.training.evaluation import Listener
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces import Accuracy, Deployment, ImageSize
from prunetune.targets import Images, Network, Quantisation, RuntimeSpec, TargetSpec, create_predictor, quantise

INT8_IMAGES = 64
"""About how many training images the ranges of an int8 network are taken from."""


@dataclass(frozen=True)
class Shipping:
    """Makes and evaluates what ships.

    Attributes:
        spec: The target that networks ship for.
        stages: Evaluates, and has the images that int8 ranges are taken from.
        names: Class names of the data set.
        imgsz: The study's input size.
    """

    spec: TargetSpec
    stages: StageRunner
    names: tuple[str, ...]
    imgsz: ImageSize
    _calibrations: dict[ImageSize, tuple[Images, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def deployment(self) -> Deployment:
        """The study's own: its input size, and the target's precision."""
        return Deployment(self.imgsz, getattr(self.spec, "precision", "fp32"))

    def calibration(self, imgsz: ImageSize) -> tuple[Images, ...]:
        """Training images, always the same, that the ranges of int8 networks of an input size are taken from."""
        if imgsz not in self._calibrations:
            images = [image[None].numpy() for batch in self.stages.at(imgsz).loaders.calibration() for image in batch]
            self._calibrations[imgsz] = tuple(images[:: max(1, len(images) // INT8_IMAGES)])
        return self._calibrations[imgsz]

    def evaluate(
        self, detector: Detector, deployment: Deployment, split: str = "val", listener: Listener | None = None
    ) -> Accuracy:
        """A network's accuracy as it ships: in int8 as the target's runtime computes it, if that is its precision."""
        stages = self.stages.at(deployment.imgsz)
        if not self.quantises(deployment):
            return stages.evaluate(detector, split, listener)
        with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            file = Path(folder) / "int8.onnx"
            self.export(detector, deployment, file)
            shape = detector.input_shape(deployment.imgsz)
            network = Network("candidate", shape, onnx=file, precision=deployment.precision)
            return stages.evaluate_predictor(create_predictor(self.spec, network), self.names, split, listener)

    def export(self, detector: Detector, deployment: Deployment, file: Path) -> None:
        """Writes a network's ONNX file as it ships."""
        imgsz = deployment.imgsz
        if not isinstance(self.spec, RuntimeSpec) or not self.quantises(deployment):
            detector.export_onnx(file, imgsz)
            return
        with self.stages.meter.part("export"), tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            full = Path(folder) / "fp32.onnx"
            detector.export_onnx(full, imgsz)
            quantise(full, file, self.calibration(imgsz), Quantisation.of(self.spec))

    def quantises(self, deployment: Deployment) -> bool:
        """Whether networks ship in int8 there: the accuracy that counts is then theirs, and not that of training."""
        return deployment.precision == "int8" and isinstance(self.spec, RuntimeSpec)
