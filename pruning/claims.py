"""Claims: which process trains which stage, told by small files that every host with the folder can read.

A claim is a file of its own, `<trunk>.<token>.json`, which its process keeps young by touching it. No two claims ever
share a file. So a dead claim is taken over by removing it, and nobody can remove a living one by mistake. Who wants a
claim first leaves its file and then looks at what others left: of two that ask at once, at least the later one sees
the other. He goes if the other holds the claim or has the smaller token, and otherwise waits until the other has gone.
Only who sees no other signs his file as held.

Ages are differences between times of files, which one clock gives: that of the file system.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from prunetune.pruning.processes import is_alive, this_process
from prunetune.spaces.errors import PrunetuneError
from prunetune.spaces.files import storage_error

LEASE_S = 60.0
"""A claim that was not touched for so long is dead."""

BEATS = 6
"""A claim is touched so many times a lease."""

LOOK_S = 1.0
"""Who waits for a claim looks again after so long."""

ASK_S = 0.01
"""Who asks at the same time as others looks again after so long."""

_SUFFIX, _HELD = ".json", b"held"


@dataclass(frozen=True)
class Holder:
    """Who has a claim.

    Attributes:
        host, pid, started: The process.
        since: When the claim was taken, by the clock of its host.
        stage: The stage that is trained.
        parent: The stage that it starts from.
        namespace: Tells apart containers of one host.
    """

    host: str
    pid: int
    started: float
    since: str
    stage: str
    parent: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class StageClaimedError(PrunetuneError):
    """Another process trains the stage, or another length of its trunk.

    Args:
        digest: The stage that was wanted.
        trunk: What is claimed.
        holder: Who has the claim; None where he has not signed yet.
    """

    def __init__(self, digest: str, trunk: str, holder: Holder | None) -> None:
        self.digest, self.trunk, self.holder = digest, trunk, holder
        super().__init__(f"{digest}: is being trained by {self.where}; run the same command again when that is done")

    @property
    def where(self) -> str:
        """The holder as host:process."""
        return str(self.holder or "another process")


@dataclass(frozen=True)
class Sign:
    """A claim's file as it was seen.

    Attributes:
        file: The file.
        trunk: What is claimed.
        token: The claim's own.
        is_held: Whether the claim is held, not only asked for.
        holder: Who left it; None where that is not written yet.
        beat: When it was last touched.
    """

    file: Path
    trunk: str
    token: str
    is_held: bool
    holder: Holder | None
    beat: float

    @classmethod
    def read(cls, file: Path) -> Sign | None:
        """A file's claim; None if it is none, or is gone."""
        trunk, _, token = file.stem.rpartition(".")
        if not trunk or file.suffix != _SUFFIX:
            return None
        try:
            with file.open("rb") as opened:  # NFS asks the server for the times of a file that is opened
                beat, lines = os.fstat(opened.fileno()).st_mtime, opened.read().splitlines()
        except OSError:
            return None
        holder: Holder | None
        try:
            holder = Holder(**json.loads(lines[0]))
        except (IndexError, ValueError, TypeError):
            holder = None
        return cls(file, trunk, token, _HELD in lines[1:], holder, beat)


@dataclass(frozen=True)
class _ClaimFile:
    path: Path
    descriptor: int

    def is_there(self) -> bool:
        try:
            self.path.open("rb").close()
        except OSError:
            return False
        return True

    def write(self, line: bytes) -> None:
        os.write(self.descriptor, line + b"\n")
        os.fsync(self.descriptor)

    def remove(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)
        with suppress(OSError):
            self.path.unlink()


class Claims:
    """The claims below one folder.

    Args:
        folder: Where they are; made when the first is taken.
        lease_s: A claim that was not touched for so many seconds is dead.
        clock: The time that ages are told by; by default that of the file system.
    """

    def __init__(self, folder: Path, lease_s: float = LEASE_S, clock: Callable[[], float] | None = None) -> None:
        self.folder, self.lease_s = folder, lease_s
        self._clock = clock

    def take(self, trunk: str, stage: str, parent: str = "") -> StageClaim:
        """Claims a trunk until the returned context ends. A dead claim is taken over.

        Args:
            trunk: What to claim.
            stage: The stage that is to be trained.
            parent: The stage that it starts from.

        Raises:
            StageClaimedError: Another living process has the claim.
            StoreError: The folder cannot be written.
        """
        return StageClaim(self, trunk, stage, parent)

    def holder(self, trunk: str) -> Sign | None:
        """The living claim on a trunk, if there is one."""
        return next((sign for sign in self.living(trunk) if sign.is_held), None)

    def living(self, trunk: str | None = None) -> list[Sign]:
        """The claims that are held or asked for by living processes, on one trunk or on all."""
        return self._living(self._signs(trunk), self.now)

    def remove_dead(self) -> int:
        """Removes what dead processes left; returns how many claims that were."""
        signs = self._signs(None)
        living = self._living(signs, self.now)
        dead = [sign for sign in signs if sign not in living]
        for sign in dead:
            sign.file.unlink(missing_ok=True)
        return len(dead)

    def _acquire(self, trunk: str, stage: str, parent: str) -> _ClaimFile:
        try:
            while True:
                token = secrets.token_hex(8)
                file = self._ask(trunk, token, stage, parent)
                try:
                    self._await_turn(file, trunk, token, stage)
                    file.write(_HELD)
                except BaseException:
                    file.remove()
                    raise
                if file.is_there():
                    return file
                file.remove()  # suspended while it asked, and taken for dead
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def _ask(self, trunk: str, token: str, stage: str, parent: str) -> _ClaimFile:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = Holder(**this_process(), since=since, stage=stage, parent=parent)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{trunk}.{token}{_SUFFIX}"
        file = _ClaimFile(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        try:
            file.write(json.dumps(asdict(holder)).encode())
        except OSError:
            file.remove()
            raise
        return file

    def _await_turn(self, file: _ClaimFile, trunk: str, token: str, stage: str) -> None:
        def touched() -> float:
            os.utime(file.descriptor)  # while it waits for others, nobody else keeps it young
            return os.fstat(file.descriptor).st_mtime

        pause = threading.Event()
        while True:
            signs = [sign for sign in self._signs(trunk) if sign.token != token]
            rivals = self._living(signs, self._clock or touched)
            for sign in signs:
                if sign not in rivals:
                    sign.file.unlink(missing_ok=True)
            if not rivals:
                return
            before = sorted((sign for sign in rivals if sign.is_held or sign.token < token), key=_asking)
            if before:
                raise StageClaimedError(stage, trunk, before[0].holder)
            pause.wait(ASK_S)

    def _signs(self, trunk: str | None) -> list[Sign]:
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(self.folder, error) from error
        files = [self.folder / name for name in names if trunk is None or name.startswith(f"{trunk}.")]
        return [sign for sign in map(Sign.read, files) if sign is not None]

    def _living(self, signs: Sequence[Sign], now: Callable[[], float]) -> list[Sign]:
        there = [sign for sign in signs if sign.holder is None or is_alive(asdict(sign.holder))]
        if not there:
            return []
        time = now()
        return [sign for sign in there if time - sign.beat <= self.lease_s]

    def now(self) -> float:
        """The time, by the clock that gives the store its files' times."""
        if self._clock is not None:
            return self._clock()
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:  # who may only read has no better clock than his own
            return datetime.now(UTC).timestamp()


def _asking(sign: Sign) -> tuple[bool, str]:
    return (not sign.is_held, sign.token)


class StageClaim:
    """A claim of this process, kept young in the background. A context: its end releases the claim.

    Raises on construction:
        StageClaimedError: Another living process has it.
    """

    def __init__(self, claims: Claims, trunk: str, stage: str, parent: str) -> None:
        self._claims, self._trunk, self._stage, self._parent = claims, trunk, stage, parent
        self._file = claims._acquire(trunk, stage, parent)
        self._lock, self._end = threading.Lock(), threading.Event()
        self._beat = threading.Thread(target=self._keep_young, name=f"claim {trunk}", daemon=True)
        self._beat.start()

    def __enter__(self) -> StageClaim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Lets others have the claim."""
        self._end.set()
        self._beat.join()
        self._file.remove()

    def confirm(self) -> bool:
        """Makes sure that the claim is still held; takes it again if it was lost and nobody has it.

        A process that was suspended for longer than the lease is taken for dead.

        Returns:
            Whether it was held all the time. If not, another process may have trained the stage meanwhile.

        Raises:
            StageClaimedError: Another process has taken it over.
        """
        if self._file.is_there():
            return True
        fresh = self._claims._acquire(self._trunk, self._stage, self._parent)
        with self._lock:
            self._file.remove()
            self._file = fresh
        return False

    def _keep_young(self) -> None:
        while not self._end.wait(self._claims.lease_s / BEATS):
            with self._lock, suppress(OSError):  # what goes wrong shows in `confirm`
                os.utime(self._file.descriptor)
