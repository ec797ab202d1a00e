"""Conformance tests for targets. A target of your own is right when a subclass of `TargetTestCase` passes.

Example:
    class TestMyBoard(TargetTestCase):
        def target(self) -> Target:
            return MyBoard()

        def network(self, name: str, width: int, shrink: int = 1) -> Network:
            side = 32 // shrink
            path = write_onnx(self.folder / f"{name}.onnx", channels=width, side=side)
            return Network(name, (1, 3, side, side), onnx=path)
"""

from __future__ import annotations

import gc
import json
import math
import platform
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import TargetError
from prunetune.targets.latency import Latency, median_interval
from prunetune.targets.network import Network
from prunetune.targets.protocol import Target

NARROW = 8
WIDE = 64

DISTURBANCE = 0.05
"""How far a network's time may move with its neighbours, as a share of it."""

PAIRS = (1, 8)
"""How often a network is measured alone and beside others: at first, and further if the first ones disagree."""


class TargetTestCase:
    """What every target must do. Needs pytest. Subclasses give `target` and `network`."""

    folder: Path
    """An empty folder, new for each test."""
    predicts: bool = False
    """Whether the target predicts latencies instead of measuring them: there are no rounds then."""
    one_size: bool = False
    """Whether the target takes networks of one input size only."""

    def target(self) -> Target:
        """The target under test, newly made."""
        raise NotImplementedError

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        """A network in the form that the target wants, whose work grows with the square of its width.

        Args:
            name: The network's name.
            width: Channels of its layers: `NARROW` or `WIDE`.
            shrink: What the sides of its input are divided by: 1 or 2.
        """
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _new_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def test_it_says_what_it_is(self) -> None:
        """Name, alignment, form and precisions are there."""
        target = self.target()
        assert target.name
        assert isinstance(target.alignment, Alignment)
        assert target.form in ("onnx", "module")
        assert len(set(target.precisions)) == len(target.precisions) >= 1
        assert target.precisions[0] == target.fingerprint()["precision"]

    def test_fingerprint_is_stable_text(self) -> None:
        """Two targets of one description have one fingerprint, which JSON keeps and which names no host."""
        found = self.target().fingerprint()
        assert found == self.target().fingerprint()
        assert json.loads(json.dumps(found)) == found
        assert all(isinstance(value, str) and value for value in found.values())
        assert {"kind", "device", "runtime", "precision", "threads", "platform"} <= set(found)
        assert platform.node() not in found.values()

    def test_each_network_gets_a_latency(self) -> None:
        """One latency for each name, in the order given, all from the same rounds."""
        names = ("b", "a", "c")
        measured = self.target().measure([self.network(name, NARROW) for name in names], reference="a")
        assert tuple(measured) == names
        assert len({latency.runs for latency in measured.values()}) == 1
        for latency in measured.values():
            assert math.isfinite(latency.median_ms)
            assert latency.median_ms > 0
            assert latency.ratio_low <= latency.ratio <= latency.ratio_high
            if self.predicts:
                assert (latency.runs, latency.samples_ms) == (0, ())
                continue
            assert latency.runs == len(latency.samples_ms) >= 5
            assert all(math.isfinite(sample) and sample > 0 for sample in latency.samples_ms)
            assert min(latency.samples_ms) <= latency.median_ms <= max(latency.samples_ms)
            assert latency.spread_ms >= 0

    def test_the_reference_has_ratio_one(self) -> None:
        """Exactly, with no spread, beside others and alone."""
        reference, other = self.network("reference", NARROW), self.network("other", NARROW)
        for networks in ([other, reference], [reference]):
            latency = self.target().measure(networks, reference="reference")["reference"]
            assert (latency.ratio, latency.ratio_spread) == (1.0, 0.0)

    def test_more_work_takes_longer(self) -> None:
        """Fifty times the work and more has a ratio above one."""
        networks = [self.network("narrow", NARROW), self.network("wide", WIDE)]
        assert self.target().measure(networks, reference="narrow")["wide"].ratio > 1

    def test_two_input_sizes_in_one_measurement(self) -> None:
        """Both get a latency from the same rounds; a target of one size names the network of the other."""
        networks = [self.network("large", WIDE), self.network("small", WIDE, 2)]
        large, small = (network.input_shape for network in networks)
        assert small == (*large[:2], large[2] // 2, large[3] // 2)
        if self.one_size:
            with pytest.raises(TargetError, match=f"'small'.*{small[2]} x {small[3]}"):
                self.target().measure(networks, reference="large")
            return
        measured = self.target().measure(networks, reference="large")
        assert tuple(measured) == ("large", "small")
        assert len({latency.runs for latency in measured.values()}) == 1
        assert 0 < measured["small"].ratio < math.inf

    def test_every_precision_in_one_measurement(self) -> None:
        """One network in each of the target's precisions, and in the one that it has where nothing is said."""
        target = self.target()
        network = self.network("own", WIDE)
        networks = [network, *(replace(network, name=name, precision=name) for name in target.precisions)]
        measured = target.measure(networks, reference="own")
        assert tuple(measured) == ("own", *target.precisions)
        assert len({latency.runs for latency in measured.values()}) == 1
        assert all(0 < latency.ratio < math.inf for latency in measured.values())

    def test_a_precision_that_it_lacks(self) -> None:
        """The error names the network, the precision, the target, and what it computes in."""
        target = self.target()
        network = replace(self.network("dense", NARROW), precision="int3")
        with pytest.raises(TargetError, match=rf"'dense'.*int3.*{target.name!r}.*{target.precisions[0]}"):
            target.measure([network], reference="dense")

    def test_neighbours_change_nothing(self) -> None:
        """A network measured beside four others takes what it takes alone, to 5 % and what the noise hides."""
        subject = self.network("subject", WIDE)
        others = [self.network(f"other-{index}", (WIDE, NARROW)[index % 2]) for index in range(4)]
        target = self.target()
        factors: list[tuple[float, float]] = []
        for pairs in PAIRS:
            for _ in range(pairs):
                alone = target.measure([subject], reference="subject")["subject"]
                beside = target.measure([subject, *others], reference="subject")["subject"]
                factors.append(_factor(alone, beside))
            lows, highs = zip(*factors, strict=True)
            low, high = median_interval(lows)[0], median_interval(highs)[1]
            if low <= 1 + DISTURBANCE and high >= 1 - DISTURBANCE:
                return
        pytest.fail(f"beside four others the network takes {low:.2f} to {high:.2f} times what it takes alone")

    def test_the_caller_notices_nothing(self) -> None:
        """The module, the file and the garbage collector are as they were."""
        network = self.network("network", NARROW)
        file = network.onnx.read_bytes() if network.onnx else b""
        module = network.module.train() if network.module is not None else None
        weights = {name: value.clone() for name, value in module.state_dict().items()} if module else {}
        self.target().measure([network], reference="network")
        assert gc.isenabled()
        assert file == (network.onnx.read_bytes() if network.onnx else b"")
        if module is not None:
            assert module.training
            for name, value in module.state_dict().items():
                assert value.device == weights[name].device
                assert value.dtype == weights[name].dtype
                assert value.equal(weights[name]), name

    def test_unknown_reference(self) -> None:
        """The error names the wrong reference and the right one."""
        with pytest.raises(TargetError, match=r"'densse'.*dense\?"):
            self.target().measure([self.network("dense", NARROW)], reference="densse")

    def test_no_network(self) -> None:
        """Nothing to measure is an error as well."""
        with pytest.raises(TargetError, match="dense"):
            self.target().measure([], reference="dense")

    def test_two_networks_of_one_name(self) -> None:
        """The error names them."""
        networks = [self.network("dense", NARROW), self.network("dense", WIDE)]
        with pytest.raises(TargetError, match="'dense'"):
            self.target().measure(networks, reference="dense")

    def test_network_without_the_wanted_form(self) -> None:
        """The error names the network."""
        networks = [self.network("dense", NARROW), Network("empty", (1, 3, 32, 32))]
        with pytest.raises(TargetError, match="'empty'"):
            self.target().measure(networks, reference="dense")

    def test_input_shape_that_does_not_fit(self) -> None:
        """The error names the network and the shape."""
        network = self.network("dense", NARROW)
        images, channels, height, width = network.input_shape
        wrong = replace(network, input_shape=(images, channels + 1, height, width))
        with pytest.raises(TargetError, match=rf"'dense'.*{images} x {channels + 1} x {height} x {width}"):
            self.target().measure([wrong], reference="dense")


def _factor(alone: Latency, beside: Latency) -> tuple[float, float]:
    """What neighbours multiply a network's time by: at least and at most, by the middle half of the rounds."""
    (least, most), (least_beside, most_beside) = _middle(alone), _middle(beside)
    return least_beside / most, most_beside / least


def _middle(latency: Latency) -> tuple[float, float]:
    if not latency.samples_ms:
        return latency.median_ms, latency.median_ms
    lower, _, upper = statistics.quantiles(latency.samples_ms, n=4, method="inclusive")
    return lower, upper
