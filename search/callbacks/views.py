"""How a console shows what happens: plain lines, and in a terminal a live view below them."""

from __future__ import annotations

import time
from datetime import datetime

from rich.console import Console

from prunetune.results.findings.study_network import StudyNetwork, recipe_text
from prunetune.results.tables.rows import latencies_text, ms_text
from prunetune.search.callbacks.events import (
    EpochEnded,
    Event,
    FrontMember,
    Message,
    NetworkReady,
    StudyProgress,
    TaskStarted,
    TrialEnded,
)

PLAIN_SECONDS = 20.0
"""Without a terminal, a line of what goes on at most this often."""


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
        passing = event.what if isinstance(event, TaskStarted) else None
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
    if isinstance(event, Message):
        return [event.text]
    if isinstance(event, TrialEnded):
        return [trial_text(event), *map(round_text, event.trained[:-1])]
    if isinstance(event, NetworkReady):
        return [network_text(event)]
    if isinstance(event, StudyProgress) and event.is_due:
        members = "; ".join(f"{member.title}: {member_text(member)}" for member in event.front)
        remaining = [] if event.remaining is None else [event.remaining.text(datetime.now())]
        return [f"front: {members or 'no trial meets the budget yet'}", *remaining]
    return []


def member_text(member: FrontMember) -> str:
    """A member of the front."""
    return f"{member.map50_95:.3f}" + ("" if member.latency_ms is None else f" at {member.latency_ms:.2f} ms")


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
    """How a trial ended, with the figures of its last network."""
    record, networks = event.record, event.trained
    figures, recipe = "", recipe_text(record.recipe, record.thresholds)
    if networks:
        last = networks[-1]
        recipe = last.recipe_text
        figures = f"{_figures_text(last)}  {last.figures.gflops:.2f} GFLOPs  {last.figures.params / 1e6:.2f}M  "
    reason = f" ({record.reason})" if record.reason else ""
    reason += "" if record.duplicate_of is None else f", duplicate of trial {record.duplicate_of}"
    reused = record.cost.epochs_reused
    count = f"{event.finished}/{event.trials}" if event.trials else f"{event.finished}"
    return f"trial {event.trial} [{count}] {record.outcome}{reason}  {figures}{recipe}  {record.cost.total_s:.0f} s" + (
        f", {reused} {'epoch' if reused == 1 else 'epochs'} reused" if reused else ""
    )


def round_text(network: StudyNetwork) -> str:
    """What a trial had after an earlier round."""
    over = "" if network.figures.feasible else ", over the budget"
    return f"{network.title}: {_figures_text(network)}{over}"


def _figures_text(network: StudyNetwork) -> str:
    predicted = " predicted" if network.figures.predicted else ""
    return f"map50_95 {network.map50_95:.3f}  {latencies_text(network)}{predicted}"
