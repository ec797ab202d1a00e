"""A program of the user's that measures on a device of its own: a board behind ssh, adb or a vendor's converter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from shlex import join
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from prunetune.spaces.errors import MeasurementError, TargetError
from prunetune.targets.backends.reading import read_latency, read_memory
from prunetune.targets.measure import onnx_file
from prunetune.targets.measure.device_lock import exclusive
from prunetune.targets.network import Form, Network
from prunetune.targets.programs.program import Output, require_program, run_program
from prunetune.targets.programs.template import fill
from prunetune.targets.protocol import MemoryRunner, Pace, Reading, Runner
from prunetune.targets.spec import MINIMUM_ROUNDS, CommandSpec

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""How long a device that failed is left alone before it is asked again, in s. Each pause is twice the one before."""

_UNTOLD = "not told"

Answer = TypeVar("Answer")


class CommandTarget:
    """Runs a command line for each reading, and reads latency and memory in what it prints.

    Args:
        spec: Its description.
        pause: Waits for some seconds.
    """

    form: Form = "onnx"

    def __init__(self, spec: CommandSpec, pause: Callable[[float], None] = time.sleep) -> None:
        self.spec, self._pause = spec, pause
        # A reading may take a minute: none is spent on warming up, which the program does itself.
        self.pace = Pace(warmup=0, settling=0, fewest=min(spec.runs, MINIMUM_ROUNDS))

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of its description."""
        return self.spec.precisions

    def fingerprint(self) -> dict[str, str]:
        """What the description says of the device, and what the device says of itself.

        Raises:
            TargetError: The program that asks the device is not there, or fails however often it is tried.
        """
        spec = self.spec
        for program in dict.fromkeys(command[0] for command in (spec.command, spec.fingerprint) if command):
            self._require(program)
        described = {
            "kind": spec.kind,
            "device": spec.device or spec.name,
            "runtime": spec.runtime or Path(spec.command[0]).name,
            "precision": spec.precision,
            "threads": _UNTOLD if spec.threads is None else str(spec.threads),
            "platform": "behind a command",
        }
        if not spec.fingerprint:
            return described
        with exclusive(spec.place):
            command = [part.format() for part in spec.fingerprint]
            return {**described, "reported": self._ask("the fingerprint", command, _read_text)}

    def pinned(self) -> AbstractContextManager[None]:
        """Nothing of this process takes part."""
        return nullcontext()

    def load(self, network: Network) -> Runner:
        """The command line for one network, run once. This reading is the first that counts.

        Raises:
            TargetError: The file is missing, corrupt or does not fit `input_shape`, the command line does not tell the
                network's precision, or the program is not there.
            MeasurementError: The program fails, however often it is tried.
        """
        onnx_file.input_name(network)
        assert network.onnx is not None  # it has an input
        precision = network.precision_on(self.spec.name, self.precisions)
        command = fill(self.spec.command, network, network.onnx, precision)

        def read(output: Output) -> Reading:
            return Reading(read_latency(self.spec, output), read_memory(output))

        ask = partial(self._ask, f"network {network.name!r}", command, read)
        kept = [ask()]
        return MemoryRunner(lambda: kept.pop() if kept else ask())

    def _require(self, program: str) -> None:
        try:
            require_program(program)
        except TargetError as error:
            raise TargetError(f"target {self.spec.name!r}: {error}") from error

    def _ask(self, what: str, command: Sequence[str], read: Callable[[Output], Answer]) -> Answer:
        """Runs a command until it gives an answer, at most as often as the description allows."""
        attempts = 1 + self.spec.retries

        def warn(state: RetryCallState) -> None:
            failure = state.outcome.exception() if state.outcome else None
            logger.warning(
                "target %r: %s: attempt %d of %d: %s; trying again in %.0f s",
                self.spec.name, what, state.attempt_number, attempts, failure, state.upcoming_sleep,
            )  # fmt: skip

        retrying = Retrying(
            retry=retry_if_exception_type(MeasurementError),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(FIRST_PAUSE, LONGEST_PAUSE),
            sleep=self._pause,
            before_sleep=warn,
            reraise=True,
        )
        try:
            return retrying(lambda: read(run_program(command, self.spec.timeout)))
        except MeasurementError as last:
            tried = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            raise MeasurementError(
                f"target {self.spec.name!r}: {what}: no answer after {tried} (retries: {self.spec.retries}); "
                f"the last: {last}. Try it by hand: {join(command)}"
            ) from last


def _read_text(output: Output) -> str:
    text = " ".join(output.stdout.split())
    if not text:
        raise MeasurementError(f"it printed nothing; {output.last_words}")
    return text
