"""What all targets share: interleaved rounds, ratios within a round, until the ratios are known well enough."""

from __future__ import annotations

import gc
import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import TargetError, did_you_mean
from prunetune.targets.latency import Latency
from prunetune.targets.measure.device_lock import exclusive
from prunetune.targets.measure.garbage import no_garbage_collection
from prunetune.targets.network import Form, Network
from prunetune.targets.protocol import Backend, MemoryRunner, Pace, Runner, Target

logger = logging.getLogger(__name__)

_ORDER_SEED = 0

Samples = Mapping[str, Sequence[float]]
"""For each network one time per round, in ms. Equal positions are of the same round."""


class InterleavedTarget:
    """Makes a `Target` of a backend.

    Args:
        backend: Loads a network and runs it once.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._told = 0.0
        """The worst uncertainty that was told."""

    @property
    def name(self) -> str:
        """What tables and files call this target."""
        return self.backend.spec.name

    @property
    def alignment(self) -> Alignment:
        """Channels that the hardware computes together, by kind of layer."""
        return self.backend.spec.alignment

    @property
    def form(self) -> Form:
        """The form in which it wants its networks."""
        return self.backend.form

    @property
    def precisions(self) -> tuple[str, ...]:
        """Number formats in which it can compute a network, its own first."""
        return self.backend.precisions

    def fingerprint(self) -> dict[str, str]:
        """Hardware, runtime and settings of the measurements."""
        return self.backend.fingerprint()

    def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
        """Measures all networks in one go; see `Target.measure`."""
        check_networks(self, networks, reference)
        spec = self.backend.spec

        def settled(samples: Samples) -> bool:
            return all(latency.uncertainty <= spec.tolerance for latency in _latencies(samples, reference).values())

        # Loading belongs under the lock: it would disturb the measurement of another process.
        with exclusive(spec.place), self.backend.pinned():
            runners = {network.name: self.backend.load(network) for network in networks}
            start = time.monotonic()
            samples = interleave(runners, self.backend.pace, runs=spec.runs, seconds=spec.seconds, settled=settled)
            took = time.monotonic() - start
        memory = {name: run.memory_mb for name, run in runners.items() if isinstance(run, MemoryRunner)}
        latencies = {
            name: replace(latency, memory_mb=memory.get(name))
            for name, latency in _latencies(samples, reference).items()
        }
        self._warn_of_noise(latencies, reference, took)
        return latencies

    def _warn_of_noise(self, latencies: Mapping[str, Latency], reference: str, took: float) -> None:
        worst = max(latencies, key=lambda name: latencies[name].uncertainty)
        latency, tolerance = latencies[worst], self.backend.spec.tolerance
        if math.isfinite(latency.uncertainty) and latency.uncertainty > max(tolerance, 2 * self._told):
            self._told = latency.uncertainty
            logger.warning(
                "target %r: the machine is too noisy: the ratio of %r to %r is known to %.1f %% only, not to %.1f %%, "
                "after %d rounds in %.1f s (%d of them outliers); stop what else runs there, or allow more rounds or "
                "more time (told again only if it gets twice as bad)",
                self.name,
                worst,
                reference,
                100 * latency.uncertainty,
                100 * tolerance,
                latency.runs,
                took,
                latency.outliers,
            )


def check_networks(target: Target, networks: Sequence[Network], reference: str) -> None:
    """Refuses what no target can measure.

    Args:
        target: Where.
        networks: What is to be measured.
        reference: The name of the network that the ratios refer to.

    Raises:
        TargetError: A name is there twice, the reference is not there, a network lacks the form that the target wants,
            or has a precision in which the target cannot compute.
    """
    names = [network.name for network in networks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TargetError(
            f"target {target.name!r}: more than one network is called {twice[0]!r}; give each its own name"
        )
    if reference not in names:
        raise TargetError(
            f"target {target.name!r}: the reference {reference!r} is not among the networks to measure; "
            f"{did_you_mean(reference, names)}"
        )
    for network in networks:
        if not network.has(target.form):
            what = "ONNX file" if target.form == "onnx" else "module"
            raise TargetError(
                f"network {network.name!r}: has no {what}, which target {target.name!r} needs; set {target.form}="
            )
        if network.precision is not None:
            network.precision_on(target.name, target.precisions)


def interleave(
    runners: Mapping[str, Runner],
    pace: Pace,
    *,
    runs: int,
    seconds: float,
    settled: Callable[[Samples], bool],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, tuple[float, ...]]:
    """Runs all networks in turns, so that drift of clock speed, temperature or load hits all alike.

    Each round gives every network a turn, in an order shuffled anew for each round, always by the same seed.
    A turn runs the network untimed before the run that counts, so that it is measured as it runs on a device of its
    own, with warm caches, whatever ran before. (Without that, one network was up to 5 % slower or faster by its
    neighbours alone.) More timed runs in a turn tell less than more rounds: what disturbs one disturbs the next.

    Args:
        runners: Loaded networks by name.
        pace: How long warm-up, a turn and the whole are at least.
        runs: Most rounds that count.
        seconds: Time limit in s, warm-up included. The pace's fewest rounds are done in any case.
        settled: Told the samples after the fewest rounds, and whenever there are a tenth more; true ends the rounds.
        clock: Tells the time in s.

    Returns:
        For each name one time per round, in ms. Equal positions are of the same round.
    """
    order = list(runners)
    shuffle = random.Random(_ORDER_SEED).shuffle
    samples: dict[str, list[float]] = {name: [] for name in runners}
    start = clock()
    gc.collect()
    with no_garbage_collection():
        for _ in range(pace.warmup):
            for run in runners.values():
                run()
            if clock() - start > seconds / 4:
                break
        looks = pace.fewest
        for done in range(1, runs + 1):
            shuffle(order)
            for name in order:
                samples[name].append(_turn(runners[name], pace))
            if done < pace.fewest:
                continue
            if clock() - start > seconds:
                break
            if done >= looks:
                if settled(samples):
                    break
                looks = done + max(1, done // 10)
    return {name: tuple(times) for name, times in samples.items()}


def _turn(run: Runner, pace: Pace) -> float:
    for _ in range(pace.settling):
        run()
    return run()


def _latencies(samples: Samples, reference: str) -> dict[str, Latency]:
    return {name: Latency.from_samples(times, samples[reference]) for name, times in samples.items()}
