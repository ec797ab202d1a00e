"""One row of what a study found: a trial or a control as plain numbers.

Other processes wrote what is read here, perhaps with an older version, perhaps cut off halfway. So a field that
is missing, NaN or of the wrong kind is None. Only what decides on the front is strict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from prunetune.spaces.recipe import Recipe, Threshold
from prunetune.spaces.splice import Splice

FOUND = "threshold_found"
"""The trial's attribute, and the key beside its recipe's, of the thresholds that were found for a latency: one for
each round that came to its surgery."""

UNSEPARATED = "unseparated"
"""The trial's attribute of the thresholds that lie where no gammas separate: a line with a histogram for each."""

SPLICE = "splice"
"""The attribute that marks a spliced trial: `Splice.as_dict`. It has no parameters: no sampler proposed it."""

RETRY_OF = "retry_of"
"""The trial whose recipe a trial took up, after it was lost or given back."""

ROUND_OF = "round_of"
"""The attribute of a trial whose network another trial had after a round that was not its last: that one's number."""

ROUNDS_ASKED = "rounds_asked"
"""The attribute of a trial that ended before its last round: how many rounds it was asked for."""


@dataclass(frozen=True)
class Reading:
    """A network's latency on one target."""

    latency_ms: float
    """Median latency in ms."""
    latency_ratio: float | None
    """Latency in multiples of the dense network's."""
    latency_uncertainty: float | None
    """How far it may be off, as a share of it: half of its 95 % confidence interval."""
    latency_low_ms: float | None = None
    """Lower end of that interval in ms; None where there is none, as of a prediction."""


@dataclass(frozen=True)
class Entry:
    """A candidate or a control: how accurate, how fast, how small, and where its files are."""

    trial: int | None
    """The trial's number; None for a control."""
    recipe: Mapping[str, Any] | None = field(hash=False)
    """`Recipe.as_dict()`, with `threshold_found` where the recipe gives a latency instead of a threshold, `round_of`
    where the network is a round of another trial, and `rounds_asked` where that ended before its last one; None for a
    control."""
    map50: float | None
    map50_95: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    confidence: float | None
    """The confidence threshold at which F1 is best."""
    latency_ms: float | None
    """Median latency in ms, on the study's main target."""
    latency_ratio: float | None
    """Latency in multiples of the dense network's, on the study's main target."""
    latencies: Mapping[str, Reading] = field(hash=False)
    """Latency on every target that is known, the main one included."""
    gflops: float | None
    params: int | None
    bytes: int | None
    """Size of the weights in bytes."""
    channels_removed: float | None
    """Removed fraction of the dense network's channels."""
    params_removed: float | None
    """Removed fraction of the dense network's parameters."""
    checkpoint: str | None
    """Path relative to the study's folder."""
    onnx: str | None
    """Path relative to the study's folder."""

    def as_dict(self) -> dict[str, Any]:
        """The fields in their order, ready for JSON."""
        told = {item.name: jsonable(getattr(self, item.name)) for item in fields(self)}
        return told | {"latencies": {target: asdict(reading) for target, reading in self.latencies.items()}}

    def on(self, target: str) -> Entry:
        """The same with another target's latency as the main one."""
        reading = self.latencies.get(target)
        return replace(
            self,
            latency_ms=None if reading is None else reading.latency_ms,
            latency_ratio=None if reading is None else reading.latency_ratio,
        )


def entry(trial: FrozenTrial, later: Mapping[str, Any] | None = None, main: str | None = None) -> Entry:
    """A trial's entry.

    Args:
        trial: A trial in any state.
        later: Measurements by target that replace the trial's own.
        main: The main target; the first that the trial was measured on if None.
    """
    values = list(trial.values or ())
    found = {**trial.user_attrs, **mapping(trial.user_attrs.get("accuracy"))}
    if number(found.get("map50_95")) is None and values:
        found["map50_95"] = values[0]
    recipe = trial.user_attrs.get("recipe")
    if isinstance(recipe, Mapping):
        told = {key: trial.user_attrs[key] for key in _BESIDE if key in trial.user_attrs}
        recipe = {**recipe, **told}
    item = _entry(trial.number, recipe if isinstance(recipe, Mapping) else None, found, later, main)
    return replace(item, latency_ms=values[1]) if item.latency_ms is None and len(values) > 1 else item


def control_entry(found: Mapping[str, Any], later: Mapping[str, Any] | None = None, main: str | None = None) -> Entry:
    """The entry of a control, from what the study stores about it; `later` and `main` as in `entry`."""
    return _entry(None, None, {**found, **mapping(found.get("accuracy"))}, later, main)


def readings(*measured: Any) -> dict[str, Reading]:
    """Latencies by target, as they are stored: a mapping from target to `latency_ms` and `latency_ratio`.

    Args:
        measured: Any number of such mappings. A later one replaces an earlier one, target by target.
    """
    found: dict[str, Reading] = {}
    for told in measured:
        for target, values in mapping(told).items():
            value = number(mapping(values).get("latency_ms"))
            if value is not None:
                ratio, off, low = (number(values.get(f"latency_{name}")) for name in ("ratio", "uncertainty", "low_ms"))
                if "latency_low_ms" not in values and off is not None:  # an older version told no more
                    low = value * (1 - off)
                found[str(target)] = Reading(value, ratio, off, low)
    return found


def _entry(
    trial: int | None,
    recipe: Mapping[str, Any] | None,
    found: Mapping[str, Any],
    later: Mapping[str, Any] | None,
    main: str | None,
) -> Entry:
    latencies = readings(found.get("latencies"), later)
    reading = latencies.get(next(iter(latencies), "") if main is None else main)
    return Entry(
        trial=trial,
        recipe=recipe,
        map50=number(found.get("map50")),
        map50_95=number(found.get("map50_95")),
        precision=number(found.get("precision")),
        recall=number(found.get("recall")),
        f1=number(found.get("f1")),
        confidence=number(found.get("confidence")),
        latency_ms=None if reading is None else reading.latency_ms,
        latency_ratio=None if reading is None else reading.latency_ratio,
        latencies=latencies,
        gflops=number(found.get("gflops")),
        params=integer(found.get("params")),
        bytes=integer(found.get("bytes")),
        channels_removed=number(found.get("channels_removed")),
        params_removed=number(found.get("params_removed")),
        checkpoint=text(found.get("checkpoint")),
        onnx=text(found.get("onnx")),
    )


_BESIDE = (FOUND, ROUND_OF, ROUNDS_ASKED)
"""The attributes that are told beside a recipe."""

_COMPLETE = ("OK", "OVER_BUDGET", "STOPPED_EARLY")
"""The outcomes of trials that have values."""


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended, in the search's words; from its state where the search could not say.

    A trial that others failed, because its worker gave no sign of life, has no outcome, or one that only a complete
    trial can have: it is `WORKER_DIED`. Without a worker it is `ERROR`. An unfinished one is `RUNNING` or `WAITING`. A
    finished one of unknown outcome is the empty string.
    """
    if trial.state in (TrialState.RUNNING, TrialState.WAITING):
        return trial.state.name
    named = text(trial.user_attrs.get("outcome"))
    if trial.state is TrialState.FAIL and "worker" in trial.user_attrs and named in (None, "", *_COMPLETE):
        return "WORKER_DIED"
    by_state = {TrialState.FAIL: "ERROR", TrialState.PRUNED: "STOPPED_EARLY"}
    return named or by_state.get(trial.state, "")


def splice_of(trial: FrozenTrial) -> Splice | None:
    """How a trial was spliced; None for one that a search proposed."""
    return Splice.from_dict(mapping(trial.user_attrs.get(SPLICE)))


def round_of(trial: FrozenTrial) -> int | None:
    """The trial that had this one's network after a round that was not its last; None for any other."""
    return integer(trial.user_attrs.get(ROUND_OF))


def is_asked_for(trial: FrozenTrial) -> bool:
    """Whether the search proposed a trial. It did neither for splices nor for rounds of other trials."""
    return splice_of(trial) is None and round_of(trial) is None


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether the trial kept the budget. Without a verdict of the search, its constraints decide."""
    told = trial.user_attrs.get("feasible")
    if isinstance(told, bool):
        return told
    return all(value <= 0 for value in (trial.constraints or {}).values())


def is_predicted(trial: FrozenTrial) -> bool:
    """Whether the trial knows a latency only from a table beside a device that could be measured."""
    return any(mapping(told).get("predicted") is True for told in mapping(trial.user_attrs.get("latencies")).values())


def is_candidate(trial: FrozenTrial) -> bool:
    """Whether the trial may stand on the front: finished, recovered, within the budget, measured."""
    if trial.state is not TrialState.COMPLETE or outcome(trial) != "OK" or not is_feasible(trial):
        return False
    if is_predicted(trial):
        return False
    # A trial that only knows its accuracy before recovery has no score, whatever else it says.
    return number(trial.user_attrs.get("rung", 1)) not in (None, 0.0)


def channels(trial: FrozenTrial) -> dict[str, int]:
    """The trial's layer widths, in the order of the network; empty if surgery was not reached."""
    return widths(trial.user_attrs.get("channels"))


def widths(value: Any) -> dict[str, int]:
    """A stored mapping from layer to width, without what is no number."""
    found = {str(layer): integer(width) for layer, width in mapping(value).items()}
    return {layer: width for layer, width in found.items() if width is not None}


def recipe_text(recipe: Mapping[str, Any] | None) -> str:
    """A recipe on one line; what an older version wrote is shown as `key=value`."""
    if not recipe:
        return ""
    if (splice := Splice.from_dict(recipe)) is not None:
        return str(splice)
    try:
        told = str(Recipe.from_dict({key: value for key, value in recipe.items() if key not in _BESIDE}))
        whole = (told[1:-1] if told.startswith("(") else told) + found_text(recipe.get(FOUND))
        return whole + rounds_text(recipe)
    except (KeyError, TypeError, ValueError):
        return ", ".join(f"{key}={value}" for key, value in recipe.items())


def rounds_text(told: Mapping[str, Any]) -> str:
    """Which round of which trial a network is, or of how many rounds it has had the first, as it follows the recipe.

    Args:
        told: A recipe, with what is told beside it.
    """
    other, asked = integer(told.get(ROUND_OF)), integer(told.get(ROUNDS_ASKED))
    if other is not None:
        return f", round {integer(told.get('rounds'))} of trial {other}"
    return "" if asked is None else f", the first of {asked} rounds"


def trained_text(control: Mapping[str, Any]) -> str:
    """How long a control was trained, as the study stores it; empty where it is not known."""
    epochs, given = integer(control.get("epochs")), number(control.get("map50_95_given"))
    if epochs is None:
        return ""
    count = f"{epochs} epoch{'s' * (epochs != 1)}"
    if points_lost(control) is not None:
        return f"as given, since {count} of training on gave {control['map50_95_trained_on']:.3f}"
    on = "on " if control.get("trained_on") is True else ""
    return f"trained {on}for {count}" + ("" if given is None else f" from {given:.3f}")


def points_lost(control: Mapping[str, Any]) -> float | None:
    """How many points of mAP50-95 training on has cost a checkpoint that was given.

    None where it cost none, or the control was trained from the beginning.
    """
    given, now = number(control.get("map50_95_given")), number(control.get("map50_95_trained_on"))
    return None if given is None or now is None or now >= given else 100 * (given - now)


def earlier_rounds(count: int) -> str:
    """How many rounds of trials are trials of their own."""
    return "1 earlier round" if count == 1 else f"{count} earlier rounds"


def found_text(found: Any) -> str:
    """The thresholds that were found for a latency, as they follow the recipe; empty if it gave a threshold."""
    if not found:
        return ""
    thresholds = ", ".join(str(Threshold.parse(value)) for value in found)
    return f", found threshold{'s' if len(found) > 1 else ''} {thresholds}"


def unseparated(trial: FrozenTrial) -> str | None:
    """The warning that a trial's thresholds lie where no gammas separate, if they do."""
    told = trial.user_attrs.get(UNSEPARATED)
    return "; ".join(map(str, told)) if isinstance(told, list) and told else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> float | None:
    """The value as a finite float, else None."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if math.isfinite(value) else None


def integer(value: Any) -> int | None:
    """The value as an int, else None."""
    found = number(value)
    return None if found is None else round(found)


def text(value: Any) -> str | None:
    """The value if it is a string with content, else None."""
    return value if isinstance(value, str) and value else None


def jsonable(value: Any) -> Any:
    """The value as strict JSON knows it: NaN and infinities are None, unknown kinds become their text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, Real):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    return str(value)
