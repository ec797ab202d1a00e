"""How a command wants to hear of a running study."""

from __future__ import annotations

from dataclasses import dataclass

from prunetune.search.callbacks.events import Listener
from prunetune.search.callbacks.json_lines import STDOUT, JsonLines


@dataclass(frozen=True)
class Reporting:
    """What `prunetune run` was asked to tell, and whom. Its processes pass it on."""

    quiet: bool = False
    """Whether only errors are shown."""
    log: str | None = None
    """The file of JSON lines, or `-`."""
    callbacks: tuple[str, ...] = ()
    """Names, as `create_callback` takes them."""

    @property
    def is_shown(self) -> bool:
        """Whether a user reads lines on the standard output, which is a program's if it gets JSON."""
        return not self.quiet and self.log != STDOUT

    def listeners(self, worker: int | None = None) -> list[Listener]:
        """Who hears of what happens in a process.

        Args:
            worker: The process's index, of several.

        Raises:
            PrunetuneError: One of them cannot be made.
        """
        from prunetune.search.callbacks.callback import create_callback

        made: list[Listener] = [create_callback(name) for name in self.callbacks]
        return [*made, *([JsonLines(self.log, worker)] if self.log is not None else [])]
