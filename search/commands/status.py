"""How far a study is, read from its record alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from rich.console import Console

from prunetune.results.findings.findings import Findings, Source, network_document
from prunetune.results.record import StudiedFigure, StudiedTarget, TrialRecord
from prunetune.results.tables.rows import earlier_rounds, latencies_text, limit_text
from prunetune.search.engine.processes import is_alive
from prunetune.search.study.limits import Forecast, Limits, Spent, forecast, spent
from prunetune.spaces import Outcome


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is."""

    found: Findings
    folder: Path
    limits: Limits
    spent: Spent
    remaining: Forecast | None
    running: Mapping[int, bool]
    """The trials that run, and whether their workers may be alive; those of other hosts always may."""

    @property
    def is_done(self) -> bool:
        """Whether a limit is reached, nothing runs, and the results are written."""
        ended = sum(trial.state in (TrialState.COMPLETE, TrialState.FAIL) for trial in self.found.trials)
        is_counted = self.found.study.finished == ended and self.spent.begun == self.spent.finished
        return is_counted and self.limits.reached(self.spent) is not None

    @property
    def finished(self) -> list[TrialRecord]:
        """The records of the trials that have ended."""
        return [self.found.records[trial.number] for trial in self.found.trials if trial.state.is_finished()]

    @property
    def outcomes(self) -> dict[str, int]:
        """How many trials ended how."""
        return dict(Counter((record.outcome or Outcome.ERROR).value for record in self.finished))

    @property
    def epochs_trained(self) -> int:
        """In all trials that have ended."""
        return sum(record.cost.epochs_trained for record in self.finished)

    @property
    def epochs_reused(self) -> int:
        """The same of those that were read back."""
        return sum(record.cost.epochs_reused for record in self.finished)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found, best = self.found, self.found.best
        running = {number: found.records[number] for number in self.running}
        judged: list[StudiedTarget | StudiedFigure] = [*found.targets, *found.study.figures]
        return {
            "study": found.name,
            "folder": str(self.folder),
            "finished": self.spent.finished,
            "trials": self.limits.trials,
            "limits": asdict(self.limits),
            "hours": round(self.spent.hours, 4),
            "remaining": asdict(self.remaining) if self.remaining else None,
            "done": self.is_done,
            "outcomes": self.outcomes,
            "rounds": found.counts["rounds"],
            "running": [
                {
                    "trial": number,
                    "recipe": None if record.recipe is None else record.recipe.as_dict(),
                    "worker": None if record.worker is None else dict(record.worker),
                    "alive": self.running[number],
                }
                for number, record in running.items()
            ],
            "waiting": sum(trial.state == TrialState.WAITING for trial in found.trials),
            "epochs_trained": self.epochs_trained,
            "epochs_reused": self.epochs_reused,
            "budgets": {item.name: item.as_dict()["budget"] for item in judged if item.has_budget},
            "front": len(found.front),
            "best": network_document(found, best, self.folder) if best else None,
        }


def study_status(study: Source, folder: Path) -> StudyStatus:
    """How far a study is now.

    Args:
        study: The study, or what was read of it.
        folder: Its folder.
    """
    found, now = Findings.of(study), time.time()
    running = [trial.number for trial in found.trials if trial.state == TrialState.RUNNING]
    alive = {number: is_alive(found.records[number].worker or {"host": None}) for number in running}
    # What a dead worker left open takes no time.
    counted = [(trial, found.records[trial.number]) for trial in found.trials if alive.get(trial.number, True)]
    limits = Limits.of(found.study.spec)
    return StudyStatus(found, folder, limits, spent(counted, now), forecast(limits, counted, now), alive)


def write_status(status: StudyStatus, console: Console) -> None:
    """Shows a study's status in a few lines."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    found, limits, best = status.found, status.limits, status.found.best
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(status.outcomes.items()))
    state = "done" if status.is_done else "running" if status.running else "not finished"
    count = f"{status.spent.finished}" + (f" of {limits.trials}" if limits.trials else "")
    rounds = f", and {earlier_rounds(found.counts['rounds'])}" if found.counts["rounds"] else ""
    say(f"{found.name}: {state}, {count} trials ({outcomes or 'none yet'}){rounds}")
    for number, is_living in status.running.items():
        worker = found.records[number].worker or {}
        gone = "" if is_living else ", which is gone: run the study again to take the trial up"
        device = f", device {worker['device']}" if "device" in worker else ""
        say(f"trial {number} runs in process {worker.get('pid')} on {worker.get('host')}{device}{gone}")
    of_epochs = f" of {limits.epochs}" if limits.epochs is not None else ""
    say(f"epochs: {status.epochs_trained}{of_epochs} trained, {status.epochs_reused} reused")
    if limits.hours is not None:
        say(f"hours: {status.spent.hours:.2f} of {limits.hours:.10g}")
    if status.remaining is not None and not status.is_done:
        say(status.remaining.text(datetime.now() if status.running else None))
    for target in found.targets:
        if target.has_budget:
            say(f"budget on {target.name}: {limit_text(target)}")
    for figure in found.study.figures:
        if figure.has_budget:
            say(f"budget on {figure.name}: {figure.budget_text}")
    if best is None:
        say("front: no trial within the budget yet")
    else:
        say(
            f"front: {len(found.front)} network{'s' * (len(found.front) != 1)}; best is {best.title} "
            f"with map50_95 {best.map50_95:.3f} at {latencies_text(best)}"
            f"{', on the edge of the budget' if found.edges(best) else ''}"
        )
