"""What happens to a recipe: `run_trial` carries it out, and `objective` does that for an Optuna study.

Read `run.py` first. What it asks on the way lies beside it: whether a candidate goes on (`early_stopping`), whether an
earlier trial had the same network (`duplicates`), what a network's figures are (`figures`), where its files go
(`files`). Only `objective.py` knows Optuna.
"""

from prunetune.search.trial.context import Peers, TrialContext
from prunetune.search.trial.run import run_trial

__all__ = ["Peers", "TrialContext", "run_trial"]
