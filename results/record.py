"""A study's record read at once, for commands that must answer at once.

Optuna reads a trial as some forty objects of its mapper: 2,000 trials take two seconds, and its storage's own start
some tenths more. Here every table is read with one plain query, into the same `FrozenTrial`s. That holds for the schema
that is named below; any other is left to Optuna.
"""

from __future__ import annotations

import gc
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Integer, String, TableClause, column, select, table

from prunetune.results.findings import Findings
from prunetune.results.storage import SPEC, choose_name, find_study, make_engine, place_of, sqlite_url

SCHEMA = "v3.2.0.a"
"""Optuna's revision of the tables that the queries are written for."""

_TRIALS = table(
    "trials",
    *(column(name, Integer) for name in ("trial_id", "number", "study_id")),
    column("state", String),
    *(column(name, sqlalchemy.DateTime) for name in ("datetime_start", "datetime_complete")),
)


class _OtherSchemaError(Exception):
    """The tables are not those of `SCHEMA`."""


def find_findings(name: str | Path, runs: str | Path = "runs", storage: str | None = None) -> tuple[Findings, Path]:
    """Reads a study, as `find_study` finds it.

    Args:
        name: A study's name, its folder, or its description's file.
        runs: The folder of studies, where only a name is given.
        storage: The address of its storage, if that is neither in its folder nor in its description.

    Returns:
        What it found, as it stands now, and its folder.

    Raises:
        StoreError, ConfigError: As of `find_study`.
    """
    folder, address = place_of(name, runs, storage)
    try:
        engine = make_engine(address or sqlite_url(folder))
        try:
            with engine.connect() as connection, _no_garbage_collection():
                return _read(connection, lambda names: choose_name(folder, names)), folder
        finally:
            engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, _OtherSchemaError, KeyError):
        # No study of ours, a schema of another Optuna, a data base that cannot be used: Optuna's way says which.
        study, folder = find_study(name, runs, storage)
        return Findings.of(study), folder


def _read(connection: Connection, choose: Callable[[list[str]], str]) -> Findings:
    revision: Any = column("version_num", String)
    if connection.execute(select(revision).select_from(table("alembic_version"))).scalars().all() != [SCHEMA]:
        raise _OtherSchemaError
    studies = table("studies", column("study_id", Integer), column("study_name", String))
    known = {row.study_name: row.study_id for row in connection.execute(select(studies))}
    name = choose(list(known))
    attributes = table("study_user_attributes", *map(column, ("study_id", "key", "value_json")))
    found = connection.execute(
        select(attributes.c.key, attributes.c.value_json).where(attributes.c.study_id == known[name])
    )
    told = {key: json.loads(value) for key, value in found}
    told[SPEC]  # else it is no study of ours
    return Findings(name, tuple(_trials(connection, known[name])), told)


def _trials(connection: Connection, study_id: int) -> list[FrozenTrial]:
    # The states come first: what a finished trial has was stored before it finished.
    rows = connection.execute(select(_TRIALS).where(_TRIALS.c.study_id == study_id).order_by(_TRIALS.c.trial_id)).all()
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for trial, objective, value, kind in _of(connection, study_id, "trial_values", "objective", "value", "value_type"):
        values[trial][objective] = _number(value, kind)
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    named = [f"intermediate_{name}" for name in ("value", "value_type")]
    for trial, step, value, kind in _of(connection, study_id, "trial_intermediate_values", "step", *named):
        steps[trial][step] = _number(value, kind)
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    named = [f"param_{name}" for name in ("id", "name", "value")]
    rows_of_params = sorted(_of(connection, study_id, "trial_params", *named, "distribution_json"), key=itemgetter(1))
    for trial, _, name, value, described in rows_of_params:
        distribution = distributions[trial][name] = _distribution(described)
        params[trial][name] = distribution.to_external_repr(value)
    user, system = (_attributes(connection, study_id, f"trial_{kind}_attributes") for kind in ("user", "system"))
    return [
        FrozenTrial(
            number=row.number,
            state=TrialState[row.state],
            value=None,
            values=[value for _, value in sorted(values[row.trial_id].items())] or None,
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params=params[row.trial_id],
            distributions=distributions[row.trial_id],
            user_attrs=user[row.trial_id],
            system_attrs=system[row.trial_id],
            intermediate_values=steps[row.trial_id],
            trial_id=row.trial_id,
        )
        for row in rows
    ]


def _attributes(connection: Connection, study_id: int, name: str) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial, key, value in _of(connection, study_id, name, "key", "value_json"):
        found[trial][key] = json.loads(value)
    return found


def _of(connection: Connection, study_id: int, name: str, *kept: str) -> Sequence[Any]:
    """The rows of a table that belong to a study's trials: the trial's id, and the columns that are kept."""
    rows: TableClause = table(name, column("trial_id", Integer), *map(column, kept))
    joined = rows.join(_TRIALS, rows.c.trial_id == _TRIALS.c.trial_id)
    wanted = select(rows.c.trial_id, *(rows.c[part] for part in kept))
    return connection.execute(wanted.select_from(joined).where(_TRIALS.c.study_id == study_id)).all()


def _number(value: float | None, kind: str) -> float:
    """A number as Optuna stores it: what SQL has no number for is a kind of its own."""
    known = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
    return known[kind] if value is None else value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """All that is read is kept: to look for garbage in it takes a third of the time and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _distribution(described: str) -> BaseDistribution:
    return json_to_distribution(described)
