"""How far a study is, read from its record alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Console

from prunetune.results import best, front
from prunetune.results.findings import located
from prunetune.results.tables import ms_text
from prunetune.search.outcome import Outcome
from prunetune.search.study import FINISHED, stored_spec
from prunetune.search.workers import is_alive


def study_status(study: optuna.Study, folder: Path) -> dict[str, Any]:
    """Counts, running trials and epochs of a study, as plain values."""
    spec = stored_spec(study)
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state.is_finished()]
    ended = [trial for trial in finished if trial.state in (TrialState.COMPLETE, TrialState.FAIL)]
    outcomes = Counter(str(trial.user_attrs.get("outcome", Outcome.ERROR.value)) for trial in finished)
    counted = sum(Outcome(trial.user_attrs.get("outcome", Outcome.ERROR)).counts for trial in finished)
    epochs = [trial.user_attrs.get("epochs", {}) for trial in finished]
    winner = best(study)
    return {
        "study": study.study_name,
        "folder": str(folder),
        "finished": counted,
        "trials": spec.trials,
        "done": study.user_attrs.get(FINISHED) == len(ended) and counted >= spec.trials,
        "outcomes": dict(outcomes),
        "running": [
            {
                "trial": trial.number,
                "recipe": trial.user_attrs.get("recipe"),
                "worker": trial.user_attrs.get("worker"),
                "alive": is_alive(trial.user_attrs.get("worker") or {"host": None}),
            }
            for trial in trials
            if trial.state == TrialState.RUNNING
        ],
        "waiting": sum(trial.state == TrialState.WAITING for trial in trials),
        "epochs_trained": sum(item.get("trained", 0) for item in epochs),
        "epochs_reused": sum(item.get("reused", 0) for item in epochs),
        "budgets": {
            target["name"]: target["budget"] for target in study.user_attrs.get("targets", []) if target["budget"]
        },
        "front": len(front(study)),
        "best": located(winner, folder).as_dict() if winner else None,
    }


def write_status(status: dict[str, Any], console: Console) -> None:
    """Shows a study's status in a few lines."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(status["outcomes"].items()))
    state = "done" if status["done"] else "running" if status["running"] else "not finished"
    say(f"{status['study']}: {state}, {status['finished']} of {status['trials']} trials ({outcomes or 'none yet'})")
    for trial in status["running"]:
        worker = trial["worker"] or {}
        gone = "" if trial["alive"] else ", which is gone: run the study again to take the trial up"
        say(f"trial {trial['trial']} runs in process {worker.get('pid')} on {worker.get('host')}{gone}")
    say(f"epochs: {status['epochs_trained']} trained, {status['epochs_reused']} reused")
    for target, budget in status["budgets"].items():
        say(f"budget on {target}: {budget['text']} ({budget['limit_ms']:.3g} ms)")
    winner = status["best"]
    if winner is None:
        say("front: no trial within the budget yet")
    else:
        stated = {target: told["latency_ms"] for target, told in winner["latencies"].items()}
        say(
            f"front: {status['front']} networks; best is trial {winner['trial']} with map50_95 "
            f"{winner['map50_95']:.3f} at {ms_text(stated)}"
        )
