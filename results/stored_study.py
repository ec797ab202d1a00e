"""A study's record read at once, for commands that must answer at once.

Optuna reads a trial as some forty objects of its mapper: 2,000 trials take two seconds, and its storage's own start
some tenths more. Here every table is read with one plain query, into the same `FrozenTrial`s. That holds for the schema
that is named below; any other is left to Optuna, and so is every data base that cannot be used: it says why.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.findings import Findings
from prunetune.results.place import choose_name, place_of
from prunetune.results.record import StudyRecord
from prunetune.spaces.garbage import no_garbage_collection

SCHEMA = "v3.2.0.a"
"""Optuna's revision of the tables that the queries are written for."""

Query: TypeAlias = Callable[[str, int], Sequence[Sequence[Any]]]
"""Gives the rows of a query, in which `:study` stands for the study's id."""


class _NotReadError(Exception):
    """The queries do not do; Optuna's own reading will, or says why not."""


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
    connect = _from_file(folder / "study.db") if address is None else _from_address(address)
    try:
        # All that is read is kept: to look for garbage in it takes a third of the time and finds none.
        with no_garbage_collection(), connect as query:
            return _read(query, folder), folder
    except _NotReadError:
        from prunetune.results.storage import find_study

        study, folder = find_study(name, runs, storage)
        return Findings.of(study), folder


@contextmanager
def _from_file(file: Path) -> Iterator[Query]:
    """An SQLite file, without what stands between it and its driver."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=60)) as connection:
            yield lambda text, study: connection.execute(text, {"study": study}).fetchall()
    except sqlite3.Error as error:
        raise _NotReadError from error


@contextmanager
def _from_address(address: str) -> Iterator[Query]:
    import sqlalchemy
    import sqlalchemy.exc

    from prunetune.results.storage import make_engine

    engine = make_engine(address)
    try:
        with engine.connect() as connection:
            yield lambda text, study: connection.execute(sqlalchemy.text(text), {"study": study}).all()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _NotReadError from error
    finally:
        engine.dispose()


def _read(query: Query, folder: Path) -> Findings:
    if [revision for (revision,) in query("SELECT version_num FROM alembic_version", 0)] != [SCHEMA]:
        raise _NotReadError
    studies = {name: study for study, name in query("SELECT study_id, study_name FROM studies", 0)}
    name = choose_name(folder, list(studies))
    told = query("SELECT a.key, a.value_json FROM study_user_attributes a WHERE a.study_id = :study", studies[name])
    record = StudyRecord.parse(name, {key: json.loads(value) for key, value in told})
    if not record.spec:
        raise _NotReadError
    return Findings(name, tuple(_trials(query, studies[name])), record)


def _trials(query: Query, study: int) -> Iterator[FrozenTrial]:
    # The states come first: what a finished trial has was stored before it finished.
    rows = query(
        "SELECT trial_id, number, state, datetime_start, datetime_complete FROM trials WHERE study_id = :study "
        "ORDER BY trial_id",
        study,
    )
    values = _numbers(_of(query, study, "trial_values", "objective, p.value, p.value_type"))
    steps = _numbers(
        _of(query, study, "trial_intermediate_values", "step, p.intermediate_value, p.intermediate_value_type")
    )
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    suggested = _of(query, study, "trial_params", "param_id, p.param_name, p.param_value, p.distribution_json")
    for trial, _, name, value, described in sorted(suggested, key=lambda row: row[1]):
        distribution = distributions[trial][name] = _distribution(described)
        params[trial][name] = distribution.to_external_repr(value)
    user = _attributes(_of(query, study, "trial_user_attributes", "key, p.value_json"))
    system = _attributes(_of(query, study, "trial_system_attributes", "key, p.value_json"))
    for trial, number, state, start, complete in rows:
        yield FrozenTrial(
            number=number,
            state=TrialState[state],
            value=None,
            values=[value for _, value in sorted(values[trial].items())] or None,
            datetime_start=_time(start),
            datetime_complete=_time(complete),
            params=params[trial],
            distributions=distributions[trial],
            user_attrs=user[trial],
            system_attrs=system[trial],
            intermediate_values=steps[trial],
            trial_id=trial,
        )


def _of(query: Query, study: int, table: str, kept: str) -> Sequence[Sequence[Any]]:
    """What a table tells of a study's trials: the trial's id, and the columns that are kept."""
    # The names are ours: nothing from outside comes into a query.
    text = f"SELECT p.trial_id, p.{kept} FROM {table} p JOIN trials t ON t.trial_id = p.trial_id "
    return query(f"{text} WHERE t.study_id = :study", study)


def _attributes(rows: Iterable[Sequence[Any]]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial, key, value in rows:
        found[trial][key] = json.loads(value)
    return found


def _numbers(rows: Iterable[Sequence[Any]]) -> dict[int, dict[int, float]]:
    """Numbers as Optuna stores them: what SQL has no number for is of a kind of its own."""
    without = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for trial, place, value, kind in rows:
        found[trial][place] = without[kind] if value is None else value
    return found


def _time(told: str | datetime | None) -> datetime | None:
    """A time; SQLite has texts for them."""
    return datetime.fromisoformat(told) if isinstance(told, str) else told


@cache
def _distribution(described: str) -> BaseDistribution:
    return json_to_distribution(described)
