"""Early stopping on a front: a recovery is paid on only for candidates that are among the best at its rungs.

Asynchronous successive halving (ASHA, arXiv 1810.05934) for several objectives (MO-ASHA, arXiv 2106.12639): of all
candidates that reached a rung, the ones with the better non-dominated ranks go on. Latency is exact from the surgery
on; accuracy is that at the rung. With accuracy as the only objective this is plain ASHA. Between two rounds of a recipe
lies the highest rung: there the network is recovered, and is compared with all that are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from prunetune.results.findings.pareto import ranks
from prunetune.results.record import RungDecision, TrialRecord
from prunetune.search.study.study_spec import EarlyStopping


def rung_epochs(recovery_epochs: int, reduction: int, rungs: int) -> tuple[int, ...]:
    """After which epochs of a recovery a candidate is judged.

    Rung k lies at the same share of every recovery, `1 / reduction^(rungs + 1 - k)`, because the learning rate falls
    over the whole of it: candidates are compared at the same place of their schedules.

    Args:
        recovery_epochs: Of the recipe.
        reduction: The factor from one rung to the next.
        rungs: How many rungs there are at most before the end.

    Returns:
        Epochs of rung 1, 2, ...: rising, each at least 1 and below `recovery_epochs`. A short recovery has fewer: the
        first ones are left out, so the last rung always lies at one `reduction`-th.
    """
    epochs = [math.ceil(recovery_epochs / reduction**power) for power in range(rungs, 0, -1)]
    return tuple(sorted({epoch for epoch in epochs if 0 < epoch < recovery_epochs}))


def rungs_of(settings: EarlyStopping | None, recovery_epochs: int) -> dict[int, int]:
    """After which epochs of a recovery a candidate is judged, each with its rung; epoch 0 is right after surgery.

    Rungs are counted from the end: the last is at the same share of every recovery, and a short one has fewer.

    Args:
        settings: The study's early stopping; None judges nothing.
        recovery_epochs: Of the recipe.
    """
    if settings is None:
        return {}
    epochs = rung_epochs(recovery_epochs, settings.reduction, settings.rungs)
    within = {epoch: settings.rungs - len(epochs) + place for place, epoch in enumerate(epochs, start=1)}
    return {0: 0, **within} if settings.recalibrated and recovery_epochs else within


def judge(
    rung: int,
    epochs: int,
    values: Sequence[float],
    others: Sequence[Sequence[float]],
    reduction: int,
    round_number: int | None = None,
) -> RungDecision:
    """Decides whether a candidate goes on.

    It goes on while fewer candidates have a better non-dominated rank than one `reduction`-th of all that reached the
    rung holds. A candidate that none dominates always does, and so do the first ones, before there are `reduction`.

    Args:
        rung: 0 after surgery, then upwards.
        epochs: Epochs of recovery done.
        values: The candidate's map50_95 and latencies.
        others: Those of all others that reached this rung, in any order.
        reduction: One in so many goes on.
        round_number: The round whose end this is; None within the last one's recovery.
    """
    found = ranks([values, *others])
    ahead = sum(rank < found[0] for rank in found)
    room = max(1, len(found) // reduction)
    goes_on = ahead < room or len(found) < reduction
    return RungDecision(rung, epochs, tuple(values), ahead, len(found), goes_on, round_number)


def values_at(rung: int, peers: Mapping[int, TrialRecord]) -> list[tuple[float, ...]]:
    """The values with which other trials stood at a rung of their last recovery; of those that did not get there, none.

    Args:
        rung: Which one.
        peers: The other trials.
    """
    stood = (
        next((item.values for item in record.decisions if item.rung == rung and item.round is None), None)
        for record in peers.values()
    )
    return [values for values in stood if values is not None]


def decided_after(round_number: int, attempts: Iterable[TrialRecord]) -> RungDecision | None:
    """What earlier attempts at a recipe decided after a round of it.

    Whoever takes the recipe up keeps to that: else the recipe's own later rounds would be among those it is judged by.
    """
    decisions = (decision for record in attempts for decision in record.decisions)
    return next((decision for decision in decisions if decision.round == round_number), None)
