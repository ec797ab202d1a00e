"""A network in a process of its own, so that no other network of a measurement can disturb it.

The process runs a script. It reads one line of JSON, which describes the network, and answers with a line; for each
further line it runs the network once and answers again. An answer is `{"ms": 1.5}`, with
`memory_mb` where it knows that, or what went wrong, by kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from prunetune.spaces.errors import MeasurementError, TargetError
from prunetune.targets.programs.program import Output, how_it_ended

Answer = Mapping[str, Any]


@contextmanager
def isolated(script: Path, described: Mapping[str, Any], what: str) -> Iterator[Callable[[], Answer]]:
    """Starts the process, and ends it with the block.

    It has the caller's cores. It also ends when this process dies, however: its input ends then. Signals from the
    terminal do not reach it.

    Args:
        script: A Python file. It may import nothing of prunetune's: the package costs more time than a runtime.
        described: The network.
        what: The network, for errors.

    Yields:
        What runs the network once more and returns the answer; the first time it waits for the network to be loaded.

    Raises:
        TargetError: The process cannot be started.
        MeasurementError: It died.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", str(script)],  # -P: the script's neighbours are no modules of that name
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(f"{what}: no process can be started to run it ({error.strerror})") from error
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None  # Popen was told to make it
        assert stdout is not None
        lines = iter([described])

        def ask() -> Answer:
            with suppress(BrokenPipeError):  # it died, which the missing answer tells as well
                stdin.write(json.dumps(next(lines, None)).encode() + b"\n")
                stdin.flush()
            answer = stdout.readline()
            if not answer:
                ended = how_it_ended(process.wait()) or "ended"
                raise MeasurementError(f"{what}: the process that ran it {ended}; {_read(errors)}")
            found: Answer = json.loads(answer)
            return found

        try:
            yield ask
        finally:
            process.kill()  # it has nothing to tidy up
            with suppress(BrokenPipeError):
                stdin.close()
            stdout.close()
            process.wait()


def _read(errors: IO[bytes]) -> str:
    errors.seek(0)
    return Output("", errors.read().decode(errors="replace")).last_words
