"""The table of all trials, failed ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from prunetune.results.entries import is_feasible, is_predicted, jsonable, mapping, number, outcome, text
from prunetune.results.findings import Findings, Source
from prunetune.spaces.recipe import OPTIONS

if TYPE_CHECKING:
    from pandas import DataFrame


def trial_table(study: Source) -> DataFrame:
    """One row per trial in any state, by number.

    Columns: `trial, state, outcome, reason, on_front, feasible, on_edge` (of a budget), `violation, rung`, the recipe
    as `recipe_<name>` (with the defaults of options that some trials differ in), an entry's measures (latency confirmed
    where it was), `latency_spread_ms`, `latency_predicted` (by a table; the trial ended there), `sparsity_lambda`,
    `sparsity_pull`, `epochs_trained`, `epochs_reused`, `seconds` (in all) and `seconds_<part>`, `host`, `pid`, `equals`
    (the trial that ended with the same network), `latency_from` (the trial with the same channels), `started` and
    `finished` (UTC). What a trial does not know is missing (NaN or None).
    """
    # pandas takes half a second to import; the front and the tables do without.
    import pandas

    found = Findings.of(study)
    members = {item.trial for item in found.front}
    records = [_record(found, trial, trial.number in members) for trial in found.trials]
    _name_defaults(records)
    columns = list(dict.fromkeys(name for record in records for name in record))
    return pandas.DataFrame.from_records(records, columns=columns or ["trial", "state", "outcome", "reason"])


def _name_defaults(records: list[dict[str, Any]]) -> None:
    """Gives the options of recipes that some trials differ in their defaults in the others; recipes leave them out."""
    named = {f"recipe_{name}": value for name, value in OPTIONS.items()}
    differing = {key for record in records for key in named if key in record}
    for record in records:
        if "recipe_sparsity" in record:
            record.update({key: named[key] for key in differing if key not in record})


def seconds(trial: FrozenTrial) -> dict[str, float]:
    """The trial's seconds by part."""
    told = {str(part): number(value) for part, value in mapping(trial.user_attrs.get("seconds")).items()}
    return {part: value for part, value in told.items() if value is not None}


def _record(found: Findings, trial: FrozenTrial, on_front: bool) -> dict[str, Any]:
    attributes = trial.user_attrs
    entry = found.entry(trial)
    item = entry.as_dict()
    recipe, latencies = item.pop("recipe"), item.pop("latencies")
    further = {f"{name}@{target}": value for target, told in latencies.items() for name, value in told.items()}
    epochs, worker, spent = (
        mapping(attributes.get("epochs")),
        mapping(attributes.get("worker")),
        seconds(trial),
    )
    return {
        "trial": item.pop("trial"),
        "state": trial.state.name,
        "outcome": outcome(trial),
        "reason": text(attributes.get("reason")) or "",
        "on_front": on_front,
        "feasible": is_feasible(trial) if trial.state.is_finished() and "violation" in attributes else None,
        "on_edge": bool(found.edges(entry)),
        "violation": number(attributes.get("violation")),
        "rung": number(attributes.get("rung")),
        **_flat("recipe", recipe or {}),
        **item,
        **(further if len(latencies) > 1 else {}),
        "latency_spread_ms": _spread(found, trial),
        "latency_predicted": is_predicted(trial),
        "sparsity_lambda": number(attributes.get("sparsity_lambda")),
        "sparsity_pull": number(attributes.get("sparsity_pull")),
        "epochs_trained": number(epochs.get("trained")),
        "epochs_reused": number(epochs.get("reused")),
        "seconds": sum(spent.values()) if spent else None,
        **{f"seconds_{part}": value for part, value in spent.items()},
        "host": text(worker.get("host")),
        "pid": number(worker.get("pid")),
        "equals": number(attributes.get("equals")),
        "latency_from": number(attributes.get("latency_from")),
        "started": trial.datetime_start,
        "finished": trial.datetime_complete,
    }


def _spread(found: Findings, trial: FrozenTrial) -> float | None:
    """How far the latency on the main target spread when it was last measured, in ms."""
    target = "" if found.main is None else found.main.name
    for told in (found.confirmed.get(str(trial.number)), trial.user_attrs.get("latencies")):
        spread = number(mapping(mapping(told).get(target)).get("latency_spread_ms"))
        if spread is not None:
            return spread
    return None


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings on one level: a region's threshold becomes `recipe_threshold_backbone`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(f"{prefix}_{name}", value))
        else:
            flat[f"{prefix}_{name}"] = jsonable(value)
    return flat
