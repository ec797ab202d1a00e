"""How many epochs a search pays for its front, replayed on recorded trials (benchmarks/replay/).

Plain Optuna samplers that pay for every trial in full, against prunetune, and against prunetune with each of its
parts switched off. Counted are epochs of sparse training and recovery until a study has 95 % of the hypervolume of
everything that was recorded; the median over studies that differ by their seed, with the quartiles. The last line is
JSON: `epochs_ratio` (prunetune over the best plain strategy), `epochs_ratio_tpe` (over plain TPE), `without` (the
epochs without a part over those with all, by part) and `stopped_share` (of the members of the fronts of fully paid
studies, how many the rungs would have stopped). A ratio is null where the median study never got there. What a network
does at smaller sizes costs no epoch and is given to the plain strategies as well.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import optuna
from common.figures import close, skipped
from replay.simulate import Grid, Simulation, Strategy, stopped_members

from prunetune.search.study.study_spec import EarlyStopping

FIGURES = ("epochs_ratio", "epochs_ratio_tpe", "without", "stopped_share")

GOAL = 0.95
TRIALS = 150
"""A study that has not reached the goal by then counts as one that never does; with a Gaussian process, which is slow,
by a third of that."""

PLAIN = Strategy(design=False, shares_stages=False, gate=False, early_stopping=None, latency_space=False)
FULL = Strategy()
STRATEGIES = {
    "plain tpe": PLAIN,
    "plain nsga2": replace(PLAIN, sampler="nsga2"),
    "plain random": replace(PLAIN, sampler="random"),
    "prunetune": FULL,
    "without stage tree": replace(FULL, shares_stages=False),
    "without gate": replace(FULL, gate=False),
    "without threshold from budget": replace(FULL, latency_space=False),
    "without rungs": replace(FULL, early_stopping=None),
    "without design": replace(FULL, design=False),
    "without smaller sizes": replace(FULL, deployments=False),
    "with a rung after surgery": replace(FULL, early_stopping=EarlyStopping(recalibrated=True)),
    "with two rungs": replace(FULL, early_stopping=EarlyStopping(rungs=2)),
    "with reduction 2": replace(FULL, early_stopping=EarlyStopping(reduction=2)),
    "plain gp": replace(PLAIN, sampler="gp"),
}

RUNGS = (
    EarlyStopping(),
    EarlyStopping(recalibrated=True),
    EarlyStopping(rungs=2),
    EarlyStopping(reduction=2),
    EarlyStopping(rungs=2, recalibrated=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=30, help="studies for each strategy")
    parser.add_argument("--only", nargs="*", metavar="STRATEGY", choices=STRATEGIES, help="these, and no summary")
    parser.add_argument(
        "--quick", action="store_true", help="6 studies for each strategy, without the Gaussian process"
    )
    options = parser.parse_args()
    studies, only = 6 if options.quick else options.studies, options.only
    strategies = {
        name: strategy
        for name, strategy in STRATEGIES.items()
        if (not only or name in only) and not (options.quick and strategy.sampler == "gp")
    }
    grid = Grid.read()
    best = grid.best_hypervolume
    print(f"{len(grid.candidates)} recorded candidates, hypervolume {best:.4f}; goal {GOAL:.0%} of it")
    print(f"{'strategy':<32}{'median epochs':>14}{'quartiles':>18}{'reached':>10}{'seconds':>9}")
    medians = {}
    with ProcessPoolExecutor() as pool:
        for name, strategy in strategies.items():
            start = time.perf_counter()
            # A Gaussian process takes minutes for a study of 150 trials.
            trials = TRIALS if strategy.sampler != "gp" else TRIALS // 3
            found = list(pool.map(partial(epochs_to_goal, strategy, trials), range(studies)))
            medians[name] = statistics.median(found)
            low, _, high = statistics.quantiles(found, n=4, method="inclusive")
            reached = sum(map(math.isfinite, found))
            print(
                f"{name:<32}{medians[name]:>14.0f}{f'{low:.0f} to {high:.0f}':>18}{f'{reached}/{studies}':>10}"
                f"{time.perf_counter() - start:>9.0f}",
                flush=True,
            )
        if only:
            skipped("only some strategies were asked for")
            return
        shares = {}
        for settings in RUNGS:
            members = list(pool.map(partial(stopped_members, grid, settings, 60), range(studies)))
            stopped, of = sum(item[0] for item in members), sum(item[1] for item in members)
            shares[settings] = stopped / of
            print(f"{settings}: stops {stopped} of {of} members of {studies} fully paid fronts")
    full, best_plain = medians["prunetune"], min(medians[name] for name in medians if name.startswith("plain"))
    told = {
        "epochs_ratio": over(full, best_plain),
        "epochs_ratio_tpe": over(full, medians["plain tpe"]),
        "without": {
            name.removeprefix("without "): over(median, full)
            for name, median in medians.items()
            if name.startswith("without")
        },
        "stopped_share": round(shares[EarlyStopping()], 4),
    }
    close(FIGURES, told)


def over(epochs: float, others: float) -> float | None:
    """A ratio; None if one of both never got there."""
    return round(epochs / others, 4) if math.isfinite(epochs) and math.isfinite(others) else None


def epochs_to_goal(strategy: Strategy, trials: int, seed: int) -> float:
    """Epochs that one study pays until it has the goal."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    grid = Grid.read()
    goal = GOAL * grid.best_hypervolume
    return Simulation(grid, strategy, trials, seed).run(goal).epochs_to(goal)


if __name__ == "__main__":
    main()
