"""What a study's other trials know of a network, so that nothing is recovered twice.

Equal surgery of the same parent, recovered in the same way, gives the same network: the later trial takes over the
other one's result. Equal channels alone give the same latency only: the weights are others, and so is the accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prunetune.results.record import NetworkResult, TrialRecord
from prunetune.spaces import Outcome, Recipe, Splice, StageUse


@dataclass(frozen=True)
class Duplicate:
    """A network of another trial that this one comes to as well."""

    trial: int
    record: TrialRecord
    network: NetworkResult

    @property
    def recovery(self) -> tuple[StageUse, ...]:
        """The stages between its surgery and its end, as those of a trial that need not run them."""
        recipe = self.record.recipe
        if not isinstance(recipe, Recipe) or self.network.stage == self.network.surgery:
            return ()
        return (StageUse("recovery", self.network.stage, reused=recipe.recovery_epochs, was_stored=True),)


def recovered_duplicates(surgery: str, recipe: Recipe, peers: Mapping[int, TrialRecord]) -> Iterator[Duplicate]:
    """The networks that a surgery's is recovered to, of the trials that did that.

    Args:
        surgery: The digest of the stage that the surgery made: it stands for its parent and its plan.
        recipe: The trial's.
        peers: The study's other trials, by number.
    """
    for number, record, network in _networks(peers):
        if network.surgery == surgery and network.recovered and _recovery(record.recipe) == _recovery(recipe):
            yield Duplicate(number, record, network)


def trial_over_budget(surgery: str, peers: Mapping[int, TrialRecord]) -> int | None:
    """The first trial that ended right after an equal surgery, over the budget."""
    return next(
        (
            number
            for number, record, network in _networks(peers)
            if record.outcome is Outcome.OVER_BUDGET and network.surgery == surgery and not network.recovered
        ),
        None,
    )


def trial_with_stage(stage: str, peers: Mapping[int, TrialRecord]) -> int | None:
    """The first trial that has the network of a stage."""
    return next((number for number, _, network in _networks(peers) if network.stage == stage), None)


def trial_with_channels(wanted: NetworkResult, peers: Mapping[int, TrialRecord]) -> int | None:
    """The first trial with the same channels at the same deployment, and so the same latency; None for a network that
    was not measured."""
    if wanted.figures.predicted:
        return None
    return next(
        (
            number
            for number, _, network in _networks(peers)
            if not network.figures.predicted
            and network.figures.channels == wanted.figures.channels
            and network.deployment == wanted.deployment
        ),
        None,
    )


def _networks(peers: Mapping[int, TrialRecord]) -> Iterator[tuple[int, TrialRecord, NetworkResult]]:
    for number, record in peers.items():
        for network in record.trained:
            yield number, record, network


def _recovery(recipe: Recipe | Splice | None) -> tuple[object, ...] | None:
    """What of a recipe decides what a surgery's network is recovered to; None for a splice, which has none."""
    if not isinstance(recipe, Recipe):
        return None
    return recipe.recovery_epochs, recipe.start, recipe.recovery_lr, recipe.distillation
