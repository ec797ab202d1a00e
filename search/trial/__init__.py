"""What happens to a recipe.

`objective.run_and_tell` carries out a trial that was asked for, and tells Optuna; it alone knows Optuna. All that lies
between is `run.run_trial(recipe, context)`, which gives a `TrialRecord`:

1. Sparse training and surgery, in each round.
2. The gate, after the last surgery: a network over the budget, or over the recipe's share of it, ends OVER_BUDGET.
3. Taking over: what another trial has recovered of an equal network is this one's result (`duplicates`).
4. Recovery, judged at rungs on its way and between two rounds (`early_stopping`): STOPPED_EARLY, or on.
5. Each recovered network also at further deployments, without training (`deployments`).
6. The last recovered network: OK. A failure on the way has a name of its own.

After each step other trials see what this one has (`context.Peers`). Interrupted, it is begun anew, and every stage
that was finished is read back.
"""

from prunetune.search.trial.context import Peers, TrialContext
from prunetune.search.trial.run import run_trial

__all__ = ["Peers", "TrialContext", "run_trial"]
