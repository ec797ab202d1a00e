"""Runs a program of the user's: no shell, a time limit, bounded output, and nothing of it is left behind."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import IO

from prunetune.spaces.errors import MeasurementError, TargetError

LIMIT = 16 * 2**20
"""Bytes that a program may print. One that prints more has lost its way."""

GRACE = 2.0
"""How long a program that is to end has for tidying up, in s."""

_HAS_PROCESS_GROUPS = hasattr(os, "killpg")

_POLL = 0.05
_CHUNK = 2**16
_LINES, _CHARACTERS = 5, 500

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
"""What tells a terminal colours, cursors and titles (ECMA-48)."""


@dataclass(frozen=True)
class Output:
    """What a program printed."""

    stdout: str
    stderr: str

    @property
    def plain(self) -> Output:
        """The same without colours, and with a line for each that a carriage return wrote over."""
        return Output(_plain(self.stdout), _plain(self.stderr))

    @property
    def last_words(self) -> str:
        """The last lines of both streams in one line, for an error."""
        said = {name: _last_words(text) for name, text in (("stderr", self.stderr), ("stdout", self.stdout))}
        return "; ".join(f"{name}: {words}" for name, words in said.items() if words) or "it said nothing"


def run_program(arguments: Sequence[str], timeout: float, clock: Callable[[], float] = time.monotonic) -> Output:
    """Runs a program to its end, without a shell and without input.

    The program is the first of a process group of its own. The whole group is ended with it: after its time, when
    the caller is interrupted, and also when the program leaves others behind.

    Args:
        arguments: The program, found by PATH or by a path, and its arguments.
        timeout: How long it may take, in s.
        clock: Tells the time in s.

    Raises:
        TargetError: There is no such program, or it cannot be started.
        MeasurementError: It took too long, printed too much, or ended with an error. The text has its last words.
    """
    end = clock() + timeout
    problem = ""
    with _started(arguments) as process, selectors.DefaultSelector() as selector:
        heard: dict[str, bytearray] = {}
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            heard[name] = bytearray()
            selector.register(_there(stream), selectors.EVENT_READ, heard[name])
        while not problem:
            ended = process.poll() is not None  # asked before reading: all that it printed is in the pipes then
            ready = selector.select(0 if ended else _POLL)
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            if ended and not ready:  # another process may hold the pipes open for good: nobody waits for it
                break
            if sum(map(len, heard.values())) > LIMIT:
                problem = f"printed more than {LIMIT // 2**20} MiB"
            elif clock() > end:
                problem = f"did not end within {timeout:g} s (timeout)"
    output = Output(**{name: bytes(text).decode(errors="replace") for name, text in heard.items()})
    problem = problem or how_it_ended(process.returncode)
    if problem:
        raise MeasurementError(f"{arguments[0]} {problem}; {output.last_words}")
    return output


def require_program(program: str) -> None:
    """Looks for a program before it is needed.

    Args:
        program: A name, looked for in PATH, or a path.

    Raises:
        TargetError: It is not there, or nothing that can be run.
    """
    if shutil.which(program):
        return
    if os.sep not in program or not os.path.exists(program):
        raise TargetError(
            f"command: there is no program {program!r}; a name is looked for in PATH, a path starts in the current "
            f"folder ({Path.cwd()})"
        )
    if os.path.isdir(program):
        raise TargetError(f"command: {program}: is a folder; give the program in it")
    raise TargetError(f"command: {program}: is not executable; run: chmod +x {quote(program)}")


@contextmanager
def _started(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    if not _HAS_PROCESS_GROUPS:
        raise TargetError("kind: command runs programs on Linux and macOS; on Windows use WSL")
    program = arguments[0]
    try:
        process = subprocess.Popen(
            arguments,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        require_program(program)
        if isinstance(error, FileNotFoundError):
            raise TargetError(f"command: {program}: the interpreter that its first line names is not there") from error
        raise TargetError(
            f"command: {program}: cannot be started ({error.strerror}); a script needs a first line such as #!/bin/sh"
        ) from error
    try:
        yield process
    finally:
        _end(process)
        for stream in (process.stdout, process.stderr):
            _there(stream).close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program and its group: one that still runs first gets the chance to do it itself."""
    try:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            _wait(process)
    finally:
        _signal(process, signal.SIGKILL)
        _wait(process)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone; or another user's, by sudo
        os.killpg(process.pid, number)


def _wait(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)


def how_it_ended(code: int) -> str:
    """What an exit code says of a program, as the end of a sentence; empty for 0."""
    if code < 0:
        number = -code
        known = number in set(signal.Signals)
        return f"was ended by {signal.Signals(number).name if known else f'signal {number}'}"
    return f"ended with exit code {code}" if code else ""


def _there(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # Popen was told to make it
    return stream


def _plain(text: str) -> str:
    return re.sub(r"\r+\n|\r", "\n", _ESCAPES.sub("", text))


def _last_words(text: str) -> str:
    """The last lines without colours and control characters, in one line."""
    lines = _ESCAPES.sub("", text[-_CHUNK:]).split("\n")
    plain = ("".join(character if character.isprintable() else " " for character in line).strip() for line in lines)
    words = " | ".join([line for line in plain if line][-_LINES:])
    return words if len(words) <= _CHARACTERS else f"...{words[-_CHARACTERS:]}"
