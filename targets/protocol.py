"""What a target is, and what a backend must bring to become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from prunetune.spaces.alignment import Alignment
from prunetune.targets.latency import Latency
from prunetune.targets.network import Form, Images, Network
from prunetune.targets.spec import MINIMUM_ROUNDS, BaseTargetSpec

Runner: TypeAlias = Callable[[], float]
"""Runs a loaded network once and returns the time it took, in ms."""


class Reading(NamedTuple):
    """What one run of a network tells."""

    ms: float
    """The time that it took."""
    memory_mb: float | None
    """The most memory that the runtime took so far, in MB of 10^6 bytes; None where that is not known."""


class MemoryRunner:
    """A `Runner` of a runtime that tells its memory as well.

    Args:
        run: Runs the network once.
    """

    def __init__(self, run: Callable[[], Reading]) -> None:
        self._run = run
        self.memory_mb: float | None = None
        """The most of all runs."""

    def __call__(self) -> float:
        """Runs the network once and returns the time it took, in ms."""
        ms, memory_mb = self._run()
        if memory_mb is not None:
            self.memory_mb = max(memory_mb, self.memory_mb or 0.0)
        return ms


Predictor: TypeAlias = "Callable[[Images], Images]"
"""Gives a loaded network's first output for a batch of images."""


@dataclass(frozen=True)
class Pace:
    """How a measurement's rounds go. A quick runtime can warm up for each turn; a board behind a cable cannot."""

    warmup: int = 5
    """Rounds before the first one that counts, each network once. They end when a quarter of the time is used."""
    settling: int = 1
    """Runs at the start of a network's turn that are not timed: the network before it has filled the caches."""
    fewest: int = MINIMUM_ROUNDS
    """Rounds that are done in any case."""


class Target(Protocol):
    """A piece of hardware with a runtime on it. `prunetune.targets.testing` holds the tests of a new one."""

    @property
    def name(self) -> str:
        """What tables and files call this target."""

    @property
    def alignment(self) -> Alignment:
        """Channels that the hardware computes together, by kind of layer."""

    @property
    def form(self) -> Form:
        """The form in which it wants its networks."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Number formats in which it can compute a network, its own first.

        Raises:
            TargetError: The device is absent.
        """

    def fingerprint(self) -> dict[str, str]:
        """What two measurements must share to be compared: hardware, runtime and settings. No host name.

        Raises:
            TargetError: The device is absent.
        """

    def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
        """Measures all networks in one go, interleaved.

        Args:
            networks: What to measure, the reference among them.
            reference: The name of the network that the ratios refer to.

        Returns:
            A latency for each network's name, in the order given.

        Raises:
            TargetError: A network cannot be run here or not in its precision, a name is there twice, or the reference
                is not there.
        """


class Backend(Protocol):
    """A runtime that loads a network and runs it once. `InterleavedTarget` makes a `Target` of it."""

    @property
    def spec(self) -> BaseTargetSpec:
        """The description that it was made from."""

    @property
    def form(self) -> Form:
        """The form in which it wants its networks."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """As of `Target`."""

    def fingerprint(self) -> dict[str, str]:
        """As of `Target`."""

    @property
    def pace(self) -> Pace:
        """How its measurements go."""

    def pinned(self) -> AbstractContextManager[None]:
        """Holds settings of the process, such as its cores and threads, while networks are loaded and measured."""

    def load(self, network: Network) -> Runner:
        """Loads a network in its precision and runs it once, so that a failure shows before anything is timed.

        A `MemoryRunner` tells the runtime's memory, too.

        Raises:
            TargetError: The network is missing, corrupt or does not fit its `input_shape`.
        """
