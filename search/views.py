"""How a console shows what happens: plain lines, and in a terminal a live view below them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console

from prunetune.results.entries import FOUND, ROUND_OF, found_text, rounds_text
from prunetune.results.tables import ms_text
from prunetune.search.events import (
    EpochEnded,
    Event,
    Listener,
    NetworkReady,
    RoundEnded,
    Said,
    Standing,
    TrialEnded,
    WorkBegun,
)

PLAIN_SECONDS = 20.0
"""Without a terminal, a line of what goes on at most this often."""


def view_of(console: Console) -> Listener:
    """The view that fits a console."""
    if console.is_terminal and not console.is_dumb_terminal:
        from prunetune.search.live_view import LiveView

        return LiveView(console)
    return PlainView(console)


class PlainView:
    """One line a trial and a network, an epoch's line now and then, the front every few trials.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said_at = time.monotonic()

    def hear(self, event: Event) -> None:
        """Writes the event's lines, if it has some."""
        passing = event.what if isinstance(event, WorkBegun) else None
        if isinstance(event, EpochEnded):
            passing = epoch_text(event)
        if passing is not None and time.monotonic() - self._said_at >= PLAIN_SECONDS:
            self._said_at = time.monotonic()
            self.write(f"  {passing}")
        for line in lines(event):
            self.write(line)

    def write(self, line: str) -> None:
        """Writes one line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def lines(event: Event) -> list[str]:
    """What stays on the screen of an event."""
    if isinstance(event, Said):
        return [event.text]
    if isinstance(event, TrialEnded):
        return [trial_text(event)]
    if isinstance(event, RoundEnded):
        return [round_text(event)]
    if isinstance(event, NetworkReady):
        return [network_text(event)]
    if isinstance(event, Standing) and event.is_due:
        members = [f"trial {item['trial']}: {member_text(item)}" for item in event.front]
        front = "front: " + ("; ".join(members) or "no trial meets the budget yet")
        return [front, *([event.remaining.text(datetime.now())] if event.remaining else [])]
    return []


def member_text(member: Mapping[str, Any]) -> str:
    """A member of the front."""
    return f"{member['map50_95']:.3f} at {member['latency_ms']:.2f} ms"


def epoch_text(event: EpochEnded) -> str:
    """An epoch in a line of its own."""
    record = event.record
    seconds = record.train_s + record.validate_s
    return f"{event.what}: {event.stage}, epoch {record.epoch} in {seconds:.1f} s{figures_text(event)}"


def figures_text(event: EpochEnded) -> str:
    """What an epoch came to, as it follows the epoch."""
    record = event.record
    accuracy = f", map50_95 {record.accuracy.map50_95:.3f}" if record.accuracy else ""
    penalty = f", sl_loss {record.losses['sl_loss']:.3g}" if "sl_loss" in record.losses else ""
    return f"{accuracy}{penalty}"


def network_text(event: NetworkReady) -> str:
    """The figures of a network that is no trial's."""
    return (
        f"{event.network}: map50_95 {event.map50_95:.3f}  {ms_text(event.latencies)}  {event.gflops:.2f} GFLOPs  "
        f"{event.params / 1e6:.2f}M" + ("  (read back)" if event.reused else "")
    )


def trial_text(event: TrialEnded) -> str:
    """How a trial ended."""
    result, values = event.result, event.result.attributes
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
    count = f"{event.finished}/{event.trials}" if event.trials else f"{event.finished}"
    return (
        f"trial {result.number} [{count}] {result.outcome.value}{reason}  {figures}"
        f"{result.recipe}{found_text(values.get(FOUND))}{rounds_text(values)}  {result.seconds:.0f} s"
        + (f", {reused} {'epoch' if reused == 1 else 'epochs'} reused" if reused else "")
    )


def round_text(event: RoundEnded) -> str:
    """What became of an earlier round."""
    result, values = event.result, event.result.attributes
    which = rounds_text({**result.recipe.as_dict(), ROUND_OF: event.round_of})
    stated = {target: told["latency_ms"] for target, told in values["latencies"].items()}
    return (
        f"trial {result.number}{which}: {result.outcome.value}  map50_95 {values['accuracy']['map50_95']:.3f}  "
        f"{ms_text(stated)}"
    )
