"""The live view of a terminal: below the lines, what is going on now and where the study is."""

from __future__ import annotations

import sys
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from prunetune.search.callbacks.events import (
    EpochEnded,
    Event,
    StageBegun,
    StudyEnded,
    StudyProgress,
    StudyStarted,
    TaskEnded,
    TaskStarted,
    TrialBegun,
)
from prunetune.search.callbacks.views import PlainView, figures_text, lines, member_text
from prunetune.search.study.limits import duration

MEMBERS = 6
"""So many members of the front have a line; of more, those in the middle are left out."""

BAR = 24
"""Width of the bar of epochs, in columns."""


class LiveView(PlainView):
    """Lines as everywhere, and below them the stage, its epochs and their end, the front, and what was read back.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._study, self._what, self._recipe = "", "", ""
        self._stage: StageBegun | None = None
        self._epoch: EpochEnded | None = None
        self._seconds = 0.0
        self._heard = 0
        self._progress: StudyProgress | None = None

    def hear(self, event: Event) -> None:
        """Writes the event's lines above the view, and brings the view up to date."""
        for line in lines(event):
            self.write(line)
        if isinstance(event, StudyStarted):
            self._study = event.study
        elif isinstance(event, StudyProgress):
            self._progress = event
        elif isinstance(event, TrialBegun):
            self._recipe = str(event.recipe)
        elif isinstance(event, TaskStarted):
            self._what, self._recipe, self._stage, self._epoch = event.what, "", None, None
        elif isinstance(event, StageBegun):
            self._stage, self._epoch, self._seconds, self._heard = event, None, 0.0, 0
        elif isinstance(event, EpochEnded):
            self._epoch = event
            self._seconds += event.record.train_s + event.record.validate_s
            self._heard += 1
        if isinstance(event, TaskEnded | StudyEnded):
            self._hide()
        elif isinstance(event, TaskStarted | TrialBegun | StageBegun | EpochEnded):
            self._show()

    def render(self) -> RenderableType:
        """The view as it is now."""
        parts: list[RenderableType] = []
        if self._progress is not None:
            parts.append(self._where(self._progress))
        parts.append(self._now())
        if self._recipe:
            parts.append(_faint(f"  {self._recipe}"))
        if self._progress is not None and self._progress.front:
            parts.append(_front(self._progress))
        return Group(*parts)

    def _where(self, progress: StudyProgress) -> Text:
        count = f"{progress.finished}" + (f" of {progress.trials}" if progress.trials else "")
        words = [f"{count} trials", f"{progress.trained} epochs trained"]
        if progress.reused:
            share = progress.reused / (progress.trained + progress.reused)
            words.append(f"{progress.reused} reused ({100 * share:.0f} %)")
        if progress.remaining is not None:
            words.append(progress.remaining.short_text(datetime.now()))
        return _line(f"{self._study}  " if self._study else "", "  ".join(words))

    def _now(self) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [self._spinner, Text(self._what, no_wrap=True, overflow="ellipsis")]
        if self._stage is not None:
            stage = self._stage
            epoch = self._epoch.record.epoch if self._epoch else stage.done
            cells += [
                Text(stage.stage, no_wrap=True),
                ProgressBar(total=max(1, stage.epochs), completed=epoch, width=BAR),
                Text(f"epoch {epoch} of {stage.epochs}{self._pace(epoch)}", no_wrap=True, overflow="ellipsis"),
            ]
        row.add_row(*cells)
        return row

    def _pace(self, epoch: int) -> str:
        if self._epoch is None or self._stage is None:
            return ""
        each = self._seconds / self._heard
        left = duration(each * (self._stage.epochs - epoch) / 3600)
        return f", {each:.1f} s each, {left} left{figures_text(self._epoch)}"

    def _show(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                transient=True,
                get_renderable=self.render,
                redirect_stderr=sys.stderr.isatty(),  # elsewhere it does not disturb the view
            )
            self._live.start()
        self._live.refresh()

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _front(progress: StudyProgress) -> RenderableType:
    members = list(progress.front)
    table = Table.grid(padding=(0, 1))
    half = MEMBERS // 2
    shown = members if len(members) <= MEMBERS else [*members[:half], None, *members[-half:]]
    for index, member in enumerate(shown):
        title = _faint("front" if index == 0 else "")
        if member is None:
            table.add_row(title, _faint(f"{len(members) - MEMBERS} more"), "")
        else:
            table.add_row(title, member.title, member_text(member))
    return table


def _line(title: str, words: str) -> Text:
    return Text.assemble((title, "bold"), words, no_wrap=True, overflow="ellipsis")


def _faint(words: str) -> Text:
    return Text(words, style="dim", no_wrap=True, overflow="ellipsis")
