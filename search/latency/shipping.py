"""Networks as they ship: exported for the study's first target, in its precision, and evaluated so."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prunetune.pruning.detector import Detector
from prunetune.pruning.evaluation import Listener
from prunetune.pruning.stage_runner import StageRunner
from prunetune.spaces import Accuracy, Deployment
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
        input_shape: Batch, channels, height, width.
    """

    spec: TargetSpec
    stages: StageRunner
    names: tuple[str, ...]
    input_shape: tuple[int, int, int, int]

    @property
    def deployment(self) -> Deployment:
        """Input size and precision."""
        return Deployment(self.input_shape[-1], getattr(self.spec, "precision", "fp32"))

    @property
    def quantises(self) -> bool:
        """Whether networks ship in int8: the accuracy that counts is then theirs, and not that of training."""
        return self.spec.quantises

    @cached_property
    def calibration(self) -> tuple[Images, ...]:
        """Training images, always the same, that the ranges of int8 networks are taken from."""
        images = [image[None].numpy() for batch in self.stages.loaders.calibration() for image in batch]
        return tuple(images[:: max(1, len(images) // INT8_IMAGES)])

    def evaluate(self, detector: Detector, split: str = "val", listener: Listener | None = None) -> Accuracy:
        """A network's accuracy as it ships: in int8 as the target's runtime computes it, if that is its precision."""
        if not self.quantises:
            return self.stages.evaluate(detector, split, listener)
        with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            file = Path(folder) / "int8.onnx"
            self.export(detector, file)
            predict = create_predictor(self.spec, Network("candidate", self.input_shape, onnx=file))
            return self.stages.evaluate_predictor(predict, self.names, split, listener)

    def export(self, detector: Detector, file: Path) -> None:
        """Writes a network's ONNX file as it ships."""
        imgsz = self.input_shape[-1]
        if not isinstance(self.spec, RuntimeSpec) or not self.spec.quantises:
            detector.export_onnx(file, imgsz)
            return
        with self.stages.meter.part("export"), tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            full = Path(folder) / "fp32.onnx"
            detector.export_onnx(full, imgsz)
            quantise(full, file, self.calibration, Quantisation.of(self.spec))
