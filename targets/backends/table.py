"""A latency table in the place of a device that is not at hand: networks are predicted, not measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import TargetError
from prunetune.targets.latency import Latency
from prunetune.targets.latency_model.latency_table import LatencyTable, Prediction
from prunetune.targets.latency_model.onnx_graph import read_conv_graph
from prunetune.targets.measure import onnx_file
from prunetune.targets.measure.measurement import check_networks
from prunetune.targets.network import Form, Network
from prunetune.targets.spec import TableSpec


class TableTarget:
    """Predicts latencies by a table that `prunetune profile` made on the device.

    Where the device can be measured, measure it: a table is off by a few percent.

    Args:
        spec: Its description.
    """

    form: Form = "onnx"

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec

    @property
    def name(self) -> str:
        """What tables and files call this target."""
        return self.spec.name

    @property
    def alignment(self) -> Alignment:
        """Channels that the hardware computes together, by kind of layer."""
        return self.spec.alignment

    @property
    def precisions(self) -> tuple[str, ...]:
        """The one that the table was made in.

        Raises:
            TargetError: The table's file is missing or damaged.
        """
        return (self.table.fingerprint.get("precision", "fp32"),)

    def fingerprint(self) -> dict[str, str]:
        """That of the device which the table was made on, and which table it is.

        Raises:
            TargetError: The table's file is missing or damaged.
        """
        digest = hashlib.sha256(Path(self.spec.file).read_bytes()).hexdigest() if self.table else ""
        return {**self.table.fingerprint, "kind": self.spec.kind, "table": digest[:16]}

    def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
        """Predicts all networks; see `Target.measure`. The interval of a ratio is the table's error bar.

        Raises:
            TargetError: As of `Target.measure`, or the table is of another detector, input size or precision.
        """
        check_networks(self, networks, reference)
        predictions = {network.name: self._predict(network) for network in networks}
        return {
            name: self.table.relative(prediction, predictions[reference]) for name, prediction in predictions.items()
        }

    @cached_property
    def table(self) -> LatencyTable:
        """The table.

        Raises:
            TargetError: Its file is missing or damaged.
        """
        try:
            return LatencyTable.load(Path(self.spec.file))
        except TargetError as error:
            raise TargetError(f"target {self.name!r}: file: {error}") from error

    def _predict(self, network: Network) -> Prediction:
        onnx_file.input_name(network)
        assert network.onnx is not None  # it has an input
        found, family = read_conv_graph(network.onnx), self.table.graph
        images, _, *size = network.input_shape
        if images != 1 or tuple(size) != family.size:
            made = onnx_file.shape_text((1, 3, *family.size))
            raise TargetError(
                f"{onnx_file.where(network)}: {self.spec.file} was made for an input of {made}, not "
                f"{onnx_file.shape_text(network.input_shape)}; run prunetune profile with this imgsz"
            )
        if not self.table.has_layers_of(found):
            raise TargetError(
                f"{onnx_file.where(network)}: is not of the family that {self.spec.file} was made for; run prunetune "
                "profile on the dense detector"
            )
        try:
            return self.table.predict(found.widths)
        except TargetError as error:
            raise TargetError(f"{onnx_file.where(network)}: {error}") from error
