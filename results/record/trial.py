"""What a trial found. `TrialRecord.to_attrs` alone writes a trial's attributes, `TrialRecord.from_trial` reads them.

A record grows while its trial runs: who asks for a trial stores its recipe, who carries it out its networks and
decisions. So each field is an attribute of its own, and what is not known is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from prunetune.results.record.network_result import NetworkResult
from prunetune.spaces.cost import Cost
from prunetune.spaces.fields import integer, items, mapping, number, text
from prunetune.spaces.named_networks import Splice
from prunetune.spaces.outcome import Outcome
from prunetune.spaces.recipe import Recipe, Threshold

RETRY_OF = "retry_of"
"""The attribute by which a trial that is enqueued says whose recipe it takes up."""


@dataclass(frozen=True)
class RungDecision:
    """Whether a candidate goes on from a rung, and why."""

    rung: int
    """0 after surgery, then upwards through the recovery."""
    epochs: int
    """Epochs of recovery that were done."""
    values: tuple[float, ...]
    """What was compared: map50_95 at the rung, then the latency in ms on each target that is an objective."""
    ahead: int
    """Candidates at this rung with a better non-dominated rank."""
    reached: int
    """Candidates that reached this rung so far, this one included."""
    goes_on: bool
    round: int | None = None
    """The round whose end this is; None within the last one's recovery."""

    @property
    def reason(self) -> str:
        """One sentence fragment for tables."""
        unit = "epoch" if self.epochs == 1 else "epochs"
        where = "after surgery" if self.rung == 0 else f"after {self.epochs} {unit} of recovery"
        where = where if self.round is None else f"after round {self.round}"
        verdict = "among the best" if self.goes_on else "not among the best"
        return f"{where} {verdict}: {self.ahead} of {self.reached} are ahead"

    @classmethod
    def parse(cls, stored: Any) -> RungDecision | None:
        """The decision that `asdict` gave; None for anything else."""
        told = mapping(stored)
        counts = [integer(told.get(name)) for name in ("rung", "epochs", "ahead", "reached")]
        values = [number(value) for value in items(told.get("values"))]
        rung, epochs, ahead, reached = counts
        if rung is None or epochs is None or ahead is None or reached is None or not values or None in values:
            return None
        compared = tuple(value for value in values if value is not None)
        goes_on = told.get("goes_on") is True
        return cls(rung, epochs, compared, ahead, reached, goes_on, integer(told.get("round")))


@dataclass(frozen=True)
class TrialRecord:
    """What is known of a trial: all of it once it has ended, and until then what was stored on its way."""

    recipe: Recipe | Splice | None = None
    outcome: Outcome | None = None
    """None while it runs, and where nobody could say."""
    reason: str = ""
    """Why, where it is no success."""
    networks: tuple[NetworkResult, ...] = ()
    """Each round's, in their order: first at the deployment that it was recovered for, then at others, without further
    training. What the first of the last round has is what the sampler is told."""
    cost: Cost = field(default_factory=Cost)
    decisions: tuple[RungDecision, ...] = ()
    sparsity_lambda: float | None = None
    """The recipe's sparsity as the L1 coefficient."""
    sparsity_pull: float | None = None
    """The same as the total shrinkage of a gamma without gradient over the longest sparse phase."""
    thresholds: tuple[Threshold, ...] = ()
    """Those that were found for a latency: one for each round that came to its surgery."""
    warnings: tuple[str, ...] = ()
    """Surgeries that cut where no gammas separate: a line with a histogram for each."""
    duplicate_of: int | None = None
    """The earlier trial that ended with the same network."""
    latency_from: int | None = None
    """The earlier trial whose channels, and so whose latency, it has."""
    retry_of: int | None = None
    """The trial whose recipe it took up, after that was lost or given back."""
    gammas: str | None = None
    """The file of its gamma histograms, relative to the study's folder."""
    curves: str | None = None
    """The file of its recoveries' accuracies by epoch."""
    worker: Mapping[str, Any] | None = field(default=None, hash=False)
    """The process that carries it out."""
    driver: Mapping[str, Any] | None = field(default=None, hash=False)
    """The process that has a cluster carry it out."""

    @property
    def network(self) -> NetworkResult | None:
        """The first of the last round: what the trial came to."""
        return next(reversed(self.trained), None)

    @property
    def trained(self) -> tuple[NetworkResult, ...]:
        """Each round's network at the deployment that it was recovered for, in their order."""
        firsts = {network.round: network for network in reversed(self.networks)}
        return tuple(firsts[number] for number in sorted(firsts))

    @property
    def is_splice(self) -> bool:
        """Whether somebody asked for it by name, and no sampler."""
        return isinstance(self.recipe, Splice)

    @property
    def rounds_asked(self) -> int:
        """Rounds of its recipe."""
        return self.recipe.rounds if isinstance(self.recipe, Recipe) else 1

    @property
    def rung(self) -> int | None:
        """How far its last network came: 0 right after surgery, then the rung at which it was stopped, or 1 at the
        end. None without a network."""
        if self.network is None:
            return None
        if self.outcome is Outcome.STOPPED_EARLY and self.decisions:
            return self.decisions[-1].rung
        return int(self.network.recovered)

    def to_attrs(self) -> dict[str, Any]:
        """The trial's attributes, in plain values; what is not known is left out."""
        attrs = {
            "recipe": self.recipe.as_dict() if isinstance(self.recipe, Recipe) else None,
            "splice": self.recipe.as_dict() if isinstance(self.recipe, Splice) else None,
            # Before the outcome: of a trial that has one, all that it cost counts, though its process died just then.
            "cost": self.cost.as_dict() if self.cost != Cost() else None,
            "networks": [network.as_dict() for network in self.networks],
            "outcome": self.outcome and self.outcome.value,
            "reason": self.reason,
            "rungs": [asdict(item) | {"values": list(item.values)} for item in self.decisions],
            "sparsity_lambda": self.sparsity_lambda,
            "sparsity_pull": self.sparsity_pull,
            "thresholds": [threshold.as_json() for threshold in self.thresholds],
            "warnings": list(self.warnings),
            "duplicate_of": self.duplicate_of,
            "latency_from": self.latency_from,
            RETRY_OF: self.retry_of,
            "gammas": self.gammas,
            "curves": self.curves,
            "worker": self.worker and dict(self.worker),
            "driver": self.driver and dict(self.driver),
        }
        return {name: value for name, value in attrs.items() if value not in (None, "", [])}

    @classmethod
    def from_trial(cls, trial: FrozenTrial) -> TrialRecord:
        """What a trial's attributes say; what is missing or damaged is not known."""
        attrs = trial.user_attrs
        return cls(
            recipe=_recipe(attrs),
            outcome=_outcome(trial),
            reason=text(attrs.get("reason")) or "",
            networks=_parsed(NetworkResult, attrs.get("networks")),
            cost=Cost.parse(attrs.get("cost")),
            decisions=_parsed(RungDecision, attrs.get("rungs")),
            sparsity_lambda=number(attrs.get("sparsity_lambda")),
            sparsity_pull=number(attrs.get("sparsity_pull")),
            thresholds=tuple(filter(None, map(_threshold, items(attrs.get("thresholds"))))),
            warnings=tuple(item for item in items(attrs.get("warnings")) if text(item)),
            duplicate_of=integer(attrs.get("duplicate_of")),
            latency_from=integer(attrs.get("latency_from")),
            retry_of=integer(attrs.get(RETRY_OF)),
            gammas=text(attrs.get("gammas")),
            curves=text(attrs.get("curves")),
            worker=mapping(attrs.get("worker")) or None,
            driver=mapping(attrs.get("driver")) or None,
        )


def _parsed(kind: Any, stored: Any) -> Any:
    """What `kind.parse` makes of a list's items, without those that are damaged."""
    return tuple(item for item in map(kind.parse, items(stored)) if item is not None)


def _recipe(attrs: Mapping[str, Any]) -> Recipe | Splice | None:
    try:
        if (splice := Splice.from_dict(mapping(attrs.get("splice")))) is not None:
            return splice
        return Recipe.from_dict(attrs["recipe"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _threshold(stored: Any) -> Threshold | None:
    try:
        return Threshold.parse(stored)
    except (KeyError, TypeError, ValueError):
        return None


def _outcome(trial: FrozenTrial) -> Outcome | None:
    """How a trial ended; from its state where its worker could not say.

    A trial that others failed, because its worker's heartbeat was stale, has no outcome, or one that only a complete
    trial can have.
    """
    if not trial.state.is_finished():
        return None
    try:
        named: Outcome | None = Outcome(text(trial.user_attrs.get("outcome")) or "")
    except ValueError:
        named = None
    if trial.state is TrialState.FAIL and (named is None or named.has_values):
        return Outcome.WORKER_DIED if "worker" in trial.user_attrs else Outcome.ERROR
    if trial.state is TrialState.PRUNED and named is None:
        return Outcome.STOPPED_EARLY
    return named
