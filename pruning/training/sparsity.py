"""Sparse training's arithmetic: network slimming (arXiv 1708.06519) that means the same in short and long runs.

Network slimming adds `lambda * |gamma|` to the loss. Two things go wrong when it is taken over literally into a
short run or an adaptive optimizer:

- A gamma moves by at most the sum of its learning rates. Fifty steps at 0.001 separate nothing, so gammas have a
  parameter group of their own, whose learning rate lets them travel `TRAVEL` over the longest sparse phase.
- Adam divides a gradient by its own size, which turns any lambda into the same step. The penalty is therefore
  applied beside the optimizer, as a proximal (soft-threshold) step of `lambda * learning rate`; as a subgradient
  only where a recipe asks for it.

lambda stays the same from the first step to the last. One that grew with the epochs, up to a cap, would keep a shorter
phase a checkpoint of a longer one as well; but the pull of a phase of few epochs would then be the start of the rise,
and what is left to choose, how much is pulled in how many epochs, `sparsity` and `sparse_epochs` already say.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunetune.pruning.training.values import Phase, warmup_steps
from prunetune.spaces.recipe import Shrinkage, SparsityUnit

TRAVEL = 1.3
"""How far a gamma should be able to move over the longest sparse phase.

Trained detectors have a median gamma near 1, nine of ten between 0.5 and 2.2, and single ones up to 10. So an
unimportant one of usual size can come to zero."""

MOST_GAMMA_LR = 0.02
"""Above this learning rate gammas oscillate, and a detector's features go before its gammas part."""

WARMUP_EPOCHS = 0.5
"""Warm-up of a sparse phase. Fixed, so that the schedule does not depend on the phase's length."""


@dataclass(frozen=True)
class Sparsity:
    """The same strength in both units."""

    coefficient: float
    """lambda: the L1 coefficient; each step shrinks a gamma by lambda times its learning rate."""
    pull: float
    """Total shrinkage of a gamma without gradient over the longest sparse phase."""
    gamma_lr: float
    """Learning rate of the gammas."""


def resolve(strength: float, unit: SparsityUnit, longest_epochs: int, steps_per_epoch: int, lr0: float) -> Sparsity:
    """Works out a recipe's sparsity in both units.

    Args:
        strength: The recipe's `sparsity`.
        unit: Its unit.
        longest_epochs: The space's longest sparse phase.
        steps_per_epoch: Optimizer steps in an epoch.
        lr0: Learning rate of the other weights; gammas never get less.
    """
    factors = schedule_sum(longest_epochs, steps_per_epoch)
    gamma_lr = max(lr0, min(TRAVEL / factors, MOST_GAMMA_LR)) if factors else lr0
    total = gamma_lr * factors
    if unit == "lambda":
        return Sparsity(strength, strength * total, gamma_lr)
    return Sparsity(strength / total if total else 0.0, strength, gamma_lr)


def schedule_sum(epochs: int, steps_per_epoch: int) -> float:
    """Sum over all steps of the learning rate's factor: a linear warm-up from 0, then 1."""
    steps, warmup = epochs * steps_per_epoch, warmup_steps(WARMUP_EPOCHS, steps_per_epoch)
    return sum(min(1.0, step / warmup) if warmup else 1.0 for step in range(min(steps, warmup))) + max(
        0, steps - warmup
    )


def sparse_phase(epochs: int, sparsity: Sparsity, *, shrinkage: Shrinkage = "proximal") -> Phase:
    """The training phase: warm-up, then constant, so that a longer phase extends a shorter one.

    Args:
        epochs: Its length.
        sparsity: The recipe's.
        shrinkage: How the penalty acts.
    """
    return Phase(
        epochs,
        "constant",
        WARMUP_EPOCHS,
        choose="last",
        penalty=sparsity.coefficient,
        gamma_lr=sparsity.gamma_lr,
        shrinkage=shrinkage,
    )
