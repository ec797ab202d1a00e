"""Several workers of one study on this machine, each a process with a GPU or cores of its own."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import IO, TextIO, cast

from rich.console import Console

from prunetune.results.record import StudyRecord
from prunetune.search.callbacks.reporting import Reporting
from prunetune.search.interruption import NOTICE, SIGNALS, Interruption, StopAskedError, safe_point
from prunetune.search.study.open_study import open_study, study_exists
from prunetune.search.study.stored_study import StoredStudy
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import PrunetuneError
from prunetune.targets.measure.hardware import allowed_cores, pin

AT_ONCE = signal.SIGUSR1
"""What a parent sends to workers that are to stop in the middle of an epoch."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Attributes:
        device: As `StudySpec.device` names it.
        cores: The only ones that it uses; all where none are named.
    """

    device: str
    cores: tuple[int, ...] = ()


def places(devices: Sequence[str], count: int, gpus: int, cores: Sequence[int]) -> list[Place]:
    """Shares out a machine.

    Workers take the named GPUs in turn; if one is named, then all from that one on. On a CPU each has as many cores
    as the others, and with more workers than cores each has one.

    Args:
        devices: Those that the study names.
        count: How many workers there are.
        gpus: How many GPUs there are.
        cores: The cores that may be used; none where cores cannot be chosen.
    """
    if devices[0].isdigit():
        first = int(devices[0])
        named = devices if len(devices) > 1 else [str((first + step) % gpus) for step in range(gpus)] or devices
        return [Place(named[index % len(named)]) for index in range(count)]
    if devices[0] != "cpu" or not cores:
        return [Place(devices[0])] * count
    if count > len(cores):
        return [Place("cpu", (cores[index % len(cores)],)) for index in range(count)]
    ends = [index * len(cores) // count for index in range(count + 1)]
    return [Place("cpu", tuple(cores[begin:end])) for begin, end in pairwise(ends)]


def run_here(
    spec: StudySpec, count: int | None, console: Console | None, reporting: Reporting | None = None
) -> StoredStudy:
    """Carries out a study on this machine, in this process or in several.

    Args:
        spec: The study's.
        count: How many workers; by default one for each device that is named.
        console: Where to write; None: nowhere.
        reporting: Who else is told what happens.

    Raises:
        PrunetuneError: As `run_study` does; of several workers, one that could not go on.
        StopAskedError, KeyboardInterrupt: As `run_study` does.
    """
    reporting = reporting or Reporting()
    if spec.engine == "ray" or (count or len(spec.devices)) == 1:
        from prunetune.search.runner import run_study

        return run_study(spec.model_copy(update={"device": spec.devices[0]}), console, reporting.listeners())
    return _run_several(spec, count or len(spec.devices), console, reporting)


def _run_several(spec: StudySpec, count: int, console: Console | None, reporting: Reporting) -> StoredStudy:
    if study_exists(spec):
        open_study(spec)  # a changed description is told once
    safe_point()
    workers = [
        _Worker(spec, place, index, reporting, None if index else count)
        for index, place in enumerate(_places_here(spec, count))
    ]
    with _signals_passed_on(workers) as times:
        for worker in workers:
            worker.start()
            _say(console, worker.introduction)
        living = list(workers)
        while living:
            ended = wait([worker.told for worker in living])
            for worker in [worker for worker in living if worker.told in ended]:
                worker.join()  # at once: what a zombie has leased is not free
                living.remove(worker)
                if worker.has_died and not times:
                    _say(console or Console(stderr=True), f"worker {worker.index}: {worker.problem}")
    if times:
        raise (StopAskedError if len(times) == 1 else KeyboardInterrupt)(*times[-1:])
    failed = [worker for worker in workers if worker.problem]
    if len(failed) == len(workers):
        raise PrunetuneError(failed[0].problem)
    for worker in failed:
        if not worker.has_died:
            _say(console or Console(stderr=True), f"worker {worker.index}: {worker.problem}")
    study = open_study(spec)
    if failed and StudyRecord.of(study).finished is None:
        raise PrunetuneError("the study is not finished, and no worker is left; the same command goes on from here")
    return study


def _say(console: Console | None, line: str) -> None:
    if console is not None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _places_here(spec: StudySpec, count: int) -> list[Place]:
    gpus = 0
    if spec.devices[0].isdigit():
        from prunetune.pruning.training.device import gpu_count

        gpus = gpu_count()
    return places(spec.devices, count, gpus, sorted(allowed_cores()))


class _Worker:
    """A worker's process as its parent sees it."""

    def __init__(self, spec: StudySpec, place: Place, index: int, reporting: Reporting, workers: int | None) -> None:
        # A fresh interpreter: neither CUDA nor threads survive a fork.
        context = multiprocessing.get_context("spawn")
        self._place, self.index = place, index
        self.problem, self.has_died = "", False
        self.told, telling = context.Pipe(duplex=False)
        self._telling: Connection | None = telling
        self._process: BaseProcess = context.Process(
            target=_work, args=(spec, place, index, reporting, workers, telling), name=f"worker {index}"
        )

    def start(self) -> None:
        self._process.start()
        assert self._telling is not None
        self._telling.close()  # its end is then the worker's alone, and closes with it

    @property
    def introduction(self) -> str:
        place = self._place
        cores = f" on core{'s' * (len(place.cores) > 1)} {', '.join(map(str, place.cores))}" if place.cores else ""
        return f"worker {self.index}: process {self._process.pid}, device {place.device}{cores}"

    def send(self, number: int) -> None:
        if self._process.pid is not None and self._process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def join(self) -> None:
        with suppress(EOFError):
            self.problem = self.told.recv()
        self._process.join()
        code = self._process.exitcode
        if not self.problem and code:
            self.has_died = True
            self.problem = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


@contextmanager
def _signals_passed_on(workers: Sequence[_Worker]) -> Iterator[list[int]]:
    """Passes the signals that come within its block on; gives the list that they are noted in."""
    times: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        times.append(number)
        if len(times) == 1:
            os.write(2, NOTICE)
        how = {1: signal.SIGTERM, 2: AT_ONCE}.get(len(times), signal.SIGKILL)
        for worker in workers:
            worker.send(how)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield times
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(
    spec: StudySpec, place: Place, index: int, reporting: Reporting, workers: int | None, telling: Connection
) -> None:
    """A worker's process. What it cannot go on for is told to its parent."""
    os.setsid()  # what a terminal sends to its foreground comes from the parent alone
    with Interruption(hasty=AT_ONCE):
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        if place.cores:
            pin(place.cores)
        from prunetune.search.runner import run_study

        for name in ("optuna", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        output = cast("IO[str]", Lines(sys.stdout, f"worker {index}: "))
        console = Console(file=output, width=180) if reporting.is_shown else None
        try:
            here = spec.model_copy(update={"device": place.device})
            run_study(here, console, reporting.listeners(index), workers)
        except StopAskedError:
            pass
        except KeyboardInterrupt:
            sys.exit(130)
        except PrunetuneError as error:
            telling.send(str(error))
            sys.exit(2)


def _stop_with_parent() -> None:
    """Asks this process to stop when its parent is gone: nobody is left who could."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class Lines(io.TextIOBase):
    """A text file whose lines start with a prefix and are written whole, though others write to the same terminal.

    Args:
        file: Where they go.
        prefix: What each line starts with.
    """

    def __init__(self, file: TextIO, prefix: str) -> None:
        self._file, self._prefix, self._rest = file, prefix, ""

    def write(self, text: str) -> int:
        """Writes the lines that are whole; the rest waits for its end."""
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._file.write("".join(f"{self._prefix}{line}\n" for line in lines))
            self._file.flush()
        return len(text)
