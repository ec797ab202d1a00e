"""How far a study is, read from its record alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Console

from prunetune.pruning.processes import is_alive
from prunetune.results.entries import earlier_rounds, mapping, outcome, round_of
from prunetune.results.findings import Findings, Source, candidate_document
from prunetune.results.place import SPEC
from prunetune.results.tables import ms_text
from prunetune.search.attributes import FINISHED
from prunetune.search.limits import Forecast, Limits, forecast, spent
from prunetune.search.outcome import Outcome


def study_status(study: Source, folder: Path, reopen: Callable[[], optuna.Study] | None = None) -> dict[str, Any]:
    """Counts, running trials and epochs of a study, as plain values.

    Args:
        study: The study, or what was read of it.
        folder: Its folder.
        reopen: Opens it where only findings are given, to see who of those that run are alive.
    """
    found = Findings.of(study)
    limits = Limits.of(mapping(found.attributes.get(SPEC)))
    trials = found.trials
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    opened = study if isinstance(study, optuna.Study) else reopen() if running and reopen is not None else None
    finished = [trial for trial in trials if trial.state.is_finished()]
    ended = [trial for trial in finished if trial.state in (TrialState.COMPLETE, TrialState.FAIL)]
    outcomes = Counter(outcome(trial) or Outcome.ERROR.value for trial in finished if round_of(trial) is None)
    silent, ahead_s = (set(), 0.0) if opened is None else _signs(opened)
    now = time.time() - ahead_s
    alive = [trial for trial in trials if _lives(trial, silent)]
    so_far, remaining = spent(alive, now), forecast(limits, alive, now)
    epochs = [trial.user_attrs.get("epochs", {}) for trial in finished]
    winner = found.best
    return {
        "study": found.name,
        "folder": str(folder),
        "finished": so_far.finished,
        "trials": limits.trials,
        "limits": asdict(limits),
        "hours": round(so_far.hours, 4),
        "remaining": asdict(remaining) if remaining else None,
        "done": found.attributes.get(FINISHED) == len(ended)
        and so_far.begun == so_far.finished
        and limits.reached(so_far) is not None,
        "outcomes": dict(outcomes),
        "rounds": found.counts["rounds"],
        "running": [
            {
                "trial": trial.number,
                "recipe": trial.user_attrs.get("recipe"),
                "worker": trial.user_attrs.get("worker"),
                "alive": _lives(trial, silent),
            }
            for trial in running
        ],
        "waiting": sum(trial.state == TrialState.WAITING for trial in trials),
        "epochs_trained": sum(item.get("trained", 0) for item in epochs),
        "epochs_reused": sum(item.get("reused", 0) for item in epochs),
        "budgets": {
            target["name"]: target["budget"] for target in found.attributes.get("targets", []) if target["budget"]
        },
        "front": len(found.front),
        "best": candidate_document(found, winner, folder) if winner else None,
    }


def _signs(study: optuna.Study) -> tuple[set[int], float]:
    """Which trials gave no sign of life for too long, and how far this host's clock is ahead of the data base's."""
    from prunetune.search.heartbeat import clock_ahead_s, silent_trials

    return silent_trials(study), clock_ahead_s(study)


def _lives(trial: optuna.trial.FrozenTrial, silent: Collection[int]) -> bool:
    """Whether a trial has ended, or its worker may still run: what a dead one left open takes no time."""
    if trial.state != TrialState.RUNNING:
        return True
    return trial.number not in silent and is_alive(trial.user_attrs.get("worker") or {"host": None})


def write_status(status: dict[str, Any], console: Console) -> None:
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
        stated = {target: told["latency_ms"] for target, told in winner["latencies"].items()}
        say(
            f"front: {status['front']} network{'s' * (status['front'] != 1)}; best is trial {winner['trial']} "
            f"with map50_95 {winner['map50_95']:.3f} at {ms_text(stated)}"
            f"{', on the edge of the budget' if winner['on_edge'] else ''}"
        )
