"""How much of a trial is neither training, validation nor measuring.

Runs the demo's study on freshly drawn barcodes, without its controls, and adds up the seconds that each trial
recorded by part. The last line is JSON: `share` (of the trials' time), seconds per part, trials, epochs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import optuna

ROOT = Path(__file__).resolve().parent.parent
WORK = ("train", "validate", "measure")
"""The parts that a study is there for. Everything else is overhead."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 trials after a short dense training")
    quick = parser.parse_args().quick
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="prunetune-overhead-") as folder:
        trials = run_study(Path(folder), dense_epochs=2 if quick else 15, trials=3 if quick else 8)
    seconds: Counter[str] = Counter()
    for trial in trials:
        seconds.update(trial.user_attrs["seconds"])
    total = sum(seconds.values())
    share = 1 - sum(seconds[part] for part in WORK) / total
    epochs = sum(trial.user_attrs["epochs"]["trained"] for trial in trials)
    print(f"{'part':<14}{'seconds':>9}{'share':>9}")
    for part, spent in seconds.most_common():
        print(f"{part:<14}{spent:>9.2f}{spent / total:>9.1%}")
    print(f"{'overhead':<14}{share * total:>9.2f}{share:>9.1%}   (target: at most 10 %)")
    parts = {part: round(spent, 3) for part, spent in seconds.items()}
    print(json.dumps({"share": round(share, 4), "seconds": parts, "trials": len(trials), "epochs": epochs}))


def run_study(folder: Path, dense_epochs: int, trials: int) -> list[optuna.trial.FrozenTrial]:
    """Runs the demo's study in a folder; returns its recovered trials."""
    generate = [sys.executable, str(ROOT / "examples/barcodes/generate.py"), "--out", str(folder / "data")]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    command = [
        *(sys.executable, "-m", "prunetune.search.cli", "run", str(ROOT / "examples/barcodes/study.yaml")),
        *(f"data={folder / 'data/data.yaml'}", f"runs={folder / 'runs'}"),
        *(f"dense_epochs={dense_epochs}", f"trials={trials}", "controls=[]", "budget.latency=<= dense"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'runs/barcodes/study.db'}")
    return [trial for trial in study.trials if trial.user_attrs.get("outcome") == "OK"]


if __name__ == "__main__":
    main()
