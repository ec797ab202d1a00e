"""What a running study says: one line a trial, the epoch that is running, the front now and then."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from prunetune.pruning.training import EpochListener, EpochRecord
from prunetune.results.entries import FOUND, found_text
from prunetune.results.tables import ms_text
from prunetune.search.outcome import TrialResult

PLAIN_SECONDS = 20.0
"""Without a terminal, an epoch's line at most this often."""


class Progress:
    """Writes to a console; a live line in a terminal, plain lines elsewhere.

    Args:
        console: Where to write.
        trials: How many trials the study will have, if that is known.
    """

    def __init__(self, console: Console, trials: int | None) -> None:
        self.console, self._trials = console, trials
        self._status: Status | None = None
        self._what = ""
        self._said_at = time.monotonic()

    def say(self, text: str) -> None:
        """Writes one line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, what: str) -> None:
        """Names what is going on now."""
        self._what = what
        self._update(what)

    def end(self) -> None:
        """Removes the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def epochs(self, kind: str) -> EpochListener:
        """A listener for one training stage."""

        def listen(record: EpochRecord) -> None:
            seconds = record.train_s + record.validate_s
            accuracy = f", map50_95 {record.accuracy.map50_95:.3f}" if record.accuracy else ""
            penalty = f", sl_loss {record.losses['sl_loss']:.3g}" if "sl_loss" in record.losses else ""
            self._update(f"{self._what}: {kind}, epoch {record.epoch} in {seconds:.1f} s{accuracy}{penalty}")

        return listen

    def trial(self, result: TrialResult, finished: int) -> None:
        """Writes a finished trial's line."""
        self.end()
        values = result.attributes
        figures = ""
        if result.outcome.has_values:
            stated = {target: told["latency_ms"] for target, told in values["latencies"].items()}
            predicted = " predicted" if any(told.get("predicted") for told in values["latencies"].values()) else ""
            figures = (
                f"map50_95 {values['accuracy']['map50_95']:.3f}  {ms_text(stated)}{predicted}  "
                f"{values['gflops']:.2f} GFLOPs  {values['params'] / 1e6:.2f}M  "
            )
        reason = f" ({result.reason})" if result.reason else ""
        reason += f", equals trial {values['equals']}" if "equals" in values else ""
        reused = values["epochs"]["reused"]
        count = f"{finished}/{self._trials}" if self._trials else f"{finished}"
        self.say(
            f"trial {result.number} [{count}] {result.outcome.value}{reason}  {figures}"
            f"{result.recipe}{found_text(values.get(FOUND))}  {result.seconds:.0f} s"
            + (f", {reused} epochs reused" if reused else "")
        )

    def _update(self, text: str) -> None:
        if self.console.is_terminal:
            if self._status is None:
                self._status = self.console.status(escape(text))
                self._status.start()
            self._status.update(escape(text))
        elif time.monotonic() - self._said_at >= PLAIN_SECONDS:
            self._said_at = time.monotonic()
            self.say(f"  {text}")
