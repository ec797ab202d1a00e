"""The table of all trials, failed ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from prunetune.results.findings.findings import Findings, Source, outcome_text
from prunetune.spaces.fields import jsonable, number, text
from prunetune.spaces.recipe import OPTIONS

if TYPE_CHECKING:
    from pandas import DataFrame

_MEASURES = (
    "map50", "map50_95", "precision", "recall", "f1", "confidence", "latency_ms", "latency_ratio", "gflops", "params",
    "bytes", "memory_mb", "channels_removed", "params_removed", "blocks_removed", "checkpoint", "onnx",
)  # fmt: skip
"""The columns of a network."""


def trial_table(study: Source) -> DataFrame:
    """One row per trial in any state, by number; its measures are those of the network that it came to.

    Columns: `trial, state, outcome, reason, on_front, feasible, on_edge` (of a budget), `violation, rung, rounds` (that
    it came through), the recipe as `recipe_<name>` (with the defaults of options that some trials differ in), the
    network's `deployment_imgsz` (px, `384x640`), `deployment_precision` and measures (latency confirmed where it was),
    `latency_spread_ms`, `latency_predicted` (by a table; the trial
    ended there), `sparsity_lambda`, `sparsity_pull`, `epochs_trained`, `epochs_reused`, `seconds` (in all) and
    `seconds_<part>`, `host`, `pid`, `duplicate_of` (the trial that ended with the same network), `latency_from` (the
    trial with the same channels), `started` and `finished` (UTC). What a trial does not know is missing (NaN or None).
    """
    # pandas takes half a second to import; the front and the tables do without.
    import pandas

    found = Findings.of(study)
    members = {network.name for network in found.front}
    rows = [_row_document(found, trial, members) for trial in found.trials]
    # Recipes leave out options that have their defaults. Where other trials differ in one, it is named.
    named = {f"recipe_{name}": value for name, value in OPTIONS.items()}
    differing = {key: value for key, value in named.items() if any(key in row for row in rows)}
    rows = [{**row, **(differing if "recipe_sparsity" in row else {}), **row} for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return pandas.DataFrame.from_records(rows, columns=columns or ["trial", "state", "outcome", "reason"])


def _row_document(found: Findings, trial: FrozenTrial, members: set[str]) -> dict[str, Any]:
    record, network = found.records[trial.number], found.last_network(trial.number)
    measures = {} if network is None else network.as_dict()
    latencies = {} if network is None else measures["latencies"]
    further = {f"{name}@{target}": value for target, told in latencies.items() for name, value in told.items()}
    thresholds = [threshold.as_json() for threshold in record.thresholds]
    worker, cost = record.worker or {}, record.cost
    latency = None if network is None else network.latency
    return {
        "trial": trial.number,
        "state": trial.state.name,
        "outcome": outcome_text(trial, record),
        "reason": record.reason,
        "on_front": network is not None and network.name in members,
        "feasible": None if network is None else network.figures.feasible,
        "on_edge": network is not None and bool(found.edges(network)),
        "violation": None if network is None else network.figures.violation,
        "rung": record.rung,
        "rounds": None if network is None else network.result.round,
        **_flat_document("recipe", {} if record.recipe is None else record.recipe.as_dict()),
        **({"recipe_threshold_found": thresholds} if thresholds else {}),
        "deployment_imgsz": None if network is None else network.imgsz_text,
        "deployment_precision": None if network is None else network.deployment.precision,
        **{name: measures.get(name) for name in _MEASURES},
        **(further if len(latencies) > 1 else {}),
        "latency_spread_ms": None if latency is None else latency.spread_ms,
        "latency_predicted": network is not None and network.figures.predicted,
        "sparsity_lambda": record.sparsity_lambda,
        "sparsity_pull": record.sparsity_pull,
        "epochs_trained": cost.epochs_trained if cost.stages else None,
        "epochs_reused": cost.epochs_reused if cost.stages else None,
        "seconds": cost.total_s if cost.seconds else None,
        **{f"seconds_{part}": value for part, value in cost.seconds.items()},
        "host": text(worker.get("host")),
        "pid": number(worker.get("pid")),
        "duplicate_of": record.duplicate_of,
        "latency_from": record.latency_from,
        "started": trial.datetime_start,
        "finished": trial.datetime_complete,
    }


def _flat_document(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings on one level: a region's threshold becomes `recipe_threshold_backbone`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat_document(f"{prefix}_{name}", value))
        else:
            flat[f"{prefix}_{name}"] = jsonable(value)
    return flat
