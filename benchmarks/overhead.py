"""How much of a trial is neither training, validation nor measuring.

Runs the demo's study on freshly drawn barcodes, without its controls, and adds up the seconds that each trial
recorded by part. Then asks a study of 10,000 trials for the next one, and tells it, as `prunetune run` does. The last
line is JSON: `share` (of the trials' time), `seconds` by part, `trials`, `epochs`, and `ask_tell_s`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
import optuna
from common.figures import close

from prunetune.results.findings.findings import Findings
from prunetune.results.record import TrialRecord
from prunetune.search.engine.taking import next_trial
from prunetune.search.study.open_study import open_study
from prunetune.search.study.stored_study import set_attributes
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import Cost, Outcome, StageUse

FIGURES = ("share", "seconds", "trials", "epochs", "ask_tell_s")

ROOT = Path(__file__).resolve().parent.parent
WORK = ("train", "validate", "measure", "deploy")
"""The parts that a study is there for, the last one validation and measurement at further deployments. Everything else
is overhead."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 trials after a short dense training")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="of the demo's study")
    options = parser.parse_args()
    quick = options.quick
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="prunetune-overhead-") as folder:
        cost, trials = run_study(Path(folder), 2 if quick else 15, 3 if quick else 8, options.override)
        seconds_asked = ask_tell(Path(folder), trials=1000 if quick else 10_000)
    seconds, total = Counter(cost.seconds), cost.total_s
    share = 1 - sum(seconds[part] for part in WORK) / total
    print(f"{'part':<14}{'seconds':>9}{'share':>9}")
    for part, spent in seconds.most_common():
        print(f"{part:<14}{spent:>9.2f}{spent / total:>9.1%}")
    print(f"{'overhead':<14}{share * total:>9.2f}{share:>9.1%}   (target: at most 3 %)")
    parts = {part: round(spent, 3) for part, spent in seconds.items()}
    summary = {"share": round(share, 4), "seconds": parts, "trials": trials, "epochs": cost.epochs_trained}
    close(FIGURES, {**summary, "ask_tell_s": round(seconds_asked, 3)})


def run_study(folder: Path, dense_epochs: int, trials: int, overrides: list[str]) -> tuple[Cost, int]:
    """Runs the demo's study in a folder; returns what its recovered trials cost, and how many they are."""
    generate = [sys.executable, str(ROOT / "examples/barcodes/generate.py"), "--out", str(folder / "data")]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    command = [
        *(sys.executable, "-m", "prunetune.search.cli", "run", str(ROOT / "examples/barcodes/study.yaml")),
        *(f"data={folder / 'data/data.yaml'}", f"runs={folder / 'runs'}"),
        *(f"dense_epochs={dense_epochs}", f"trials={trials}", "controls=[]", "budget.latency=<= dense"),
        *overrides,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'runs/barcodes/study.db'}")
    costs = [record.cost for record in Findings.of(study).records.values() if record.outcome is Outcome.OK]
    return sum(costs, Cost()), len(costs)


def ask_tell(folder: Path, trials: int) -> float:
    """Median time in s to ask for a trial, and to tell its end, in a study that has many. Their values are noise."""
    space = {
        "sparsity": {"low": 0.1, "high": 1.0, "log": True, "grid": 5},
        "sparse_epochs": {"choices": [50, 100]},
        "threshold": {"backbone": {"low": 0.005, "high": 0.5}, "head": {"low": 0.005, "high": 0.5}},
        "rounds": {"low": 1, "high": 2},
        "recovery_epochs": {"choices": [50, 100]},
    }
    asked = {"name": "asked", "model": "yolov5n.yaml", "data": "data.yaml", "space": space, "trials": 2 * trials}
    spec = StudySpec.parse({**asked, "runs": str(folder / "asked")})
    study, rng = open_study(spec), np.random.default_rng(0)
    template = optuna.create_study(directions=study.directions, sampler=optuna.samplers.RandomSampler(seed=0))
    stages = tuple(StageUse(kind, "0" * 20, 25, 50) for kind in ("sparse", "pruning"))
    for number in range(trials):
        trial = template.ask()
        recipe = spec.space.suggest(trial)
        set_attributes(trial, TrialRecord(recipe, Outcome.OK, cost=Cost(stages=stages)).to_attrs())
        trial.set_constraint("latency", rng.normal())
        template.tell(trial, rng.random(2).tolist())
        study.add_trial(template.get_trials(deepcopy=False)[number])
    took = []
    for _ in range(6):
        begin = time.perf_counter()
        claim = next_trial(study, spec)
        assert claim is not None
        claim.trial.set_constraint("latency", 0.0)
        study.tell(claim.trial, rng.random(2).tolist())
        took.append(time.perf_counter() - begin)
    print(
        f"ask and tell at {trials} trials: {median(took[1:]):.3f} s (the first, which reads them all: {took[0]:.3f} s)"
    )
    return median(took[1:])


if __name__ == "__main__":
    main()
