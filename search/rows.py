"""The rows of Optuna's tables that a study consists of: the statements, made once, and what they give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy
import sqlalchemy.dialects.postgresql
import sqlalchemy.dialects.sqlite
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import bindparam, func, literal, null, select

CHUNK = 500
"""So many trials are asked for at once."""

STUDIES, TRIALS, HEARTBEATS = (
    model.__table__ for model in (models.StudyModel, models.TrialModel, models.TrialHeartbeatModel)
)
PARAMS, VALUES = models.TrialParamModel.__table__, models.TrialValueModel.__table__
USER, SYSTEM = models.TrialUserAttributeModel.__table__, models.TrialSystemAttributeModel.__table__
KEYS: dict[Any, list[str]] = {
    USER: ["trial_id", "key"],
    SYSTEM: ["trial_id", "key"],
    PARAMS: ["trial_id", "param_name"],
    VALUES: ["trial_id", "objective"],
    HEARTBEATS: ["trial_id"],
}
"""What a row is known by, by table."""

_WRITTEN: dict[Any, list[str]] = {
    USER: ["value_json"],
    SYSTEM: ["value_json"],
    PARAMS: ["param_value", "distribution_json"],
    VALUES: ["value", "value_type"],
    HEARTBEATS: ["heartbeat"],
}

_ENDED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)

STUDY_LOCKED = (
    select(STUDIES.c.study_id).where(STUDIES.c.study_id == bindparam("study")).with_for_update(key_share=True)
)
TRIAL_STATE = select(TRIALS.c.state).where(TRIALS.c.trial_id == bindparam("trial"))
TRIAL_LOCKED = TRIAL_STATE.with_for_update(key_share=True)
_WHOLE = select(
    *(TRIALS.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete"))
).order_by(TRIALS.c.trial_id)
TRIAL = _WHOLE.where(TRIALS.c.trial_id == bindparam("trial"))
SYSTEM_ATTRIBUTES = select(SYSTEM.c.key, SYSTEM.c.value_json).where(SYSTEM.c.trial_id == bindparam("trial"))
CLOCK = select(func.clock_timestamp())
LAST_SIGNS = (
    select(HEARTBEATS.c.trial_id, HEARTBEATS.c.heartbeat, func.now())
    .join(TRIALS, TRIALS.c.trial_id == HEARTBEATS.c.trial_id)
    .where(TRIALS.c.study_id == bindparam("study"), TRIALS.c.state == TrialState.RUNNING)
)


class Statements:
    """Those that take numbers of trials, `ids`.

    PostgreSQL gets them as one array: the text of the statement stays the same, and so does its plan.

    Args:
        dialect: Of the data base.
    """

    def __init__(self, dialect: str) -> None:
        self._is_array = dialect == "postgresql"
        self.news = _WHOLE.where(
            TRIALS.c.study_id == bindparam("study"),
            (TRIALS.c.trial_id > bindparam("last")) | self._among(TRIALS.c.trial_id),
        )
        self.user_attributes = select(USER.c.trial_id, USER.c.key, USER.c.value_json).where(
            self._among(USER.c.trial_id)
        )
        text, number = sqlalchemy.String, sqlalchemy.cast(null(), sqlalchemy.Float)
        no_name, kind = sqlalchemy.cast(null(), text), sqlalchemy.cast(VALUES.c.value_type, text)
        keyed = [
            (name, table, table.c[f"trial_{name[:-6]}_attribute_id"], table.c.key, number, table.c.value_json)
            for name, table in (("user_attrs", USER), ("system_attrs", SYSTEM))
        ]
        self.parts = sqlalchemy.union_all(
            self._part(
                *("params", PARAMS, PARAMS.c.param_id, PARAMS.c.param_name),
                *(PARAMS.c.param_value, PARAMS.c.distribution_json),
            ),
            self._part("values", VALUES, VALUES.c.objective, no_name, VALUES.c.value, kind),
            *(self._part(*item) for item in keyed),
        )

    def _among(self, column: Any) -> Any:
        if self._is_array:
            array: Any = sqlalchemy.ARRAY(sqlalchemy.Integer)
            return column == sqlalchemy.any_(bindparam("ids", type_=array))
        return column.in_(bindparam("ids", expanding=True))

    def _part(self, kind: str, table: Any, *columns: Any) -> Any:
        names = ("place", "name", "number", "text")
        told = [column.label(name) for column, name in zip(columns, names, strict=True)]
        kind_told = literal(kind, literal_execute=True).label("kind")
        return select(kind_told, table.c.trial_id, *told).where(self._among(table.c.trial_id))


_statements = cache(Statements)


def statements(session: Any) -> Statements:
    """Those for a session's data base."""
    return _statements(session.get_bind().dialect.name)


def chunked(session: Any, query: Any, values: Mapping[str, Any], ids: str) -> Sequence[Any]:
    """The rows of a query by numbers of trials, some hundreds of them at once.

    Args:
        session: SQLAlchemy's.
        query: Takes `values`.
        values: What it takes. One of them is a list of numbers.
        ids: Which one.
    """
    wanted = values[ids]
    if len(wanted) <= CHUNK:
        return session.execute(query, values).all() if wanted or len(values) > 1 else []
    parts = [wanted[begin : begin + CHUNK] for begin in range(0, len(wanted), CHUNK)]
    found = {row: None for part in parts for row in session.execute(query, {**values, ids: part}).all()}
    return list(found)


def read_trials(session: Any, found: Sequence[Any]) -> list[FrozenTrial]:
    """Whole trials, from the rows of `TRIAL` or `Statements.news`."""
    whole = {row[0]: _Row(row) for row in found}
    for kind, trial_id, place, name, number, text in chunked(
        session, statements(session).parts, {"ids": list(whole)}, "ids"
    ):
        row = whole[trial_id]
        if kind == "user_attrs":
            row.user_attrs[name] = json.loads(text)
        elif kind == "params":
            row.params.append((place, name, number, text))
        elif kind == "values":
            kind_of_value = models.TrialValueModel.TrialValueType[text]
            row.values[place] = models.TrialValueModel.stored_repr_to_value(number, kind_of_value)
        else:
            row.system_attrs[name] = json.loads(text)
    return [row.trial() for row in whole.values()]


class _Row:
    """What is read of a trial."""

    def __init__(self, row: Sequence[Any]) -> None:
        self.trial_id, self.number, self.state, *self.times = row
        self.params: list[tuple[int, str, float, str]] = []
        self.values: dict[int, float] = {}
        self.user_attrs: dict[str, Any] = {}
        self.system_attrs: dict[str, Any] = {}

    def trial(self) -> FrozenTrial:
        begun, ended = (
            # Optuna stores times in UTC and tells them in local time.
            None if time is None else time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
            for time in self.times
        )
        params = {name: (number, _distribution(text)) for _, name, number, text in sorted(self.params)}
        return FrozenTrial(
            number=self.number,
            state=self.state,
            value=None,
            values=[self.values[place] for place in sorted(self.values)] or None,
            datetime_start=begun,
            datetime_complete=ended,
            params={name: distribution.to_external_repr(number) for name, (number, distribution) in params.items()},
            distributions={name: distribution for name, (_, distribution) in params.items()},
            user_attrs=self.user_attrs,
            system_attrs=self.system_attrs,
            intermediate_values={},
            trial_id=self.trial_id,
        )


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def put(session: Any, table: Any, found: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows, or replaces those that are known by the same."""
    name = session.get_bind().dialect.name
    if name in ("postgresql", "sqlite"):
        session.execute(_upsert(name, table), list(found))
        return
    for row in found:
        session.execute(sqlalchemy.delete(table).where(*(table.c[key] == row[key] for key in KEYS[table])))
        session.execute(_insert(table), row)


@cache
def _upsert(dialect: str, table: Any) -> Any:
    insert: Any = _insert(table, getattr(sqlalchemy.dialects, dialect).insert)
    changed = {column.name: insert.excluded[column.name] for column in table.c if column.name in _WRITTEN[table]}
    return insert.on_conflict_do_update(index_elements=KEYS[table], set_=changed)


def _insert(table: Any, insert: Any = sqlalchemy.insert) -> Any:
    names = [*KEYS[table], *_WRITTEN[table]]
    return insert(table).values({name: func.now() if name == "heartbeat" else bindparam(name) for name in names})


_LAST_NUMBER = (
    select(TRIALS.c.number)
    .where(TRIALS.c.study_id == bindparam("study_id"))
    .order_by(TRIALS.c.trial_id.desc())
    .limit(1)
    .scalar_subquery()
)
_NEW_TRIAL = (
    sqlalchemy.insert(TRIALS)
    .values(
        study_id=bindparam("study_id"),
        number=func.coalesce(_LAST_NUMBER, -1) + 1,
        state=TrialState.RUNNING,
        datetime_start=bindparam("begun"),
    )
    .returning(TRIALS.c.trial_id, TRIALS.c.number)
)
_ENDS = (
    sqlalchemy.update(TRIALS)
    .where(TRIALS.c.trial_id == bindparam("trial"), TRIALS.c.state.not_in(_ENDED))
    .values(state=bindparam("to"), datetime_complete=bindparam("ended"))
)
_TAKEN = (
    sqlalchemy.update(TRIALS)
    .where(TRIALS.c.trial_id == bindparam("trial"), TRIALS.c.state == TrialState.WAITING)
    .values(state=TrialState.RUNNING, datetime_start=bindparam("begun"))
)


def insert_trial(session: Any, study_id: int) -> tuple[int, int]:
    """Makes a running trial of a study that is locked; returns its number in the data base and that in the study."""
    row = session.execute(_NEW_TRIAL, {"study_id": study_id, "begun": _now()}).one()
    return row[0], row[1]


def take_waiting(session: Any, trial_id: int) -> bool:
    """Lets a waiting trial run; whether it was one."""
    return bool(session.execute(_TAKEN, {"trial": trial_id, "begun": _now()}).rowcount)


def end_trial(session: Any, trial_id: int, state: TrialState) -> bool:
    """Ends a trial; whether it had not ended before."""
    return bool(session.execute(_ENDS, {"trial": trial_id, "to": state, "ended": _now()}).rowcount)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
