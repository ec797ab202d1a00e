"""How far a study is, read from its record alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from prunetune.pruning.processes import is_alive
from prunetune.results.findings import Findings, Source, network_document
from prunetune.results.record import TrialRecord
from prunetune.results.study_network import network_title
from prunetune.results.tables import earlier_rounds, ms_text
from prunetune.search.limits import Forecast, Limits, forecast, spent
from prunetune.spaces import Outcome


def study_status(study: Source, folder: Path, reopen: Callable[[], optuna.Study] | None = None) -> dict[str, Any]:
    """Counts, running trials and epochs of a study, as plain values.

    Args:
        study: The study, or what was read of it.
        folder: Its folder.
        reopen: Opens it where only findings are given, to see who of those that run are alive.
    """
    found = Findings.of(study)
    limits = Limits.of(found.study.spec)
    trials = [(trial, found.records[trial.number]) for trial in found.trials]
    running = [(trial, record) for trial, record in trials if trial.state == TrialState.RUNNING]
    opened = study if isinstance(study, optuna.Study) else reopen() if running and reopen is not None else None
    finished = [(trial, record) for trial, record in trials if trial.state.is_finished()]
    ended = sum(trial.state in (TrialState.COMPLETE, TrialState.FAIL) for trial, _ in finished)
    outcomes = Counter((record.outcome or Outcome.ERROR).value for _, record in finished)
    silent, ahead_s = (set(), 0.0) if opened is None else _signs(opened)
    now = time.time() - ahead_s
    alive = [(trial, record) for trial, record in trials if _lives(trial, record, silent)]
    so_far, remaining = spent(alive, now), forecast(limits, alive, now)
    winner = found.best
    return {
        "study": found.name,
        "folder": str(folder),
        "finished": so_far.finished,
        "trials": limits.trials,
        "limits": asdict(limits),
        "hours": round(so_far.hours, 4),
        "remaining": asdict(remaining) if remaining else None,
        "done": found.study.finished == ended
        and so_far.begun == so_far.finished
        and limits.reached(so_far) is not None,
        "outcomes": dict(outcomes),
        "rounds": found.counts["rounds"],
        "running": [
            {
                "trial": trial.number,
                "recipe": None if record.recipe is None else record.recipe.as_dict(),
                "worker": None if record.worker is None else dict(record.worker),
                "alive": _lives(trial, record, silent),
            }
            for trial, record in running
        ],
        "waiting": sum(trial.state == TrialState.WAITING for trial, _ in trials),
        "epochs_trained": sum(record.cost.epochs_trained for _, record in finished),
        "epochs_reused": sum(record.cost.epochs_reused for _, record in finished),
        "budgets": {target.name: target.as_dict()["budget"] for target in found.targets if target.has_budget},
        "front": len(found.front),
        "best": network_document(found, winner, folder) if winner else None,
    }


def _signs(study: optuna.Study) -> tuple[set[int], float]:
    """Which trials gave no sign of life for too long, and how far this host's clock is ahead of the database's."""
    from prunetune.search.heartbeat import clock_ahead_s, silent_trials

    return silent_trials(study), clock_ahead_s(study)


def _lives(trial: FrozenTrial, record: TrialRecord, silent: Collection[int]) -> bool:
    """Whether a trial has ended, or its worker may still run: what a dead one left open takes no time."""
    if trial.state != TrialState.RUNNING:
        return True
    return trial.number not in silent and is_alive(record.worker or {"host": None})


def write_status(status: Mapping[str, Any], console: Console) -> None:
    """Shows a study's status in a few lines."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(status["outcomes"].items()))
    state = "done" if status["done"] else "running" if status["running"] else "not finished"
    count = f"{status['finished']}" + (f" of {status['trials']}" if status["trials"] else "")
    rounds = f", and {earlier_rounds(status['rounds'])}" if status["rounds"] else ""
    say(f"{status['study']}: {state}, {count} trials ({outcomes or 'none yet'}){rounds}")
    for trial in status["running"]:
        worker = trial["worker"] or {}
        gone = "" if trial["alive"] else ", which is gone: run the study again to take the trial up"
        device = f", device {worker['device']}" if "device" in worker else ""
        say(f"trial {trial['trial']} runs in process {worker.get('pid')} on {worker.get('host')}{device}{gone}")
    of = {name: f" of {limit:.10g}" if limit is not None else "" for name, limit in status["limits"].items()}
    say(f"epochs: {status['epochs_trained']}{of['epochs']} trained, {status['epochs_reused']} reused")
    if of["hours"]:
        say(f"hours: {status['hours']:.2f}{of['hours']}")
    if status["remaining"] is not None and not status["done"]:
        remaining = Forecast(**status["remaining"])
        say(remaining.text(datetime.now() if status["running"] else None))
    for target, budget in status["budgets"].items():
        say(f"budget on {target}: {budget['text']} ({budget['limit_ms']:.3g} ms)")
    winner = status["best"]
    if winner is None:
        say("front: no trial within the budget yet")
    else:
        latencies = {target: latency["latency_ms"] for target, latency in winner["latencies"].items()}
        title = network_title(winner["trial"], winner["round"], (winner["recipe"] or {}).get("rounds", 1))
        say(
            f"front: {status['front']} network{'s' * (status['front'] != 1)}; best is {title} "
            f"with map50_95 {winner['map50_95']:.3f} at {ms_text(latencies)}"
            f"{', on the edge of the budget' if winner['on_edge'] else ''}"
        )
