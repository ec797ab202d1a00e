"""What all targets share: one measurement at a time per device, interleaved rounds, ratios within a round."""

from __future__ import annotations

import gc
import getpass
import logging
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from filelock import FileLock, Timeout

from prunetune.spaces.errors import TargetError
from prunetune.targets.latency import Latency
from prunetune.targets.network import Form, Network
from prunetune.targets.protocol import Backend, Runner
from prunetune.targets.spec import MINIMUM_ROUNDS

logger = logging.getLogger(__name__)

_ORDER_SEED = 0

SETTLING_RUNS = 1
"""Runs at the start of a network's turn that are not timed: the network before it has filled the caches."""

TIMED_RUNS = 3
"""Timed runs in a turn. Their median is the round's sample, for a large network before costs two cold runs."""


class InterleavedTarget:
    """Makes a `Target` of a backend.

    Args:
        backend: Loads a network and runs it once.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def name(self) -> str:
        """What tables and files call this target."""
        return self.backend.spec.name

    @property
    def alignment(self) -> int:
        """Channels that the hardware computes together."""
        return self.backend.spec.alignment

    @property
    def form(self) -> Form:
        """The form in which it wants its networks."""
        return self.backend.form

    def fingerprint(self) -> dict[str, str]:
        """Hardware, runtime and settings of the measurements."""
        return self.backend.fingerprint()

    def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
        """Measures all networks in one go; see `Target.measure`."""
        self._check(networks, reference)
        spec = self.backend.spec
        # Loading belongs under the lock: it would disturb the measurement of another process.
        with exclusive(spec.device), self.backend.pinned():
            runners = {network.name: self.backend.load(network) for network in networks}
            samples = interleave(runners, warmup=spec.warmup, runs=spec.runs, seconds=spec.seconds)
        return {name: Latency.from_samples(times, samples[reference]) for name, times in samples.items()}

    def _check(self, networks: Sequence[Network], reference: str) -> None:
        names = [network.name for network in networks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TargetError(
                f"target {self.name!r}: more than one network is called {twice[0]!r}; give each its own name"
            )
        if reference not in names:
            nearest = get_close_matches(reference, names, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TargetError(
                f"target {self.name!r}: the reference {reference!r} is not among the networks to measure "
                f"({', '.join(names) or 'none'}){hint}"
            )
        for network in networks:
            if not network.has(self.form):
                what = "ONNX file" if self.form == "onnx" else "module"
                raise TargetError(
                    f"network {network.name!r}: has no {what}, which target {self.name!r} needs; set {self.form}="
                )


def interleave(
    runners: Mapping[str, Runner],
    *,
    warmup: int,
    runs: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, tuple[float, ...]]:
    """Runs all networks in turns, so that drift of clock speed, temperature or load hits all alike.

    Each round gives every network a turn, in an order shuffled anew for each round, always by the same seed.
    A turn runs the network `SETTLING_RUNS` times untimed and `TIMED_RUNS` times timed, so that it is measured as it
    runs on a device of its own, with warm caches, whatever ran before. (Single runs in turns made one network up to
    5 % slower or faster by its neighbours alone.)

    Args:
        runners: Loaded networks by name.
        warmup: Rounds before the first that counts. They end early when they have used a quarter of the time.
        runs: Rounds that count.
        seconds: Time limit in s, warm-up included. `MINIMUM_ROUNDS` are done in any case.
        clock: Tells the time in s.

    Returns:
        For each name one time per round, in ms: the median of its turn. Equal positions are of the same round.
    """
    order = list(runners)
    shuffle = random.Random(_ORDER_SEED).shuffle
    samples: dict[str, list[float]] = {name: [] for name in runners}
    start = clock()
    with _no_garbage_collection():
        for _ in range(warmup):
            for run in runners.values():
                run()
            if clock() - start > seconds / 4:
                break
        for done in range(runs):
            if done >= MINIMUM_ROUNDS and clock() - start > seconds:
                logger.debug("time is up after %d of %d rounds", done, runs)
                break
            shuffle(order)
            for name in order:
                samples[name].append(_turn(runners[name]))
    return {name: tuple(times) for name, times in samples.items()}


def _turn(run: Runner) -> float:
    for _ in range(SETTLING_RUNS):
        run()
    return statistics.median(run() for _ in range(TIMED_RUNS))


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Holds a device for one measurement; waits while another process or thread of this user holds it.

    `InterleavedTarget.measure` takes it by itself. It cannot be taken twice by one thread.

    Args:
        device: Its name in a `TargetSpec`: `cpu`, `cuda`, `cuda:1`.

    Raises:
        TargetError: The lock's file cannot be written.
    """
    path = lock_path(device)
    # Readable by its owner alone: who can open the file could lock it for good.
    lock = FileLock(path, mode=0o600)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            logger.info("waiting for another measurement on %s to end (%s)", device, path)
            lock.acquire()
    except OSError as error:
        raise TargetError(
            f"{path}: cannot be locked ({error.strerror or error}); set TMPDIR to a folder that you can write"
        ) from error
    try:
        yield
    finally:
        lock.release()


def lock_path(device: str) -> Path:
    """The file whose lock means that a measurement runs on a device. Each user has their own."""
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    canonical = "cuda:0" if device == "cuda" else device
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"prunetune-{user}-{canonical}.lock")
    return Path(tempfile.gettempdir()) / name


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
