"""Networks in int8: an ONNX file is quantised with images, by ONNX Runtime's own tools (static, in QDQ form).

What is rounded how decides the accuracy. Weights get one scale for each output channel, activations one for each
tensor, found by running images through the network. Detect's decoding stays in fp32: its last tensor holds boxes in
pixels beside scores from 0 to 1, and one scale for both would round nearly all scores to 0.

Latency does not depend on the images; accuracy does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy

from prunetune.spaces.errors import TargetError
from prunetune.spaces.files import publish
from prunetune.targets.measure import hardware, onnx_file
from prunetune.targets.network import Images, Network
from prunetune.targets.spec import OpenVinoSpec, RuntimeSpec

Rounds: TypeAlias = Literal["operations", "convolutions"]

Calibration: TypeAlias = Literal["minmax", "percentile", "entropy"]

_OPERATIONS = ("Conv", "ConvTranspose", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize")
"""What the runtimes compute in int8 of a detector's trunk."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")

_LEAVES_FEATURES = frozenset({"Reshape", "Flatten", "Transpose"})
"""Where a detector's head turns feature maps into a list of boxes."""


@dataclass(frozen=True)
class Quantisation:
    """How a network is quantised."""

    rounds: Rounds = "operations"
    """Where activations are rounded: before and after every operation, or before convolutions only. ONNX Runtime
    computes in int8 what is rounded on both sides. OpenVINO computes a convolution's SiLU with it, at full precision,
    if nothing is rounded between the two."""
    calibration: Calibration = "percentile"
    """How the range of a tensor follows from the images: all that was seen (`minmax`), all but one value in 100,000 at
    either end, or the range whose rounding changes the distribution least. The last two need histograms; a network
    with a tensor that has none, because it does not change or is next to nothing on the first image, falls back on
    `minmax`."""
    symmetric: bool = False
    """Activations from -127 to 127 with their zero at 0, as TensorRT wants them, and not from 0 to 255."""
    short_weights: bool = False
    """Weights of 7 bits. Without VNNI an x86 CPU adds two products in 16 bits, which 8-bit weights overflow."""

    @classmethod
    def of(cls, spec: RuntimeSpec) -> Quantisation:
        """What suits a target's runtime on this machine."""
        if spec.on_gpu:  # TensorRT, which fuses like OpenVINO and knows no other zero than 0
            return cls("convolutions", symmetric=True)
        rounds: Rounds = "convolutions" if isinstance(spec, OpenVinoSpec) else "operations"
        return cls(rounds, short_weights=not hardware.multiplies_int8())


def quantise(source: Path, destination: Path, images: Sequence[Images], how: Quantisation) -> None:
    """Writes an ONNX file in int8, its input and output in fp32 as before.

    Args:
        source: The fp32 file. One that is quantised already is copied as it is.
        destination: Where to; appears at once and whole.
        images: What the network's ranges are taken from: fp32, each of the shape that it takes.
        how: Where and how is rounded.

    Raises:
        TargetError: The file is missing or corrupt, there are no images, or it does not run on them.
    """
    if not images:
        raise TargetError(f"{source}: int8 needs images to calibrate with; give at least one")
    model = onnx_file.load_model(source)
    with publish(destination) as draft:
        if is_quantised(model):
            draft.write_bytes(source.read_bytes())
            return
        try:
            try:
                _quantise(source, draft, images, how)
            except ValueError:  # numpy finds no bins between equal values
                if how.calibration == "minmax":
                    raise
                _quantise(source, draft, images, replace(how, calibration="minmax"))
        # ONNX Runtime's tools raise anything about a graph that they do not know.
        except Exception as error:
            raise TargetError(
                f"{source}: cannot be quantised to int8 with images of {onnx_file.shape_text(images[0].shape)} "
                f"({type(error).__name__}: {error}); export the network again, or write precision: fp32"
            ) from error


def is_quantised(model: Any) -> bool:
    """Whether a model of `onnx` was quantised by whatever tool."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


class QuantisedFiles:
    """The int8 files of networks that a target measures, kept as long as they are measured again and again.

    Args:
        how: Where and how is rounded.
    """

    def __init__(self, how: Quantisation) -> None:
        self._how = how
        self._asked = set[Path]()

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="prunetune-int8-")  # goes with the target

    def file(self, network: Network) -> Path:
        """The network in int8, calibrated with its own images, or with noise where it has none.

        Raises:
            TargetError: The network cannot be quantised.
        """
        assert network.onnx is not None
        images, how = network.calibration, self._how
        if not images:
            images, how = (onnx_file.image_batch(network),), replace(how, calibration="minmax")
        file = Path(self._folder.name) / f"{_digest(network.onnx, images)}.onnx"
        self._asked.add(file)
        if not file.is_file():
            try:
                quantise(network.onnx, file, images, how)
            except TargetError as error:
                raise TargetError(f"network {network.name!r}: {error}") from error
        return file

    def tidy(self) -> None:
        """Removes what nobody asked for since the last time."""
        if self._asked:
            for file in Path(self._folder.name).iterdir():
                if file not in self._asked:
                    file.unlink()
        self._asked.clear()


def _digest(file: Path, images: Sequence[Images]) -> str:
    digest = hashlib.sha256(file.read_bytes())
    for batch in images:
        digest.update(batch.tobytes())
    return digest.hexdigest()[:16]


def _quantise(source: Path, destination: Path, images: Sequence[Images], how: Quantisation) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quiet = contextlib.redirect_stdout(io.StringIO())  # calibrators tell their steps
    with quiet, tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        narrow = how.rounds == "convolutions"
        operations = list(_CONVOLUTIONS if narrow else _OPERATIONS)
        reader = _Reader(graph.input[0].name, images)
        if how.calibration != "minmax" and _growth(prepared, reader, operations) > _WIDEST:
            how = replace(how, calibration="minmax")
        quantize_static(
            str(prepared),
            str(destination),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operations,
            nodes_to_exclude=sorted(decoding(graph)),
            per_channel=True,
            reduce_range=how.short_weights,
            activation_type=QuantType.QInt8 if how.symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[_METHODS[how.calibration]],
            extra_options={
                "ActivationSymmetric": how.symmetric,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": list(_CONVOLUTIONS) if narrow else [],
                "CalibStridedMinMax": 1,  # image by image: histograms are made of whole tensors
            },
        )


_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
_WIDEST = 100.0
"""ONNX Runtime makes the bins of a histogram from the first image and adds as many as a later one needs: 2,048 times
this are a few MB. A layer that died in training, all but silent on the first image, would fill any memory."""


def _growth(model: Path, reader: _Reader, operations: list[str]) -> float:
    """How many times wider a tensor's values reach on all images than on the first, at most; 1 if on no image."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    calibrator = create_calibrator(
        model, operations, str(model.with_name("ranges.onnx")), calibrate_method=CalibrationMethod.MinMax
    )
    reached = []
    for last in (1, len(reader)):
        reader.set_range(0, last)
        calibrator.collect_data(reader)
        reached.append({name: numpy.abs(item.range_value).max() for name, item in calibrator.compute_data().items()})
    reader.set_range(0, len(reader))
    first, all_ = reached
    return float(max((wide / first[name] for name, wide in all_.items() if first[name] > 0), default=1.0))


def decoding(graph: Any) -> set[str]:
    """The nodes of a detector that turn its head's feature maps into boxes and scores, by name.

    They are what follows after a change of layout and is not followed by a convolution itself. The convolution of
    Detect's distribution of distances (DFL) has one output channel and belongs to them: its weights are not trained.

    Args:
        graph: Of an ONNX file, its nodes in the order of their computation.
    """
    weights = {item.name: tuple(item.dims) for item in graph.initializer}
    after = set[str]()  # tensors
    nodes = set[str]()
    for node in graph.node:
        if node.op_type in _LEAVES_FEATURES or after & set(node.input):
            after |= set(node.output)
            nodes.add(node.name)
    before = set[str]()  # tensors
    for node in reversed(graph.node):
        convolves = node.op_type in _CONVOLUTIONS and _outputs(node, weights) > 1
        if convolves or before & set(node.output):
            before |= set(node.input)
            nodes.discard(node.name)
    return nodes


def _outputs(node: Any, weights: dict[str, tuple[int, ...]]) -> int:
    shape = weights.get(node.input[1], (2, 2))
    return shape[1 if node.op_type == "ConvTranspose" else 0]


class _Reader:
    """Gives ONNX Runtime the images one by one; its own base class would have to be imported with this module."""

    def __init__(self, name: str, images: Sequence[Images]) -> None:
        self._name, self._images = name, images
        self._rest: Iterator[Images] = iter(images)

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rest = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._rest, None)
        return None if batch is None else {self._name: batch}
